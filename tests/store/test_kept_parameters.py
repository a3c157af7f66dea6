"""Parameters that keep their values, and environment files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import converge
from converge.testing import FakeWorld, StepEngine

TEXT = """
parameters:
  size: {type: number, default: 1}
  name: {type: string}
resources:
  a: {type: fake, properties: {size: {get_param: size}, name: {get_param: name}}}
"""


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, world.types())


def properties(world: FakeWorld) -> list[dict[str, Any]]:
    return [dict(thing.properties) for thing in world.things.values()]


def test_what_is_not_given_keeps_its_value(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    wanted = converge.Template.parse(TEXT)
    keep: dict[str, Any] = {"keep_parameters": True}
    with pytest.raises(converge.TemplateError, match="parameter needs a value: 'name'"):
        store.converge_stack("s", wanted, **keep)
    store.converge_stack("s", wanted, parameters={"size": 9, "name": "x"}, **keep)
    engine.run()
    store.converge_stack("s", wanted, **keep)
    engine.run()
    assert properties(world) == [{"size": 9, "name": "x"}]
    store.update_stack("s", wanted, parameters={"name": "y"}, **keep)
    engine.run()
    assert properties(world) == [{"size": 9, "name": "y"}]
    # without it, defaults hold again
    store.update_stack("s", wanted, parameters={"name": "y"})
    engine.run()
    assert properties(world) == [{"size": 1, "name": "y"}]


def test_what_the_template_no_longer_declares_is_not_kept(
    store: converge.Store, engine: StepEngine
) -> None:
    store.create_stack("s", converge.Template.parse(TEXT), parameters={"name": "x"})
    engine.run()
    other = converge.Template.parse(
        "parameters: {size: {type: boolean}}\nresources: {a: {type: fake}}"
    )
    with pytest.raises(converge.TemplateError, match="was kept from before, give another one"):
        other.resolve_parameters({}, {"size": 12, "name": "x"})
    assert store.update_stack("s", other, keep_parameters=True).outcome == "started"


def test_who_keeps_what_another_has_changed_is_told(
    store: converge.Store, engine: StepEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = converge.Template.parse(TEXT)
    store.create_stack("s", wanted, parameters={"name": "x"})
    read = converge.protocol.answer.read_kept

    def late(*arguments: Any) -> Any:
        found = read(*arguments)
        monkeypatch.undo()
        store.update_stack("s", wanted, parameters={"name": "other"})
        return found

    monkeypatch.setattr("converge.protocol.answer.read_kept", late)
    with pytest.raises(converge.Conflict, match="was changed by another client while"):
        store.update_stack("s", wanted, parameters={"size": 3}, keep_parameters=True)
    store.update_stack("s", wanted, parameters={"size": 3}, keep_parameters=True)
    assert store.stack("s").version == 3


def test_in_the_transaction_of_the_host(store: converge.Store, engine: StepEngine) -> None:
    wanted = converge.Template.parse(TEXT)
    with store.transaction() as tx:
        store.create_stack("s", wanted, parameters={"name": "x"}, transaction=tx)
        store.update_stack("s", wanted, keep_parameters=True, transaction=tx)
    assert store.stack("s").version == 1


# -- environment files

ENVIRONMENT = """
parameters:
  name: web
parameter_defaults:
  size: 3
  other: ignored
"""


def read(tmp_path: Path, *texts: str) -> dict[str, Any]:
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"e{number}.yaml")
        paths[-1].write_text(text)
    return converge.Template.parse(TEXT).read_parameters(*paths)


def test_environment_files(tmp_path: Path) -> None:
    assert read(tmp_path) == {}
    assert read(tmp_path, ENVIRONMENT) == {"name": "web", "size": 3}
    assert read(tmp_path, ENVIRONMENT, "parameters: {size: '4'}") == {"name": "web", "size": 4}
    # a value of any file stands before a default of any
    assert read(tmp_path, "parameters: {size: 5}", ENVIRONMENT)["size"] == 5
    assert read(tmp_path, "resource_registry: {}") == {}
    assert read(tmp_path, "{}") == {}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("parameters:\n  nme: x", 2, "the template has no parameter 'nme'; did you mean 'name'?"),
        ("parameters:\n  size: big", 2, "parameter 'size' is 'big'; it must be a number"),
        ("parameters:\n  name: 3.10", 2, "parameter 'name': 3.10 is the number 3.1 here, not text"),
        ("parameters:\n  name: 0510", 2, 'quote it: "0510"'),
        ("parameters:\n  name: no", 2, "no is the boolean false here, not text"),
        ("parameter:\n  name: x", 1, "unknown key 'parameter' in an environment; did you mean"),
        ("resource_registry: {a: b}", 1, "the key 'resource_registry', which converge does not"),
        ("parameters: [a]", 1, "the section 'parameters' must be a mapping, not a list"),
        ("parameters: {name: x}\nparameters: {}", 2, "key 'parameters' is given twice"),
    ],
)
def test_wrong_environment_files(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(converge.TemplateError) as caught:
        read(tmp_path, text)
    assert message in caught.value.message
    assert (caught.value.source, caught.value.line) == (str(tmp_path / "e0.yaml"), line)
