"""A thing that is there becomes a resource, and a resource goes over to another stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import converge
from converge.testing import FakeType, FakeWorld, StepEngine
from tests.templates import template

WANTED: dict[str, dict[str, Any]] = {
    "db": {"properties": {"size": 1}, "protect": True},
    "web": {"properties": {"of": {"get_resource": "db"}}},
    "late": {"properties": {"of": {"get_attr": ["web", "made"]}}},
}


class Blind(converge.ResourceType):
    """Cannot look at what it makes."""

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        raise AssertionError("it is there already")

    def update(
        self,
        context: converge.Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> None:
        """It has changed."""

    def delete(self, context: converge.Context, physical_id: str) -> None:
        """It is gone."""


class Awaited(FakeType):
    """Looks without holding a thread."""

    async def read(self, context: Any, physical_id: str) -> converge.Real:  # type: ignore[override]
        return super().read(context, physical_id)


class Closed(FakeType):
    """Touches only its own."""

    adopt_property = "adopt"


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    retry = converge.RetryPolicy(attempts=1)
    more = {"blind": Blind(), "awaited": Awaited(world, retry), "closed": Closed(world, retry)}
    return StepEngine(store, {**world.types(attempts=1), **more})


@pytest.fixture
def stack(store: converge.Store, engine: StepEngine) -> converge.Stack:
    stack = store.create_stack("s", template({"first": {}}))
    engine.run()
    return stack


def adopt(
    store: converge.Store, engine: StepEngine, wanted: Mapping[str, Any], name: str, thing: str
) -> Any:
    body = {"first": {}, **wanted}
    return store.adopt_resource("s", name, thing, template(body), types=engine.types)


@pytest.mark.parametrize("type_", ["fake", "awaited"])
def test_what_is_as_the_template_says_is_left_alone(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack, type_: str
) -> None:
    thing = world.put("old", size=1)
    wanted = {"db": {**WANTED["db"], "type": type_}, "web": WANTED["web"]}
    done = adopt(store, engine, wanted, "db", thing)
    assert (done.differs, done.was_read, done.physical_id) == (None, True, "old")
    # typed twice
    assert adopt(store, engine, wanted, "db", thing) is None
    shown = store.show("s")["resources"]["db"]
    assert (shown["status"], shown["attributes"]["made"]) == ("COMPLETE", "old")
    told = [one for one in store.events("s") if one["action"] == "ADOPT"]
    assert [(one["resource"], one["reason"]) for one in told] == [("db", "id 'old'")]
    store.update_stack("s", template({"first": {}, **wanted}))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.log == ["create first.0", "create web.0"]
    assert world.properties()["web.0"] == {"of": "old"}
    with pytest.raises(converge.Conflict, match="protected"):
        store.delete_stack("s")
    store.delete_stack("s", unprotect=["db"])
    engine.run()
    assert world.names() == []


def test_what_differs_has_drifted_and_is_mended_in_place(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    thing = world.put("old", size=7)
    done = adopt(store, engine, {"db": WANTED["db"]}, "db", thing)
    assert done.differs == "it differs from what it was made to be: size"
    assert store.show("s")["resources"]["db"]["status"] == "DRIFTED"
    wanted = template({"first": {}, "db": WANTED["db"]})
    (change,) = store.plan("s", wanted, types=engine.types).changes
    assert (change.verb, [one.before for one in change.differences]) == ("update", [7])
    store.update_stack("s", wanted)
    engine.run()
    assert world.log == ["create first.0", "update old"]
    assert world.properties()["old"] == {"size": 1}
    assert store.converge_stack("s", wanted).outcome == "done"


def test_its_type_cannot_look(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    wanted = {"db": {"type": "blind", "properties": {"size": 1}}}
    done = adopt(store, engine, wanted, "db", "anything")
    assert (done.differs, done.was_read) == (None, False)
    store.update_stack("s", template({"first": {}, **wanted}))
    engine.run()
    assert stack.refresh().status == "COMPLETE"


def test_the_template_of_the_stack_says_what_it_is(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    body = {"first": {}, "db": WANTED["db"]}
    stack = store.converge_stack("s", template(body), target=["first"])
    engine.run()
    store.adopt_resource("s", "db", world.put("old", size=1), types=engine.types)
    store.update_stack("s", template(body))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.log == ["create first.0"]


REFUSED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "not named": ({}, "db", "old", "the template has no resource 'db'"),
    "nothing is there": ({"db": {}}, "db", "else", "there is nothing to adopt as 'db': there is"),
    "it is made": ({"first": {}}, "first", "old", "has resource 'first' already: 'first.0'"),
    "another has it": ({"db": {}}, "db", "first.0", "as resource 'first'"),
    "external": ({"db": {"external_id": "old"}}, "db", "old", "used and never touched"),
    "refers to what is not there": (WANTED, "late", "old", "with --target web"),
    "no such type": ({"db": {"type": "fak"}}, "db", "old", "unknown type 'fak'"),
    "touches its own only": ({"db": {"type": "closed"}}, "db", "old", "`adopt: true`"),
    "no id": ({"db": {}}, "db", "", "1 to"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_unclear_is_refused(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack, case: str
) -> None:
    wanted, name, thing, message = REFUSED[case]
    world.put("old")
    before = store.show("s")
    with pytest.raises((converge.BadInput, converge.Conflict), match=message):
        adopt(store, engine, wanted, name, thing)
    assert store.show("s") == before


def test_a_stack_that_is_at_work_adopts_and_gives_nothing(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    store.create_stack("t", template({"x": {}}))
    store.update_stack("s", template({"first": {"properties": {"size": 2}}}))
    with pytest.raises(converge.Conflict, match="busy with its UPDATE"):
        adopt(store, engine, {"db": {}}, "db", world.put("old"))
    for source, target in (("s", "t"), ("t", "s")):
        with pytest.raises(converge.Conflict, match="is busy with its"):
            store.move_resource(source, "x", "y", to=target)


def test_a_resource_moves_to_another_stack(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    body = {"first": {}, "db": {"depends_on": "first"}, "web": {"depends_on": "db"}}
    store.update_stack("s", template(body))
    other = store.create_stack("t", template({"x": {}}))
    engine.run()
    moved = store.move_resource("s", "db", "data", to="t")
    assert moved is not None
    assert moved.physical_id == "db.0"
    assert store.move_resource("s", "db", "data", to="t") is None
    assert store.show("t")["resources"]["data"]["physical_id"] == "db.0"
    # what required it requires what it required
    assert store.show("s")["resources"]["web"]["requires"] == ["first"]
    reasons = [store.events(name)[-1]["reason"] for name in "st"]
    assert reasons == ["it is 'data' of stack 't' now", "it was 'db' of stack 's'"]
    store.update_stack("t", template({"x": {}, "data": {"depends_on": "x"}}))
    store.update_stack("s", template({"first": {}, "web": {"depends_on": "first"}}))
    engine.run()
    assert {stack.refresh().status, other.refresh().status} == {"COMPLETE"}
    assert sorted(world.log) == ["create db.0", "create first.0", "create web.0", "create x.0"]
    store.delete_stack("t")
    engine.run()
    assert world.names() == ["first.0", "web.0"]


def test_a_move_to_another_stack_that_is_unclear_is_refused(
    store: converge.Store, engine: StepEngine, world: FakeWorld, stack: converge.Stack
) -> None:
    store.create_stack("t", template({"x": {}}))
    engine.run()
    for name, message in (("x", "has a resource 'x' already"), ("nobody", "no resource 'nobody'")):
        with pytest.raises((converge.Conflict, converge.NotFound), match=message):
            store.move_resource("s", "first" if name == "x" else name, name, to="t")
    with pytest.raises(converge.NotFound, match="no stack 'u'"):
        store.move_resource("s", "first", "first", to="u")
    assert world.names() == ["first.0", "x.0"]
