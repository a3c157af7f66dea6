"""A member of a group: its lease, and the partitions that it holds.

Whoever runs a member calls :meth:`Member.balance` every few seconds, and does what it says: begin
with what was taken, end with what is lost, finish what is to be given, and then
:meth:`Member.give` it. Each transaction that records work of a partition begins with
:meth:`Member.check`; then whatever was done under a lock that is lost leaves nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from converge.crash_points import Commit
from converge.errors import Conflict
from converge.group.group import Settings, enter
from converge.group.shares import decide
from converge.lease import LEASE, Lease, RowOwner, check_lease, expire
from converge.model import make_mark
from converge.process import is_gone
from converge.sql import groups
from converge.sql.database import Database, repeatable
from converge.sql.groups import GroupRow, MemberRow, PartitionLock, PartitionRow
from converge.sql.transaction import Transaction

LOG = logging.getLogger(__name__)

#: Seconds after which a sender of which nothing was heard is forgotten.
POSITION_AGE = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Balance:
    """What has changed for a member.

    :ivar generation: of the partitions that it is to send to from now on.
    :ivar partitions: how many of them there are.
    :ivar key: what is hashed.
    :ivar taken: what it holds from now on.
    :ivar lost: what it held, and another one may hold by now: work of it is not recorded any more.
    :ivar give: what it is to give back as soon as it has finished its work.
    :ivar ending: of an older generation, to which nobody sends any more: to be ended when their
        queues are empty.
    """

    generation: int
    partitions: int
    key: str
    taken: tuple[PartitionLock, ...] = ()
    lost: tuple[PartitionLock, ...] = ()
    give: tuple[PartitionLock, ...] = ()
    ending: tuple[PartitionLock, ...] = ()


class Member:
    """A member of a group. It is used by one thread; :meth:`check` by any.

    :param database: a database with converge's tables.
    :param lease: seconds without a sign of life after which others take its partitions.
    :raises BadInput: the settings differ from those of the group.
    :raises StoreError: the database cannot be used.
    """

    def __init__(self, database: Database, settings: Settings, lease: float = LEASE) -> None:
        self._database = database
        self._settings = settings
        self._owner = RowOwner(database, lease)
        self._locks: dict[tuple[int, int], PartitionLock] = {}
        # the id of the lease under which it joined last
        self._joined = 0
        self.row: GroupRow = self._join()

    # -- what it holds

    @property
    def sender(self) -> str:
        """What it calls itself in messages: another text after each loss of its lease."""
        return name_sender(self._owner.current_lease())

    @property
    def lease(self) -> Lease:
        """Its lease, a new one if it has lost the one before.

        :raises StoreError: the database cannot be used.
        """
        return self._owner.current_lease()

    @property
    def locks(self) -> Mapping[tuple[int, int], PartitionLock]:
        """What it holds, by generation and number."""
        return self._locks

    @staticmethod
    def check(tx: Transaction, lock: PartitionLock) -> None:
        """Check in a transaction that a partition is still held; none takes it until its end.

        :raises StaleLock: it is not.
        """
        groups.check_lock(tx, lock)

    # -- changes

    def balance(self, sending: int | None = None) -> Balance:
        """Take what this member may take, and say what it is to do.

        :param sending: the generation that it sends to, once it has stopped to send to the one
            before.
        :raises StoreError: the database cannot be used.
        """
        self._expire_gone()
        balance = self._owner.attempt_lease(
            lambda lease: self._database.transact(
                partial(self._balance, lease=lease, sending=sending),
                Commit.BALANCE,
                # what a lost commit has taken is taken again
                happened=repeatable,
            )
        )
        for lock in balance.lost:
            del self._locks[lock.generation, lock.number]
        for lock in balance.taken:
            self._locks[lock.generation, lock.number] = lock
        if balance.taken or balance.lost:
            LOG.info(
                "group %s: took partitions %s, lost %s; holds %s",
                self._settings.name,
                [lock.number for lock in balance.taken],
                [lock.number for lock in balance.lost],
                len(self._locks),
            )
        return balance

    def give(self, locks: Iterable[PartitionLock]) -> None:
        """Give partitions back; their work is finished.

        :raises StoreError: the database cannot be used.
        """
        given = list(locks)

        def free(tx: Transaction) -> None:
            for lock in sorted(given, key=lambda one: (one.generation, one.number)):
                groups.free_partition(tx, lock)

        if given:
            self._database.transact(free, Commit.GIVE, happened=repeatable)
            self._forget(given)

    def end(self, lock: PartitionLock) -> None:
        """End a partition of an older generation, of which all is done.

        :raises StoreError: the database cannot be used.
        """
        self._database.transact(
            partial(groups.delete_partition, lock=lock), Commit.GIVE, happened=repeatable
        )
        self._forget([lock])

    def close(self) -> None:
        """Give everything back at once, and leave.

        :raises StoreError: the database cannot be used; others take it when the lease is over.
        """
        try:
            if self._joined and self._owner.holds(self._joined):
                lease = self._owner.current_lease()
                self._database.transact(
                    partial(self._leave, lease=lease), Commit.GIVE, happened=repeatable
                )
        finally:
            self._locks.clear()
            self._owner.close()

    # -- transactions

    def _join(self) -> GroupRow:
        def join(lease: Lease) -> GroupRow:
            while True:
                try:
                    return self._database.transact(
                        partial(self._enter, lease=lease), Commit.JOIN, happened=repeatable
                    )
                except Conflict:
                    # another process made the group at the same moment
                    continue

        try:
            row = self._owner.attempt_lease(join)
        except BaseException:
            self._owner.close()
            raise
        self._joined = self._owner.current_id()
        return row

    def _enter(self, tx: Transaction, lease: Lease) -> GroupRow:
        row = enter(tx, self._settings)
        check_lease(tx, lease.id, lease.mark)
        proof = self._settings.secrets.prove(*_about(row.name, lease.id, lease.mark))
        groups.insert_member(tx, row.id, lease.id, lease.mark, proof, row.generation)
        return row

    def _balance(self, tx: Transaction, lease: Lease, sending: int | None) -> Balance:
        row = enter(tx, self._settings_of_group())
        check_lease(tx, lease.id, lease.mark)
        members = [one for one in groups.list_members(tx, row.id) if self._is_known(row.name, one)]
        if all(one.engine_id != lease.id for one in members):
            # under a new lease, or somebody has removed it
            proof = self._settings.secrets.prove(*_about(row.name, lease.id, lease.mark))
            groups.insert_member(tx, row.id, lease.id, lease.mark, proof, sending or row.generation)
        elif sending is not None:
            groups.set_generation(tx, row.id, lease.id, lease.mark, sending)
        living = {one.engine_id for one in members} | {lease.id}
        groups.delete_members(tx, row.id, living)
        sent_to = [one.generation for one in members if one.engine_id != lease.id]
        sent_to.append(sending or row.generation)
        return self._share(tx, row, lease, living, min(sent_to))

    def _share(
        self, tx: Transaction, row: GroupRow, lease: Lease, living: set[int], sent_to: int
    ) -> Balance:
        """Take what is to be taken.

        :param sent_to: the oldest generation that a member sends to.
        """
        rows = groups.list_partitions(tx, row.id)
        oldest = rows[0].generation
        # an older generation is worked off before the next one is begun with
        rows = [one for one in rows if one.generation == oldest]
        kept = {key: lock for key, lock in self._locks.items() if _has(rows, key, lock, lease)}
        lost = [lock for key, lock in self._locks.items() if key not in kept]
        owners = {one.number: _owner_of(one, living, lease.id, kept) for one in rows}
        change = decide(owners, living, lease.id)
        numbered = {one.number: one for one in rows}
        taken = [
            lock
            for number in change.take
            if (lock := groups.take_partition(tx, row.id, numbered[number], lease.id, make_mark()))
            is not None
        ]
        is_ending = oldest != row.generation and sent_to > oldest
        held = [*kept.values(), *taken]
        return Balance(
            row.generation,
            row.partitions,
            row.key,
            tuple(taken),
            tuple(lost),
            tuple(kept[oldest, number] for number in change.give),
            tuple(held) if is_ending else (),
        )

    def _leave(self, tx: Transaction, lease: Lease) -> None:
        row = groups.lock_group(tx, self._settings.name)
        if row is None:
            return
        for key in sorted(self._locks):
            groups.free_partition(tx, self._locks[key])
        groups.delete_member(tx, row.id, lease.id, lease.mark)

    # -- details

    def _settings_of_group(self) -> Settings:
        """What is still to be compared: the number may be changed while this member runs."""
        return Settings(self._settings.name, self._settings.secrets)

    def _is_known(self, name: str, member: MemberRow) -> bool:
        """Whether a member knows the secret: a row alone makes nobody one."""
        return self._settings.secrets.is_proof(
            member.proof, *_about(name, member.engine_id, member.mark)
        )

    def _expire_gone(self) -> None:
        """End the leases of members whose processes were on this host and are gone."""

        def gone(tx: Transaction) -> list[int]:
            members = groups.list_members(tx, self.row.id)
            known = (one for one in members if self._is_known(self.row.name, one))
            return [one.engine_id for one in known if is_gone(one.process)]

        expire(self._database, self._database.read(gone))

    def _forget(self, locks: Iterable[PartitionLock]) -> None:
        for lock in locks:
            self._locks.pop((lock.generation, lock.number), None)


def name_sender(lease: Lease) -> str:
    """What the holder of a lease calls itself in messages."""
    return f"{lease.id}-{lease.mark:x}"


def _about(name: str, engine_id: int, mark: int) -> tuple[object, ...]:
    return ("member", name, engine_id, mark)


def _has(rows: list[PartitionRow], key: tuple[int, int], lock: PartitionLock, lease: Lease) -> bool:
    """Whether a lock is still as it was taken, under this lease."""
    return (
        any(
            (one.generation, one.number) == key
            and (one.engine_id, one.epoch, one.mark) == (lock.engine_id, lock.epoch, lock.mark)
            for one in rows
        )
        and lock.engine_id == lease.id
    )


def _owner_of(
    row: PartitionRow, living: set[int], me: int, kept: Mapping[tuple[int, int], PartitionLock]
) -> int | None:
    """Who holds a partition; None if it is free. What this member took in a commit whose reply was
    lost is free to it."""
    if row.engine_id not in living:
        return None
    if row.engine_id == me and (row.generation, row.number) not in kept:
        return None
    return row.engine_id
