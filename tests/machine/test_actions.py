"""Actions are called when their move is committed, and again until they are over."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from converge import Machine, RetryPolicy, hiding
from converge.crash_points import Commit
from converge.errors import ConvergeError, StaleLock, StoreError
from converge.lease import LEASE
from converge.machine import Action, Move
from converge.machine.action import scope_name
from converge.machine.actions import HAND_BACK
from converge.machine.move import ActionFailed
from converge.process import process_identity
from converge.sql import engines, schema
from converge.sql.database import Database, Transaction
from tests.machine.place import Crash, Place
from tests.machine.world import EFFECT, World, count, fail, status

# -- once --------------------------------------------------------------------


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
    with pytest.raises(ActionFailed, match="RuntimeError: no press; it is called again"):
        machine.fire("k", "press", create=True)
    assert (machine.get("k").state, status(machine)) == ("on", "PENDING")
    assert machine.history("k")[0].reason == "RuntimeError: no press"
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
        ("PENDING", "RuntimeError: no press"),
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
    with pytest.raises(ActionFailed, match="failed: Unspeakable"):
        machine.fire("k", "press", create=True)
    assert machine.history("k")[0].reason == "Unspeakable"


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
    assert machine.history("k")[0].reason == "RuntimeError: cannot open redis://:***@somewhere"


# -- deaths ------------------------------------------------------------------


@pytest.mark.parametrize("point", [Commit.FIRE.after, Commit.ACTION.before])
def test_who_dies_after_the_move_leaves_its_action_to_the_sweep(
    place: Place, world: World, point: str
) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    other.create("k")
    place.die(point, machine.fire, "k", "press")
    assert other.get("k").state == "on"
    before = len(world.done)
    assert other.sweep() == 1
    assert len(world.done) == before + 1
    assert other.sweep() == 0
    assert status(other) == "DONE"


def test_who_dies_before_the_move_leaves_nothing(place: Place, world: World) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    other.create("k")
    place.die(Commit.FIRE.before, machine.fire, "k", "press")
    assert (other.get("k").state, other.history("k"), world.done) == ("off", [], [])
    assert other.sweep() == 0


@pytest.mark.parametrize("point", [Commit.ACTION_CLAIM.before, Commit.ACTION_CLAIM.after])
def test_who_dies_as_it_takes_actions_leaves_them_to_others(
    place: Place, world: World, point: str
) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    with place.store.transaction() as tx:
        machine.fire("k", "press", create=True, transaction=tx)
    place.die(point, machine.sweep)
    assert other.sweep() == 1
    assert world.done == ["k press 1"]


def test_nobody_else_calls_an_action_while_who_has_it_lives(place: Place, world: World) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    seen: list[int] = []
    world.behaviour["k"] = [lambda action: seen.append(other.sweep())]
    machine.fire("k", "press", create=True)
    assert (seen, world.done) == ([0], ["k press 1"])


def test_a_dead_process_of_this_host_is_not_waited_for(place: Place, world: World) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    child.communicate(b"\n")
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    place.patch.setattr("converge.lease.lease.process_identity", lambda: identity)
    dead = place.machine(world.definition(), lease=3600.0)
    machine.create("k")
    place.die(Commit.FIRE.after, dead.fire, "k", "press")
    place.patch.undo()
    assert other.sweep() == 1
    assert world.done == ["k press 1"]


def test_an_interrupt_leaves_what_was_not_called_to_others_at_once(
    place: Place, world: World
) -> None:
    def interrupt(action: Action) -> None:
        raise KeyboardInterrupt

    machine, other = place.machine(world.definition()), place.machine(world.definition())
    world.behaviour["a"] = [interrupt]
    with pytest.raises(KeyboardInterrupt):
        machine.fire_many([("a", "press"), ("b", "press")], create=True)
    assert other.sweep() == 2
    assert sorted(world.done) == ["a press 1", "a press 1", "b press 1"]


# -- steps -------------------------------------------------------------------


def test_a_step_that_is_done_is_not_done_again_when_the_action_is(
    place: Place, world: World
) -> None:
    def first(action: Action) -> None:
        assert action.step("one", world.step, "one") == "ONE"
        raise Crash

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
    with pytest.raises(ActionFailed, match="StepFailed"):
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


def record(place: Place, action: Action, end: Callable[[Transaction], None]) -> None:
    with place.store.transaction() as tx:
        tx.execute(insert(EFFECT).values(key=action.key, attempt=action.attempt))
        action.done(tx)
        end(tx)


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
    assert newer.history("k")[0].reason == "this program has no such transition with an action"
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
    # it could not let go of them, either, so it has given its lease up
    place.clock.advance(LEASE)
    assert other.sweep() == 2
    assert sorted(world.done) == ["a press 1", "a press 1", "b press 1"]


def test_a_lost_lease_is_taken_anew_and_its_actions_are_left_to_the_sweep(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition())

    def expire(action: Action) -> None:
        machine._actions.owner.give_up(machine._actions.owner.current_id())

    world.behaviour["a"] = [expire]
    results = machine.fire_many([("a", "press"), ("b", "press")], create=True)
    assert [one.action for one in results if isinstance(one, Move)] == ["DONE", "PENDING"]
    assert world.done == ["a press 1"]
    place.clock.advance(LEASE)
    assert machine.sweep() == 1
    assert world.done == ["a press 1", "b press 1"]


def test_a_machine_that_is_closed_lets_go_of_what_it_has(place: Place, world: World) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    world.behaviour["k"] = [lambda action: machine.close()]
    machine.fire("k", "press", create=True)
    found = place.store.database.read(lambda tx: engines.list_engines(tx))
    assert [row.state for row in found] in ([], ["ALIVE"])
    assert other.sweep() == 0


def test_scopes_of_actions_have_names_of_any_instance(place: Place) -> None:
    assert len(scope_name("m" * 255, "k" * 255, 2**62, 2**31, "f" * 32)) < 100


def test_an_unknown_holder_counts_as_dead(place: Place, world: World) -> None:
    machine = place.machine(world.definition())
    with place.store.transaction() as tx:
        machine.fire("k", "press", create=True, transaction=tx)
        tx.execute(update(schema.move).values(engine_id=123456, epoch=1))
    assert machine.sweep() == 1
    assert world.done == ["k press 1"]


# -- events that actions fire, and what the caller of an event is told --------


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
    left = sys.getrecursionlimit() + 1

    def act(action: Action) -> None:
        nonlocal left
        left -= 1
        machine.fire(action.key, "more" if left else "stop")

    machine = place.machine(ring(act))
    machine.fire("k", "more", create=True)
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
    assert machine.history("b")[0].reason == "RuntimeError: no more"


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
        "RuntimeError: no more; it is called again by the sweep"
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


def held_by(place: Place) -> list[int | None]:
    query = select(schema.move.c.engine_id)
    return place.store.database.read(lambda tx: list(tx.execute(query).scalars()))


def attempts(place: Place) -> list[int]:
    query = select(schema.move.c.attempts + schema.move.c.deaths)
    return place.store.database.read(lambda tx: list(tx.execute(query).scalars()))


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
    with pytest.raises(ActionFailed, match="StaleLock: the lease is lost"):
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


@pytest.mark.parametrize("how", ["raised", "caused"])
def test_an_error_of_the_database_is_no_failure_of_the_action_it_goes_through(
    place: Place, world: World, how: str
) -> None:
    """However often."""

    def away(action: Action) -> None:
        error = StoreError("the server cannot be reached")
        error.origin = place.store.database
        if how == "raised":
            raise error
        raise RuntimeError("cannot go on") from error

    machine = place.machine(world.definition(attempts=2))
    world.behaviour["k"] = [away] * 5
    with pytest.raises(ActionFailed, match=r"cannot be reached|cannot go on"):
        machine.fire("k", "press", create=True)
    assert (status(machine), machine.history("k")[0].reason) == ("PENDING", None)
    for _ in range(4):
        # not again and again in one sweep
        assert machine.sweep() == 0
        place.clock.advance(HAND_BACK)
        before = len(world.done)
        assert machine.sweep() == 0
        assert len(world.done) == before + 1
    assert (held_by(place), attempts(place)) == ([None], [0])
    place.clock.advance(HAND_BACK)
    assert machine.sweep() == 1
    assert world.done == ["k press 1"] * 6


def test_an_error_of_another_database_is_the_actions_own(place: Place, world: World) -> None:
    def away(action: Action) -> None:
        error = StoreError("the server cannot be reached")
        error.origin = object()
        raise error

    machine = place.machine(world.definition(attempts=1))
    world.behaviour["k"] = [away]
    with pytest.raises(ActionFailed, match="StoreError"):
        machine.fire("k", "press", create=True)
    assert status(machine) == "FAILED"


def test_an_outage_that_outlasts_the_lease_counts_no_death(place: Place, world: World) -> None:
    def outage(action: Action) -> None:
        patch.setattr(Database, "transact", refuse)
        error = StoreError("away")
        error.origin = place.store.database
        raise error

    def refuse(*arguments: Any, **more: Any) -> Any:
        raise StoreError("away")

    machine = place.machine(world.definition())
    world.behaviour["k"] = [outage]
    with place.patch.context() as patch, pytest.raises(ActionFailed):
        machine.fire("k", "press", create=True)
    assert held_by(place) != [None]
    with place.patch.context() as patch:
        patch.setattr(Database, "transact", refuse)
        with pytest.raises(StoreError):
            machine.sweep()
    place.clock.advance(LEASE)
    assert machine.sweep() == 1
    assert attempts(place) == [1]
    assert status(machine) == "DONE"


def test_who_cannot_let_go_gives_up_the_lease_that_holds_and_no_other(
    place: Place, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(action: Action) -> None:
        owner = machine._actions.owner
        ids.append(owner.current_id())
        owner.give_up(ids[0])
        ids.append(owner.current_id())
        patch.setattr(Database, "transact", refuse)

    def refuse(*arguments: Any, **more: Any) -> Any:
        raise StoreError("away")

    ids: list[int] = []
    machine = place.machine(world.definition())
    world.behaviour["a"] = [lose]
    with place.patch.context() as patch:
        machine.fire_many([("a", "press"), ("b", "press")], create=True)
    assert f"lease {ids[0]} is given up" in caplog.text
    assert machine._actions.owner.current_id() == ids[1] != ids[0]
