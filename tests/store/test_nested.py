"""Nested stacks: made, changed, rolled back, stopped and deleted with their outer stacks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.cli import plans
from converge.protocol.cascade import stop_nested
from converge.resources import Stack
from converge.sql import nested as inner_stacks
from converge.sql.transaction import Transaction
from converge.testing import FakeClock, FakeWorld, StepEngine

OUTER = """
parameters:
  size: {type: number, default: 1}
resources:
  child:
    type: ./child.yaml
    properties: {size: {get_param: size}}
  after: {type: fake, properties: {size: {get_attr: [child, size]}}}
outputs:
  size: {value: {get_attr: [after, size]}}
"""
CHILD = """
parameters:
  size: {type: number}
  word: {type: string, default: a}
resources:
  web: {type: fake, properties: {size: {get_param: size}, word: {get_param: word}}}
outputs:
  size: {value: {get_attr: [web, size]}}
  id: {value: {get_resource: web}}
"""


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld, clock: FakeClock) -> StepEngine:
    return StepEngine(store, {**world.types(), "stack": Stack()}, clock=clock)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, outer=OUTER, child=CHILD)
    return tmp_path


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def up(store: converge.Store, folder: Path, **options: Any) -> converge.Stack:
    template = converge.Template.load(folder / "outer.yaml")
    return store.converge_stack("shop", template, **options)


def test_a_nested_stack_is_made_changed_and_deleted_with_its_resource(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    up(store, folder)
    assert engine.run() == [
        "update child",
        "update web",
        "stack",
        "update child",
        "update after",
        "stack",
    ]
    inner = store.stack("shop/child")
    assert (inner.action, inner.status) == ("CREATE", "COMPLETE")
    assert store.show("shop")["outputs"] == {"size": 1}
    assert up(store, folder).outcome == "done"
    up(store, folder, parameters={"size": 2})
    engine.run()
    assert world.properties()["web.0"] == {"size": 2, "word": "a"}
    assert (store.show("shop")["outputs"], store.stack("shop/child").version) == ({"size": 2}, 2)
    # what is in the file counts, not its name
    write(folder, child=CHILD.replace("default: a", "default: b"))
    up(store, folder, parameters={"size": 2})
    engine.run()
    assert world.properties()["web.0"] == {"size": 2, "word": "b"}
    store.delete_stack("shop")
    assert engine.run() == [
        "cleanup after",
        "cleanup child",
        "cleanup web",
        "stack",
        "cleanup child",
        "stack",
    ]
    assert (store.stacks(nested=True), world.names()) == ([], [])


def test_an_unchanged_nested_stack_is_left_alone(
    store: converge.Store, engine: StepEngine, folder: Path
) -> None:
    up(store, folder)
    engine.run()
    traversal = store.stack("shop/child").traversal
    write(folder, outer=OUTER + "  more: {value: 1}\n")
    up(store, folder)
    assert engine.run() == ["stack"]
    assert store.stack("shop/child").traversal == traversal


def test_what_fails_in_it_fails_its_resource_and_is_tried_again(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    world.fail("create web")
    stack = up(store, folder)
    engine.run()
    reason = "resource 'child': stack 'shop/child': CREATE FAILED: resource 'web': RuntimeError"
    assert (stack.refresh().status, str(stack.reason)[: len(reason)]) == ("FAILED", reason)
    assert up(store, folder).outcome == "started"
    engine.run()
    assert (stack.refresh().status, world.names()) == ("COMPLETE", ["after.0", "web.0"])


def test_its_resource_is_retried_as_it_says(
    store: converge.Store, engine: StepEngine, world: FakeWorld, clock: FakeClock, folder: Path
) -> None:
    write(
        folder,
        outer=OUTER.replace(
            "type: ./child.yaml", "type: ./child.yaml\n    retry: {attempts: 2, first: 5}"
        ),
    )
    world.fail("create web")
    stack = up(store, folder)
    engine.run()
    assert stack.refresh().status == "IN_PROGRESS"
    clock.advance(6)
    engine.run()
    assert (stack.refresh().status, store.stack("shop/child").status) == ("COMPLETE", "COMPLETE")


def test_it_is_rolled_back_with_its_outer_stack(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    up(store, folder)
    engine.run()
    world.fail("update after")
    stack = up(store, folder, parameters={"size": 2}, on_failure="rollback")
    engine.run()
    assert (stack.refresh().action, stack.status) == ("ROLLBACK", "COMPLETE")
    inner = store.stack("shop/child")
    assert (inner.action, inner.status, inner.version) == ("ROLLBACK", "COMPLETE", 1)
    assert world.properties()["web.0"]["size"] == 1


def test_what_fails_in_it_is_rolled_back_with_it(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    up(store, folder)
    engine.run()
    world.fail("update web")
    stack = up(store, folder, parameters={"size": 2}, on_failure="rollback")
    engine.run()
    assert (stack.refresh().action, stack.status) == ("ROLLBACK", "COMPLETE")
    assert (store.stack("shop/child").status, store.stack("shop/child").version) == ("COMPLETE", 1)


def test_a_rollback_to_nothing_deletes_it(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    world.fail("create after")
    stack = up(store, folder, on_failure="rollback")
    engine.run()
    assert (stack.refresh().action, stack.status, world.names()) == ("ROLLBACK", "COMPLETE", [])
    assert [one["name"] for one in store.stacks()] == ["shop"]


def test_it_is_stopped_with_its_outer_stack_and_goes_on_with_it(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    stack = up(store, folder)
    engine.run(until="update child")
    store.cancel_stack("shop")
    inner = store.stack("shop/child")
    assert (stack.refresh().status, inner.status) == ("CANCELLED", "CANCELLED")
    assert inner.reason == "its outer stack 'shop' was stopped"
    assert (engine.run(), world.names()) == ([], [])
    up(store, folder)
    engine.run()
    assert (stack.refresh().status, world.names()) == ("COMPLETE", ["after.0", "web.0"])


def test_what_fails_beside_it_stops_it(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    write(folder, outer=OUTER.replace("  after:", "  other: {type: fake}\n  after:"))
    world.fail("create other")
    stack = up(store, folder)
    assert engine.run()[0] == "update child"
    assert (stack.refresh().status, store.stack("shop/child").status) == ("FAILED", "CANCELLED")


def test_a_sweep_stops_what_a_death_left_running(
    store: converge.Store, engine: StepEngine, folder: Path
) -> None:
    up(store, folder)
    engine.run(until="update child")
    with store.transaction() as tx:
        store.cancel_stack("shop", transaction=tx)
    assert store.stack("shop/child").status == "IN_PROGRESS"
    assert store.recover().overdue == 1
    assert store.stack("shop/child").status == "CANCELLED"


def test_a_newer_version_of_the_outer_stack_takes_it_over(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    up(store, folder)
    engine.run(until="update child")
    assert up(store, folder, parameters={"size": 2}).outcome == "superseded"
    engine.run()
    assert world.properties()["web.0"]["size"] == 2
    assert store.show("shop")["outputs"] == {"size": 2}


def test_the_same_version_goes_on_with_what_runs_in_it(
    store: converge.Store, engine: StepEngine, folder: Path
) -> None:
    up(store, folder)
    engine.run(until="update child")
    running = store.stack("shop/child").traversal
    write(folder, outer=OUTER + "  more: {value: 1}\n")
    assert up(store, folder).outcome == "superseded"
    engine.run()
    assert (store.stack("shop/child").traversal, store.stack("shop").status) == (
        running,
        "COMPLETE",
    )


def test_an_end_that_comes_while_its_handler_looks_is_not_missed(
    store: converge.Store, engine: StepEngine, folder: Path
) -> None:
    up(store, folder)
    (work,) = engine.claim()
    outcome = engine.call(work)
    # its stack ends before it is noted that somebody waits for that
    assert engine.run() == ["update web", "stack"]
    engine.write(outcome)
    assert engine.run() == ["update child", "update after", "stack"]


def test_a_sweep_finds_a_wake_up_that_was_lost(
    store: converge.Store,
    engine: StepEngine,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    up(store, folder)
    with monkeypatch.context() as patch:
        patch.setattr("converge.protocol.finish.wake_outer", lambda *_: None)
        assert engine.run() == ["update child", "update web", "stack"]
    store.recover()
    assert engine.run() == ["update child", "update after", "stack"]


@pytest.mark.parametrize(
    "verb",
    [
        "update_stack",
        "converge_stack",
        "rollback_stack",
        "delete_stack",
        "check_stack",
        "cancel_stack",
    ],
)
def test_only_its_outer_stack_changes_it(
    store: converge.Store, engine: StepEngine, folder: Path, verb: str
) -> None:
    up(store, folder)
    engine.run()
    given: list[Any] = []
    options: dict[str, Any] = {}
    if verb in ("update_stack", "converge_stack"):
        given = [converge.Template.load(folder / "child.yaml")]
        options["parameters"] = {"size": 3}
    with pytest.raises(converge.Conflict, match="belongs to resource 'child' of stack 'shop'"):
        getattr(store, verb)("shop/child", *given, **options)


def test_what_is_forgotten_or_left_in_place_is_a_stack_of_its_own(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    up(store, folder)
    engine.run()
    store.forget_resource("shop", "child")
    store.delete_stack("shop/child")
    engine.run()
    assert world.names() == ["after.0"]
    write(folder, outer=OUTER.replace("child.yaml", "child.yaml\n    deletion_policy: retain"))
    up(store, folder)
    engine.run()
    store.delete_stack("shop")
    engine.run()
    assert [one["name"] for one in store.stacks()] == ["shop/child"]
    found = [one["reason"] for one in store.events("shop/child") if one["action"] == "RELEASE"]
    assert found == ["it is a stack of its own now: it was left in place"]
    assert store.delete_stack("shop/child").outcome == "started"


def test_a_protected_resource_in_it_is_not_deleted(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    write(folder, child=CHILD.replace("web: {type: fake,", "web: {type: fake, protect: true,"))
    up(store, folder)
    engine.run()
    stack = store.delete_stack("shop")
    engine.run()
    assert stack.refresh().status == "FAILED"
    assert "it would delete what is protected in stack 'shop/child': 'web'" in str(stack.reason)
    assert world.names() == ["web.0"]


def test_two_versions_of_it_do_not_get_in_each_others_way(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    up(store, folder)
    engine.run()
    up(store, folder, replace=["child"])
    engine.run()
    assert world.names() == ["after.0", "web.1"]
    (name,) = (one["name"] for one in store.stacks(nested=True) if one["outer"])
    assert name.startswith("shop/child~")


def test_it_is_checked_with_its_outer_stack_and_mended(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    up(store, folder)
    engine.run()
    world.things["web.0"].properties["size"] = 7
    stack = store.check_stack("shop")
    engine.run()
    assert (stack.refresh().status, stack.reason) == ("COMPLETE", "drifted: 'child'")
    up(store, folder)
    engine.run()
    assert world.properties()["web.0"]["size"] == 1
    assert store.stack("shop").status == "COMPLETE"


def test_it_moves_with_its_resource(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    up(store, folder)
    engine.run()
    store.converge_stack("other", converge.Template.parse("resources: {}"))
    engine.run()
    store.move_resource("shop", "child", "child", to="other")
    with pytest.raises(converge.Conflict, match="of stack 'other'"):
        store.delete_stack("shop/child")
    store.delete_stack("other")
    engine.run()
    assert world.names() == ["after.0"]


def test_a_secret_stays_one_in_it_and_as_its_output(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    outer = OUTER.replace("parameters:", "parameters:\n  pass: {type: string, hidden: true}", 1)
    outer = outer.replace("properties: {size:", "properties: {word: {get_param: pass}, size:", 1)
    outer = outer.replace("{get_attr: [child, size]}", "{get_attr: [child, word]}", 1)
    write(folder, outer=outer, child=CHILD + "  word: {value: {get_attr: [web, word]}}\n")
    world.fail("create web")
    up(store, folder, parameters={"pass": "s3cret-word"})
    engine.run()
    up(store, folder, parameters={"pass": "s3cret-word"})
    engine.run()
    assert world.properties()["after.0"] == {"size": "s3cret-word"}
    for name in ("shop", "shop/child"):
        for shown in (store.show(name), store.events(name), store.why(name)):
            assert "s3cret-word" not in repr(shown)


def test_stacks_are_nested_fifteen_levels_deep_and_no_deeper(
    store: converge.Store, engine: StepEngine, world: FakeWorld, tmp_path: Path
) -> None:
    nested = "resources: {child: {type: %s.yaml}}\noutputs: {v: {value: {get_attr: [child, v]}}}"
    levels = {f"n{level}": nested % f"n{level + 1}" for level in range(15)}
    end = "resources: {web: {type: fake}}\noutputs: {v: {value: {get_resource: web}}}"
    write(tmp_path, **levels, n15=end, outer=nested % "n0")
    with pytest.raises(converge.TemplateError, match=r"more than 15 levels deep: .*n14\.yaml > "):
        converge.Template.load(tmp_path / "outer.yaml")
    stack = store.create_stack("shop", converge.Template.load(tmp_path / "n0.yaml"))
    engine.run()
    assert (stack.refresh().status, store.show("shop")["outputs"]) == ("COMPLETE", {"v": "web.0"})
    store.delete_stack("shop")
    engine.run()
    assert (store.stacks(nested=True), world.names()) == ([], [])


def test_a_stop_reaches_what_is_nested_deeper(
    store: converge.Store, engine: StepEngine, tmp_path: Path
) -> None:
    nested = "resources: {child: {type: %s.yaml}}"
    write(tmp_path, outer=nested % "a", a=nested % "b", b="resources: {web: {type: fake}}")
    up(store, tmp_path)
    assert (engine.step(), engine.step()) == ("update child", "update child")
    store.cancel_stack("shop")
    found = {one["name"]: one["status"] for one in store.stacks(nested=True)}
    assert set(found.values()) == {"CANCELLED"}
    assert store.stack("shop/child/child").reason == "its outer stack 'shop/child' was stopped"


def test_a_program_writes_the_template_out(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    body = converge.Template.parse(CHILD).to_dict()
    resource = {"type": "stack", "properties": {"template": body, "parameters": {"size": 3}}}
    outer = converge.Template.from_dict(
        {
            "resources": {"child": resource},
            "outputs": {"id": {"value": {"get_attr": ["child", "id"]}}},
        }
    )
    store.create_stack("shop", outer)
    engine.run()
    assert (store.show("shop")["outputs"], world.properties()["web.0"]["size"]) == (
        {"id": "web.0"},
        3,
    )
    # what it gives back, it takes
    assert converge.Template.from_dict(outer.to_dict()).dump() == outer.dump()


def test_its_relative_paths_start_in_its_own_folder(
    store: converge.Store, engine: StepEngine, tmp_path: Path
) -> None:
    from converge.resources import File

    engine.core.types = {**engine.types, "file": File()}
    os.mkdir(tmp_path / "sub")
    write(tmp_path, outer="resources: {child: {type: sub/child.yaml}}")
    write(
        tmp_path / "sub",
        child="resources: {f: {type: file, properties: {path: f.txt, content: x}}}",
    )
    engine = StepEngine(store, {"stack": Stack(), "file": File()})
    up(store, tmp_path)
    engine.run()
    assert (tmp_path / "sub" / "f.txt").read_text() == "x"


def test_limits_hold_for_what_is_in_it_and_not_for_itself(
    store: converge.Store, engine: StepEngine, world: FakeWorld, folder: Path
) -> None:
    store.set_limit(stack="shop", places=1)
    store.set_limit(type="fake", places=1)
    stack = up(store, folder, node_timeout=5)
    engine.run(until="update child")
    engine.clock.advance(60)  # type: ignore[union-attr]
    engine.run()
    assert (stack.refresh().status, world.names()) == ("COMPLETE", ["after.0", "web.0"])


def test_what_the_outer_stack_has_started_anew_is_not_stopped(
    store: converge.Store, engine: StepEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(store, folder)
    engine.run(until="update child")
    with store.transaction() as tx:
        store.cancel_stack("shop", transaction=tx)
    look = inner_stacks.list_left_running

    def slow(tx: Transaction, limit: int, outer: int | None) -> list[int]:
        found = look(tx, limit, outer)
        monkeypatch.setattr(inner_stacks, "list_left_running", look)
        # before they are stopped, another traversal goes on in them
        up(store, folder)
        engine.run(until="update child")
        return found

    monkeypatch.setattr(inner_stacks, "list_left_running", slow)
    stop_nested(store.database)
    assert store.stack("shop/child").status == "IN_PROGRESS"
    engine.run()
    assert store.stack("shop").status == "COMPLETE"


def test_a_plan_looks_into_it(store: converge.Store, engine: StepEngine, folder: Path) -> None:
    def plan(**parameters: Any) -> list[str]:
        template = converge.Template.load(folder / "outer.yaml")
        found = store.plan("shop", template, parameters=parameters, types=engine.types)
        return list(plans.render(found))

    assert plan() == [
        "  + child (stack)",
        "      file: ./child.yaml",
        '      parameters: {"size": 1}',
        "  + child/web (fake)",
        "      size: 1",
        "      word: a",
        "  + after (fake)",
        "      size: (after child)",
        "stack 'shop': 2 to create, nested: 1 to create",
    ]
    up(store, folder)
    engine.run()
    assert plan() == ["stack 'shop': nothing to do, 2 unchanged"]
    assert plan(size=2) == [
        "  ~ child (stack)",
        '      parameters: {"size": 1} → {"size": 2}',
        "  ~ child/web (fake): or replaced, if its type asks for it",
        "      size: 1 → 2",
        "  ~ after (fake): perhaps, or replaced, if its type asks for it",
        "      size: 1 → (after child)",
        "stack 'shop': 1 to update, 1 may be updated, nested: 1 to update",
    ]
    found = store.plan_delete("shop", types=engine.types)
    assert [one.name for one in found.nested["child"].changes] == ["web"]


def test_it_is_named_where_one_looks(
    store: converge.Store, engine: StepEngine, folder: Path
) -> None:
    up(store, folder)
    engine.run(until="update child")
    assert [one["name"] for one in store.stacks()] == ["shop"]
    assert [(one["name"], one["outer"]) for one in store.stacks(nested=True)] == [
        ("shop", None),
        ("shop/child", "shop"),
    ]
    assert store.show("shop")["nested"] == {"child": "shop/child"}
    assert store.show("shop/child")["outer"] == {"stack": "shop", "resource": "child"}
    (waiting,) = store.waiting("shop")
    assert waiting["progress"] == "waits for stack 'shop/child'"
    assert (waiting["again_in_seconds"], waiting["until"]) == (None, "its stack has ended")
    (why,) = (one["message"] for one in store.why("shop") if one["resource"] == "child")
    assert "waits: waits for stack 'shop/child'" in why
    assert "until its stack has ended" in why


def test_what_takes_no_part_in_it_is_refused(
    store: converge.Store, engine: StepEngine, folder: Path
) -> None:
    with pytest.raises(converge.BadInput, match="take no places"):
        store.set_limit(type="stack", places=1)
    up(store, folder)
    engine.run()
    more = "  more: {type: ./child.yaml, properties: {size: 1}}\n  after:"
    text = OUTER.replace("  after:", more)
    write(folder, outer=text)
    with pytest.raises(converge.BadInput, match="is a nested stack, which converge makes itself"):
        store.adopt_resource(
            "shop", "more", "x", converge.Template.load(folder / "outer.yaml"), types=engine.types
        )
