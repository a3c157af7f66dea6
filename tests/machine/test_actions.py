"""Actions are called when their move is committed, and again until they are over."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from converge import Machine, hiding
from converge.crash_points import Commit
from converge.errors import StoreError
from converge.lease import LEASE
from converge.machine import Action, Move
from converge.machine.move import ActionFailed
from converge.sql import schema
from converge.sql.database import Database
from converge.sql.transaction import Transaction

# -- once --------------------------------------------------------------------
from tests.machine.place import Place
from tests.machine.world import World, count, fail, failure, record, status


def test_an_action_is_told_what_moved(place: Place) -> None:
    seen: list[Action] = []
    machine = place.machine(
        {
            "name": "door",
            "initial": "open",
            "states": {"open": {}, "shut": {"terminal": True}},
            "transitions": [
                {"event": "paint", "source": "open", "target": "open"},
                {"event": "shut", "source": "open", "target": "shut", "action": seen.append},
            ],
        }
    )
    machine.fire("k", "paint", ("red", 3), create=True)
    move = machine.fire("k", "shut", {"by": b"me"})
    assert (move.action, move.number) == ("DONE", 2)
    (action,) = seen
    assert (action.machine, action.key, action.event) == ("door", "k", "shut")
    assert (action.source, action.target, action.attempt) == ("open", "shut", 1)
    assert action.payload == {"by": b"me"}
    assert action.payloads == {"paint": ["red", 3], "shut": {"by": b"me"}}
    assert machine.sweep() == 0
    assert len(seen) == 1
    assert [one.action for one in machine.history("k")] == ["NONE", "DONE"]


def test_the_action_of_a_timeout_is_called_by_the_sweep(place: Place, world: World) -> None:
    machine = place.machine(world.definition())
    machine.fire("k", "press", create=True)
    place.clock.advance(60)
    assert machine.sweep() == 2
    assert machine.sweep() == 0
    assert world.done == ["k press 1", "k dim 1"]


def test_in_a_transaction_of_the_callers_the_action_is_left_to_the_sweep(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition())
    with place.store.transaction() as tx:
        assert machine.fire("k", "press", create=True, transaction=tx).action == "PENDING"
    assert world.done == []
    assert machine.sweep() == 1
    assert world.done == ["k press 1"]
    assert status(machine) == "DONE"


def test_of_many_sweepers_at_once_one_calls_each_action(place: Place, world: World) -> None:
    machine = place.machine(world.definition())
    keys = [f"{number:02}" for number in range(60)]
    with place.store.transaction() as tx:
        machine.fire_many([(key, "press") for key in keys], create=True, transaction=tx)
    sweepers = 4
    gate = threading.Barrier(sweepers)

    def sweep(machine: Machine) -> int:
        gate.wait()
        return machine.sweep()

    with ThreadPoolExecutor(sweepers) as pool:
        counts = list(pool.map(sweep, [place.machine(world.definition()) for _ in range(sweepers)]))
    assert sum(counts) == len(keys)
    assert sorted(world.done) == [f"{key} press 1" for key in keys]


# -- failures ----------------------------------------------------------------


def test_a_failed_action_is_tried_again_by_its_policy_and_then_given_up(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition(attempts=3))
    world.behaviour["k"] = [fail, fail, fail]
    with pytest.raises(ActionFailed, match="RuntimeError: no press; the sweep calls it again"):
        machine.fire("k", "press", create=True)
    assert (machine.get("k").state, status(machine)) == ("on", "PENDING")
    assert machine.history("k")[0].reason == failure("press")
    for wait in (5, 10):
        place.clock.advance(wait - 1)
        machine.sweep()
        before = len(world.done)
        place.clock.advance(1)
        assert machine.sweep() == 0
        assert len(world.done) == before + 1
    assert status(machine) == "FAILED"
    place.clock.advance(40)
    assert machine.sweep() == 0
    assert world.done == ["k press 1", "k press 2", "k press 3"]


def test_an_action_that_fails_does_not_keep_others_from_being_called(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition())
    world.behaviour["b"] = [fail, fail]
    results = machine.fire_many([(key, "press") for key in "abc"], create=True)
    assert [(one.action, one.reason) for one in results if isinstance(one, Move)] == [
        ("DONE", None),
        ("PENDING", failure("press")),
        ("DONE", None),
    ]
    assert world.done == ["a press 1", "b press 1", "c press 1"]
    # nor in the sweep
    with place.store.transaction() as tx:
        machine.fire_many([("d", "press"), ("e", "press")], create=True, transaction=tx)
    place.clock.advance(5)
    assert machine.sweep() == 2
    assert sorted(world.done[3:]) == ["b press 2", "d press 1", "e press 1"]


def test_an_error_that_cannot_be_printed_is_an_error(place: Place, world: World) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def fail_oddly(action: Action) -> None:
        raise Unspeakable

    machine = place.machine(world.definition())
    world.behaviour["k"] = [fail_oddly]
    with pytest.raises(ActionFailed, match="failed: Unspeakable: <its message cannot be read>"):
        machine.fire("k", "press", create=True)
    reason = machine.history("k")[0].reason or ""
    assert reason == "Unspeakable: <its message cannot be read>"


def test_an_error_with_the_secret_of_a_url_is_kept_without_it(
    place: Place, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_openly(action: Action) -> None:
        raise RuntimeError("cannot open redis://:xylo77sesame@somewhere")

    monkeypatch.setattr(hiding, "_forms", set())
    monkeypatch.setattr(hiding, "_pattern", None)
    hiding.learn(["xylo77sesame"])
    machine = place.machine(world.definition())
    world.behaviour["k"] = [fail_openly]
    with pytest.raises(ActionFailed, match=r"cannot open redis://:\*\*\*@somewhere"):
        machine.fire("k", "press", create=True)
    reason = machine.history("k")[0].reason or ""
    assert reason == "RuntimeError: cannot open redis://:***@somewhere"


# -- deaths ------------------------------------------------------------------


def test_an_action_that_is_over_in_the_transaction_of_its_effect_happens_once(
    place: Place, world: World, effects: Any
) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    machine.create("k")
    world.behaviour["k"] = [lambda action: record(place, action, lambda tx: None)] * 5
    place.die(Commit.HOST.before, machine.fire, "k", "press")
    assert effects() == []
    place.die(Commit.HOST.after, other.sweep)
    assert effects() == [("k", 1)]
    assert status(other) == "DONE"
    last = place.machine(world.definition())
    assert last.sweep() == 0
    assert effects() == [("k", 1)]


def test_an_end_that_was_rolled_back_is_none(place: Place, world: World, effects: Any) -> None:
    def fail_in(tx: Transaction) -> None:
        raise ZeroDivisionError

    def undo(action: Action) -> None:
        with pytest.raises(ZeroDivisionError):
            record(place, action, fail_in)

    machine = place.machine(world.definition())
    world.behaviour["k"] = [undo, lambda action: record(place, action, lambda tx: None)]
    with pytest.raises(ActionFailed, match="rolled back"):
        machine.fire("k", "press", create=True)
    assert (effects(), status(machine)) == ([], "PENDING")
    place.clock.advance(5)
    assert machine.sweep() == 1
    assert (effects(), status(machine)) == ([("k", 2)], "DONE")


def test_an_action_that_fails_after_its_end_is_over_all_the_same(
    place: Place, world: World, effects: Any
) -> None:
    def fail_late(action: Action) -> None:
        record(place, action, lambda tx: None)
        fail(action)

    machine = place.machine(world.definition())
    world.behaviour["k"] = [fail_late]
    (move,) = machine.fire_many([("k", "press")], create=True)
    assert isinstance(move, Move)
    assert (move.action, status(machine)) == ("DONE", "DONE")
    assert effects() == [("k", 1)]


# -- programs that change, and other trouble ---------------------------------


def test_an_action_that_the_program_has_no_more_fails_with_a_reason(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition())
    with place.store.transaction() as tx:
        machine.fire("k", "press", create=True, transaction=tx)
    transitions = [
        {**one, "action": world.act if one["event"] == "dim" else None}
        for one in world.definition()["transitions"]
    ]
    newer = place.machine(world.definition(version=2, migrations={1: {}}, transitions=transitions))
    newer.sweep()
    assert status(newer) == "FAILED"
    reason = newer.history("k")[0].reason
    assert reason == "this program has no transition from 'off' to 'on' with an action"
    assert world.done == []


def test_an_action_of_a_newer_program_is_left_to_it(place: Place, world: World) -> None:
    newer = place.machine(world.definition(version=2, migrations={1: {}}))
    with place.store.transaction() as tx:
        newer.fire("k", "press", create=True, transaction=tx)
    older = place.machine(world.definition())
    assert older.sweep() == 0
    with place.store.transaction() as tx:
        older.fire("own", "press", create=True, transaction=tx)
    assert older.sweep() == 1
    assert world.done == ["own press 1"]
    assert newer.sweep() == 1
    assert [status(newer, key) for key in ("k", "own")] == ["DONE", "DONE"]


def test_the_action_of_an_older_version_is_found_under_its_new_name(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition())
    with place.store.transaction() as tx:
        machine.fire("k", "press", create=True, transaction=tx)
    names = {"off": "dark", "on": "bright"}
    transitions = [
        {**one, "source": names[one["source"]], "target": names[one["target"]]}
        for one in world.definition()["transitions"]
    ]
    newer = place.machine(
        world.definition(
            version=2,
            initial="dark",
            states={"dark": {}, "bright": {"timeout": 60.0, "on_timeout": "dim"}},
            transitions=transitions,
            migrations={1: names},
        )
    )
    assert newer.sweep() == 1
    assert world.done == ["k press 1"]


def test_deleting_an_instance_deletes_what_its_action_has_recorded(
    place: Place, world: World
) -> None:
    def half(action: Action) -> None:
        action.step("one", world.step, "one")
        fail(action)

    machine = place.machine(world.definition())
    world.behaviour["k"] = [half]
    with pytest.raises(ActionFailed):
        machine.fire("k", "press", create=True)
    assert count(place, schema.scope) == 1
    assert machine.delete("k") == 1
    assert (count(place, schema.scope), count(place, schema.move)) == (0, 0)
    place.clock.advance(5)
    assert machine.sweep() == 0


def test_an_action_whose_instance_is_deleted_meanwhile_ends_in_peace(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition())
    world.behaviour["k"] = [lambda action: machine.delete("k")]
    machine.fire("k", "press", create=True)
    assert count(place, schema.move) == 0


def test_when_an_end_cannot_be_noted_the_moves_are_told_and_the_rest_is_for_the_sweep(
    place: Place, world: World
) -> None:
    def break_down(action: Action) -> None:
        def transact(self: Database, function: Any, commit: Commit, **more: Any) -> Any:
            if commit is Commit.ACTION:
                raise StoreError("gone")
            return real(self, function, commit, **more)

        real = Database.transact
        place.patch.setattr(Database, "transact", transact)

    machine, other = place.machine(world.definition()), place.machine(world.definition())
    world.behaviour["a"] = [break_down]
    results = machine.fire_many([("a", "press"), ("b", "press")], create=True)
    assert [one.action for one in results if isinstance(one, Move)] == ["PENDING", "PENDING"]
    place.patch.undo()
    assert other.sweep() == 0
    # it could not release them, either, so it has given its lease up
    place.clock.advance(LEASE)
    assert other.sweep() == 2
    assert sorted(world.done) == ["a press 1", "a press 1", "b press 1"]
