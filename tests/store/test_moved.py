"""A resource gets another name, and all else stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

import converge
from converge.cli.plans import render
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

BEFORE: dict[str, dict[str, Any]] = {
    "web": {"properties": {"of": {"get_resource": "db"}}},
    "db": {"properties": {"size": 1}},
}


def wanted(**moved: str) -> converge.Template:
    """The same with ``data`` in the place of ``db``."""
    return converge.Template.from_dict(
        {
            "resources": {
                "web": {"type": "fake", "properties": {"of": {"get_resource": "data"}}},
                "data": {"type": "fake", "properties": {"size": 1}},
            },
            "moved": moved,
        }
    )


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, world.types(attempts=1))


@pytest.fixture
def stack(store: converge.Store, engine: StepEngine) -> converge.Stack:
    stack = store.create_stack("s", template(BEFORE))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    return stack


def names(store: converge.Store) -> dict[str, str]:
    return {
        name: str(one["physical_id"]) for name, one in sorted(store.show("s")["resources"].items())
    }


MADE = ["create db.0", "create web.0"]
THERE = {"data": "db.0", "web": "web.0"}
FIRST = {"db": "db.0", "web": "web.0"}


@pytest.mark.parametrize("moved", [{"db": "data"}, {"db": "store", "store": "data"}])
def test_a_template_moves_it(
    store: converge.Store,
    engine: StepEngine,
    world: FakeWorld,
    stack: converge.Stack,
    moved: dict[str, str],
) -> None:
    preview = store.plan("s", wanted(**moved), types=engine.types)
    assert "  > data (fake): moved from db" in list(render(preview))
    assert list(render(preview))[-1] == "stack 's': 1 to move, 1 unchanged"
    store.update_stack("s", wanted(**moved))
    assert names(store) == THERE
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.log == MADE
    told = [one for one in store.events("s") if one["action"] == "MOVE"]
    assert [(one["resource"], one["reason"]) for one in told] == [("data", "it was 'db'")]
    # what says so once more, says nothing new
    assert store.converge_stack("s", wanted(**moved)).outcome == "done"
    assert not store.plan("s", wanted(**moved), types=engine.types)
    store.delete_stack("s")
    engine.run()
    assert world.names() == []


@pytest.mark.parametrize("way", ["rollback", "by itself", "the file put back"])
def test_it_goes_back_to_its_name(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack, way: str
) -> None:
    """And is not deleted to make another one."""
    if way == "by itself":
        world.fail("create late")
        body = wanted(db="data").to_dict()
        body["resources"]["late"] = {"type": "fake"}
        template_ = converge.Template.from_dict(body)
        store.update_stack("s", template_, on_failure="rollback")
    else:
        store.update_stack("s", wanted(db="data"))
        engine.run()
        if way == "rollback":
            preview = store.plan_rollback("s", version=1, types=engine.types)
            assert "  > db (fake): moved from data" in list(render(preview))
            store.rollback_stack("s", version=1)
        else:
            store.update_stack("s", template(BEFORE))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert names(store) == FIRST
    assert world.log == MADE


def test_it_is_changed_and_replaced_by_its_new_name(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    body = wanted(db="data").to_dict()
    body["resources"]["data"]["properties"] = {"replace": 2}
    changed = converge.Template.from_dict(body)
    preview = store.plan("s", changed, types=engine.types)
    (change,) = (one for one in preview.changes if one.name == "data")
    assert (change.verb, change.moved_from) == ("update", "db")
    store.update_stack("s", changed)
    engine.run()
    assert world.names() == ["data.0", "web.0"]
    # the replacement has been what it replaces
    store.update_stack("s", template(BEFORE))
    engine.run()
    assert names(store)["db"] in world.names()
    assert "create db.1" in world.log  # its update asked for a replacement
    assert stack.refresh().status == "COMPLETE"


def test_a_handler_that_runs_goes_on(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    stack = store.create_stack("s", template(BEFORE))
    (work,) = engine.claim()
    outcome = engine.call(work)
    store.update_stack("s", wanted(db="data"))
    other = StepEngine(store, engine.types)
    assert "update data" not in other.run()
    engine.write(outcome)
    other.run()
    assert stack.refresh().status == "COMPLETE"
    assert names(store) == THERE
    assert world.log == MADE


def test_a_name_that_another_one_has(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    """Neither of the two is given up for it."""
    store.update_stack("s", template({**BEFORE, "data": {}}))
    engine.run()
    with pytest.raises(converge.Conflict, match="'db' cannot become 'data', as moved says"):
        store.update_stack("s", wanted(db="data"))
    with pytest.raises(converge.Conflict, match="there is a resource 'data' already"):
        store.plan("s", wanted(db="data"), types=engine.types)
    with pytest.raises(converge.Conflict, match="has a resource 'data' already"):
        store.move_resource("s", "db", "data")


def test_a_name_of_which_nothing_was_made(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    """A start that forgot ``moved`` is superseded by one that has it."""
    store.update_stack("s", wanted())
    store.update_stack("s", wanted(db="data"))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert names(store) == THERE
    assert world.log == MADE


def test_a_call_moves_it(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    done = store.move_resource("s", "db", "data")
    assert done is not None
    assert (done.name, done.physical_id) == ("data", "db.0")
    assert store.move_resource("s", "db", "data") is None
    with pytest.raises(converge.NotFound, match="no resource 'dbb'"):
        store.move_resource("s", "dbb", "data2")
    with pytest.raises(converge.BadInput, match="is called so already"):
        store.move_resource("s", "data", "data")
    with store.transaction() as tx:
        store.move_resource("s", "data", "third", transaction=tx)
    store.move_resource("s", "third", "data")
    store.update_stack("s", wanted())
    with pytest.raises(converge.Conflict, match="busy with its UPDATE"):
        store.move_resource("s", "web", "other")
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert names(store) == THERE
    assert world.log == MADE


def test_what_was_planned_before_a_move_is_planned_anew(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    from converge.protocol import answer
    from converge.protocol.request import Intent, work_out

    one = work_out("s", wanted(), None, None)
    draft = store.database.read(lambda tx: answer.draft_wanted(tx, "s", one, Intent()))
    store.move_resource("s", "db", "data")
    with store.transaction() as tx, store.database.join(tx) as own:
        answer.update(own, "s", one, Intent(), draft, None)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.log == MADE


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        (["a"], "moved must be a mapping of old names to new ones, not a list"),
        ({"b": 5}, "moved.b must be the new name, not a number"),
        ({"b": "c"}, "moved says that 'b' is called 'c' now, but there is no resource 'c'; if it"),
        ({"a": "a2"}, "but there still is a resource 'a'; remove it from resources, or 'a' from"),
        ({"b": "a", "c": "a"}, "and so it says of another one"),
        ({"b": "c", "c": "b"}, "and so on in a circle"),
    ],
)
def test_what_cannot_be_meant(moved: Any, message: str) -> None:
    with pytest.raises(converge.TemplateError, match=message):
        converge.Template.from_dict({"resources": {"a": {"type": "fake"}}, "moved": moved})


def test_instances_of_a_group(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    body = {
        "resources": {
            "db": {"type": "fake", "for_each": ["x"], "properties": {"size": 1}},
            "web": {"type": "fake", "properties": {"of": {"get_resource": "db[x]"}}},
        },
        "moved": {"db": "db[x]"},
    }
    with pytest.raises(converge.TemplateError, match="there still is a resource 'db'"):
        converge.Template.from_dict({**body, "resources": {"db": {"type": "fake"}}})
    store.update_stack("s", converge.Template.from_dict(body))
    engine.run()
    assert names(store) == {"db[x]": "db.0", "web": "web.0"}
    assert world.log == MADE
