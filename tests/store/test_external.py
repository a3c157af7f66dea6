"""What is there already is used by its id, and never touched."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

import converge
from converge.cli.plans import render
from converge.resources import load_types
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

NET = {"type": "fake", "external_id": "net-1"}
WEB = {"properties": {"of": {"get_resource": "net"}, "size": {"get_attr": ["net", "size"]}}}


class Blind(converge.ResourceType):
    """Cannot read what is there."""

    schema = None
    called: ClassVar[list[str]] = []

    def create(self, context: converge.Context, properties: Any) -> str:
        self.called.append("create")
        return "made"

    def delete(self, context: converge.Context, physical_id: str) -> None:
        self.called.append("delete")


@pytest.fixture
def world() -> FakeWorld:
    world = FakeWorld()
    world.put("net-1", size=5)
    world.put("net-2", size=7)
    return world


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, {**world.types(attempts=1), "blind": Blind()})


def test_from_the_first_up_to_the_last_down(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    wanted = template(web=WEB, net=NET)
    preview = store.plan("s", wanted, types=engine.types)
    assert "  = net (fake): used as it is, net-1" in list(render(preview))
    assert list(render(preview))[-1] == "stack 's': 1 to create, 1 to use"
    stack = store.create_stack("s", wanted)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.properties()["web.0"] == {"of": "net-1", "size": 5}
    told = [one for one in store.events("s") if one["resource"] == "net"]
    assert [(one["action"], one["status"]) for one in told] == [("USE", "COMPLETE")]
    assert not store.plan("s", wanted, types=engine.types)

    # another one takes its place
    other = template(web=WEB, net={**NET, "external_id": "net-2"})
    preview = store.plan("s", other, types=engine.types)
    assert "  = net (fake): used as it is, net-2, instead of net-1" in list(render(preview))
    store.update_stack("s", other)
    engine.run()
    assert world.properties()["web.0"] == {"of": "net-2", "size": 7}

    # a check looks whether it is there
    store.check_stack("s")
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    gone = world.things.pop("net-2")
    store.check_stack("s")
    engine.run()
    assert stack.refresh().status == "FAILED"
    assert "its external_id names nothing: there is no net-2" in str(stack.reason)
    world.things["net-2"] = gone

    preview = store.plan_delete("s", types=engine.types)
    assert "  - net (fake): left in place, net-2" in "\n".join(render(preview))
    store.delete_stack("s")
    engine.run()
    assert stack.refresh().live is False
    assert world.names() == ["net-1", "net-2"]
    assert world.log == ["create web.0", "update web.0", "delete web.0"]


def test_what_is_not_there_fails_and_is_still_never_touched(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    stack = store.create_stack("s", template(web=WEB, net={**NET, "external_id": "nix"}))
    engine.run()
    assert stack.refresh().status == "FAILED"
    assert "its external_id names nothing: there is no nix" in str(stack.reason)
    world.put("nix", size=1)
    store.delete_stack("s")
    engine.run()
    assert stack.refresh().live is False
    assert "nix" in world.names()


def test_what_was_made_is_not_given_up_for_it(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    stack = store.create_stack("s", template(web=WEB, net={"properties": {"size": 1}}))
    engine.run()
    wanted = template(web=WEB, net=NET)
    for message in ("nothing was started in stack 's': resource 'net' was made", "`converge forg"):
        with pytest.raises(converge.Conflict, match=message):
            store.update_stack("s", wanted)
    preview = store.plan("s", wanted, types=engine.types)
    (failed,) = preview.failures
    assert "was made by converge" in str(failed.reason)
    store.forget_resource("s", "net")
    store.update_stack("s", wanted)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.names() == ["net-1", "net-2", "net.0", "web.0"]


def test_one_is_made_in_its_place(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    """What was used stays; and a rollback, which nobody asked for, would delete what was made."""
    stack = store.create_stack("s", template(web=WEB, net=NET))
    engine.run()
    wanted = template(web=WEB, net={"properties": {"size": 1}})
    preview = store.plan("s", wanted, types=engine.types)
    (change,) = (one for one in preview.changes if one.name == "net")
    assert (change.verb, change.leaves_old) == ("replace", True)
    world.fail("update web")
    store.update_stack("s", wanted, on_failure="rollback")
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert stack.action == "ROLLBACK"
    # the row of what was there is still there, and is kept
    assert world.names() == ["net-1", "net-2", "web.0"]
    assert world.properties()["web.0"]["of"] == "net-1"
    store.update_stack("s", wanted)
    engine.run()
    assert world.names() == ["net-1", "net-2", "net.1", "web.0"]
    with pytest.raises(converge.Conflict, match="was made by converge"):
        store.rollback_stack("s", version=1)


def test_its_type_need_not_be_able_to_read(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    body = {"type": "blind", "external_id": "x"}
    wanted = template(web={"properties": {"of": {"get_resource": "net"}}}, net=body)
    stack = store.create_stack("s", wanted)
    engine.run()
    assert world.properties()["web.0"] == {"of": "x"}
    store.check_stack("s")
    engine.run()
    store.delete_stack("s")
    engine.run()
    assert stack.refresh().live is False
    assert Blind.called == []
    asks = template(web={"properties": {"of": {"get_attr": ["net", "size"]}}}, net=body)
    with pytest.raises(converge.TemplateError, match="cannot read what it is: there is no attrib"):
        asks.validate(engine.types)


def test_an_engine_dies_while_it_reads(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    """The row says from the claim on that it is not ours."""
    store.create_stack("s", template(net=NET))
    (work,) = engine.claim()
    assert work.decision.operation == "read"
    stack = store.cancel_stack("s")
    engine.write(engine.call(work))
    engine.run()
    store.delete_stack("s")
    engine.run()
    assert stack.refresh().live is False
    assert "net-1" in world.names()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"external_id": 5},
            'external_id must be a text, the id of what is there, not 5; write "5"',
        ),
        ({"external_id": ""}, "external_id must be a text"),
        (
            {"external_id": {"get_resource": "b"}},
            "external_id of resource 'a' must be known before",
        ),
        ({"properties": {"size": 1}}, "it is used as it is, and cannot have properties"),
        ({"depends_on": ["b"]}, "cannot have depends_on"),
        ({"protect": True}, "cannot have protect"),
        ({"deletion_policy": "retain"}, "cannot have deletion_policy"),
    ],
)
def test_what_does_not_go_with_it(more: dict[str, Any], message: str) -> None:
    with pytest.raises(converge.TemplateError, match=message):
        template(a={"external_id": "x", **more}, b=[])


def test_required_properties_are_not_asked_for(engine: StepEngine) -> None:
    types = load_types()
    template(a={"type": "file", "external_id": "a.txt"}).validate(types)
