"""Groups in tests: members of processes of their own, as it were, and time that is told to pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from converge import Store
from converge.group.group import Settings
from converge.group.member import Balance, Member
from converge.group.signing import Secrets
from converge.sql import groups
from converge.sql.groups import PartitionRow
from converge.testing import FakeClock

SECRET = "a secret of the tests"
#: Seconds. So long that no thread renews it while a test runs: that is told, too.
LEASE = 3600.0


@dataclass
class World:
    """One database, and members that come and go."""

    store: Store
    clock: FakeClock
    living: list[Member] = field(default_factory=list)
    dead: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        # one pool for all leases: another one would compile every statement again
        database: Any = self.store.database
        database.separate = lambda: database

    def join(self, partitions: int | None = 4, name: str = "g", **more: Any) -> Member:
        """A new member."""
        secrets = Secrets(more.pop("secrets", [SECRET]))
        member = Member(self.store.database, Settings(name, secrets, partitions, **more), LEASE)
        self.living.append(member)
        return member

    def settle(self) -> None:
        """Let all members follow what they are told until nothing is left to do."""
        for _ in range(20):
            changes = [self.step(member) for member in self.living]
            if not any(changes):
                return
        raise AssertionError("it never ends")

    def step(self, member: Member, sending: int | None = None) -> Balance | None:
        """Let one member follow what it is told; None if it was nothing."""
        balance = member.balance(sending)
        member.give(balance.give)
        changed = balance.taken or balance.lost or balance.give
        return balance if changed else None

    def pause(self, member: Member) -> None:
        """Let a member do nothing any more, not even renew its lease."""
        self.living.remove(member)
        self.dead.append(member)

    def wait(self, seconds: float = LEASE) -> None:
        """Let time pass; the living renew their leases."""
        for _ in range(2):
            self.clock.advance(seconds / 2)
            for member in self.living:
                member._owner.current_lease().renew()

    def partitions(self, name: str = "g") -> list[PartitionRow]:
        """The rows of a group."""

        def read(tx: Any) -> list[PartitionRow]:
            row = groups.find_group(tx, name)
            assert row is not None
            return groups.list_partitions(tx, row.id)

        return self.store.database.read(read)

    def counts(self) -> list[int]:
        """How many partitions each living member holds, in the order of their joining."""
        return [len(member.locks) for member in self.living]

    def close(self) -> None:
        """Stop all members."""
        for member in (*self.living, *self.dead):
            member.close()
        del self.store.database.separate


def make_world(store: Store, clock: FakeClock) -> Iterator[World]:
    world = World(store, clock)
    yield world
    world.close()


@pytest.fixture
def world(store: Store, clock: FakeClock) -> Iterator[World]:
    """An empty database, on each backend."""
    yield from make_world(store, clock)
