"""The invariants about what comes before what: 1, 2, 6 and 7."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge.engine.core import EngineCore
from converge.model import Kind, NodeState
from converge.protocol.work import Operation
from converge.sql import schema
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.invariants.tools import Watched, crew, node_rows, predecessors, states, together
from tests.templates import layers, template
from tests.threads import at_once

# -- 1


class Before:
    """Types that look, whenever they are called, at what comes before their node."""

    def __init__(self, store: converge.Store, world: FakeWorld | None = None) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self.seen: Counter[NodeState] = Counter()
        self.types = Watched(self._watch, world).types

    def _watch(self, verb: str, context: converge.Context) -> None:
        self.calls[verb] += 1
        kind = Kind.CLEANUP if verb in ("delete", "find") else Kind.UPDATE
        self.seen.update(predecessors(self.store, context.name, kind))


def test_invariant_1_a_node_runs_after_its_predecessors(store: converge.Store) -> None:
    """A node never runs before all its predecessors are DONE (or SKIPPED by policy)."""
    before = Before(store)
    engines = crew(store, before.types)
    store.create_stack("s", template(layers(3)))
    engines.run()
    assert before.calls == {"create": 9}
    # the first layer is replaced, so the second is updated, and the old versions are deleted
    store.update_stack("s", template(layers(3, replace=1)))
    engines.run()
    # an update that asks to be replaced was a call as well
    assert before.calls == {"create": 12, "update": 6, "delete": 3}
    store.delete_stack("s")
    engines.run()
    assert before.calls["delete"] == 12
    assert set(before.seen) == {NodeState.DONE}
    assert store.stacks() == []


def test_invariant_1_a_node_is_not_called_after_a_skipped_predecessor(
    store: converge.Store,
) -> None:
    """A node never runs before all its predecessors are DONE (or SKIPPED by policy)."""
    world = FakeWorld()
    world.fail("create 0.0")
    before = Before(store, world)
    stack = store.create_stack("s", template(layers(4)), on_failure="continue")
    crew(store, before.types).run()
    assert stack.refresh().status == "FAILED"
    # of 0.0 depend 1.0 and 1.3, and of these 2.0, 2.3 and 2.2
    assert world.names() == ["0.1.0", "0.2.0", "0.3.0", "1.1.0", "1.2.0", "2.1.0"]
    assert before.calls == {"create": 7}
    assert set(before.seen) == {NodeState.DONE}


# -- 2


def test_invariant_2_arrivals_at_one_moment_count_once_each(store: converge.Store) -> None:
    """Each arrival counts once; a node becomes READY once per attempt."""
    world = FakeWorld()
    engines = [StepEngine(store, world.types()) for _ in range(4)]
    names = [f"r{number}" for number in range(12)]
    wanted: dict[str, dict[str, Any]] = {name: {} for name in names} | {
        "end": {"depends_on": names}
    }
    stack = store.create_stack("s", template(wanted))
    held = [(engine, [engine.call(w) for w in engine.claim(3)]) for engine in engines]
    assert states(store, stack.traversal)["end"] is NodeState.WAITING
    together(*(partial(engine.write, *outcomes) for engine, outcomes in held))
    assert node_of(store, "end") == (NodeState.READY, 0, 0)
    # what is told a second time is somebody else's by now
    together(*(partial(engine.write, *outcomes) for engine, outcomes in held))
    assert node_of(store, "end") == (NodeState.READY, 0, 0)
    claimed = together(*(partial(engine.claim, 5) for engine in engines))
    assert sorted(map(len, claimed)) == [0, 0, 0, 1]
    assert node_of(store, "end") == (NodeState.RUNNING, 0, 1)


def node_of(store: converge.Store, name: str) -> tuple[NodeState, int, int]:
    """The state of an update node, for how many it waits, and its attempts."""
    (row,) = (row for row in node_rows(store) if row.name == name)
    return NodeState(row.state), row.pending, row.attempts


@pytest.mark.parametrize("failing", [(), ("create 0.1", "create 1.2", "create 2.3")])
def test_invariant_2_a_node_is_claimed_once_per_attempt(
    store: converge.Store, failing: tuple[str, ...]
) -> None:
    """Each arrival counts once; a node becomes READY once per attempt.

    Two threads of each engine write the same outcomes at the same moment.
    """
    world = FakeWorld()
    for what in failing:
        world.fail(what)
    types = world.types(attempts=3, first=0.0)
    engines = [StepEngine(store, types) for _ in range(3)]
    twins = [EngineCore(store.database, engine.id, types) for engine in engines]
    stack = store.create_stack("s", template(layers(4)))
    claims: Counter[str] = Counter()
    while stack.refresh().status == "IN_PROGRESS":
        found = together(*(partial(engine.claim, 3) for engine in engines))
        claims.update("stack" if w.row is None else w.row.name for works in found for w in works)
        outcomes = [[e.call(w) for w in works] for e, works in zip(engines, found, strict=True)]
        writes = [
            partial(engine.core.turn, o, 0) for engine, o in zip(engines, outcomes, strict=True)
        ]
        writes += [partial(twin.turn, o, 0) for twin, o in zip(twins, outcomes, strict=True)]
        together(*writes)
    assert stack.status == "COMPLETE"
    again = {what.removeprefix("create ") for what in failing}
    assert claims == {name: 1 + (name in again) for name in [*layers(4), "stack"]}
    assert sorted(world.log) == sorted(f"create {name}.0" for name in layers(4))


# -- 6


def test_invariant_6_requires_is_old_and_new_while_updating_and_exact_afterwards(
    store: converge.Store,
) -> None:
    """``requires`` is old and new while updating, exact afterwards, and is written even when
    nothing else changed."""
    engine = StepEngine(store, FakeWorld().types(), clock=clock_of(store))
    ends: dict[str, dict[str, Any]] = {"a": {}, "b": {}}

    def refer(name: str) -> dict[str, object]:
        return {"properties": {"to": {"get_resource": name}}}

    store.create_stack("s", template({**ends, "c": refer("a")}))
    engine.run()
    ids = ids_of(store)
    assert requires(store, "c") == [ids["a"]]

    store.update_stack("s", template({**ends, "c": refer("b")}))
    (work,) = engine.claim()
    assert (work.decision.operation, work.row and work.row.name) == (Operation.UPDATE, "c")
    assert requires(store, "c") == sorted([ids["a"], ids["b"]])
    engine.write(engine.call(work))
    assert requires(store, "c") == [ids["b"]]
    engine.run()

    # an order is no property: nothing is handed to the type, and yet it is written
    both = {**refer("b"), "depends_on": ["a"]}
    store.update_stack("s", template({**ends, "c": both}))
    done = len(engine.run())
    assert done == 2
    assert requires(store, "c") == sorted([ids["a"], ids["b"]])
    store.update_stack("s", template({**ends, "c": refer("b")}))
    engine.run()
    assert requires(store, "c") == [ids["b"]]


def test_invariant_6_a_died_update_leaves_old_and_new(store: converge.Store) -> None:
    """``requires`` is old and new while updating: a delete after that waits for both."""
    world = FakeWorld()
    engine = StepEngine(store, world.types(), clock=clock_of(store))
    ends: dict[str, dict[str, Any]] = {"a": {}, "b": {}}
    store.create_stack("s", template({**ends, "c": {"depends_on": ["a"], "properties": {"x": 1}}}))
    engine.run()
    store.update_stack("s", template({**ends, "c": {"depends_on": ["b"], "properties": {"x": 2}}}))
    world.fail("update c")
    engine.run(until="update c")
    assert requires(store, "c") == sorted([ids_of(store)["a"], ids_of(store)["b"]])
    engine.run()
    store.delete_stack("s")
    engine.run()
    assert world.log[-3] == "delete c.0"
    assert store.stacks() == []


def ids_of(store: converge.Store) -> dict[str, int]:
    table = schema.resource
    with store.transaction() as tx:
        return {row.name: row.id for row in tx.execute(select(table.c.name, table.c.id))}


def requires(store: converge.Store, name: str) -> list[int]:
    table = schema.resource
    query = select(table.c.requires).where(table.c.name == name)
    with store.transaction() as tx:
        found: list[int] = tx.execute(query).scalar_one()
    return found


def clock_of(store: converge.Store) -> FakeClock:
    clock = store.database.clock
    assert isinstance(clock, FakeClock)
    return clock


def test_invariant_6_cleanup_follows_the_cleanup_of_what_really_depends_on_it(
    store: converge.Store,
) -> None:
    """Cleanup of a resource follows its own update and the cleanup of everything that really
    depends on it."""
    early: list[str] = []
    deletes: list[str] = []

    def watch(verb: str, context: converge.Context) -> None:
        if verb == "delete":
            deletes.append(context.physical_id or "")
            users = [
                thing.id
                for thing in list(watched.world.things.values())
                if context.physical_id in thing.properties.values()
            ]
            early.extend(f"{context.physical_id} is deleted before {one}" for one in users)
            own = [t.id for t in list(watched.world.things.values()) if t.name == context.name]
            if context.name in kept and len(own) < 2:
                early.append(f"{context.physical_id} is deleted before there is another")

    watched = Watched(watch)
    engines = crew(store, watched.types)
    kept: set[str] = set()
    store.create_stack("s", template(layers(3)))
    engines.run()
    # of each layer something is replaced: the first by its property, the rest by their type
    wanted = layers(3, replace=1)
    kept = set(wanted)
    for name in ("1.1", "2.2"):
        wanted[name]["type"] = "fixed"
    store.update_stack("s", template(wanted))
    engines.run()
    assert sorted(deletes) == ["0.0.0", "0.1.0", "0.2.0", "1.1.0", "2.2.0"]
    # half of the names go
    half = {name: body for name, body in wanted.items() if name[0] != "2"}
    kept = set(half)
    store.update_stack("s", template(half))
    engines.run()
    kept = set()
    store.delete_stack("s")
    engines.run()
    assert len(deletes) == 14
    assert early == []
    assert watched.world.names() == []


# -- 7


class Frozen:
    """Compares the graphs of all traversals with what they were, whenever it is asked."""

    def __init__(self, store: converge.Store) -> None:
        self.store = store
        self.edges: dict[int, bytes] = {}
        self.successors: dict[tuple[int, int], list[int]] = {}
        self.looks = 0

    def look(self, *, halted: bool = False) -> None:
        self.looks += 1
        table = schema.stack
        with self.store.transaction() as tx:
            row = tx.execute(select(table.c.traversal_id, table.c.edges)).one()
        if row.edges is not None:
            assert self.edges.setdefault(row.traversal_id, row.edges) == row.edges
        for node in node_rows(self.store):
            key = (node.traversal_id, node.node)
            known = self.successors.setdefault(key, node.successors)
            # of a halted one, what still runs leads to the end and nowhere else
            allowed = [known, [max(self.successors)[1]]] if halted else [known]
            assert node.successors in allowed


def test_invariant_7_the_graph_is_frozen_per_traversal(store: converge.Store) -> None:
    """The graph is frozen per traversal: also where a resource is replaced on the way, where
    an older traversal's nodes still run, and where a handler fails and is tried again."""
    world = FakeWorld()
    clock = clock_of(store)
    engine = StepEngine(store, world.types(attempts=2, first=1.0), clock=clock)
    frozen = Frozen(store)

    def run() -> None:
        while True:
            frozen.look()
            if engine.step() is None:
                if store.stacks()[0]["status"] != "IN_PROGRESS":
                    return
                clock.advance(5)

    store.create_stack("s", template(layers(2)))
    world.fail("create 1.1")
    run()
    store.update_stack("s", template(layers(2, replace=1)))
    for _ in range(4):
        engine.step()
        frozen.look()
    held = [engine.call(work) for work in engine.claim(2)]
    assert len(held) == 2
    new = store.update_stack("s", template(layers(2, replace=2)))
    assert new.outcome == "superseded"
    frozen.look()
    engine.step()
    frozen.look()
    engine.write(*held)
    run()
    assert new.refresh().status == "COMPLETE"
    assert len(frozen.edges) == 3
    assert frozen.looks > 25


def test_invariant_7_a_halted_traversal_only_forgets_what_shall_not_start(
    store: converge.Store,
) -> None:
    """The graph is frozen per traversal: its edges stay; what still runs leads to the end."""
    engine = StepEngine(store, FakeWorld().types())
    frozen = Frozen(store)
    stack = store.create_stack("s", template(layers(3)))
    frozen.look()
    held = [engine.call(work) for work in engine.claim(2)]
    stack.cancel()
    frozen.look(halted=True)
    engine.write(*held)
    frozen.look(halted=True)
    engine.run()
    assert stack.refresh().status == "CANCELLED"


def test_invariant_7_two_at_once_make_a_graph_each(store: converge.Store) -> None:
    """The graph is frozen per traversal: of two starts at one moment, each has its own."""
    store.create_stack("s", template(layers(2)))
    wanted = [template(layers(2, prefix=prefix)) for prefix in "xy"]
    outcomes = at_once(*(partial(store.update_stack, "s", one) for one in wanted))
    last = store.stack("s").traversal
    assert {type(one) for one in outcomes} == {converge.Stack}
    (winner,) = (
        prefix
        for prefix, one in zip("xy", outcomes, strict=True)
        if isinstance(one, converge.Stack) and one.traversal == last
    )
    graph = store.traversal_graph("s")
    assert {f"update {winner}{layer}.{n}" for layer in range(3) for n in range(2)} <= set(graph)
    rows = [row for row in node_rows(store) if row.traversal_id == last]
    assert len(rows) == len(graph)
    assert [len(graph.required_by(name)) for name in graph] == [len(row.successors) for row in rows]
