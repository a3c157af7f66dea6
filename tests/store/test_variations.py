"""Stacks in which parameters decide which resources there are."""

from __future__ import annotations

from typing import Any

import pytest

import converge
from converge.testing import FakeWorld, StepEngine

TEXT = """
parameters:
  zones: {type: comma_delimited_list, default: "a,b"}
  big: {type: boolean, default: false}
  size: {type: number, default: 1}
conditions:
  large: {get_param: big}
resources:
  net:
    type: fake
    for_each: {get_param: zones}
    properties: {zone: {get_each: key}, replace: {get_param: size}}
  extra: {type: fake, condition: large, properties: {nets: {get_resource: net}}}
  web:
    type: fake
    depends_on: extra
    properties:
      net: {get_attr: [net, made]}
      extra: {get_resource: extra}
outputs:
  nets: {value: {get_attr: [net, made]}}
  extra: {value: {get_resource: extra}, condition: large}
  maybe: {value: [{get_resource: extra}]}
"""


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, world.types())


def bring(store: converge.Store, engine: StepEngine, **parameters: Any) -> dict[str, Any]:
    wanted = converge.Template.parse(TEXT)
    stack = store.converge_stack("s", wanted, parameters=parameters)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    outputs: dict[str, Any] = store.show("s")["outputs"]
    return outputs


def test_what_comes_and_goes_leaves_the_others_alone(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    found = bring(store, engine)
    assert sorted(world.things) == ["net[a].0", "net[b].0", "web.0"]
    assert found == {"nets": {"a": "net[a].0", "b": "net[b].0"}, "extra": None, "maybe": [None]}
    assert world.things["web.0"].properties["net"] == {"a": "net[a].0", "b": "net[b].0"}
    world.log.clear()
    found = bring(store, engine, zones="c,b", big=True)
    assert found["extra"] == "extra.0"
    assert found["maybe"] == ["extra.0"]
    assert sorted(world.things) == ["extra.0", "net[b].0", "net[c].0", "web.0"]
    assert "update net[b].0" not in world.log
    # made before what refers to it, and deleted after that
    order = ["create net[c].0", "create extra.0", "update web.0", "delete net[a].0"]
    assert [each for each in world.log if each in order] == order
    world.log.clear()
    found = bring(store, engine, zones="c,b")
    assert found["extra"] is None
    assert world.log == ["update web.0", "delete extra.0"]
    store.delete_stack("s")
    engine.run()
    assert world.things == {}


def test_a_rollback_brings_back_what_was_there(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    bring(store, engine, big=True)
    bring(store, engine, zones="b")
    assert sorted(world.things) == ["net[b].0", "web.0"]
    store.rollback_stack("s")
    engine.run()
    assert sorted(world.things) == ["extra.1", "net[a].1", "net[b].0", "web.0"]
    assert store.show("s")["outputs"]["nets"] == {"a": "net[a].1", "b": "net[b].0"}


def test_one_is_replaced_for_itself(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    bring(store, engine)
    found = bring(store, engine, size=2)
    assert found["nets"] == {"a": "net[a].1", "b": "net[b].1"}
    assert set(store.graph("s")) == {"net[a]", "net[b]", "web"}
    assert set(store.graph("s").edges()) == {
        ("web", "net[a]"),
        ("web", "net[b]"),
    }
