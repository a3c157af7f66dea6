"""Instances of an older version of a machine, and programs of one."""

from __future__ import annotations

from typing import Any

import pytest

from converge import State, Transition
from converge.errors import BadInput
from converge.machine import Move
from tests.machine.orders import ORDER, SMALL, state
from tests.machine.place import Place


def renamed(**changes: Any) -> dict[str, Any]:
    """The order with its state "new" called "open"."""
    return {
        **ORDER,
        "version": 2,
        "initial": "open",
        "states": {"open": {"timeout": 5.0, "on_timeout": "ship"}, "shipped": {"terminal": True}},
        "transitions": [{"event": "ship", "source": "open", "target": "shipped"}],
        "migrations": {1: {"new": "open", "late": "open"}},
        **changes,
    }


def test_an_instance_of_an_older_version_goes_where_the_map_says(place: Place) -> None:
    old = place.machine(ORDER)
    old.create("k")
    new = place.machine(renamed())
    assert new.get("k").version == 1
    move = new.fire("k", "ship")
    assert (move.source, move.target) == ("open", "shipped")
    assert new.get("k").version == 2


def test_an_instance_without_a_way_is_refused_clearly_and_stays_as_it_is(place: Place) -> None:
    old = place.machine(ORDER)
    old.fire_many([("a", "pay", SMALL), ("b", "limit", 1)], create=True)
    new = place.machine(renamed())
    message = (
        "machine 'order': an instance of version 1 is in state 'paid', which version 2 "
        "does not have; add it to migrations[1]"
    )
    results = new.fire_many([("a", "ship"), ("b", "ship")])
    assert str(results[0]) == message
    assert isinstance(results[1], Move)
    assert state(old, "a") == "paid"
    newest = place.machine(renamed(version=3, migrations={2: {}}))
    with pytest.raises(BadInput, match="is of version 1, and migrations has no entry for it"):
        newest.fire("a", "ship")
    with pytest.raises(BadInput, match="is of version 2, which is newer than this program's 1"):
        old.fire("b", "ship")


def test_instances_can_be_migrated_all_at_once(place: Place) -> None:
    old = place.machine(ORDER)
    old.create("a", "b")
    new = place.machine(renamed())
    new.create("c")
    assert new.migrate() == 2
    assert new.migrate() == 0
    assert {(one.version, one.state, one.timeout) for one in new.instances()} == {(2, "open", 5.0)}
    assert new.history("a") == []
    place.clock.advance(5)
    assert new.sweep() == 3


def test_a_program_leaves_timeouts_of_a_version_that_it_does_not_know_to_others(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    new = place.machine(renamed())
    new.create("k")
    place.clock.advance(5)
    old = place.machine(ORDER)
    # one of its own, due at the same time
    old.fire("own", "pay", SMALL, create=True)
    place.clock.advance(60)
    assert old.sweep() == 1
    assert old.sweep() == 0
    assert "instances of version 2, which version 1 has no migration for" in caplog.text
    caplog.clear()
    assert old.sweep() == 0
    assert caplog.text == ""
    assert new.sweep() == 1


def test_a_timeout_that_the_newer_version_does_not_have_is_dropped(place: Place) -> None:
    old = place.machine(ORDER)
    old.fire("k", "pay", SMALL, create=True)
    new = place.machine(
        renamed(
            initial="paid",
            states={"paid": State(), "shipped": State(terminal=True)},
            transitions=[Transition("ship", "paid", "shipped")],
            migrations={1: {}},
        )
    )
    place.clock.advance(60)
    assert new.sweep() == 0
    assert (new.get("k").timeout, new.get("k").moves) == (None, 1)
