"""What is to be retained is left in place when its resource goes."""

from __future__ import annotations

from typing import Any

import pytest

import converge
from converge.cli.plans import render
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

KEPT = {"type": "fake", "deletion_policy": "retain", "properties": {"replace": 1}}


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, world.types(attempts=1))


@pytest.fixture
def stack(store: converge.Store, engine: StepEngine) -> converge.Stack:
    stack = store.create_stack("s", template(web=["db"], db=KEPT))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    return stack


def told(store: converge.Store) -> list[dict[str, Any]]:
    return [one for one in store.events("s") if one["status"] == "RETAINED"]


@pytest.mark.parametrize("way", ["out of the file", "down", "rollback"])
def test_it_stays_whoever_asks(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack, way: str
) -> None:
    if way == "out of the file":
        wanted = template(web=[])
        preview = store.plan("s", wanted, types=engine.types)
        store.update_stack("s", wanted)
    elif way == "down":
        preview = store.plan_delete("s", types=engine.types)
        store.delete_stack("s")
    else:
        preview = store.plan_rollback("s", version="empty", types=engine.types)
        store.rollback_stack("s", version="empty")
    (change,) = (one for one in preview.changes if one.name == "db")
    assert change.verb == "leave"
    assert "  - db (fake): left in place, db.0, " in "\n".join(render(preview))
    assert "1 left in place" in list(render(preview))[-1]
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert "db.0" in world.names()
    assert "delete db.0" not in world.log
    (event,) = told(store)
    assert (event["resource"], event["action"]) == ("db", "DELETE")
    assert event["reason"] == "left in place, id 'db.0': its deletion_policy is retain"
    if stack.live:
        assert "db" not in store.show("s")["resources"]


@pytest.mark.parametrize(
    ("change", "since"),
    [("property", "before"), ("property", "now"), ("type", "now"), ("first", "before")],
)
def test_the_old_one_stays_when_it_is_replaced(
    store: converge.Store, engine: StepEngine, world: FakeWorld, change: str, since: str
) -> None:
    """It was to stay when it was made, or is since the template that replaces it."""
    before: dict[str, Any] = {**KEPT}
    if since == "now":
        del before["deletion_policy"]
    if change == "first":
        before |= {"type": "only"}
    stack = store.create_stack("s", template(web=["db"], db=before))
    engine.run()
    wanted = {
        "property": {**KEPT, "properties": {"replace": 2}},
        "type": {**KEPT, "type": "fixed"},
        # of this type, the old one is deleted first, unless it stays
        "first": {**KEPT, "properties": {"replace": 2}},
    }[change]
    if since == "before":
        wanted = {key: value for key, value in wanted.items() if key != "deletion_policy"}
    preview = store.plan("s", template(web=["db"], db=wanted), types=engine.types)
    (shown,) = (one for one in preview.changes if one.name == "db")
    assert (shown.leaves_old, shown.deletes_first) == (True, False)
    assert "the old one is left in place: db.0" in "\n".join(render(preview))
    store.update_stack("s", template(web=["db"], db=wanted))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.names() == ["db.0", "db.1", "web.0"]
    assert [one["resource"] for one in told(store)] == ["db"]
    assert store.show("s")["resources"]["db"]["physical_id"] == "db.1"


def test_an_update_that_asks_for_a_new_one_leaves_the_old_one(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    wanted = template(web=["db"], db={**KEPT, "properties": {"replace": 2}})
    world.fail("create db")
    store.update_stack("s", wanted)
    engine.run()
    assert stack.refresh().status == "FAILED"
    # back to the one that was there, which is left in place for good only when that is its end
    store.rollback_stack("s")
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert store.show("s")["resources"]["db"]["physical_id"] == "db.0"
    assert told(store) == []
    store.update_stack("s", wanted)
    engine.run()
    assert world.names() == ["db.0", "db.1", "web.0"]


def test_the_policy_ends_where_the_template_takes_it_away(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    store.update_stack("s", template(web=["db"], db={**KEPT, "deletion_policy": "Delete"}))
    engine.run()
    assert world.log == ["create db.0", "create web.0"]
    store.delete_stack("s")
    engine.run()
    assert world.names() == []


def test_what_was_never_whole_does_not_stay(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    """Half made, it is of no use to anybody."""

    class Halting(type(engine.types["fake"])):  # type: ignore[misc]
        def create(self, context: converge.Context, properties: Any) -> converge.Physical:
            made = super().create(context, properties)
            context.record(made.id)
            raise RuntimeError("half")

    halting = Halting(world, converge.RetryPolicy(attempts=1))
    one = StepEngine(store, {**engine.types, "halting": halting})
    store.create_stack("s", template(db={**KEPT, "type": "halting"}))
    one.run()
    assert world.names() == ["db.0"]
    store.delete_stack("s")
    one.run()
    assert world.names() == []


def test_protected_it_does_not_even_go(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    stack = store.create_stack("s", template(db={**KEPT, "protect": True}))
    engine.run()
    with pytest.raises(converge.Conflict, match="--unprotect db"):
        store.delete_stack("s")
    store.delete_stack("s", unprotect=["db"])
    engine.run()
    assert stack.refresh().live is False
    assert world.names() == ["db.0"]


def test_its_type_may_be_gone(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    """Nothing is called, so nothing is needed."""
    types = {name: one for name, one in engine.types.items() if name != "fake"}
    store.update_stack("s", template(web=["db"], db={**KEPT, "type": "fixed"}, other=[]))
    engine.run()
    other = StepEngine(store, {**types, "fake": types["fixed"]})
    store.delete_stack("s")
    other.run()
    assert stack.refresh().live is False


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("keep", "deletion_policy must be delete or retain, not 'keep'"),
        (True, "deletion_policy must be delete or retain, not True"),
        ("Snapshot", "deletion_policy Snapshot is not supported; with retain it is left in place"),
        ({"get_resource": "b"}, "must be known before anything is made"),
        ({"get_param": "p"}, "must be delete or retain, not 'maybe'"),
    ],
)
def test_what_is_no_policy(given: Any, message: str) -> None:
    body = {
        "parameters": {"p": {"type": "string", "default": "maybe"}},
        "resources": {"a": {"type": "fake", "deletion_policy": given}, "b": {"type": "fake"}},
    }
    with pytest.raises(converge.TemplateError, match=message):
        converge.Template.from_dict(body).definitions({"p": "maybe"}, "s")
