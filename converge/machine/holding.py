"""Which actions this process holds: taken and released under a lease."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

from converge.crash_points import Commit
from converge.errors import ConvergeError
from converge.journal.values import loads
from converge.lease import LOOK, Lease, RowLeases, RowOwner, check_lease
from converge.machine.definition import Definition
from converge.machine.ending import ActionLock, Endings
from converge.machine.moving import TakenAction, Taker
from converge.model import make_mark
from converge.sql import moves
from converge.sql.database import Database, repeatable
from converge.sql.moves import MoveRow
from converge.sql.transaction import Transaction

T = TypeVar("T")

LOG = logging.getLogger(__name__)


class Holding:
    """The actions of a machine's moves, held under a lease.

    :param lease: seconds that a lease lasts.
    """

    def __init__(self, database: Database, definition: Definition, lease: float) -> None:
        self._database = database
        self._definition = definition
        self._name = definition.name
        self._look = lease * LOOK
        self._endings = Endings(database, definition.name)
        # the marks of actions that are being taken, and the locks of those that are taken
        self._taking: set[int] = set()
        self._own_locks: set[moves.Lock] = set()
        # the thread that renews the lease must not keep this object alive
        this = weakref.ref(self)

        def after(lease: Lease) -> None:
            holding = this()
            if holding is not None:
                holding.reconcile(lease)

        self.owner = RowOwner(database, lease, after)
        self._closing = threading.Event()
        # locks that could not be released
        self._unreleased: list[moves.Lock] = []

    def interrupt(self) -> None:
        """End the waits of steps in running actions."""
        self._closing.set()

    def close(self) -> None:
        """Release all actions."""
        self.interrupt()
        try:
            self.owner.close()
        finally:
            # actions of later events are not interrupted
            self._closing = threading.Event()

    def retry_releases(self, database: Database | None = None) -> None:
        """Release actions whose release failed before, without counting a death.

        :param database: the database over another connection.
        :raises StoreError: it fails again.
        """
        left, self._unreleased = self._unreleased, []
        if not left:
            return
        try:
            self._release(left, database)
        except BaseException:
            self._unreleased += left
            raise

    def take(self, function: Callable[[Taker], T], taken: Callable[[], Sequence[TakenAction]]) -> T:
        """Take actions.

        :param function: takes them in a transaction.
        :param taken: returns the taken actions once that is committed.
        :returns: what the function returned.
        """

        def take(lease: Lease) -> T:
            mark = make_mark()
            self._taking.add(mark)
            try:
                result = function(Taker(lease.id, lease.mark, mark))
                # before the mark is discarded: reconcile() may run between the two
                self._own_locks.update(one.lock for one in taken())
                return result
            finally:
                self._taking.discard(mark)

        return self.owner.attempt_lease(take)

    def reconcile(self, lease: Lease) -> None:
        """Release actions that a lease holds without this process knowing.

        They are left by a commit whose reply was lost, by an outage in which they could not be
        released, and by a database that lost its last seconds.
        """
        leases = lease.leases
        assert isinstance(leases, RowLeases)
        # over the connection of the lease, so that this does not wait for the work
        database = leases.database
        try:
            self.retry_releases(database)
            # read the rows first: an action that is taken meanwhile is then known here
            taken = database.read(lambda tx: _list_held(tx, lease))
            unknown = [
                one for one in taken if one[-1] not in self._taking and one not in self._own_locks
            ]
            if unknown:
                self._release(unknown, database)
                LOG.warning(
                    "machine %s released %s actions, which it did not know",
                    self._name,
                    len(unknown),
                )
        except ConvergeError as error:
            LOG.warning(
                "machine %s cannot compare its actions: %s; tried again later", self._name, error
            )

    def claim(self, limit: int) -> tuple[int, list[TakenAction]]:
        """Take actions that are due and free, at most ``limit``. At most one of them, the last, is
        one on which several processes died.

        :returns: how many were taken, and those of them to call.
        """
        taken: list[TakenAction] = []
        count = self.take(lambda taker: self._claim(taker, limit, taken), lambda: taken)
        return count, taken

    def _claim(self, taker: Taker, limit: int, taken: list[TakenAction]) -> int:
        """:param taken: the list to add the actions to call to."""
        versions = self._definition.versions
        owner, mark = taker.id, taker.mark

        def claim(tx: Transaction) -> list[MoveRow]:
            check_lease(tx, owner, taker.lease)
            return moves.claim_actions(tx, self._name, versions, owner, limit, mark)

        try:
            rows = self._database.transact(
                claim,
                Commit.ACTION_CLAIM,
                happened=lambda tx, rows: bool(rows) and _is_taken(tx, rows[0], owner),
            )
            taken += [one for row in rows if (one := self._accept(row, owner)) is not None]
        except BaseException:
            # some may be held, and it is not known which
            self.owner.give_up(owner)
            raise
        return len(rows)

    def _accept(self, row: MoveRow, owner: int) -> TakenAction | None:
        """The action of a taken row; None if it is not to be called: then it has FAILED."""
        transition = self._definition.find(row.version, row.source, row.event, row.target)
        if transition is None:
            self._refuse(
                row,
                owner,
                f"this program has no transition from {row.source!r} to {row.target!r} with an "
                "action",
            )
            return None
        if row.deaths >= transition.retry.deaths:
            self._refuse(row, owner, f"{row.deaths} processes died while calling it")
            return None
        return TakenAction(
            instance_id=row.instance_id,
            key=row.key,
            number=row.number,
            epoch=row.epoch,
            owner=owner,
            event=row.event,
            source=row.source,
            target=row.target,
            payload=loads(row.payload),
            payloads=row.payloads,
            attempts=row.attempts,
            transition=transition,
            token=row.token,
            mark=row.mark,
        )

    def _refuse(self, row: MoveRow, owner: int, reason: str) -> None:
        LOG.error("machine %s, %s: action of %s: %s", self._name, row.key, row.event, reason)
        locked = (row.instance_id, row.number, owner, row.epoch, row.mark)
        self._endings.end(ActionLock(row.key, locked, row.token), "FAILED", reason=reason)

    def release(self, taken: Sequence[TakenAction]) -> None:
        """Release actions that were not called. If that fails, their lease is given up."""
        if not taken:
            return
        locks = [one.lock for one in taken]
        self._own_locks.difference_update(locks)
        try:
            self._release(locks)
        except ConvergeError as error:
            self._unreleased += locks
            for owner in sorted({one.owner for one in taken}):
                LOG.warning("machine %s: %s; lease %s is given up", self._name, error, owner)
                self.owner.give_up(owner)

    def _release(self, locks: Sequence[moves.Lock], database: Database | None = None) -> None:
        (database or self._database).transact(
            lambda tx: moves.release_actions(tx, locks), Commit.ACTION, happened=repeatable
        )


def _list_held(tx: Transaction, lease: Lease) -> list[moves.Lock]:
    # the id may belong to another lease by now, with actions of its own
    check_lease(tx, lease.id, lease.mark)
    return moves.list_held(tx, lease.id)


def _is_taken(tx: Transaction, row: MoveRow, owner: int) -> bool:
    found = moves.get_move(tx, row.instance_id, row.number)
    taken = (owner, row.epoch, row.mark)
    return found is not None and (found.engine_id, found.epoch, found.mark) == taken
