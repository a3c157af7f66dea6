"""Nodes for which nothing is to be done are passed over, many in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from sqlalchemy import select, update

import converge
from converge.engine import core
from converge.errors import StaleLock
from converge.protocol.arrive import PASSED
from converge.sql import claimable, resource_locks
from converge.sql.schema import resource, sync_point
from converge.testing import FakeWorld, StepEngine, label
from tests.templates import template

#: ``r`` is required by a chain of ten: the first three only come after the one before them, the
#: others refer to it.
CHAIN = [f"c{number}" for number in range(10)]


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, world.types())


def wanted(size: int = 1, **more: Any) -> converge.Template:
    parts: dict[str, Any] = {"r": {"properties": {"size": size}}}
    before = "r"
    for name in CHAIN:
        refers = {"properties": {"size": {"get_attr": [before, "size"]}}}
        comes_after = {"properties": {"size": 0}, "depends_on": [before]}
        parts[name] = comes_after if name in CHAIN[:3] else refers
        before = name
    return template({**parts, **more})


@pytest.fixture
def stack(store: converge.Store, engine: StepEngine) -> converge.Stack:
    made = store.create_stack("s", wanted())
    engine.run()
    assert made.refresh().status == "COMPLETE"
    return made


def run(engine: StepEngine, group: int = 100) -> list[str]:
    """All that engines do, as labels, in groups."""
    done = []
    while works := engine.claim(group):
        done += [label(work) for work in works]
        engine.write(*(engine.call(work) for work in works))
    return done


def states(store: converge.Store) -> dict[str, list[str]]:
    """The states of the nodes of each resource, update first."""
    query = (
        select(resource.c.name, sync_point.c.state)
        .join_from(sync_point, resource, resource.c.id == sync_point.c.resource_id)
        .order_by(sync_point.c.node)
    )
    found: dict[str, list[str]] = {}
    with store.transaction() as tx:
        for row in tx.execute(query):
            found.setdefault(row.name, []).append(row.state)
    return found


def set_nodes(store: converge.Store, *names: str, **values: Any) -> None:
    """Write columns of the update nodes of these resources."""
    ids = select(resource.c.id).where(resource.c.name.in_(names)).scalar_subquery()
    with store.transaction() as tx:
        tx.execute(
            update(sync_point)
            .where(sync_point.c.kind == "update", sync_point.c.resource_id.in_(ids))
            .values(**values)
        )


def test_all_after_what_turns_out_to_be_unchanged_is_passed_over(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    store.update_stack("s", wanted(2))
    assert store.progress("s")["total"] == 22
    # c0 only comes after r, so there is nothing to do for it, and its epoch stays
    assert run(engine) == ["update r", "update c0", "stack"]
    assert stack.refresh().status == "COMPLETE"
    ended = store.progress("s")
    assert (ended["total"], ended["done"]) == (22, 22)
    assert world.properties()["r.0"] == {"size": 2}
    # and it is known that c0 is as it is wanted
    store.update_stack("s", wanted(2))
    assert run(engine) == ["stack"]


def test_what_refers_to_something_that_changed_is_visited(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    store.update_stack("s", wanted(2, c2={"properties": {"size": 3}, "depends_on": ["c1"]}))
    done = run(engine)
    assert {one.split()[1] for one in done if one.startswith("update ")} == {"r", "c0", *CHAIN[2:]}
    assert world.properties()["c9.0"] == {"size": 3}


def fan(size: int) -> converge.Template:
    """One with eight more that come after c0, besides the chain."""
    return wanted(size, **{f"w{number}": ["c0"] for number in range(8)})


@pytest.fixture
def wide(
    store: converge.Store,
    engine: StepEngine,
    stack: converge.Stack,
    monkeypatch: pytest.MonkeyPatch,
) -> converge.Stack:
    """A stack of which r is updated; after c0, three at a time are passed over."""
    monkeypatch.setattr(core, "PASSED", 3)
    store.update_stack("s", fan(1))
    run(engine)
    store.update_stack("s", fan(2))
    (work,) = engine.claim(1)
    engine.write(engine.call(work))
    return stack


def over(store: converge.Store) -> int:
    """How many updates are over."""
    return sum(first == "DONE" for first, *_ in states(store).values())


def test_only_so_many_are_passed_over_at_once(
    store: converge.Store, engine: StepEngine, wide: converge.Stack
) -> None:
    (work,) = engine.claim(1)
    engine.write(engine.call(work))
    # c0, after which nine could be passed over
    assert over(store) == 2 + 3
    done = store.progress("s")["done"]
    # nor is what is too much for the second one claimed
    assert engine.core.turn([], 100) == []
    assert engine.core.passed
    assert store.progress("s")["done"] == done + 3
    assert run(engine) == ["stack"]
    assert wide.refresh().status == "COMPLETE"
    ended = store.progress("s")
    assert ended["done"] == ended["total"] == 2 * 19


def test_fewer_are_passed_over_while_other_stacks_wait(
    store: converge.Store,
    engine: StepEngine,
    wide: converge.Stack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core, "PASSED_BESIDE", 2)
    (work,) = engine.claim(1)
    engine.core.is_shared = True
    engine.write(engine.call(work))
    assert over(store) == 2 + 2


def test_what_is_passed_over_keeps_nobody_else_from_its_turn(
    store: converge.Store, engine: StepEngine, wide: converge.Stack
) -> None:
    (work,) = engine.claim(1)
    engine.write(engine.call(work))
    store.create_stack("other", template({"x": {}, "y": ["x"]}))
    engine.core.look_round()
    # in the transaction that passes over three, it is claimed
    assert [label(work) for work in engine.core.turn([], 4)] == ["update x"]


def test_what_was_taken_meanwhile_is_not_passed_over(
    store: converge.Store,
    engine: StepEngine,
    wide: converge.Stack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (work,) = engine.claim(1)
    engine.write(engine.call(work))

    def find(tx: Any, traversal_id: int, lane: int, most: int) -> set[Any]:
        query = select(sync_point.c.node).where(sync_point.c.traversal_id == traversal_id)
        found = tx.execute(query.where(sync_point.c.state.in_(["READY", "RUNNING"]))).scalars()
        return {(traversal_id, node) for node in found}

    assert states(store)["c2"][0] == "READY"
    set_nodes(store, "c2", state="RUNNING")
    monkeypatch.setattr(claimable, "find_settled", find)
    engine.claim(100)
    # nor did it arrive at what comes after it
    assert [states(store)[name][0] for name in ("c2", "c3")] == ["RUNNING", "WAITING"]


def test_an_engine_goes_on_with_what_is_left(
    store: converge.Store, engine: StepEngine, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells it of that: what was passed over makes nothing ready."""

    def gathered(size: int) -> converge.Template:
        middle = [f"w{number}" for number in range(120)]
        first: dict[str, Any] = {"properties": {"size": size}}
        then = {"properties": {"size": 0}, "depends_on": ["r"]}
        return template({"r": first, "c": then, "z": middle, **{name: ["c"] for name in middle}})

    stack = store.create_stack("s", gathered(1))
    run(engine)
    # more than the first claims take, so that they find no work
    monkeypatch.setattr(core, "PASSED", 40)
    with converge.Engine(store, world.types(), poll=3600, lease=3600):
        store.update_stack("s", gathered(2))
        assert stack.wait(30) == "COMPLETE"


def test_what_is_tainted_is_skipped(
    store: converge.Store, engine: StepEngine, stack: converge.Stack
) -> None:
    store.update_stack("s", wanted(2), on_failure="continue")
    (work,) = engine.claim(1)
    engine.write(engine.call(work))
    set_nodes(store, "c1", tainted=True)
    run(engine)
    assert stack.refresh().status == "FAILED"
    # r and c0 are done, and nothing else, as the cleanups come after the others
    assert (store.progress("s")["done"], store.progress("s")["skipped"]) == (2, 20)


def test_what_comes_after_a_failure_is_not_passed_over(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    world.fail("update r", times=-1)
    store.update_stack("s", wanted(2), on_failure="continue")
    run(engine)
    assert stack.refresh().status == "FAILED"
    assert (store.progress("s")["failed"], store.progress("s")["skipped"]) == (1, 21)


@pytest.mark.parametrize("most", [PASSED, 1])
def test_what_was_replaced_is_cleaned_up(
    store: converge.Store,
    engine: StepEngine,
    world: FakeWorld,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    """Also if there are too many to be passed over, and it becomes READY between them."""
    monkeypatch.setattr(core, "PASSED", most)

    def fixed(size: int) -> converge.Template:
        old = {"type": "fixed", "properties": {"size": size}}
        new = {"properties": {"of": {"get_resource": "f"}}}
        return template(
            {"r": {"properties": {"size": size}}, "f": old | {"depends_on": ["r"]}, "g": new}
        )

    stack = store.create_stack("s", fixed(1))
    run(engine)
    store.update_stack("s", fixed(2))
    assert run(engine) == ["update r", "update f", "update g", "cleanup f", "stack"]
    assert stack.refresh().status == "COMPLETE"
    assert world.log[-1] == "delete f.0"
    assert store.progress("s")["done"] == store.progress("s")["total"] == 6


def test_an_engine_that_does_not_know_of_passing_changes_nothing(
    store: converge.Store, engine: StepEngine, stack: converge.Stack
) -> None:
    """It subtracts from what a node waits for, and leaves the rest."""
    store.update_stack("s", wanted(2))
    for _ in range(2):
        (work,) = engine.claim(1)
        outcome = engine.call(work)
        if label(work) == "update c0":
            set_nodes(store, "c1", unsettled=2)
        engine.write(outcome)
    assert states(store)["c1"] == ["READY", "WAITING"]
    # it finds nothing to do, so what comes after it is passed over
    assert [one for one in run(engine) if one.startswith("update")] == ["update c1"]
    assert stack.refresh().status == "COMPLETE"


def test_it_does_not_wait_for_what_comes_after(
    store: converge.Store, engine: StepEngine, stack: converge.Stack
) -> None:
    store.update_stack("s", wanted(2))
    (work,) = engine.claim(1)
    engine.write(engine.call(work))
    (work,) = engine.claim(1)
    assert label(work) == "update c0"
    outcome = engine.call(work)
    # on SQLite, nobody else can have rows while something is written
    is_alone = store.database.dialect == "sqlite"
    with nullcontext() if is_alone else holding(store, "c3"):
        engine.write(outcome)
        if not is_alone:
            # c2 could not arrive at c3
            found = states(store)
            assert [found[name][0] for name in CHAIN[:4]] == ["DONE", "DONE", "READY", "WAITING"]
            # so it is claimed, like any other
            (work,) = engine.claim(1)
            assert label(work) == "update c2"
            outcome = engine.call(work)
    if not is_alone:
        engine.write(outcome)
    assert [one for one in run(engine) if one.startswith("update")] == []
    assert stack.refresh().status == "COMPLETE"


@contextmanager
def holding(store: converge.Store, name: str) -> Iterator[None]:
    """Another transaction has locked the update node of this resource."""
    ids = select(resource.c.id).where(resource.c.name == name).scalar_subquery()
    query = select(sync_point.c.node).where(
        sync_point.c.kind == "update", sync_point.c.resource_id == ids
    )
    with store.transaction() as tx:
        tx.execute(query.with_for_update()).one()
        yield


def test_what_is_not_protected_for_once_is_visited(
    store: converge.Store, engine: StepEngine, stack: converge.Stack
) -> None:
    def protected(size: int) -> converge.Template:
        return wanted(size, p={"protect": True, "depends_on": ["c0"]})

    store.update_stack("s", protected(1))
    run(engine)
    store.update_stack("s", protected(2), unprotect=["p"])
    assert "update p" in run(engine)
    with pytest.raises(converge.Conflict, match="'p'"):
        store.update_stack("s", wanted(2))


def test_only_what_is_free_is_noted(
    store: converge.Store, engine: StepEngine, stack: converge.Stack
) -> None:
    query = select(resource.c.id, resource.c.epoch, resource.c.template_id, resource.c.basis)
    with store.transaction() as tx:
        row = tx.execute(query.where(resource.c.name == "c0")).one()
        values = {"template_id": row.template_id, "basis": row.basis}
        resource_locks.note_unchanged(tx, [(row.id, row.epoch, values)])

    def note(epoch: int) -> None:
        with store.transaction() as tx:
            resource_locks.note_unchanged(tx, [(row.id, epoch, values)])

    with pytest.raises(StaleLock):
        note(row.epoch + 1)
    with store.transaction() as tx:
        tx.execute(update(resource).where(resource.c.id == row.id).values(engine_id=engine.id))
    with pytest.raises(StaleLock):
        note(row.epoch)


def test_a_check_changes_nothing_of_what_has_none(
    store: converge.Store, engine: StepEngine, stack: converge.Stack
) -> None:
    class Plain(converge.ResourceType):
        def create(self, context: converge.Context, properties: object) -> str:
            return "x"

    def epochs() -> Sequence[Any]:
        with store.transaction() as tx:
            return tx.execute(select(resource.c.name, resource.c.epoch)).all()

    before = epochs()
    store.check_stack("s")
    run(StepEngine(store, {"fake": Plain()}))
    assert stack.refresh().status == "COMPLETE"
    assert epochs() == before
