"""Groups against a dictionary: members join, stop, pause, come back, and work under whatever lock
they believe to have; the number of partitions changes.

At most one lock of a partition is good for anything at a time; what is recorded of a partition has
the order of its holds; whatever has happened, all partitions end with fair shares.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import converge
from converge.errors import Busy, StaleLock
from converge.group import group
from converge.group.member import Member
from converge.sql.groups import PartitionLock
from converge.testing import FakeClock
from tests.group.world import LEASE, World

#: How many examples on SQLite; more of them for a long look.
EXAMPLES = int(os.environ.get("CONVERGE_TEST_EXAMPLES", "6"))
PLACE = tuple[int, int]
picks = st.integers(0, 1000)


class Groups(RuleBasedStateMachine):
    """:param store: an open store without rows, with this clock."""

    def __init__(self, store: converge.Store, clock: FakeClock) -> None:
        super().__init__()
        self.world = World(store, clock)
        # all that were ever taken, and those whose work was recorded, in that order
        self.locks: list[PartitionLock] = []
        self.recorded: dict[PLACE, list[int]] = {}
        self.sending: dict[Member, int] = {}
        self.join()

    def teardown(self) -> None:
        self.world.close()

    def pick(self, number: int) -> Member:
        return self.world.living[number % len(self.world.living)]

    # -- what members do

    @precondition(lambda self: len(self.world.living) < 4)
    @rule()
    def join(self) -> None:
        member = self.world.join(3 if not self.sending else None)
        self.sending[member] = member.row.generation

    @precondition(lambda self: len(self.world.living) > 1)
    @rule(number=picks)
    def stop(self, number: int) -> None:
        member = self.pick(number)
        self.world.living.remove(member)
        member.close()

    @precondition(lambda self: len(self.world.living) > 1)
    @rule(number=picks)
    def pause(self, number: int) -> None:
        self.world.pause(self.pick(number))

    @precondition(lambda self: self.world.dead)
    @rule(number=picks)
    def come_back(self, number: int) -> None:
        member = self.world.dead.pop(number % len(self.world.dead))
        self.world.living.append(member)

    @rule(number=picks)
    def balance(self, number: int) -> None:
        member = self.pick(number)
        balance = member.balance(self.sending[member])
        self.sending[member] = balance.generation
        self.locks += balance.taken
        for lock in balance.ending:
            member.end(lock)
        member.give(set(balance.give) - set(balance.ending))

    @rule(share=st.sampled_from([0.3, 1.1]))
    def time_passes(self, share: float) -> None:
        self.world.wait(LEASE * share)

    @rule(partitions=st.integers(1, 5))
    def resize(self, partitions: int) -> None:
        try:
            group.resize(self.world.store.database, "g", partitions)
        except Busy:
            assert len({row.generation for row in self.world.partitions()}) == 2

    @rule()
    def everybody_works(self) -> None:
        """Everybody who was ever given a lock tries to record something under it."""
        accepted = []
        for lock in self.locks:
            try:
                with self.world.store.transaction() as tx:
                    Member.check(tx, lock)
            except StaleLock:
                continue
            accepted.append(lock)
            self.recorded.setdefault((lock.generation, lock.number), []).append(lock.epoch)
        assert len({(lock.generation, lock.number) for lock in accepted}) == len(accepted)

    # -- what must be so

    @invariant()
    def what_is_recorded_has_the_order_of_the_holds(self) -> None:
        for epochs in self.recorded.values():
            assert epochs == sorted(epochs)

    @invariant()
    def no_partition_is_missing(self) -> None:
        rows = self.world.partitions()
        newest = max(row.generation for row in rows)
        numbers = [row.number for row in rows if row.generation == newest]
        assert numbers == list(range(len(numbers)))

    @rule()
    def in_the_end_all_have_their_fair_share(self) -> None:
        self.world.wait(LEASE * 1.1)
        for _ in range(6):
            for number in range(len(self.world.living)):
                self.balance(number)
        counts = self.world.counts()
        rows = self.world.partitions()
        assert len({row.generation for row in rows}) == 1
        assert sum(counts) == len(rows)
        assert max(counts) - min(counts) <= 1
        self.everybody_works()


def test_groups(fresh_store: Callable[..., converge.Store]) -> None:
    class Fresh(Groups):
        def __init__(self) -> None:
            clock = FakeClock()
            super().__init__(fresh_store(clock), clock)

    dialect = fresh_store().database.dialect
    run_state_machine_as_test(
        Fresh,
        settings=settings(
            max_examples=EXAMPLES if dialect == "sqlite" else EXAMPLES // 5 + 1,
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            print_blob=True,
        ),
    )
