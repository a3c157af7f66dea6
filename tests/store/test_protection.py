"""What is protected stays, whoever asks, until its name is said."""

from __future__ import annotations

import pytest

import converge
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

DB = {"type": "fake", "properties": {"replace": 1}, "protect": True}


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, world.types(attempts=1))


@pytest.fixture
def stack(store: converge.Store, engine: StepEngine) -> converge.Stack:
    stack = store.create_stack("s", template(web=["db"], db=DB))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    return stack


def test_a_file_that_no_longer_names_it_starts_nothing(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    wanted = template(web=[])
    before = stack.traversal
    with pytest.raises(converge.Conflict, match=r"protected in stack 's': 'db'; .*--unprotect db"):
        store.update_stack("s", wanted)
    for start in (store.delete_stack, lambda name: store.rollback_stack(name, version="empty")):
        with pytest.raises(converge.Conflict, match="nothing was started"):
            start("s")
    assert stack.refresh().traversal == before
    planned = store.plan("s", wanted, types=engine.types)
    (change,) = (one for one in planned.changes if one.name == "db")
    assert (change.verb, "--unprotect db" in str(change.reason)) == ("fail", True)
    planned = store.plan("s", wanted, types=engine.types, unprotect=["db"])
    assert "delete" in {one.verb for one in planned.changes if one.name == "db"}
    store.update_stack("s", wanted, unprotect=["db"])
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.names() == ["web.0"]


@pytest.mark.parametrize("change", ["replace", "type"])
def test_it_is_not_replaced(
    store: converge.Store,
    engine: StepEngine,
    world: FakeWorld,
    stack: converge.Stack,
    change: str,
) -> None:
    """Neither because of its type, nor because its update asks for it."""
    other = {"type": "only"} if change == "type" else {"properties": {"replace": 2}}
    wanted = template(web=["db"], db={**DB, **other})
    store.update_stack("s", wanted)
    engine.run()
    assert stack.refresh().status == "FAILED"
    assert "it is protected, so it is not replaced" in str(stack.reason)
    assert world.names() == ["db.0", "web.0"]
    store.update_stack("s", wanted, unprotect=["db"])
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.names() == ["db.1", "web.0"]
    # and the new one is protected again
    with pytest.raises(converge.Conflict):
        store.delete_stack("s")


def test_what_nobody_asked_for_does_not_delete_it(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    """A failure rolls back, and the protected resource is new."""
    store.create_stack("s", template(web=[]))
    engine.run()
    world.fail("create late", -1)
    stack = store.update_stack("s", template(web=[], db=DB, late=["db"]), on_failure="rollback")
    engine.run()
    assert (stack.refresh().action, stack.status) == ("ROLLBACK", "FAILED")
    assert "it is protected, so it is not deleted" in str(stack.reason)
    assert "db.0" in world.names()


def test_protection_ends_where_the_template_takes_it_away(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    store.update_stack("s", template(web=["db"], db={**DB, "protect": False}))
    engine.run()
    store.delete_stack("s")
    engine.run()
    assert world.names() == []
    assert stack.refresh().live is False


def test_what_is_not_there_cannot_be_unprotected(
    store: converge.Store, stack: converge.Stack
) -> None:
    with pytest.raises(converge.BadInput, match="no resource 'dd' to unprotect"):
        store.delete_stack("s", unprotect=["dd"])
    with pytest.raises(converge.TemplateError, match="protect must be true or false"):
        template(a={"protect": "yes"})


def test_it_is_not_replaced_because_somebody_asks(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    wanted = template(web=["db"], db=DB)
    before = stack.traversal
    with pytest.raises(converge.Conflict, match=r"'db' of stack 's' is protected.*--unprotect db"):
        store.update_stack("s", wanted, replace=["db"])
    assert stack.refresh().traversal == before
    planned = store.plan("s", wanted, types=engine.types, replace=["db"])
    assert [one.verb for one in planned.failures] == ["fail"]
    store.update_stack("s", wanted, replace=["db"], unprotect=["db"])
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.names() == ["db.1", "web.0"]
