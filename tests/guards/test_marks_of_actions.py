"""Guards against ids of actions that come again, as test_marks.py has them of nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge import crash_points
from converge.crash_points import Commit
from converge.lease import Lease
from converge.machine.holding import _is_taken
from converge.sql import moves, schema
from converge.testing import FakeClock
from tests.guards.lamps import Lamp
from tests.guards.tools import change


def holders(store: converge.Store) -> list[int | None]:
    query = select(schema.move.c.engine_id).order_by(schema.move.c.instance_id)
    return store.database.read(lambda tx: list(tx.execute(query).scalars()))


def forget(store: converge.Store, lamp: Lamp) -> None:
    """The rows say that the machine holds what it knows nothing of."""
    change(store, schema.move, engine_id=lamp.actions.owner.current_id(), epoch=1, mark=1)


def test_an_action_that_its_holder_does_not_know_is_let_go_of_after_a_renewal(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    lamp, other = lamps(lease=1.0), lamps()
    compared = threading.Semaphore(0)
    real = lamp.actions.reconcile

    def reconcile(lease: Lease) -> None:
        real(lease)
        compared.release()

    lamp.actions.reconcile = reconcile  # type: ignore[method-assign]
    lamp.leave(store, "k")
    forget(store, lamp)
    assert other.machine.sweep() == 0
    # one may have begun before it was forgotten
    assert all(compared.acquire(timeout=60) for _ in range(2))
    assert holders(store) == [None]
    assert other.machine.sweep() == 1
    assert (lamp.calls, other.calls) == ([], ["k"])
    # nobody has died of it
    assert store.database.read(lambda tx: tx.execute(select(schema.move.c.deaths)).scalar()) == 0


def test_who_compares_keeps_the_actions_in_hand(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    """Also those of an event, and those that come after another one."""
    lamp, other = lamps(), lamps()
    seen: list[Any] = []

    def compare() -> None:
        lamp.actions.reconcile(lamp.actions.owner.current_lease())
        seen.append((holders(store), other.machine.sweep()))

    def chain() -> None:
        lamp.machine.fire("c", "press", create=True)
        compare()

    me = lamp.actions.owner.current_id()
    lamp.behaviour = [chain, compare, compare]
    lamp.machine.fire_many([("a", "press"), ("b", "press")], create=True)
    assert seen == [([me, me, me], 0), ([None, me, me], 0), ([None, None, me], 0)]
    lamp.leave(store, "d")
    lamp.behaviour = [compare]
    assert lamp.machine.sweep() == 1
    assert seen[3:] == [([None, None, None, me], 0)]
    assert other.calls == []
    assert not lamp.actions._own_locks


@pytest.mark.parametrize("point", [Commit.FIRE, Commit.ACTION_CLAIM])
def test_who_compares_keeps_the_actions_that_are_being_taken(
    store: converge.Store,
    lamps: Callable[..., Lamp],
    monkeypatch: pytest.MonkeyPatch,
    point: Commit,
) -> None:
    lamp = lamps()
    me = lamp.actions.owner.current_id()
    seen: list[Any] = []

    def compare(name: str) -> None:
        if name == point.after:
            lamp.actions.reconcile(lamp.actions.owner.current_lease())
            seen.append(holders(store))

    monkeypatch.setattr(crash_points, "hook", compare)
    if point is Commit.FIRE:
        lamp.machine.fire("k", "press", create=True)
    else:
        lamp.leave(store, "k")
        lamp.machine.sweep()
    # a sweep looks once more, and finds none
    assert (seen[0], lamp.calls) == ([me], ["k"])


def test_no_action_is_taken_under_an_id_that_is_another_ones(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    lamp = lamps()
    id_ = lamp.actions.owner.current_id()
    change(store, schema.engine, mark=1)
    lamp.machine.fire("a", "press", create=True)
    assert lamp.actions.owner.current_id() != id_
    change(store, schema.engine, mark=1)
    lamp.leave(store, "b")
    assert lamp.machine.sweep() == 1
    assert lamp.calls == ["a", "b"]


def test_the_id_of_an_action_does_not_come_again(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    """But at the next attempt."""

    def fail() -> None:
        raise RuntimeError

    lamp = lamps()
    lamp.behaviour = [fail]
    lamp.leave(store, "k")
    lamp.machine.sweep()
    change(store, schema.move, next_at=0)
    assert lamp.machine.sweep() == 1
    # another move of the same numbers
    change(store, schema.move, next_at=0, status="PENDING", token="0" * 32)
    assert lamp.machine.sweep() == 1
    first, again, other = lamp.ids
    assert first == again != other


def test_a_claim_whose_reply_was_lost_is_known_by_its_mark(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    lamp = lamps()
    lamp.leave(store, "k")
    _, (held,) = lamp.actions.claim(1)
    with store.transaction() as tx:
        row = moves.get_move(tx, held.instance_id, held.number)
        assert row is not None
        assert _is_taken(tx, row, held.owner)
        assert not _is_taken(tx, replace(row, mark=row.mark + 1), held.owner)
    lamp.actions.release([held])


def test_an_action_that_is_no_retry_does_not_wait_for_the_clock(
    store: converge.Store, lamps: Callable[..., Lamp], clock: FakeClock
) -> None:
    """It may go back."""

    def fail() -> None:
        raise RuntimeError

    lamp = lamps()
    lamp.leave(store, "k")
    clock.advance(-1000)
    lamp.behaviour = [fail] * 10
    assert lamp.machine.sweep() == 0
    assert lamp.calls == ["k"]
    for _ in range(9):
        clock.advance(10_000)
        lamp.machine.sweep()
    assert lamp.machine.retry("k") == 1
    clock.advance(-1000)
    assert lamp.machine.sweep() == 1
    # taken, and released
    lamp.leave(store, "l")
    _, (held,) = lamp.actions.claim(1)
    lamp.actions.release([held])
    clock.advance(-1000)
    assert lamp.machine.sweep() == 1


def test_actions_are_called_in_the_order_of_their_moves(
    store: converge.Store, lamps: Callable[..., Lamp], clock: FakeClock
) -> None:
    lamp = lamps()
    for key in "cab":
        lamp.leave(store, key)
        clock.advance(1)
    assert lamp.machine.sweep() == 3
    assert lamp.calls == ["c", "a", "b"]


# -- scopes of journals -------------------------------------------------------
