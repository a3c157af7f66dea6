"""What a template says of a resource besides its properties: triggers, retry, timeout, deadline,
and where relative paths start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import converge
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.templates import template


class Told(converge.ResourceType):
    """Notes what its handlers are told."""

    relative_paths = True
    timeout = 30.0

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.timeouts: list[float | None] = []
        self.failures = 0

    def _note(self, call: str, context: converge.Context) -> None:
        self.calls.append((call, context.directory))
        self.timeouts.append(context.timeout)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("not now")

    def create(self, context: converge.Context, properties: Any) -> None:
        self._note("create", context)

    def update(self, context: converge.Context, physical_id: str, *_: Any) -> None:
        self._note("update", context)

    def check(self, context: converge.Context, physical_id: str, properties: Any) -> None:
        self._note("check", context)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        self._note("delete", context)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def engine(store: converge.Store, clock: FakeClock, told: Told) -> StepEngine:
    return StepEngine(store, {"told": told}, clock=clock)


# -- triggers


@pytest.mark.parametrize("type_", ["fake", "fixed", "only"])
def test_a_changed_trigger_replaces_a_resource_of_any_type(
    store: converge.Store, type_: str
) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    inner = {"type": type_, "triggers": [{"get_resource": "outer"}]}

    def outer(replaced: int) -> converge.Template:
        return template(outer={"properties": {"replace": replaced}}, inner=inner)

    stack = store.create_stack("s", outer(1))
    engine.run()
    store.update_stack("s", outer(1))
    engine.run()
    assert sorted(world.things) == ["inner.0", "outer.0"]
    store.update_stack("s", outer(2))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert sorted(world.things) == ["inner.1", "outer.1"]
    # what the replacement was made with is what the next value is compared with
    store.update_stack("s", outer(3))
    engine.run()
    assert sorted(world.things) == ["inner.2", "outer.2"]
    store.update_stack("s", outer(3))
    engine.run()
    assert sorted(world.things) == ["inner.2", "outer.2"]


def test_a_resource_that_has_triggers_for_the_first_time_stays(store: converge.Store) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    store.create_stack("s", template(a=[]))
    engine.run()
    for triggers in (1, 1, None):
        store.update_stack("s", template(a={} if triggers is None else {"triggers": triggers}))
        engine.run()
        assert sorted(world.things) == ["a.0"]
    store.update_stack("s", template(a={"triggers": 2}))
    engine.run()
    store.update_stack("s", template(a={"triggers": 2.0}))
    engine.run()
    assert sorted(world.things) == ["a.1"]


def test_a_rollback_of_a_changed_trigger_keeps_the_original(store: converge.Store) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    stack = store.create_stack("s", template(a={"triggers": 1}))
    engine.run()
    store.update_stack("s", template(a={"triggers": 2}))
    engine.run("update a")
    assert sorted(world.things) == ["a.0", "a.1"]
    store.rollback_stack("s")
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert sorted(world.things) == ["a.0"]


def test_a_trigger_is_an_edge() -> None:
    wanted = template(a={}, b={"triggers": {"deep": [{"get_attr": ["a", "x"]}]}})
    assert wanted.resources["b"].requires == ("a",)


# -- retry, timeout, deadline


def test_retry_and_timeout_stand_before_those_of_the_type(
    store: converge.Store, engine: StepEngine, told: Told, clock: FakeClock
) -> None:
    told.failures = 2
    limits = {"retry": {"attempts": 3, "first": 0.5}, "timeout": 90}
    stack = store.create_stack("s", template(a=limits, type="told"))
    engine.run()
    assert len(told.calls) == 1
    clock.advance(0.5)
    engine.run()
    clock.advance(1)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert [call for call, _ in told.calls] == ["create"] * 3
    assert told.timeouts == [90, 90, 90]
    # a delete has them, too, of the version that was reached last
    told.failures = 1
    store.delete_stack("s")
    engine.run()
    clock.advance(1)
    engine.run()
    assert told.calls[3:] == [("delete", None)] * 2
    assert not stack.refresh().live


def test_a_changed_limit_changes_nothing_real(
    store: converge.Store, engine: StepEngine, told: Told
) -> None:
    store.create_stack("s", template(a={}, type="told"))
    engine.run()
    store.update_stack("s", template(a={"timeout": 5}, type="told"))
    engine.run()
    assert [call for call, _ in told.calls] == ["create"]
    store.check_stack("s")
    engine.run()
    store.update_stack("s", template(a={}, type="told"))
    engine.run()
    store.check_stack("s")
    engine.run()
    assert told.timeouts == [30, 5, 30]


def test_a_traversal_can_only_shorten_a_timeout(
    store: converge.Store, engine: StepEngine, told: Told
) -> None:
    store.create_stack("s", template(a={"timeout": 90}, type="told"), node_timeout=60)
    engine.run()
    assert told.timeouts == [60]


def test_a_deadline_ends_the_attempts(
    store: converge.Store, engine: StepEngine, told: Told, clock: FakeClock
) -> None:
    told.failures = 99
    limits = {"retry": {"attempts": 50, "first": 4, "most": 4}, "deadline": 10}
    stack = store.create_stack("s", template(a=limits, type="told"))
    for _ in range(20):
        engine.run()
        clock.advance(4)
    assert stack.refresh().status == "FAILED"
    assert "no time for another attempt: the deadline is 10 s" in (stack.reason or "")
    # at 0, 4 and 8 seconds; each may take what is left
    assert len(told.calls) == 3
    assert [round(one or 0) for one in told.timeouts] == [10, 6, 2]


def test_limits_can_be_parameters() -> None:
    wanted = converge.Template.parse(
        "parameters: {n: {type: number, default: 4}}\n"
        "resources: {a: {type: none, retry: {attempts: {get_param: n}}, timeout: {get_param: n}}}"
    )
    made = wanted.definitions({"n": 2}, "s")["a"]
    assert made.settings == {"retry": {"attempts": 2}, "timeout": 2}
    with pytest.raises(converge.TemplateError, match=r"retry\.attempts must be a whole"):
        wanted.definitions({"n": 2.5}, "s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timeout: 0", "timeout must be a positive number of seconds, not 0"),
        ("timeout: '5'", "timeout must be a positive number of seconds, not '5'"),
        ("deadline: -1", "deadline must be a positive number"),
        ("retry: 0", "retry.attempts must be a whole number from 1, not 0"),
        ("retry: x", "retry must be a number of attempts, or a mapping of attempts, first, most"),
        ("retry: {attemps: 3}", "retry has no key 'attemps'; did you mean 'attempts'?"),
        ("retry: {first: -1}", "retry.first must be a positive number"),
        ("timeout: {get_attr: [b, x]}", "timeout of resource 'a' must be known before anything"),
        ("triggers: {yaql: 1}", "does not evaluate the function yaql"),
    ],
)
def test_wrong_settings(text: str, message: str) -> None:
    with pytest.raises(converge.TemplateError) as caught:
        converge.Template.parse(
            f"resources:\n  b: {{type: none}}\n  a:\n    type: none\n    {text}"
        )
    assert message in caught.value.message
    assert caught.value.line == 5


# -- relative paths


def test_handlers_are_told_where_relative_paths_start(
    store: converge.Store, engine: StepEngine, told: Told, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "t.yaml").write_text("resources: {a: {type: told, properties: {x: 1}}}")
    stack = store.create_stack("s", converge.Template.load(one / "t.yaml"))
    engine.run()
    store.check_stack("s")
    engine.run()
    # moved: what was made in the old folder is there still
    store.update_stack("s", converge.Template.load(other / "t.yaml"))
    engine.run()
    store.check_stack("s")
    engine.run()
    assert told.calls == [("create", str(one)), ("check", str(one)), ("check", str(one))]
    (other / "t.yaml").write_text("resources: {a: {type: told, properties: {x: 2}}}")
    store.update_stack("s", converge.Template.load(other / "t.yaml"))
    engine.run()
    # of a rollback, the folder is that of the version
    store.rollback_stack("s", version=1)
    engine.run()
    store.delete_stack("s")
    engine.run()
    assert told.calls[3:] == [
        ("update", str(other)),
        ("update", str(one)),
        ("delete", str(one)),
    ]
    assert not stack.refresh().live


def test_a_text_has_the_folder_that_it_is_given(tmp_path: Path) -> None:
    text = "resources: {}"
    assert converge.Template.parse(text).directory is None
    assert converge.Template.parse(text, directory=tmp_path).directory == str(tmp_path)
    assert converge.Template.from_dict({"resources": {}}, directory=".").directory == str(
        Path.cwd()
    )


# -- what a type declares of its properties


class Fixed(Told):
    """Has a property that cannot be changed in place, and one with a default."""

    schema = {  # noqa: RUF012 - never changed
        "image": converge.Property(str, immutable=True),
        "size": converge.Property(int, default=1),
    }

    def create(self, context: converge.Context, properties: Any) -> None:
        self.calls.append(("create", dict(properties)))

    def update(self, context: converge.Context, physical_id: str, *given: Any) -> None:
        self.calls.append(("update", dict(given[0])))

    def delete(self, context: converge.Context, physical_id: str) -> None:
        self.calls.append(("delete", dict(context.properties)))


def test_an_immutable_property_replaces_and_a_default_is_given(
    store: converge.Store, clock: FakeClock
) -> None:
    fixed = Fixed()
    engine = StepEngine(store, {"fixed": fixed}, clock=clock)

    def bring(**properties: Any) -> list[tuple[str, Any]]:
        fixed.calls.clear()
        store.converge_stack("s", template(a={"properties": properties}, type="fixed"))
        engine.run()
        return fixed.calls

    assert bring(image="a") == [("create", {"image": "a", "size": 1})]
    assert bring(image="a", size=1) == []
    assert bring(image="a", size=2) == [("update", {"image": "a", "size": 2})]
    assert bring(image="b", size=2) == [
        ("create", {"image": "b", "size": 2}),
        ("delete", {"image": "a", "size": 2}),
    ]
