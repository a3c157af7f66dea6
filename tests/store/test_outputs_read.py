"""Outputs of another stack as input: read once before a start, and kept with the version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

import converge
from converge import formats
from converge.protocol import outputs
from converge.sql import schema
from converge.sql.stacks import get_stack
from converge.testing import FakeWorld, StepEngine

NET = """
parameters:
  size: {type: number, default: 1}
  word: {type: string, hidden: true, default: s3cret-word}
resources:
  net: {type: fake, properties: {size: {get_param: size}, word: {get_param: word}}}
outputs:
  id: {value: {get_resource: net}}
  size: {value: {get_attr: [net, size]}}
  list: {value: [{get_attr: [net, size]}, {a: b}]}
  login: {value: {list_join: [":", [me, {get_param: word}]]}}
  absent: {value: 1, condition: {not: {equals: [1, 1]}}}
"""
APP = """
parameters:
  from: {type: string, default: net}
resources:
  a:
    type: fake
    properties:
      size: {get_output: [{get_param: from}, size]}
      deep: {get_output: [net, list, 1, a]}
outputs:
  size: {value: {get_attr: [a, size]}}
  id: {value: {get_output: [net, id]}}
"""


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, world.types())


def up(store: converge.Store, name: str, text: str, **parameters: Any) -> converge.Stack:
    return store.converge_stack(name, converge.Template.parse(text, "f"), parameters=parameters)


def reads(store: converge.Store) -> int:
    with store.transaction() as tx:
        return int(tx.execute(select(func.count()).select_from(schema.output_read)).scalar_one())


def test_a_stack_has_what_another_one_gives_and_follows_it_with_each_update(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    up_both(store, engine)
    assert dict(world.things["a.0"].properties) == {"size": 1, "deep": "b"}
    assert store.show("app")["outputs"] == {"size": 1, "id": "net.0"}
    assert store.outputs("app") == {"size": 1, "id": "net.0"}
    assert up(store, "app", APP).outcome == "done"
    up(store, "net", NET, size=2)
    engine.run()
    # until somebody says so, nothing changes
    assert store.show("app")["outputs"]["size"] == 1
    with pytest.raises(converge.NotFound, match="there is no stack 'apq'; did you mean 'app'"):
        store.outputs("apq")
    (read,) = (one for one in plan(store).reads if one.output == "size")
    assert (read.stack, read.before, read.after) == ("net", 1, 2)
    assert [one.name for one in plan(store).changes] == ["a"]
    up(store, "app", APP)
    engine.run()
    assert (store.stack("app").version, store.show("app")["outputs"]["size"]) == (2, 2)
    # a rollback has what its version had
    store.rollback_stack("app")
    engine.run()
    assert store.show("app")["outputs"] == {"size": 1, "id": "net.0"}


def up_both(store: converge.Store, engine: StepEngine) -> None:
    """Bring about the stack that is read, and then the one that reads it."""
    for name, text in (("net", NET), ("app", APP)):
        up(store, name, text)
        engine.run()


def plan(store: converge.Store) -> Any:
    return store.plan("app", converge.Template.parse(APP, "f"), types=FakeWorld().types())


def test_who_reads_what_is_known_until_it_is_gone(
    store: converge.Store, engine: StepEngine
) -> None:
    up_both(store, engine)
    assert store.show("app")["reads"] == {"net": ["id", "list", "size"]}
    assert store.show("net")["read_by"] == {"app": ["id", "list", "size"]}
    up(store, "app", "resources: {a: {type: fake, properties: {size: {get_output: [net, size]}}}}")
    engine.run()
    assert (reads(store), store.show("net")["read_by"]) == (1, {"app": ["size"]})
    store.delete_stack("app")
    # until it is gone, it reads
    with pytest.raises(converge.Conflict, match="other stacks read outputs"):
        store.delete_stack("net")
    engine.run()
    assert reads(store) == 0
    store.delete_stack("net")
    engine.run()
    assert store.stacks() == []


def test_a_stack_that_others_read_goes_only_despite_them(
    store: converge.Store, engine: StepEngine
) -> None:
    up(store, "net", NET)
    engine.run()
    up(store, "app", APP)
    up(store, "b", "resources: {}\noutputs: {o: {value: {get_output: [net, size]}}}")
    engine.run()
    message = r"'net': 'app' \(id, list, size\), 'b' \(size\); delete them first.*--despite app"
    for call in (store.delete_stack, store.plan_delete):
        with pytest.raises(converge.Conflict, match=message):
            call("net")
        with pytest.raises(converge.Conflict, match=r"'net': 'b' \(size\)"):
            call("net", despite=["app"])
        with pytest.raises(converge.BadInput, match=r"'ap' reads no output .* mean 'app'"):
            call("net", despite=["ap"])
    assert store.delete_stack("net", despite=["app", "b"]).outcome == "started"
    with pytest.raises(
        converge.TemplateError, match="nothing is wanted of stack 'net': its DELETE"
    ):
        up(store, "app", APP)
    assert store.delete_stack("net").outcome == "resumed"
    engine.run()
    assert store.delete_stack("net").outcome == "done"
    # what it has, it has kept; but it is not brought to anything new
    assert store.show("app")["outputs"] == {"size": 1, "id": "net.0"}
    with pytest.raises(converge.TemplateError, match="there is no stack 'net'"):
        up(store, "app", APP)
    store.rollback_stack("app", version="empty")
    engine.run()
    assert reads(store) == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("[nett, size]", "there is no stack 'nett'; did you mean 'net'?"),
        ("[net, sise]", "stack 'net' has no output 'sise'; did you mean 'size'?"),
        ("[net, other]", "stack 'net' has no output 'other'; it has absent, id, list, login, size"),
        ("[net, list, 7]", "output 'list' of stack 'net' has 2 items, numbered from 0"),
        ("[app, size]", "stack 'app' cannot read its own outputs"),
        ("[new, size]", "stack 'new' was never COMPLETE: its CREATE is IN_PROGRESS"),
        ("[none, one]", "stack 'none' has no output 'one'; it has none"),
    ],
)
def test_what_is_not_there_is_said_before_the_start(
    store: converge.Store, engine: StepEngine, argument: str, message: str
) -> None:
    up(store, "net", NET)
    up(store, "none", "resources: {}")
    engine.run()
    up(store, "new", NET)
    text = f"resources:\n  a:\n    type: fake\n    properties:\n      p: {{get_output: {argument}}}"
    with pytest.raises(converge.TemplateError) as caught:
        up(store, "app", text)
    assert message in str(caught.value)
    assert (caught.value.source, caught.value.line) == ("f", 5)
    assert [one["name"] for one in store.stacks()] == ["net", "new", "none"]


def test_an_output_without_a_value_is_not_read_and_one_that_is_null_is(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    up(store, "net", NET)
    engine.run()
    text = "resources: {}\noutputs: {o: {value: [{get_output: [net, absent]}]}}"
    up(store, "app", text)
    assert store.show("app")["outputs"] == {"o": [None]}
    # the resource of its output is another one, which is not there yet
    world.fail("create other")
    up(
        store,
        "net",
        NET.replace("net: {type", "other: {type")
        .replace("net]", "other]")
        .replace("get_resource: net", "get_resource: other")
        .replace("[net,", "[other,"),
    )
    engine.run()
    with pytest.raises(
        converge.TemplateError, match=r"'id' of stack 'net' has no value: .*'other'"
    ):
        up(store, "app", text.replace("absent", "id"))


def test_it_decides_what_there_is(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    up(store, "net", NET, size=2)
    engine.run()
    text = """
conditions: {big: {equals: [{get_output: [net, size]}, 2]}}
resources:
  a: {type: fake, condition: big}
  b: {type: fake, condition: {not: big}}
  c: {type: fake, for_each: [{get_output: [net, size]}], retry: {get_output: [net, size]}}
"""
    up(store, "app", text)
    engine.run()
    assert sorted(store.show("app")["resources"]) == ["a", "c[2]"]


def test_what_is_hidden_there_is_hidden_here(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    up(store, "net", NET)
    engine.run()
    text = "resources: {a: {type: fake, properties: {login: {get_output: [net, login]}}}}"
    template = converge.Template.parse(text)
    assert "s3cret" not in json.dumps(store.plan("app", template, types=world.types()).to_dict())
    up(store, "app", text)
    engine.run()
    assert dict(world.things["a.0"].properties) == {"login": "me:s3cret-word"}
    shown = store.show("app")["resources"]["a"]["properties"]
    assert shown == {"login": "me:***"}
    up(store, "net", NET, word="0ther-word")
    engine.run()
    preview = store.plan("app", template, types=world.types())
    assert [(one.before, one.after) for one in preview.reads] == [("me:***", "me:***")]
    assert "word" not in json.dumps(preview.to_dict())


def test_the_data_of_another_stack_is_no_function(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    given = {"get_resource": "nothing"}
    parameters = "parameters: {data: {type: json}}\n"
    up(store, "net", f"{parameters}resources: {{}}\noutputs: {{o: {{value: {{get_param: data}}}}}}",
       data=given)  # fmt: skip
    engine.run()
    up(store, "app", "resources: {a: {type: fake, properties: {p: {get_output: [net, o]}}}}")
    engine.run()
    assert dict(world.things["a.0"].properties) == {"p": given}


def test_in_the_transaction_of_the_host(store: converge.Store, engine: StepEngine) -> None:
    template = converge.Template.parse(
        "resources: {}\noutputs: {o: {value: {get_output: [net, id]}}}"
    )
    with store.transaction() as tx:
        store.create_stack("net", converge.Template.parse(NET), transaction=tx)
        with pytest.raises(converge.TemplateError, match="'net' was never COMPLETE"):
            store.create_stack("app", template, transaction=tx)
    engine.run()
    with store.transaction() as tx:
        store.create_stack("app", template, transaction=tx)
    assert store.show("net")["read_by"] == {"app": ["id"]}


def test_a_delete_between_the_reading_and_the_start_is_noticed(
    store: converge.Store, engine: StepEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(store, "net", NET)
    engine.run()
    found = store.database.read(lambda tx: outputs.read_source(tx, "net"))
    store.delete_stack("net")
    monkeypatch.setattr(outputs, "read_source", lambda *_: found)
    with pytest.raises(converge.Conflict, match="'net' was deleted while its outputs were read"):
        up(store, "app", APP)
    assert [one["name"] for one in store.stacks()] == ["net"]


def test_only_a_stack_that_reads_is_of_a_newer_format(
    store: converge.Store, engine: StepEngine
) -> None:
    up(store, "net", NET)
    engine.run()
    up(store, "app", APP)
    with store.transaction() as tx:
        found = [get_stack(tx, name).format for name in ("net", "app")]
    assert found == [formats.FIRST, formats.OUTPUTS]


def test_mistakes_are_found_without_a_database(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(
        """
resources:
  a: {type: value, properties: {value: {get_output: net}}}
  b: {type: value, properties: {value: {get_output: [net, {get_attr: [a, value]}]}}}
  c: {type: value, properties: {value: {get_output: [net, o, [x]]}}}
  d: {type: value, properties: {valu: {get_output: [net, o]}}}
parameters:
  converge::outputs: {type: string}
"""
    )
    found = converge.Template.find_mistakes(path, converge.resources.load_types())
    assert [(one.line, one.message.split(":")[0][:40]) for one in found] == [
        (3, "get_output takes a list"),
        (4, "get_output is read before anything is ma"),
        (5, "the keys in get_output must be strings o"),
        (6, "resource 'd'"),
        (6, "resource 'd'"),
        (8, "parameter 'converge"),
    ]
    path.write_text(APP.replace("fake", "none"))
    types = converge.resources.load_types()
    assert converge.Template.find_mistakes(path, types) == []
    path.write_text(
        "conditions: {c: {get_output: [a, b]}}\nresources: {a: {type: none, condition: c}}"
    )
    assert converge.Template.find_mistakes(path, types) == []
