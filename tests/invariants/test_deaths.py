"""The invariants about who may work on what, whoever dies: 3, 4 and 5."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count as numbers

import pytest

import converge
from converge import crash_points
from converge.errors import StaleLock
from converge.model import Action, NodeState, Status
from converge.protocol.outcomes import failure
from converge.protocol.recover import sweep
from converge.protocol.work import Operation, Outcome, Result, Work
from converge.sql import resource_locks, resources
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.dying import Died
from tests.invariants.tools import (
    LEASE,
    count,
    expire,
    locks,
    node_rows,
    snapshot,
    states,
    together,
)
from tests.templates import layers, template
from tests.threads import at_once

PAIR = {"a": {}, "b": {"depends_on": ["a"]}}

# -- 3


def test_invariant_3_at_most_one_lock_and_epochs_only_grow(store: converge.Store) -> None:
    """At most one valid lock per resource; epochs only grow; no write with an old epoch is
    ever accepted.

    Four engines try to take one lock at the same moment, again and again.
    """
    with store.transaction() as tx:
        (key,) = resources.insert_resources(tx, 1, ["r"], ["fake"]).values()
    tickets: list[tuple[int, int]] = []

    def take(engine_id: int, epoch: int) -> tuple[int, int]:
        lot = {"id": key, "epoch": epoch, "action": Action.CREATE, "type": "fake"}
        with store.transaction() as tx:
            resource_locks.take_locks(tx, engine_id, [lot | {"status": Status.IN_PROGRESS}])
        return engine_id, epoch + 1

    for _ in range(8):
        epoch = locks(store)["r"][1]
        outcomes = at_once(*(partial(take, engine_id, epoch) for engine_id in range(1, 5)))
        won = [one for one in outcomes if isinstance(one, tuple)]
        assert len(won) == 1
        assert [type(one) for one in outcomes if one not in won] == [StaleLock] * 3
        assert locks(store)["r"] == won[0]
        tickets += won
        # it gives the lock back, dies, or both: whoever is second must do nothing
        functions = [give_back, take_away][: 1 + len(tickets) % 2]
        at_once(*(partial(function, store, key, *won[0]) for function in functions))
        assert locks(store)["r"][0] is None
    epochs = [epoch for _, epoch in tickets]
    assert epochs == sorted(set(epochs))

    tickets.append(take(9, locks(store)["r"][1]))
    before = snapshot(store)
    for engine_id, epoch in tickets[:-1]:
        assert_all_refused(store, key, engine_id, epoch)
        assert_all_refused(store, key, 9, epoch)
        assert_all_refused(store, key, engine_id, tickets[-1][1])
    assert snapshot(store) == before
    give_back(store, key, *tickets[-1])


def give_back(store: converge.Store, key: int, engine_id: int, epoch: int) -> None:
    with store.transaction() as tx:
        resource_locks.release_locks(tx, engine_id, [(key, epoch, {})])


def take_away(store: converge.Store, key: int, engine_id: int, epoch: int) -> None:
    with store.transaction() as tx:
        resource_locks.free_engine_locks(tx, engine_id, [key])


def assert_all_refused(store: converge.Store, key: int, engine_id: int, epoch: int) -> None:
    """Nothing that a lock allows can be done with this one."""
    with pytest.raises(StaleLock), store.transaction() as tx:
        resource_locks.write_locked(tx, engine_id, key, epoch, physical_id="x")
    with pytest.raises(StaleLock), store.transaction() as tx:
        resource_locks.release_locks(tx, engine_id, [(key, epoch, {"physical_id": "x"})])
    with store.transaction() as tx:
        row = resources.lock_resources(tx, [key])[key]
    row.epoch = epoch
    with pytest.raises(StaleLock), store.transaction() as tx:
        resource_locks.delete_locked(tx, engine_id, [row])


def everything_that(engine: StepEngine, work: Work) -> list[Callable[[], None]]:
    """All that an engine can write about a work in hand."""
    context = engine.core.context(work)

    def record() -> None:
        assert context is not None
        with pytest.raises(StaleLock):
            context.record("late")

    outcomes = [
        engine.call(work),
        failure(work, "late"),
        failure(work, "late", wait=1.0),
        Outcome(work, Result.REPLACE),
        Outcome(work, Result.SKIPPED),
        Outcome(work, Result.HANDED_BACK),
        Outcome(work, Result.HANDED_BACK, started=True),
        Outcome(work, Result.DONE, deleted=True),
    ]
    return [*(partial(engine.write, outcome) for outcome in outcomes), record]


@pytest.mark.parametrize("meanwhile", ["claimed", "superseded", "cancelled", "deleted"])
def test_invariant_3_a_paused_engine_writes_nothing(
    store: converge.Store, clock: FakeClock, meanwhile: str
) -> None:
    """No write with an old epoch is ever accepted: of an engine that slept through the end of
    its lease, whatever happened meanwhile, and whatever it wants to write."""
    world = FakeWorld()
    paused = StepEngine(store, world.types(), lease=LEASE)
    stack = store.create_stack("s", template(PAIR))
    (work,) = paused.claim()
    late = everything_that(paused, work)
    expire(clock)
    other = StepEngine(store, world.types(), lease=LEASE)
    assert sweep(store.database).nodes == 1
    if meanwhile == "superseded":
        store.update_stack("s", template({"a": {"properties": {"x": 1}}}))
    elif meanwhile == "cancelled":
        stack.cancel()
    elif meanwhile == "deleted":
        store.delete_stack("s")
    theirs = [] if meanwhile == "cancelled" else other.claim()

    before = snapshot(store)
    for write in late:
        write()
        assert snapshot(store) == before
    assert not paused.renew()
    assert paused.claim() == []

    other.write(*map(other.call, theirs))
    other.run()
    before = snapshot(store)
    for write in late[:-1]:
        write()
    assert snapshot(store) == before
    assert store.stacks() == [] or stack.refresh().status in ("COMPLETE", "CANCELLED")


def test_invariant_3_a_paused_engine_ends_no_traversal(
    store: converge.Store, clock: FakeClock
) -> None:
    """No write with an old epoch is ever accepted: neither for the stack's own node."""
    types = FakeWorld().types()
    paused = StepEngine(store, types, lease=LEASE)
    stack = store.create_stack("s", template(PAIR))
    paused.run(until="update b")
    (end,) = paused.claim()
    assert end.decision.operation is Operation.FINISH
    expire(clock)
    sweep(store.database)
    other = StepEngine(store, types, lease=LEASE)
    (again,) = other.claim()
    before = snapshot(store)
    paused.write(Outcome(end, Result.DONE))
    assert snapshot(store) == before
    other.write(Outcome(again, Result.DONE))
    assert stack.refresh().status == "COMPLETE"


# -- 4


class Life:
    """A hook that lets whoever lives die when it has reached so many points."""

    def __init__(self, length: int) -> None:
        self.left = length

    def __call__(self, name: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died(name)


def test_invariant_4_every_traversal_ends_whatever_dies(
    store: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever dies (engine, bus, database connection, between any two statements), every live
    traversal ends, without a person.

    One engine after the other lives a little longer than the last and then dies, be it in its
    sweep, at a claim, in a handler's call, or before or after a commit.
    """
    world = FakeWorld()
    types = world.types(deaths=1000)

    def live(length: int) -> bool:
        expire(clock)
        monkeypatch.setattr(crash_points, "hook", Life(length))
        try:
            sweep(store.database)
            StepEngine(store, types, lease=LEASE).run()
        except Died:
            return False
        finally:
            monkeypatch.setattr(crash_points, "hook", None)
        return True

    deaths = 0
    wanted = layers(1)
    changed = layers(1, replace=1)
    starts: list[Callable[[], converge.Stack]] = [
        lambda: store.create_stack("s", template(wanted)),
        lambda: store.update_stack("s", template(changed)),
        lambda: store.delete_stack("s"),
    ]
    for start in starts:
        stack = start()
        deaths += next(length for length in numbers() if live(4 * length))
        assert stack.refresh().status == "COMPLETE"
    assert deaths > 8
    assert world.names() == []
    assert all(line.startswith("create") or world.log.count(line) == 1 for line in world.log)
    assert [count(store, table) for table in ("sync_point", "resource", "progress")] == [0, 0, 0]


# -- 5


@pytest.mark.parametrize("dies", [False, True])
def test_invariant_5_a_superseded_traversal_starts_nothing_and_is_waited_for(
    store: converge.Store, clock: FakeClock, dies: bool
) -> None:
    """A superseded traversal starts nothing more; what it was doing is finished or recovered,
    and the new one waits for it."""
    world = FakeWorld()
    types = world.types()
    slow = StepEngine(store, types, lease=LEASE)
    old = store.create_stack("s", template(PAIR))
    (work,) = slow.claim()
    new = store.update_stack("s", template({"a": {"properties": {"x": 1}}, "c": {}}))
    assert (new.outcome, new.superseded) == ("superseded", old.traversal)
    assert states(store, old.traversal) == {"a": NodeState.SUPERSEDED}

    other = StepEngine(store, types, lease=10 * LEASE)
    assert set(other.run()) == {"update c", "cleanup b"}
    assert states(store, new.traversal)["a"] is NodeState.BLOCKED
    if dies:
        expire(clock)
        assert sweep(store.database).nodes == 1
    else:
        slow.write(slow.call(work))
    assert states(store, old.traversal) == {}
    assert states(store, new.traversal)["a"] is NodeState.READY
    other.run()
    assert new.refresh().status == "COMPLETE"
    assert world.properties() == {"a.0": {"x": 1}, "c.0": {}}
    assert world.log.count("create a.0") == 1


def test_invariant_5_of_a_claim_and_an_update_at_one_moment(store: converge.Store) -> None:
    """A superseded traversal starts nothing more: what was claimed before its end is waited
    for, and after it nothing is claimed."""
    world = FakeWorld()
    engines = [StepEngine(store, world.types(), lease=LEASE) for _ in range(2)]
    stack = store.create_stack("s", template(layers(2, x=0)))
    for number in range(1, 5):
        wanted = template(layers(2, x=number))
        old = stack.traversal
        held: list[tuple[StepEngine, Work]] = []

        def claim(
            engine: StepEngine, held: list[tuple[StepEngine, Work]] = held
        ) -> converge.Stack | None:
            held += [(engine, work) for work in engine.claim(2)]
            return None

        def update(wanted: converge.Template = wanted) -> converge.Stack | None:
            return store.update_stack("s", wanted)

        found = together(*(partial(claim, engine) for engine in engines), update)[-1]
        assert found is not None
        stack = found
        assert stack.superseded == old
        # what else was claimed is of the new one
        of_old = sorted(work.node.node for _, work in held if work.traversal.id == old)
        left = [row for row in node_rows(store) if row.traversal_id == old]
        assert [row.node for row in left] == of_old
        assert {row.state for row in left} <= {NodeState.SUPERSEDED}
        late = [(engine, work) for engine in engines for work in engine.claim(2)]
        assert {work.traversal.id for _, work in late} <= {stack.traversal}
        locked = [work.row.id for _, work in [*held, *late] if work.row and work.locked]
        assert len(set(locked)) == len(locked)
        for engine, work in [*late, *held]:
            engine.write(engine.call(work))
        assert states(store, old) == {}
    engines[0].run()
    assert stack.refresh().status == "COMPLETE"
    assert [thing["x"] for name, thing in world.properties().items() if name[0] == "0"] == [4] * 2
    assert len(world.things) == 6
