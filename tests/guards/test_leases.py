"""Guards of the lease.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

import pytest

import converge
from converge.lease import EngineLease
from converge.points import Commit
from converge.store import engines
from converge.store.database import Database
from converge.testing import FakeClock
from tests.guards.tools import LEASE


def test_a_lease_is_renewed_only_by_its_process_and_in_time(
    store: converge.Store, clock: FakeClock
) -> None:
    with store.transaction() as tx:
        one = engines.insert_engine(tx, "h", 1, "mine", LEASE)
        dead = engines.insert_engine(tx, "h", 1, "mine", LEASE)
        engines.end_engine(tx, dead, engines.DEAD)
    clock.advance(LEASE - 1)
    with store.transaction() as tx:
        assert not engines.renew_lease(tx, one, "another's")
        assert not engines.renew_lease(tx, dead, "mine")
        assert engines.renew_lease(tx, one, "mine")
    clock.advance(LEASE)
    with store.transaction() as tx:
        assert not engines.renew_lease(tx, one, "mine")


class Held:
    """A lease, on a clock of its own that the database takes no part in."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.slow = 0.0
        self.losses = 0
        monkeypatch.setattr("converge.lease.now", lambda: self.seconds)
        monkeypatch.setattr("converge.points.hook", self._take_time)
        self.lease = EngineLease(database, LEASE, self._lost)

    def _take_time(self, name: str) -> None:
        if name in (Commit.REGISTER.after, Commit.RENEW.after):
            self.seconds += self.slow

    def _lost(self) -> None:
        self.losses += 1

    def check_at(self, seconds: float) -> bool:
        """Whether it is taken for lost at this time."""
        self.seconds = seconds
        self.lease.check()
        return self.lease.lost.is_set()


@pytest.fixture
def held(store: converge.Store, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(store.database, monkeypatch)


def test_a_lease_is_given_up_before_it_ends_and_counts_from_the_request(held: Held) -> None:
    held.slow = 3
    held.lease.take()
    assert not held.check_at(7.9)
    held.lease.renew()
    assert held.seconds == 10.9
    assert not held.check_at(15.8)
    assert held.check_at(16)
    assert held.check_at(17)
    assert held.losses == 1
    held.seconds = 20
    held.lease.take()
    assert not held.check_at(27.9)
    assert held.check_at(28.1)
    assert held.losses == 2


def test_a_lease_that_is_not_renewed_is_lost(held: Held, clock: FakeClock) -> None:
    first = held.lease.take()
    held.lease.renew()
    assert not held.lease.lost.is_set()
    clock.advance(LEASE)
    held.lease.renew()
    assert held.lease.lost.is_set()
    assert held.losses == 1
    assert held.lease.take() != first
    assert not held.lease.lost.is_set()
