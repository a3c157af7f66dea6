"""What is left when things go wrong for good, and what people do about it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update

from converge import Machine, RetryPolicy, connect, crash_points
from converge.crash_points import Commit
from converge.errors import BadInput, NotFound, StoreError
from converge.lease import LEASE, RowLeases, lease
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
        patch.setattr(machine._actions, "_end", refuse)
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
    with pytest.raises(ActionFailed, match="StepFailed"):
        machine.fire("k", "press", create=True)
    place.clock.advance(5)
    machine.sweep()
    assert status(machine) == "FAILED"
    (move,) = machine.failed()
    assert (move.key, move.event, move.number) == ("k", "press", 1)
    assert move.reason is not None
    assert move.reason.startswith("StepFailed: step 'charge'")

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
    assert world.done == [f"{key} press 1" for key in keys]


def test_a_machine_has_at_least_one_worker(place: Place, world: World) -> None:
    for workers in (0, -1, 1.5, True):
        with pytest.raises(BadInput, match="workers must be a whole number from 1"):
            place.machine(world.definition()).start(workers=workers)  # type: ignore[arg-type]
