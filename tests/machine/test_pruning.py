"""Which instances are pruned, and which are not."""

from __future__ import annotations

from typing import Any

import pytest

from converge import RetryPolicy
from converge.errors import BadInput
from converge.machine import Instances
from converge.machine.move import ActionFailed
from converge.sql import schema
from tests.machine.place import Place
from tests.machine.world import World, count, fail

JOB: dict[str, Any] = {
    "name": "job",
    "version": 2,
    "initial": "open",
    "states": {"open": {}, "over": {"terminal": True}, "void": {"terminal": True}},
    "transitions": [
        {"event": "end", "source": "open", "target": "over"},
        {"event": "drop", "source": "open", "target": "void"},
    ],
    "migrations": {1: {"ended": "over"}},
}
OLD: dict[str, Any] = {
    "name": "job",
    "initial": "open",
    "states": {"open": {}, "ended": {"terminal": True}},
    "transitions": [{"event": "end", "source": "open", "target": "ended"}],
}


def test_instances_at_their_end_are_pruned_by_age(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.machine.instances.BATCH", 2)
    old, machine = place.machine(OLD), place.machine(JOB)
    old.create("old", "old and open")
    old.fire("old", "end")
    for key in "abcde":
        machine.fire(key, "end", create=True)
    machine.fire("dropped", "drop", create=True)
    machine.create("open")
    place.clock.advance(100)
    machine.fire("young", "end", create=True)
    assert machine.prune(101) == 0
    assert machine.prune(100) == 7
    assert [one.key for one in machine.instances()] == ["old and open", "open", "young"]
    assert count(place, schema.move) == 1
    assert machine.prune(0) == 1


def test_what_an_action_still_has_to_do_is_not_pruned(place: Place, world: World) -> None:
    definition = {
        **JOB,
        "transitions": [
            {"event": "end", "source": "open", "target": "over", "action": world.act},
            {
                "event": "drop",
                "source": "open",
                "target": "void",
                "action": world.act,
                "retry": RetryPolicy(attempts=1),
            },
        ],
    }
    machine = place.machine(definition)
    world.behaviour["failed"] = [fail]
    with place.store.transaction() as tx:
        machine.fire("pending", "end", create=True, transaction=tx)
    with pytest.raises(ActionFailed):
        machine.fire("failed", "drop", create=True)
    assert machine.prune(0) == 0
    assert machine.sweep() == 1
    assert machine.prune(0) == 1
    assert machine.retry("failed") == 1
    assert machine.sweep() == 1
    assert machine.prune(0) == 1
    assert count(place, schema.move) == 0


def test_instances_of_states_that_are_named_are_pruned_whatever_their_version(
    place: Place,
) -> None:
    old, machine = place.machine(OLD), place.machine(JOB)
    old.create("old")
    old.fire("old", "end")
    for key, event in (("over", "end"), ("void", "drop")):
        machine.fire(key, event, create=True)
    machine.create("open")
    place.clock.advance(100)
    with pytest.raises(BadInput, match=r"machine 'job' has no state 'vodi'; did you mean 'void'"):
        machine.prune(0, "vodi")
    assert machine.prune(101, "void", "ended") == 0
    assert machine.prune(100, "void", "ended") == 2
    assert [one.key for one in machine.instances()] == ["open", "over"]
    # without the definition, they must be named
    instances = Instances(place.store, "job")
    with pytest.raises(BadInput, match="prune needs the states"):
        instances.prune(0)
    assert instances.prune(0, "open", "over") == 2


def test_an_instance_with_a_timeout_is_not_at_its_end(place: Place, world: World) -> None:
    machine = place.machine(world.definition())
    machine.fire("k", "press", create=True)
    assert machine.prune(0, "on") == 0
    machine.fire("k", "press")
    assert machine.prune(0, "off") == 1


def test_a_machine_that_never_ends_has_nothing_to_prune(place: Place, world: World) -> None:
    machine = place.machine(world.definition())
    machine.create("k")
    assert machine.prune(0) == 0


@pytest.mark.parametrize("age", [-1, float("nan"), float("inf"), "1", None, True])
def test_an_age_is_a_number_of_seconds(place: Place, age: Any) -> None:
    with pytest.raises(BadInput, match="age must be a number of seconds, 0 or more"):
        place.machine(JOB).prune(age)


# -- leases ------------------------------------------------------------------
