"""What an agent of a group does for its partitions: it holds its share of them, and takes what is
open in them through the sinks, oldest first.

What is open, the database says. The messages of the members are hints at it: with them it is done
at once, without them at the next look. So a message that is lost, doubled or late costs time at
most; and one that is not of the group is refused, and would have done nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converge.agent.counts import GroupCounts
from converge.agent.gathering import Batching, gather
from converge.agent.outbox import Layout, Outbox
from converge.bus.carrier import CarrierError
from converge.bus.pace import Backoff
from converge.bus.post import QUEUE, REDELIVERED, Post
from converge.bus.source import Delivery
from converge.crash_points import Commit
from converge.errors import Busy, StaleLock, StoreError
from converge.group.group import Settings
from converge.group.inbox import Inbox, Place
from converge.group.keys import share_of
from converge.group.member import POSITION_AGE, Balance, Member
from converge.group.signing import Refused
from converge.lease import LEASE
from converge.lease import now as seconds
from converge.pipeline import BatchResult, Pipeline, resume, sweep
from converge.sql import deliveries, groups
from converge.sql.database import repeatable
from converge.sql.groups import PartitionLock
from converge.sql.transaction import Transaction

if TYPE_CHECKING:
    from converge.store import Store

LOG = logging.getLogger(__name__)

#: Open deliveries that are counted at most.
MOST_LAG = 10_000
#: More open deliveries than so many, of all partitions together, and nothing is received.
MOST_OPEN = 10_000
#: Hints that are opened at a time, and seconds that the first of them waits for others.
_HINTS = Batching(1000, 0.02)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often something is done: seconds.

    :ivar balance: partitions are taken and given back.
    :ivar look: what is open in the partitions is looked for without a hint.
    :ivar sweep: what waits for its time is looked for.
    :ivar stray: what is open in no partition that there is, is looked for.
    :ivar idle: a hint is waited for, at most.
    :ivar first: before the first attempt after an outage.
    :ivar longest: before a later one, at most.
    """

    balance: float = 3.0
    look: float = 5.0
    sweep: float = 1.0
    stray: float = 15.0
    idle: float = 0.5
    first: float = 0.5
    longest: float = 15.0


class Sharing:
    """The half of a member that works. One thread runs it.

    :param open_post: connects to the queues of the partitions; None: there are none.
    :param count: is told what became of deliveries.
    :param lease: seconds without a sign of life after which others take the partitions.
    :param most_open: how many deliveries may be open, in all partitions together, before nothing
        more is to be received.
    :ivar is_behind: whether there are more than that. It is looked at each time that partitions are
        taken and given back, and each time that what waits for its time is looked for.
    :raises BadInput: the settings differ from those of the group.
    :raises StoreError: the database cannot be used.
    """

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        settings: Settings,
        open_post: Callable[[], Post] | None,
        count: Callable[[BatchResult], object],
        lease: float = LEASE,
        pace: Pace = Pace(),
        most_open: int = MOST_OPEN,
    ) -> None:
        self.counts = GroupCounts()
        self.stopping = threading.Event()
        self._balanced, self._asked, self._idle = (threading.Event() for _ in range(3))
        self._store = store
        self._pipeline = pipeline
        self._open = open_post
        self._count = count
        self._pace = pace
        self._most_open = most_open
        self.is_behind = False
        self._member = Member(store.database, settings, lease)
        self._name = settings.name
        row = self._member.row
        self._inbox = Inbox(settings.name, settings.secrets)
        self.outbox = Outbox(
            store,
            pipeline,
            settings.secrets,
            self._layout(row.generation, row.partitions, row.key),
            open_post,
            self.counts,
        )
        self._post: Post | None = None
        self._post_not_before = 0.0
        self._places: dict[str, tuple[PartitionLock, str]] = {}
        # received and not acknowledged
        self._hints: list[Delivery] = []
        # where something may be open
        self._dirty: set[int] = set()
        # shares of no partition, which are this member's to do
        self._strays: set[int] = set()
        # what is held, as far as this half knows
        self._begun: set[PartitionLock] = set()
        self._at: dict[str, float] = {}
        # the last delivery that was there when it was first asked to finish
        self._last: int | None = None
        self._backoff = Backoff(pace.first, pace.longest)

    # -- running

    def run(self) -> None:
        """Work until :meth:`stop`; then give all back at once."""
        try:
            while not self.stopping.is_set():
                self.turn()
        finally:
            self.close()

    def stop(self) -> None:
        """Finish what is in hand, and let :meth:`run` return; from any thread."""
        self.stopping.set()
        self._idle.set()

    def close(self) -> None:
        """Give all partitions back, and leave."""
        self._close_post()
        try:
            self._member.close()
        except StoreError as error:
            LOG.warning(
                "the partitions cannot be given back; others take them when the lease ends: %s",
                error,
            )

    def turn(self) -> None:
        """Do what there is to do, or wait a little for it."""
        try:
            if self._is_time("balance", self._pace.balance):
                self._balance()
            self._receive_hints()
            if self._is_time("look", self._pace.look if self._open else self._pace.idle):
                self._dirty |= self._shares()
            self._work()
            self._note()
            if self._is_time("sweep", self._pace.sweep):
                self._sweep()
                self._measure()
                # asked first: what was recorded until then is counted
                if self._asked.is_set() and self._is_idle():
                    self._idle.set()
        except StaleLock as error:
            LOG.warning("%s", error)
            self.counts.stale += 1
            self._at.pop("balance", None)
            return
        except (StoreError, Busy) as error:
            self._wait_out(error)
            return
        if self._backoff.has_failed:
            LOG.warning("the work on partitions continues")
            self._backoff.reset()

    def finish(self) -> None:
        """Wait until nothing is open in the partitions that this member holds, nor in any other
        what is open now, or until :meth:`stop`; from another thread."""
        self._asked.set()
        self._idle.wait()

    def await_balance(self) -> None:
        """Wait until it is known anew which partitions there are, or for a while; from another
        thread."""
        self._balanced.clear()
        self._at.pop("balance", None)
        self._balanced.wait(self._pace.first)

    # -- partitions

    def _layout(self, generation: int, partitions: int, key: str) -> Layout:
        row = self._member.row
        return Layout(row.id, row.name, generation, partitions, key, self._member.lease)

    def _balance(self) -> None:
        balance = self._member.balance(self.outbox.sending)
        self._follow(balance)
        self._end(balance)
        self.outbox.layout = self._layout(balance.generation, balance.partitions, balance.key)
        self._balanced.set()
        self.counts.partitions = len(self._member.locks)
        self._measure()

    def _measure(self) -> None:
        """How far the holders are behind with what was recorded."""
        sinks, shares = list(self._pipeline.sinks), self._shares()

        def read(tx: Transaction) -> tuple[tuple[int, float], bool]:
            mine = deliveries.measure_open(tx, sinks, shares, MOST_LAG) if shares else (0, 0.0)
            return mine, deliveries.has_more_open(tx, sinks, self._most_open)

        (self.counts.lag, self.counts.lag_seconds), self.is_behind = self._store.database.read(read)

    def _follow(self, balance: Balance) -> None:
        held = set(self._member.locks.values())
        for lock in self._begun - held:
            self._drop(lock)
        for lock in held - self._begun:
            self._begin(lock)
        if balance.give:
            # nothing of them is in hand between two turns
            for lock in balance.give:
                self._drop(lock)
            self._listen()
            self._member.give(balance.give)

    def _begin(self, lock: PartitionLock) -> None:
        def read(tx: Transaction) -> dict[groups.Spot, int]:
            groups.check_lock(tx, lock)
            groups.delete_old_positions(tx, lock, POSITION_AGE)
            return groups.read_positions(tx, lock)

        known = self._store.database.transact(read, Commit.POSITIONS, happened=repeatable)
        self._inbox.begin(known)
        self._begun.add(lock)
        # what came while nobody held it
        self._dirty.add(_share(lock))
        for sink in self._pipeline.sinks:
            self._places[_place(self._name, lock, sink).queue] = (lock, sink)

    def _drop(self, lock: PartitionLock) -> None:
        self._inbox.end(lock)
        self._begun.discard(lock)
        self._dirty.discard(_share(lock))
        self._places = {name: one for name, one in self._places.items() if one[0] != lock}

    def _end(self, balance: Balance) -> None:
        """End partitions of the former number that are worked off."""
        for lock in balance.ending:
            if self._count_open([_share(lock)], 1):
                self._dirty.add(_share(lock))
                continue
            queues = [_place(self._name, lock, sink).queue for sink in self._pipeline.sinks]
            if self._post is not None:
                try:
                    self._post.remove(queues)
                except CarrierError as error:
                    self._lose_post(error)
            self._drop(lock)
            self._member.end(lock)

    def _locks(self) -> dict[int, PartitionLock]:
        """What is held, by share."""
        return {_share(lock): lock for lock in self._member.locks.values()}

    def _shares(self) -> set[int]:
        return {*self._locks(), *(self._strays if self._keeper() is not None else ())}

    def _guard_of(self, shares: Collection[int]) -> Callable[[Transaction], None]:
        """What checks that these partitions are held."""
        locks = self._locks()
        keeper = self._keeper()
        involved = {
            lock for lock in (locks.get(share, keeper) for share in shares) if lock is not None
        }

        def guard(tx: Transaction) -> None:
            groups.check_locks(tx, involved)

        return guard

    def _keeper(self) -> PartitionLock | None:
        """The first partition: its holder also does what is in no partition that there is."""
        return next((lock for lock in self._member.locks.values() if lock.number == 0), None)

    def _count_open(self, shares: Collection[int], limit: int = MOST_LAG) -> int:
        if not shares:
            return 0
        sinks = list(self._pipeline.sinks)
        return self._store.database.read(lambda tx: deliveries.count_open(tx, sinks, shares, limit))

    def _is_idle(self) -> bool:
        """Whether a member that is to finish may leave. What it has recorded for others is waited
        for: they may leave at the same moment, or be dead, and then it is this member's to do."""
        if self._count_open(self._shares(), 1):
            return False
        sinks = list(self._pipeline.sinks)

        def read(tx: Transaction) -> bool:
            if self._last is None:
                self._last = deliveries.read_last(tx)
            return deliveries.has_more_open(tx, sinks, 0, self._last)

        return not self._store.database.read(read)

    # -- hints

    def _receive_hints(self) -> None:
        idle = 0.0 if self._dirty else self._pace.idle
        if not self._listen():
            if idle:
                self.stopping.wait(idle)
            return
        assert self._post is not None
        try:
            found = gather(
                self._post.receive, _HINTS, seconds, idle=idle, stopped=self.stopping.is_set
            )
        except CarrierError as error:
            self._lose_post(error)
            return
        for one in found:
            self._open_hint(one)
        self._hints += found

    def _open_hint(self, one: Delivery) -> None:
        place = self._places.get(one.headers[QUEUE])
        if place is None:
            # of a partition that was lost meanwhile: its holder looks
            return
        lock, sink = place
        try:
            hint = self._inbox.open(
                lock, sink, one.body, redelivered=bool(one.headers[REDELIVERED])
            )
        except Refused as refused:
            known = self.counts.refused
            known[refused.kind] = known.get(refused.kind, 0) + 1
            if known[refused.kind] == 1:
                LOG.warning(
                    "refused a message in the queue of partition %d (%s; further ones are only "
                    "counted): %s",
                    lock.number,
                    refused.kind,
                    refused,
                )
            return
        if hint is None:
            self.counts.redelivered += 1
            return
        self.counts.hints += 1
        self._dirty.add(_share(lock))

    def _listen(self) -> bool:
        """Receive from the queues of what is held; whether that is possible."""
        if self._open is None:
            return False
        if self._post is None and seconds() < self._post_not_before:
            return False
        try:
            if self._post is None:
                self._post = self._open()
            self._post.listen(self._places)
        except CarrierError as error:
            self._lose_post(error)
            return False
        return bool(self._places)

    def _lose_post(self, error: CarrierError) -> None:
        LOG.warning(
            "hints cannot be received, so the database is looked at from time to time: %s", error
        )
        self._close_post()
        self._post_not_before = seconds() + self._pace.look

    def _close_post(self) -> None:
        # what was received and is not acknowledged comes again
        self._hints.clear()
        post, self._post = self._post, None
        if post is not None:
            post.close()

    # -- work

    def _work(self) -> None:
        """Go on with what is open."""
        while self._dirty:
            shares = self._dirty & self._shares()
            result, more = resume(self._store, self._pipeline, shares, self._guard_of)
            self._count(result)
            if not more:
                self._dirty.clear()
            if self.stopping.is_set() or self._is_due("balance", self._pace.balance):
                return

    def _note(self) -> None:
        """Note what was handled, and acknowledge it."""
        if self._dirty or not self._hints:
            return
        reached = dict(self._inbox.reached)
        if reached:
            locks = {spot.lock for spot in reached}

            def write(tx: Transaction) -> None:
                groups.check_locks(tx, locks)
                groups.write_positions(tx, self._inbox.known, reached)

            def happened(tx: Transaction, result: None) -> bool:
                found = {k: v for lock in locks for k, v in groups.read_positions(tx, lock).items()}
                return all(found.get(spot) == number for spot, number in reached.items())

            self._store.database.transact(write, Commit.POSITIONS, happened=happened)
            self._inbox.noted()
        hints, self._hints = self._hints, []
        try:
            if self._post is not None:
                self._post.acknowledge(hints)
        except CarrierError as error:
            self._lose_post(error)

    def _sweep(self) -> None:
        locks = self._locks()
        if not locks:
            return
        is_keeper = self._keeper() is not None
        if not is_keeper:
            self._strays.clear()
        elif self._is_time("stray", self._pace.stray):
            self._find_strays()
        shares = self._shares()
        result = sweep(
            self._store,
            self._pipeline,
            shares=shares,
            guard=self._guard_of(shares),
            letters=is_keeper,
        )
        self._count(result)

    def _find_strays(self) -> None:
        """Find what is open in no partition: of a former number of them, or of no group."""
        sinks = list(self._pipeline.sinks)

        def read(tx: Transaction) -> set[int]:
            # in this order: a partition is there before what is in it
            found = deliveries.list_shares(tx, sinks)
            known = groups.list_partitions(tx, self._member.row.id)
            return found - {share_of(one.generation, one.number) for one in known}

        self._strays = self._store.database.read(read)
        self._dirty |= self._strays

    # -- pace

    def _is_due(self, what: str, every: float) -> bool:
        return seconds() - self._at.get(what, float("-inf")) >= every

    def _is_time(self, what: str, every: float) -> bool:
        if not self._is_due(what, every):
            return False
        self._at[what] = seconds()
        return True

    def _wait_out(self, error: Exception) -> None:
        """Do nothing for a while."""
        self._close_post()
        if not self._backoff.has_failed:
            LOG.warning("the work on partitions has stopped, and is tried again: %s", error)
        self.stopping.wait(self._backoff.next())
        self._at.pop("balance", None)


def _share(lock: PartitionLock) -> int:
    return share_of(lock.generation, lock.number)


def _place(group: str, lock: PartitionLock, sink: str) -> Place:
    return Place(group, lock.generation, lock.number, sink)
