"""Actions that fire events, whose actions are called after them."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from converge import RetryPolicy
from converge.machine import Action, Move
from converge.machine.move import ActionFailed
from tests.machine.place import Place
from tests.machine.world import fail, failure, status

# -- once --------------------------------------------------------------------


def ring(act: Callable[[Action], object], name: str = "ring") -> dict[str, Any]:
    """A machine that goes round until it is stopped."""
    again = RetryPolicy(attempts=2, first=5.0)
    return {
        "name": name,
        "initial": "busy",
        "states": {"busy": {}, "done": {"terminal": True}},
        "transitions": [
            {"event": "more", "source": "busy", "target": "busy", "action": act, "retry": again},
            {"event": "stop", "source": "busy", "target": "done"},
        ],
    }


@pytest.mark.parametrize("sweeps", [False, True])
def test_the_action_of_a_move_made_in_an_action_is_called_after_it(
    place: Place, sweeps: bool
) -> None:
    """By whoever calls the first one, and of whichever machine."""
    said: list[str] = []

    def act(action: Action) -> None:
        said.append(f"{action.key} begins")
        if action.key == "a":
            for machine, key in ((there, "b"), (here, "c")):
                move = machine.fire(key, "more", create=True)
                assert (move.action, machine.get(key).moves) == ("PENDING", 1)
            (result,) = here.fire_many([("d", "more")], create=True)
            assert isinstance(result, Move)
            assert result.action == "PENDING"
        said.append(f"{action.key} ends")

    here, there = place.machine(ring(act)), place.machine(ring(act, "other"))
    if sweeps:
        with place.store.transaction() as tx:
            here.fire("a", "more", create=True, transaction=tx)
        assert here.sweep() == 1
    else:
        assert here.fire("a", "more", create=True).action == "DONE"
    assert said == [f"{key} {what}" for key in "abcd" for what in ("begins", "ends")]
    assert [status(here, key) for key in "acd"] == ["DONE"] * 3
    assert status(there, "b") == "DONE"


def test_actions_go_round_as_long_as_there_is_work(place: Place) -> None:
    """More often than calls can be nested."""
    depth = len(inspect.stack())
    limit = sys.getrecursionlimit()
    left = 250

    def act(action: Action) -> None:
        nonlocal left
        left -= 1
        machine.fire(action.key, "more" if left else "stop")

    machine = place.machine(ring(act))
    # as deep as a transaction needs it, and no more
    sys.setrecursionlimit(depth + left)
    try:
        machine.fire("k", "more", create=True)
    finally:
        sys.setrecursionlimit(limit)
    assert (left, machine.get("k").state) == (0, "done")
    assert {one.action for one in machine.history("k", limit=5000)[:-1]} == {"DONE"}


def test_closing_ends_a_long_chain_and_leaves_the_rest_to_others(place: Place) -> None:
    rounds = 0
    turned = threading.Event()

    def act(action: Action) -> None:
        nonlocal rounds
        rounds += 1
        machine.fire(action.key, "more" if rounds < 500 else "stop")
        if rounds == 3:
            turned.set()

    machine, other = place.machine(ring(act)), place.machine(ring(lambda action: None))
    with place.store.transaction() as tx:
        machine.fire("k", "more", create=True, transaction=tx)
    machine.start(every=0.01)
    assert turned.wait(60)
    machine.close()
    assert other.sweep() == 1
    assert {one.action for one in other.history("k")} == {"DONE"}


def test_what_an_action_left_for_later_is_called_though_it_fails(place: Place) -> None:
    said: list[str] = []

    def act(action: Action) -> None:
        said.append(action.key)
        if action.key == "a":
            machine.fire("b", "more", create=True)
            machine.fire("c", "more", create=True)
        if action.key != "c":
            fail(action)

    machine = place.machine(ring(act))
    with pytest.raises(ActionFailed, match="'a'") as caught:
        machine.fire("a", "more", create=True)
    assert caught.value.move.key == "a"
    assert said == ["a", "b", "c"]
    assert [status(machine, key) for key in "abc"] == ["PENDING", "PENDING", "DONE"]
    assert machine.history("b")[0].reason == failure("more")


def test_an_interrupt_leaves_what_was_for_later_to_others_at_once(place: Place) -> None:
    said: list[str] = []

    def act(action: Action) -> None:
        said.append(action.key)
        if action.key == "a" and len(said) == 1:
            machine.fire_many([(key, "more") for key in "bc"], create=True)
        elif action.key == "b" and len(said) == 2:
            raise KeyboardInterrupt

    machine, other = place.machine(ring(act)), place.machine(ring(act))
    with pytest.raises(KeyboardInterrupt):
        machine.fire("a", "more", create=True)
    assert other.sweep() == 2
    assert said[:2] == ["a", "b"]
    assert sorted(said[2:]) == ["b", "c"]
    # and this thread is not calling one any more
    assert machine.fire("d", "more", create=True).action == "DONE"


def test_the_caller_of_an_event_knows_whether_the_move_was_made(place: Place) -> None:
    def guard(payloads: Mapping[str, Any], payload: Any) -> bool:
        return bool(payload["amount"] > 0)

    definition = ring(fail)
    definition["transitions"][0]["guard"] = guard
    machine = place.machine(definition)
    machine.create("k")
    with pytest.raises(TypeError) as raised:
        machine.fire("k", "more")
    assert raised.value.__notes__ == [
        "no move was made: a guard of event 'more' raised this; machine 'ring', 'k' is in state "
        "'busy' as before"
    ]
    assert machine.history("k") == []
    with pytest.raises(ActionFailed) as caught:
        machine.fire("k", "more", {"amount": 1})
    error = caught.value
    assert str(error) == (
        "machine 'ring', 'k': event 'more' moved it from 'busy' to 'busy', and the action failed: "
        f"{failure('more')}; the sweep calls it again"
    )
    assert isinstance(error.__cause__, RuntimeError)
    assert (error.move.number, error.move.action) == (1, "PENDING")
    assert status(machine) == "PENDING"


def test_an_exception_that_a_guard_raises_again_and_again_has_one_note(place: Place) -> None:
    closed = PermissionError("closed")

    def guard(payloads: Mapping[str, Any], payload: Any) -> bool:
        raise closed

    definition = ring(fail)
    definition["transitions"][0]["guard"] = guard
    machine = place.machine(definition)
    machine.create("k")
    machine.fire_many([("k", "more")] * 3)
    assert len(closed.__notes__) == 1


# -- what is no failure of an action ------------------------------------------
