"""Steps in actions: what is done is not done again, and waits come to an end."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from converge import RetryPolicy
from converge.crash_points import Commit
from converge.errors import ConvergeError, StaleLock
from converge.lease import LEASE
from converge.machine import Action
from converge.machine.action import scope_name
from converge.machine.move import ActionFailed
from converge.sql import schema

# -- once --------------------------------------------------------------------
from tests.dying import Died
from tests.machine.place import Place, attempts, held_by
from tests.machine.world import World, count, fail, record, status


def test_a_step_that_is_done_is_not_done_again_when_the_action_is(
    place: Place, world: World
) -> None:
    def first(action: Action) -> None:
        assert action.step("one", world.step, "one") == "ONE"
        raise Died

    def second(action: Action) -> None:
        assert action.step("one", world.step, "one") == "ONE"
        assert action.step("two", world.step, "two") == "TWO"
        items = [item.value for item in action.each("items", [1, 2])]
        assert items == [1, 2]

    machine, other = place.machine(world.definition()), place.machine(world.definition())
    machine.create("k")
    world.behaviour["k"] = [first, second]
    place.die(Commit.ACTION.before, machine.fire, "k", "press")
    assert count(place, schema.step) == 1
    assert other.sweep() == 1
    assert world.done == ["k press 1", "one", "k press 1", "two"]
    # what is over is forgotten
    assert (count(place, schema.scope), count(place, schema.step)) == (0, 0)


def test_a_step_that_failed_for_good_fails_the_action(place: Place, world: World) -> None:
    def never(action: Action) -> None:
        action.step("one", fail, action, retry=RetryPolicy(attempts=1))

    machine = place.machine(world.definition(attempts=2))
    world.behaviour["k"] = [never, never]
    with pytest.raises(ActionFailed, match=r"failed: step 'one' of .* RuntimeError: no press;"):
        machine.fire("k", "press", create=True)
    place.clock.advance(5)
    machine.sweep()
    assert status(machine) == "FAILED"


def test_each_action_has_an_id_of_its_own_that_stays(place: Place, world: World) -> None:
    ids: list[str] = []

    def note(action: Action) -> None:
        ids.append(action.id)
        if action.key == "a" and action.attempt == 1:
            fail(action)

    machine = place.machine(world.definition())
    world.behaviour = {"a": [note, note, note], "b": [note]}
    machine.fire_many([("a", "press"), ("b", "press")], create=True)
    place.clock.advance(5)
    machine.sweep()
    machine.fire_many([("a", "press"), ("a", "press")])
    assert ids[0] == ids[2]
    assert len(set(ids)) == 3


def test_who_was_given_up_records_nothing_more(place: Place, world: World, effects: Any) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())

    def linger(action: Action) -> None:
        action.step("one", world.step, "one")
        place.clock.advance(LEASE)
        assert other.sweep() == 1
        with pytest.raises(StaleLock):
            action.step("two", world.step, "two")
        with pytest.raises(StaleLock):
            record(place, action, lambda tx: None)
        fail(action)

    world.behaviour["k"] = [linger, lambda action: action.step("one", world.step, "one")]
    with pytest.raises(ActionFailed):
        machine.fire("k", "press", create=True)
    assert world.done == ["k press 1", "one", "k press 1", "two"]
    assert effects() == []
    assert (status(machine), machine.history("k")[0].reason) == ("DONE", None)


def test_an_action_without_a_machine_has_no_journal() -> None:
    action = Action("lamp", "k", "press", "off", "on")
    with pytest.raises(ConvergeError, match="has no journal"):
        action.step("one", str)


# -- in one transaction with its effect --------------------------------------


def test_scopes_of_actions_have_names_of_any_instance(place: Place) -> None:
    assert len(scope_name("m" * 255, "k" * 255, 2**62, 2**31, "f" * 32)) < 100


@pytest.mark.parametrize("sweeps", [True, False])
def test_closing_ends_the_wait_of_a_step_and_leaves_the_action_to_others(
    place: Place, world: World, sweeps: bool
) -> None:
    called = threading.Event()
    raised: list[Exception] = []

    def flaky() -> str:
        called.set()
        raise OSError("not now")

    def act(action: Action) -> None:
        action.step("one", flaky, retry=RetryPolicy(attempts=3, first=3600.0))

    def fire() -> None:
        try:
            machine.fire("k", "press", create=True)
        except Exception as error:
            raised.append(error)

    definition = world.definition(states={"off": {}, "on": {}})
    machine, other = place.machine(definition), place.machine(definition)
    world.behaviour["k"] = [act]
    thread = threading.Thread(target=fire, daemon=True)
    if sweeps:
        with place.store.transaction() as tx:
            machine.fire("k", "press", create=True, transaction=tx)
        machine.start(every=0.01)
    else:
        thread.start()
    assert called.wait(60)
    machine.close()
    if not sweeps:
        thread.join(60)
        (error,) = raised
        assert isinstance(error, ActionFailed)
        assert isinstance(error.__cause__, StaleLock)
    assert (status(other), other.history("k")[0].reason) == ("PENDING", None)
    assert (held_by(place), attempts(place)) == ([None], [0])
    world.behaviour["k"] = [lambda action: action.step("one", world.step, "one")]
    place.clock.advance(3600)
    assert other.sweep() == 1
    assert world.done == ["k press 1", "k press 1", "one"]
    # and it can be used again
    machine.fire("l", "press", create=True)
    assert status(machine, "l") == "DONE"


def test_a_step_does_not_wait_on_without_a_lease(place: Place, world: World) -> None:
    def flaky() -> str:
        machine._actions.owner.give_up(machine._actions.owner.current_id())
        raise OSError("not now")

    def act(action: Action) -> None:
        action.step("one", flaky, retry=RetryPolicy(attempts=3, first=3600.0))

    machine = place.machine(world.definition(), lease=1.0)
    world.behaviour["k"] = [act]
    with pytest.raises(ActionFailed, match=r"failed: the lease (is|was) lost"):
        machine.fire("k", "press", create=True)
    assert (status(machine), machine.history("k")[0].reason) == ("PENDING", None)


def test_a_step_waits_as_long_as_its_policy_says(place: Place, world: World) -> None:
    def act(action: Action) -> None:
        assert action.step("one", waiting.pop, retry=RetryPolicy(attempts=3, first=0.1)) == 1

    waiting: list[int] = []
    machine = place.machine(world.definition(), lease=1.0)
    world.behaviour["k"] = [act]
    waits: list[float] = []
    real = machine._actions._wait

    def wait(seconds: float, *more: Any) -> None:
        waits.append(seconds)
        real(seconds, *more)
        waiting.append(1)

    place.patch.setattr(machine._actions, "_wait", wait)
    machine.fire("k", "press", create=True)
    assert (len(waits), status(machine)) == (1, "DONE")
