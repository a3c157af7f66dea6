"""What is unchanged, as is all that it requires, has no node in a traversal; all else has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update

import converge
from converge.sql.schema import resource
from converge.testing import FakeWorld, StepEngine, label
from tests.templates import template

REFERS: dict[str, Any] = {"to": {"get_attr": ["a", "size"]}}


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, world.types())


def wanted(size: int = 1, **more: Any) -> converge.Template:
    """``b`` refers to ``a``; ``c`` comes after ``b``; ``d`` is alone."""
    return template(
        {
            "a": {"properties": {"size": size}},
            "b": {"properties": REFERS},
            "c": ["b"],
            "d": [],
            **more,
        }
    )


def run(engine: StepEngine) -> list[str]:
    """All that is left to do, as labels; the stack's own node is left out."""
    done = []
    while works := engine.claim(10):
        done += [label(work) for work in works if work.row is not None]
        engine.write(*(engine.call(work) for work in works))
    return sorted(done)


@pytest.fixture
def stack(store: converge.Store, engine: StepEngine) -> converge.Stack:
    stack = store.create_stack("s", wanted())
    run(engine)
    assert stack.refresh().status == "COMPLETE"
    return stack


def changed(found: list[str]) -> set[str]:
    """The names that have an update node."""
    return {one.split()[1] for one in found if one.startswith("update ")}


CHANGES: dict[str, tuple[Callable[[], converge.Template], set[str]]] = {
    "nothing": (wanted, set()),
    "what others depend on": (lambda: wanted(2), {"a", "b", "c"}),
    "one that is alone": (lambda: wanted(d={"properties": {"size": 7}}), {"d"}),
    "an order": (lambda: wanted(d=["a"]), {"d"}),
    "one that is new": (lambda: wanted(e={"properties": REFERS}), {"e"}),
    "a type": (lambda: wanted(d={"type": "only"}), {"d"}),
    "a setting": (lambda: wanted(d={"retry": {"attempts": 4}}), {"d"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_has_nodes_and_what_depends_on_it(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack, change: str
) -> None:
    make, names = CHANGES[change]
    store.update_stack("s", make())
    # each existing resource that is planned has a node for cleaning up, too
    assert store.progress("s")["total"] == len(names) + len(names - {"e"})
    assert changed(run(engine)) == names
    assert stack.refresh().status == "COMPLETE"
    # and then nothing differs
    store.update_stack("s", make())
    assert run(engine) == []
    if change == "one that is new":
        assert world.properties()["e.0"] == {"to": 1}


def test_the_version_before_is_unchanged_where_nothing_else_was_wanted(
    store: converge.Store, engine: StepEngine, stack: converge.Stack
) -> None:
    store.update_stack("s", wanted(2))
    run(engine)
    store.rollback_stack("s", version=1)
    assert changed(run(engine)) == {"a", "b", "c"}
    store.rollback_stack("s", version=1)
    assert run(engine) == []
    assert stack.refresh().status == "COMPLETE"


def test_what_never_heard_of_a_change_is_told_by_the_next_traversal(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    """``a`` was changed by a traversal that ended before ``b`` had its turn."""
    store.update_stack("s", wanted(2))
    (work,) = engine.claim(1)
    assert label(work).startswith("update a")
    engine.write(engine.call(work))
    store.update_stack("s", wanted(2))
    assert changed(run(engine)) == {"b", "c"}
    assert world.properties()["b.0"] == {"to": 2}


def test_what_is_worked_on_is_not_unchanged(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    store.update_stack("s", wanted(2))
    (work,) = engine.claim(1)
    store.update_stack("s", wanted())
    engine.write(engine.call(work))
    # for b there turns out to be nothing to do, so c is passed over
    assert changed(run(engine)) == {"a", "b"}
    assert world.properties()["b.0"] == {"to": 1}


@pytest.mark.parametrize("how", ["an update", "a check"])
def test_what_failed_or_drifted_is_not_unchanged(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack, how: str
) -> None:
    if how == "a check":
        del world.things["d.0"]
        store.check_stack("s")
    else:
        world.fail("update d")
        store.update_stack("s", wanted(d={"properties": {"size": 7}}))
    run(engine)
    ended = stack.refresh()
    if how == "a check":
        assert (ended.status, ended.reason) == ("COMPLETE", "drifted: 'd'")
    else:
        assert ended.status == "FAILED"
    store.update_stack("s", wanted())
    # a check is work, after which each could be another
    assert changed(run(engine)) == ({"a", "b", "c", "d"} if how == "a check" else {"d"})
    assert stack.refresh().status == "COMPLETE"


def test_what_was_stored_before_there_was_a_basis_is_looked_at_once(
    store: converge.Store, engine: StepEngine, stack: converge.Stack
) -> None:
    with store.transaction() as tx:
        tx.execute(update(resource).values(basis=None))
    store.update_stack("s", wanted())
    assert changed(run(engine)) == {"a", "b", "c", "d"}
    store.update_stack("s", wanted())
    assert run(engine) == []


def test_a_rollback_keeps_what_an_older_template_made(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    """The replacement was made by the same definition: what it refers to was another."""

    def make(size: int, *more: str) -> converge.Template:
        replaced = {"replace": {"get_attr": ["a", "size"]}}
        new = {name: ["b"] for name in more}
        return template({"a": {"properties": {"size": size}}, "b": {"properties": replaced}, **new})

    stack = store.create_stack("s", make(1))
    run(engine)
    # leaves the others alone
    store.update_stack("s", make(1, "c"))
    assert changed(run(engine)) == {"c"}
    world.fail("create d")
    store.update_stack("s", make(2, "c", "d"), on_failure="rollback")
    assert "cleanup b" in run(engine)
    assert (stack.refresh().action, stack.status) == ("ROLLBACK", "COMPLETE")
    assert world.names() == ["a.0", "b.0", "c.0"]
    assert world.properties()["b.0"] == {"replace": 1}


def test_what_an_older_engine_did_is_looked_at(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    """It writes no basis."""
    with store.transaction() as tx:
        bases = {row.id: row.basis for row in tx.execute(select(resource.c.id, resource.c.basis))}
    store.update_stack("s", wanted(2))
    run(engine)
    with store.transaction() as tx:
        for id_, basis in bases.items():
            tx.execute(update(resource).where(resource.c.id == id_).values(basis=basis))
    store.update_stack("s", wanted())
    assert changed(run(engine)) == {"a", "b", "c"}
    assert world.properties()["b.0"] == {"to": 1}
