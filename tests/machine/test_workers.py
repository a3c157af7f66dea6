"""A machine's workers: long actions keep nothing else waiting."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from converge import Machine, connect, crash_points
from converge.crash_points import Commit
from converge.errors import BadInput
from converge.machine import Action
from tests.machine.place import Place
from tests.machine.world import World


def background(act: Callable[[Action], object]) -> dict[str, Any]:
    return {
        "name": "bell",
        "initial": "new",
        "states": {
            "new": {},
            "waits": {"timeout": 0.01, "on_timeout": "ring"},
            "rung": {"terminal": True},
        },
        "transitions": [
            {"event": "work", "source": "new", "target": "new", "action": act},
            {"event": "wait", "source": "new", "target": "waits"},
            {"event": "ring", "source": "waits", "target": "rung", "action": act},
        ],
    }


def leave(machine: Machine, key: str) -> None:
    """Leave an action to the background."""
    with machine._database.transaction() as tx:
        machine.fire(key, "work", create=True, transaction=tx)


def test_an_action_that_takes_long_keeps_neither_timeouts_nor_other_actions_waiting(
    database_url: str,
) -> None:
    begun, rung, end = threading.Event(), threading.Event(), threading.Event()

    def act(action: Action) -> None:
        if action.key == "long":
            begun.set()
            assert end.wait(60)
        elif action.event == "ring":
            rung.set()

    with connect(database_url) as store:
        machine = Machine(store, background(act))
        machine.start(0.01, workers=2)
        try:
            leave(machine, "long")
            assert begun.wait(60)
            machine.fire("short", "wait", create=True)
            # a timeout fires, and its action is called by the other worker
            assert rung.wait(60)
            assert machine.history("long")[0].action == "PENDING"
        finally:
            end.set()
            machine.close()
        assert machine.history("long")[0].action == "DONE"


def test_an_action_that_may_take_long_is_taken_alone(
    place: Place, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.machine.worker.QUICK", 0.0)
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    with place.store.transaction() as tx:
        machine.fire_many([(key, "press") for key in "abcd"], create=True, transaction=tx)
    found: list[int] = []
    world.behaviour["b"] = [lambda action: found.append(other.sweep())]
    assert machine.sweep() == 2
    assert found == [2]
    assert world.done == ["a press 1", "b press 1", "c press 1", "d press 1"]


def test_actions_that_are_quick_are_taken_together(
    place: Place, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.machine.worker.QUICK", 60.0)
    machine = place.machine(world.definition())
    keys = [f"{number:02}" for number in range(51)]
    with place.store.transaction() as tx:
        machine.fire_many([(key, "press") for key in keys], create=True, transaction=tx)
    reached: Counter[str] = Counter()
    monkeypatch.setattr(crash_points, "hook", lambda name: reached.update([name]))
    assert machine.sweep() == 51
    # 1, 2, 4, 8, 16, 20, and then nothing
    assert reached[Commit.ACTION_CLAIM.after] == 7
    # all are due at the same moment
    assert sorted(world.done) == [f"{key} press 1" for key in keys]


def test_a_machine_has_at_least_one_worker(place: Place, world: World) -> None:
    for workers in (0, -1, 1.5, True):
        with pytest.raises(BadInput, match="workers must be a whole number from 1"):
            place.machine(world.definition()).start(workers=workers)  # type: ignore[arg-type]
