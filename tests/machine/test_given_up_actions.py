"""Actions that fail for good or kill who calls them, and what people do about it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from converge import RetryPolicy, crash_points
from converge.errors import NotFound, StoreError
from converge.lease import LEASE
from converge.machine import Action, Instances, list_machines
from converge.machine.move import ActionFailed
from converge.sql import schema
from tests.machine.place import Place
from tests.machine.world import World, count, fail, status

DEATHS = RetryPolicy().deaths
HERE = "in an action"
#: Without a timeout.
STATES: dict[str, Any] = {"off": {}, "on": {}}


def die(action: Action) -> None:
    """Be what kills the process."""
    crash_points.hit(HERE)


def sweep_and_die(place: Place, world: World, key: str) -> None:
    """A process sweeps and dies of the action of this key, and its lease ends."""
    world.behaviour[key] = [die]
    place.die(HERE, place.machine(world.definition(states=STATES)).sweep)


# -- actions that kill -------------------------------------------------------


def test_an_action_that_kills_each_process_is_given_up_with_a_reason(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition(states=STATES))
    world.behaviour["k"] = [die]
    place.die(HERE, lambda: machine.fire("k", "press", create=True))
    for _ in range(DEATHS - 1):
        assert status(machine) == "PENDING"
        sweep_and_die(place, world, "k")
    assert machine.sweep() == 0
    (move,) = machine.history("k")
    assert (move.action, move.reason) == ("FAILED", f"{DEATHS} processes died while calling it")
    assert world.done == ["k press 1"] * DEATHS
    place.clock.advance(LEASE)
    assert machine.sweep() == 0
    assert len(world.done) == DEATHS


def test_an_action_that_kills_does_not_keep_others_from_being_called(
    place: Place, world: World
) -> None:
    """Whoever takes several and dies of the first had the others as well. They are innocent."""
    machine = place.machine(world.definition(states=STATES))
    keys = [f"{number:02}" for number in range(30)]
    events = [(key, "press") for key in keys]
    world.behaviour["00"] = [die]
    place.die(HERE, lambda: machine.fire_many(events, create=True))
    for _ in range(DEATHS - 1):
        sweep_and_die(place, world, "00")
    machine.sweep()
    assert {status(machine, key) for key in keys[1:]} == {"DONE"}
    assert status(machine, "00") == "FAILED"
    assert sorted(world.done) == ["00 press 1"] * DEATHS + [f"{key} press 1" for key in keys[1:]]


def test_what_was_taken_is_left_to_others_when_what_is_given_up_cannot_be_noted(
    place: Place, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, other = (place.machine(world.definition(states=STATES)) for _ in range(2))
    events = [(key, "press") for key in "ab"]
    with place.store.transaction() as tx:
        machine.fire_many(events, create=True, transaction=tx)
        tx.execute(update(schema.move).values(deaths=DEATHS))

    def refuse(*arguments: Any, **how: Any) -> None:
        raise StoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(machine._actions._endings, "end", refuse)
        with pytest.raises(StoreError):
            machine.sweep()
    place.clock.advance(LEASE)
    other.sweep()
    assert [status(other, key) for key in "ab"] == ["FAILED"] * 2


def test_what_is_let_go_of_counts_no_death(place: Place, world: World) -> None:
    machine = place.machine(world.definition())

    def interrupt(action: Action) -> None:
        raise KeyboardInterrupt

    for _ in range(DEATHS + 1):
        world.behaviour["a"] = [interrupt]
        with pytest.raises(KeyboardInterrupt):
            machine.fire_many([("a", "press"), ("b", "press")], create=True)
        machine.delete("a")
        assert machine.sweep() == 1  # of the other
        machine.fire("b", "press")
    assert {move.action for move in machine.history("b")} == {"DONE", "NONE"}


# -- actions that failed -----------------------------------------------------


def test_a_failed_action_goes_on_at_the_step_that_failed_when_a_person_says_so(
    place: Place, world: World
) -> None:
    def ten(action: Action) -> None:
        for number in range(1, 11):
            action.step(f"step {number}", world.step, f"step {number}")
            if number == 3:
                action.step("charge", fail, action, retry=RetryPolicy(attempts=1))

    def mended(action: Action) -> None:
        for number in range(1, 11):
            action.step(f"step {number}", world.step, f"step {number}")
            if number == 3:
                action.step("charge", world.step, "charge", retry=RetryPolicy(attempts=1))

    machine = place.machine(world.definition(attempts=2))
    world.behaviour["k"] = [ten, ten, mended]
    with pytest.raises(ActionFailed, match="step 'charge'"):
        machine.fire("k", "press", create=True)
    place.clock.advance(5)
    machine.sweep()
    assert status(machine) == "FAILED"
    (move,) = machine.failed()
    assert (move.key, move.event, move.number) == ("k", "press", 1)
    assert move.reason is not None
    assert move.reason.startswith("step 'charge'")

    before = ["k press 1", "step 1", "step 2", "step 3", "k press 2"]
    assert world.done == before
    assert machine.retry("k") == 1
    assert (status(machine), machine.history("k")[0].reason) == ("PENDING", None)
    assert machine.sweep() == 1
    rest = [f"step {number}" for number in range(4, 11)]
    assert world.done == [*before, "k press 1", "charge", *rest]
    assert status(machine) == "DONE"
    assert machine.failed() == []
    assert machine.retry("k") == 0
    assert (count(place, schema.scope), count(place, schema.step)) == (0, 0)


def test_a_retry_of_what_is_not_there_does_nothing(place: Place, world: World) -> None:
    machine = place.machine(world.definition(attempts=1))
    world.behaviour["k"] = [fail]
    with pytest.raises(ActionFailed):
        machine.fire("k", "press", create=True)
    with pytest.raises(NotFound, match="machine 'lamp' has no instance 'x'"):
        machine.retry("k", "x")
    assert status(machine) == "FAILED"


def test_a_deleted_instance_takes_along_what_its_failed_action_recorded(
    place: Place, world: World
) -> None:
    def half(action: Action) -> None:
        action.step("one", world.step, "one")
        fail(action)

    machine = place.machine(world.definition(attempts=1))
    world.behaviour["k"] = [half]
    with pytest.raises(ActionFailed):
        machine.fire("k", "press", create=True)
    assert count(place, schema.step) == 1
    assert machine.delete("k") == 1
    tables = (schema.instance, schema.move, schema.scope, schema.step)
    assert [count(place, table) for table in tables] == [0, 0, 0, 0]


def test_instances_can_be_looked_after_without_their_definition(place: Place, world: World) -> None:
    machine = place.machine(world.definition(attempts=1))
    world.behaviour["b"] = [fail]
    machine.fire_many([("a", "press"), ("b", "press")], create=True)
    place.machine(world.definition(name="another")).create("x")
    assert list_machines(place.store) == ["another", "lamp"]
    instances = Instances(place.store, "lamp")
    assert instances.get("a") == machine.get("a")
    assert instances.instances(state="on") == machine.instances()
    assert instances.instances(state="nowhere") == []
    assert instances.history("b") == instances.failed() == machine.history("b")
    assert instances.retry("b") == 1
    assert machine.sweep() == 1
    assert instances.delete("a", "b", "c") == 2


# -- retention ---------------------------------------------------------------
