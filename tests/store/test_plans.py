"""What a plan tells of a stack, and what it keeps to itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import converge
from converge.cli.plans import render
from converge.testing import FakeType, FakeWorld, FixedType, StepEngine
from tests.templates import template

RETRY = converge.RetryPolicy(attempts=1)


class Liar(FakeType):
    """Its plan says that all is in place, and its update asks for a replacement."""

    def plan(
        self,
        context: converge.Context,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any] | None,
    ) -> str:
        return "update"


class Vault(FixedType):
    schema = {  # type: ignore[assignment]  # noqa: RUF012 - never changed
        "key": converge.Property(str, secret=True),
        "note": converge.Property(str),
    }


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def types(world: FakeWorld) -> dict[str, converge.ResourceType]:
    return {**world.types(), "liar": Liar(world, RETRY), "vault": Vault(world, RETRY)}


@pytest.fixture
def engine(store: converge.Store, types: dict[str, converge.ResourceType]) -> StepEngine:
    return StepEngine(store, types)


def test_an_update_that_was_planned_never_replaces(
    store: converge.Store,
    engine: StepEngine,
    world: FakeWorld,
    types: dict[str, converge.ResourceType],
) -> None:
    store.create_stack("s", template(a={"type": "liar", "properties": {"replace": 1}}))
    engine.run()
    wanted = template(a={"type": "liar", "properties": {"replace": 2}})
    (change,) = store.plan("s", wanted, types=types).changes
    assert (change.verb, change.sure, change.may_replace) == ("update", True, False)
    stack = store.update_stack("s", wanted)
    engine.run()
    assert stack.refresh().status == "FAILED"
    assert "the plan of its type said that it is updated in place" in str(stack.reason)
    assert world.log == ["create a.0"]


def test_what_was_shown_is_what_is_done(store: converge.Store, engine: StepEngine) -> None:
    wanted = template(a=[])
    stack = store.converge_stack("s", wanted, expected=0)
    engine.run()
    with pytest.raises(converge.Conflict, match="another client has started one since"):
        store.converge_stack("s", wanted, expected=0)
    assert store.converge_stack("s", wanted, expected=stack.refresh().traversal).outcome == "done"


def test_what_is_there_is_done_and_what_is_not_is_started(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    wanted = template(a=[])
    store.converge_stack("s", wanted)
    world.fail("create a")
    engine.run()
    assert store.converge_stack("s", wanted).outcome == "started"
    engine.run()
    assert store.converge_stack("s", wanted).outcome == "done"
    store.forget_resource("s", "a")
    assert store.converge_stack("s", wanted).outcome == "started"
    engine.run()
    # a check that found something has let nothing as it was
    world.things.clear()
    store.check_stack("s")
    engine.run()
    assert store.converge_stack("s", wanted).outcome == "started"


def test_secrets_are_not_planned_in_the_open(
    store: converge.Store, engine: StepEngine, types: dict[str, converge.ResourceType]
) -> None:
    text = """
    parameters: {word: {type: string, hidden: true}}
    resources:
      v: {type: vault, properties: {key: %s, note: {get_param: word}}}
    """
    store.create_stack(
        "s", converge.Template.parse(text % "opensesame"), parameters={"word": "shibboleth"}
    )
    engine.run()
    wanted = converge.Template.parse(text % "openbarley")
    preview = store.plan("s", wanted, parameters={"word": "sibboleth!"}, types=types)
    said = "\n".join(render(preview)) + str(preview.to_dict())
    for secret in ("opensesame", "openbarley", "shibboleth", "sibboleth!"):
        assert secret not in said
    assert "key: *** (another secret value)" in said


def test_a_plan_in_lines(
    store: converge.Store, engine: StepEngine, types: dict[str, converge.ResourceType]
) -> None:
    long = "\n".join(f"line {number}" for number in range(30))
    store.create_stack(
        "s",
        template(
            a={"properties": {"size": 1}},
            b={"type": "only", "properties": {"size": 1}},
            c={"properties": {"text": long}},
            d=[],
            e={"properties": {"to": {"get_attr": ["a", "made"]}}},
            same=[],
        ),
    )
    engine.run()
    wanted = template(
        a={"properties": {"size": 2}},
        b={"type": "only", "properties": {"size": 2}},
        c={"properties": {"text": long.replace("line 7", "line seven")}},
        e={"properties": {"to": {"get_attr": ["a", "made"]}}},
        f={"type": "none", "properties": {"to": {"get_resource": "b"}}},
        same=[],
    )
    found = list(render(store.plan("s", wanted, types=types)))
    asks = "or replaced, if its type asks for it"
    blocks: list[list[str]] = []
    for line in found[:-1]:
        if line.startswith("      "):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    assert sorted(blocks) == sorted(
        [
            [f"  ~ a (fake): {asks}", "      size: 1 → 2"],
            [
                "-/+ b (only): the old one is deleted first, type only has no update",
                "      size: 1 → 2",
            ],
            [
                f"  ~ c (fake): {asks}",
                "      text:",
                "         line 6",
                "        -line 7",
                "        +line seven",
                "         line 8",
            ],
            ["  - d (fake): d.0, it is no longer wanted"],
            [f"  ~ e (fake): perhaps, {asks}", "      to: a.0 → (after a)"],
            ["  + f (none)", "      to: (after b)"],
        ]
    )
    assert found[-1] == (
        "stack 's': 1 to create, 2 to update, 1 to replace, 1 to delete, 1 may be updated, "
        "1 unchanged"
    )


def test_what_cannot_be_done_is_said_before(
    store: converge.Store, engine: StepEngine, types: dict[str, converge.ResourceType]
) -> None:
    store.create_stack("s", template(a={"properties": {"size": 1}}))
    engine.run()
    wanted = template(
        a={"properties": {"size": 1}}, b={"properties": {"x": {"get_attr": ["a", "nix"]}}}
    )
    preview = store.plan("s", wanted, types=types)
    assert [one.name for one in preview.failures] == ["b"]
    assert "no attribute 'nix'" in str(preview.failures[0].reason)
    lost = {name: one for name, one in types.items() if name != "fake"}
    (change,) = store.plan_delete("s", types=lost).changes
    assert change.verb == "fail"
    assert "has no resource type 'fake'" in str(change.reason)
