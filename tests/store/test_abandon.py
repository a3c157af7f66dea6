"""Letting go of a resource without deleting it, and deleting one by a mended ``delete``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from sqlalchemy import select

import converge
from converge.sql import schema
from converge.testing import FakeWorld, StepEngine

CHAIN = converge.Template.parse("""\
resources:
  a: {type: fake}
  b: {type: fixed, depends_on: a}
  c: {type: fake, depends_on: b}
""")


def requires(store: converge.Store) -> dict[str, list[str]]:
    with store.database.transaction(write=False) as tx:
        rows = tx.execute(select(schema.resource)).all()
    names = {row.id: row.name for row in rows}
    return {row.name: [names[one] for one in row.requires] for row in rows}


def test_what_cannot_be_deleted_is_let_go_of(store: converge.Store) -> None:
    world = FakeWorld()
    StepEngine(store, world.types()).run()
    store.create_stack("s", CHAIN)
    StepEngine(store, world.types()).run()
    rest = StepEngine(store, {"fake": world.types()["fake"]})
    stack = store.delete_stack("s")
    rest.run()
    # it waits for an engine that has the type, and there will be none
    assert stack.refresh().status == "IN_PROGRESS"
    store.cancel_stack("s")
    rest.run()
    done = store.forget_resource("s", "b")
    assert done is not None
    assert (done.name, done.type, done.physical_id) == ("b", "fixed", "b.0")
    assert store.events("s")[-1]["reason"] == (
        f"forgotten, not deleted: {done.id} (type 'fixed', physical id 'b.0', CREATE COMPLETE)"
    )
    # again: it is done; of what never was, that is said
    assert store.forget_resource("s", "b") is None
    with pytest.raises(converge.NotFound, match="no resource 'bb'"):
        store.forget_resource("s", "bb")
    assert store.delete_stack("s").outcome == "started"
    rest.run()
    assert stack.refresh().live is False
    assert world.names() == ["b.0"]


def test_what_required_it_is_still_deleted_first(store: converge.Store) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    store.create_stack("s", CHAIN)
    engine.run()
    assert store.forget_resource("s", "b") is not None
    assert requires(store) == {"a": [], "c": ["a"]}
    assert sorted(store.show("s")["resources"]) == ["a", "c"]
    store.delete_stack("s")
    engine.run()
    assert [line for line in world.log if line.startswith("delete")] == ["delete c.0", "delete a.0"]


def test_an_update_makes_anew_what_was_let_go_of(store: converge.Store) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    store.create_stack("s", CHAIN)
    engine.run()
    store.forget_resource("s", "b")
    stack = store.converge_stack("s", CHAIN)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.names() == ["a.0", "b.0", "b.1", "c.0"]
    assert requires(store) == {"a": [], "b": ["a"], "c": ["b"]}


def test_nothing_is_let_go_of_while_something_works_on_it(store: converge.Store) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    store.create_stack("s", CHAIN)
    (work,) = engine.claim()
    with pytest.raises(converge.Conflict, match=r"busy with its CREATE.*converge cancel s"):
        store.forget_resource("s", "a")
    # an older traversal, of which one node still runs
    store.update_stack("s", converge.Template.parse("resources: {z: {type: fake}}"))
    StepEngine(store, world.types()).run("update z")
    store.cancel_stack("s")
    assert store.stack("s").status == "CANCELLED"
    with pytest.raises(converge.Conflict, match="is still working on resource 'a'"):
        store.forget_resource("s", "a")
    engine.write(engine.call(work))
    done = store.forget_resource("s", "a")
    assert done is not None
    assert done.physical_id == "a.0"


def test_of_several_versions_one_must_be_named(store: converge.Store) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    text = "resources: {a: {type: fixed, properties: {x: %d}}, b: {type: fake, depends_on: a}}"
    stack = store.create_stack("s", converge.Template.parse(text % 1))
    engine.run()
    world.fail("delete a", -1)
    store.update_stack("s", converge.Template.parse(text % 2))
    engine.run()
    assert stack.refresh().status == "FAILED"
    with pytest.raises(converge.BadInput, match=r"'a.0', DELETE FAILED.*'a.1', CREATE COMPLETE"):
        store.forget_resource("s", "a")
    with pytest.raises(converge.NotFound, match=r"no version 1000; there are .*'a.1'"):
        store.forget_resource("s", "a", id=1000)
    with store.database.transaction(write=False) as tx:
        row = schema.resource
        query = select(row.c.id).where(row.c.name == "a", row.c.physical_id == "a.0")
        old = tx.execute(query).scalar_one()
    with store.transaction() as tx:
        done = store.forget_resource("s", "a", id=old, transaction=tx)
    assert done is not None
    assert done.physical_id == "a.0"
    engine.run()
    # the one in use is not touched by the same again
    with pytest.raises(converge.NotFound, match="no version"):
        store.forget_resource("s", "b", id=old)
    assert store.show("s")["resources"]["a"]["physical_id"] == "a.1"
    stack = store.converge_stack("s", converge.Template.parse(text % 2))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.names() == ["a.0", "a.1", "b.0"]


class Door(converge.ResourceType):
    """What a delete with the wrong key does not open."""

    delete_properties: ClassVar[tuple[str, ...]] = ("key",)

    def __init__(self) -> None:
        self.log: list[str] = []

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        self.log.append(f"create {properties['color']}")
        return str(properties["color"])

    def update(self, *arguments: Any) -> None:
        raise converge.Replace

    def delete(self, context: converge.Context, physical_id: str) -> None:
        if context.properties["key"] != "right":
            raise ValueError("wrong key")
        self.log.append(f"delete {physical_id}")


def door(color: str, key: str) -> converge.Template:
    return converge.Template.parse(
        f"""
resources:
  word: {{type: fake, properties: {{size: {color}}}}}
  door:
    type: door
    properties: {{color: {{get_attr: [word, size]}}, key: {key}}}
"""
    )


def test_a_mended_delete_is_noted_before_it_is_needed(store: converge.Store) -> None:
    one = Door()
    engine = StepEngine(store, {"door": one, **FakeWorld().types()})
    stack = store.create_stack("s", door("red", "wrong"))
    engine.run()
    store.update_stack("s", door("red", "right"))
    engine.run()
    assert store.show("s")["resources"]["door"]["properties"]["key"] == "right"
    store.delete_stack("s")
    engine.run()
    assert stack.refresh().live is False
    assert one.log == ["create red", "delete red"]


@pytest.mark.parametrize("color", ["red", "blue"])
def test_a_mended_delete_is_of_the_same_thing_only(store: converge.Store, color: str) -> None:
    one = Door()
    engine = StepEngine(store, {"door": one, **FakeWorld().types()})
    stack = store.create_stack("s", door("red", "wrong"))
    engine.run()
    store.delete_stack("s")
    engine.run()
    assert stack.refresh().status == "FAILED"
    store.update_stack("s", door(color, "right"))
    engine.run()
    if color == "red":
        assert stack.refresh().status == "COMPLETE"
        assert one.log == ["create red", "delete red", "create red"]
    else:
        # the key of the blue door is none of the red one's
        assert stack.refresh().status == "FAILED"
        assert one.log == ["create red"]
