"""The lease of who calls actions: none is taken without one, and an action is told of its end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from converge.lease import RowLeases, lease
from converge.machine import Action
from converge.sql import schema
from tests.machine.place import Place
from tests.machine.world import World


def stand_still(place: Place) -> None:
    """All leases end, as of a process that was suspended and has not looked at the time since."""
    with place.store.transaction() as tx:
        tx.execute(update(schema.engine).values(expires_at=place.clock()))


@pytest.mark.parametrize("fires", [True, False])
def test_who_stood_still_takes_no_action_under_a_lease_that_is_over(
    place: Place, world: World, fires: bool
) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    machine.fire("k", "press", create=True)
    stand_still(place)

    def look(action: Action) -> None:
        # nobody else takes it meanwhile
        assert other.sweep() == 0

    world.behaviour["x"] = [look]
    if fires:
        assert machine.fire("x", "press", create=True).action == "DONE"
    else:
        with place.store.transaction() as tx:
            machine.fire("x", "press", create=True, transaction=tx)
        assert machine.sweep() == 1
    assert world.done == ["k press 1", "x press 1"]


def test_an_action_is_told_in_time_that_the_lease_ends_also_while_the_database_hangs(
    place: Place, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(RowLeases, "prolong", lambda leases, id_, mark: answers.wait(60))
    now, passed, seconds = lease.now, [0.0], 5.0
    monkeypatch.setattr(lease, "now", lambda: now() + passed[0])
    told = []

    def wait(action: Action) -> None:
        assert not action.cancelled.is_set()
        passed[0] = seconds * lease.LOSE
        told.append(action.cancelled.wait(60))

    world.behaviour["k"] = [wait]
    try:
        place.machine(world.definition(), lease=seconds).fire("k", "press", create=True)
    finally:
        answers.set()
    assert told == [True]


def test_an_action_is_told_that_its_lease_was_lost_before_it_asked(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition())

    def lose(action: Action) -> None:
        machine._actions.owner.give_up(machine._actions.owner.current_id())
        # another action goes on under the next one
        machine.fire("next", "press", create=True)
        assert action.cancelled.is_set()

    def look(action: Action) -> None:
        assert not action.cancelled.is_set()

    world.behaviour.update({"k": [lose], "next": [look]})
    machine.fire("k", "press", create=True)
    assert world.done == ["k press 1", "next press 1"]
    assert not Action("lamp", "k", "press", "off", "on").cancelled.is_set()


def test_an_action_is_told_that_its_machine_was_closed(place: Place, world: World) -> None:
    machine = place.machine(world.definition())
    begun = threading.Event()
    told = []

    def wait(action: Action) -> None:
        cancelled = action.cancelled
        begun.set()
        told.append(cancelled.wait(60))

    world.behaviour["k"] = [wait]
    with ThreadPoolExecutor(1) as pool:
        fired = pool.submit(machine.fire, "k", "press", create=True)
        assert begun.wait(60)
        machine.close()
        assert fired.result(60).action == "DONE"
    assert told == [True]


# -- in the background -------------------------------------------------------
