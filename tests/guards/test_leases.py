"""Guards of the lease.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import converge
from converge.crash_points import Commit
from converge.lease import RENEW, Lease, RowLeases
from converge.sql import engines
from converge.sql.database import Database
from converge.testing import FakeClock
from tests.guards.tools import LEASE


def test_a_lease_is_renewed_only_by_who_registered_it_and_in_time(
    store: converge.Store, clock: FakeClock
) -> None:
    with store.transaction() as tx:
        one = engines.insert_engine(tx, "h", 1, "p", LEASE, mark=7)
        dead = engines.insert_engine(tx, "h", 1, "p", LEASE, mark=7)
        engines.end_engine(tx, dead, engines.DEAD)
    clock.advance(LEASE - 1)
    with store.transaction() as tx:
        assert not engines.renew_lease(tx, one, 8)
        assert not engines.renew_lease(tx, dead, 7)
        assert engines.renew_lease(tx, one, 7)
    clock.advance(LEASE)
    with store.transaction() as tx:
        assert not engines.renew_lease(tx, one, 7)


class Held:
    """Leases, on a clock of its own that the database takes no part in."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.slow = 0.0
        self.losses = 0
        monkeypatch.setattr("converge.lease.lease.now", lambda: self.seconds)
        monkeypatch.setattr("converge.crash_points.hook", self._take_time)
        self.leases = RowLeases(database, LEASE)

    def take(self) -> Lease:
        return Lease(self.leases, self._lost)

    def _take_time(self, name: str) -> None:
        if name in (Commit.REGISTER.after, Commit.RENEW.after):
            self.seconds += self.slow

    def _lost(self) -> None:
        self.losses += 1

    def is_lost(self, lease: Lease, seconds: float) -> bool:
        """Whether it is taken for lost at this time."""
        self.seconds = seconds
        assert lease.check() is not lease.lost.is_set()
        return lease.lost.is_set()


@pytest.fixture
def held(store: converge.Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(store.database, monkeypatch)
    yield held
    held.leases.close()


def test_a_lease_is_given_up_before_it_ends_and_counts_from_the_request(held: Held) -> None:
    held.slow = 3
    lease = held.take()
    assert not held.is_lost(lease, 7.9)
    lease.renew()
    assert held.seconds == 10.9
    assert not held.is_lost(lease, 15.8)
    assert held.is_lost(lease, 16)
    assert held.is_lost(lease, 17)
    assert held.losses == 1
    held.seconds = 20
    another = held.take()
    assert not held.is_lost(another, 27.9)
    assert held.is_lost(another, 28.1)
    assert held.losses == 2


def test_a_lease_that_is_not_renewed_is_lost(held: Held, clock: FakeClock) -> None:
    lease = held.take()
    lease.renew()
    assert not lease.lost.is_set()
    clock.advance(LEASE)
    lease.renew()
    assert lease.lost.is_set()
    assert held.losses == 1
    another = held.take()
    assert another.id != lease.id
    # what is seen of the one says nothing about the other
    assert not lease.check()
    assert another.check()
    assert held.losses == 1


def test_a_lease_that_was_given_back_is_neither_renewed_nor_lost(held: Held) -> None:
    lease = held.take()
    lease.end()
    assert not held.is_lost(lease, 100)
    lease.keep()
    lease.watch()
    assert held.losses == 0


def test_whatever_goes_wrong_with_a_renewal_it_is_tried_again(held: Held) -> None:
    lease = held.take()
    pauses: list[float | None] = []

    def prolong(id_: int, mark: int) -> bool:
        if len(pauses) < 3:
            raise ZeroDivisionError
        lease.end()
        return True

    class Over(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return self.is_set()

    held.leases.prolong = prolong  # type: ignore[method-assign]
    lease._over = Over()
    lease.keep()
    third = LEASE * RENEW
    assert pauses == [third, third / 5, third / 5, third]
