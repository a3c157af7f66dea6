"""``get_secret``: a secret that is kept elsewhere reaches handlers, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import select

import converge
from converge.resources import secret_sources
from converge.sql import schema
from converge.testing import FakeClock, StepEngine

WORD, OTHER = "s3cret-word-1", "s3cret-other-2"
PLAIN = """
resources:
  thing:
    type: thing
    properties:
      password: {get_secret: "env:WORD"}
      url: {list_join: ["", ["db://app:", {get_secret: "file:secrets/key"}, "@host"]]}
      size: 1
"""


class Thing(converge.ResourceType):
    schema: ClassVar[dict[str, converge.Property]] = {
        "password": converge.Property(str, constraints={"length": {"max": 13}}),
        "url": converge.Property(str),
        "size": converge.Property(int),
    }
    retry = converge.RetryPolicy(attempts=1)

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.fails = False

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> Any:
        return self._note(context, properties)

    def update(self, context: converge.Context, physical_id: str, *given: Any) -> Any:
        return self._note(context, *given)

    def check(self, context: converge.Context, physical_id: str, *given: Any) -> None:
        self._note(context, *given)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        self._note(context)

    def _note(self, context: converge.Context, *given: Any) -> converge.Physical:
        self.given.append([*given, dict(context.properties)])
        if self.fails:
            raise LookupError(f"{given} {context.properties}")
        return converge.Physical("thing", {"says": str(given), "size": 1})


@pytest.fixture
def thing() -> Thing:
    return Thing()


@pytest.fixture
def engine(
    store: converge.Store, clock: FakeClock, thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> StepEngine:
    monkeypatch.setenv("WORD", WORD)
    return StepEngine(store, {"thing": thing}, clock=clock)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text(f"{OTHER}\n")
    return tmp_path


def parsed(folder: Path, text: str = PLAIN) -> converge.Template:
    return converge.Template.parse(text, directory=folder)


def all_rows(store: converge.Store) -> str:
    with store.transaction() as tx:
        rows = [tx.execute(select(table)).all() for table in schema.metadata.sorted_tables]
    return str(rows)


def test_handlers_have_the_values_and_the_database_has_what_stands_for_them(
    store: converge.Store, engine: StepEngine, thing: Thing, folder: Path
) -> None:
    store.create_stack("s", parsed(folder))
    engine.run()
    wanted = {"password": WORD, "url": f"db://app:{OTHER}@host", "size": 1}
    assert thing.given == [[wanted, {}]]
    shown = store.show("s", reveal=True)["resources"]["thing"]
    assert shown["properties"] == {
        "password": "<secret env:WORD>",
        "url": "db://app:<secret file:secrets/key>@host",
        "size": 1,
    }
    # what a handler repeats of them
    assert shown["attributes"]["size"] == 1
    assert "'password': '***', 'size': 1, 'url': 'db://app:***@host'" in shown["attributes"]["says"]

    store.update_stack("s", parsed(folder, PLAIN.replace("size: 1", "size: 2")))
    engine.run()
    assert thing.given[1] == [{**wanted, "size": 2}, wanted, wanted]
    store.check_stack("s")
    engine.run()
    assert thing.given[2] == [{**wanted, "size": 2}, {**wanted, "size": 2}]
    store.delete_stack("s")
    engine.run()
    assert thing.given[3] == [{**wanted, "size": 2}]
    assert not [word for word in (WORD, OTHER) if word in all_rows(store)]


def test_another_value_is_no_change_and_another_reference_is_one(
    store: converge.Store,
    engine: StepEngine,
    thing: Thing,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.create_stack("s", parsed(folder))
    engine.run()
    monkeypatch.setenv("WORD", "s3cret-new-3")
    store.update_stack("s", parsed(folder))
    engine.run()
    assert len(thing.given) == 1
    monkeypatch.setenv("WORD2", "s3cret-new-4")
    store.update_stack("s", parsed(folder, PLAIN.replace("env:WORD", "env:WORD2")))
    engine.run()
    wanted, previous, _ = thing.given[1]
    assert (wanted["password"], previous["password"]) == ("s3cret-new-4", "s3cret-new-3")


def test_a_failure_that_quotes_them_is_masked(
    store: converge.Store,
    engine: StepEngine,
    thing: Thing,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    thing.fails = True
    store.create_stack("s", parsed(folder))
    engine.run()
    (answer,) = store.why("s", "thing")
    assert "'password': '***'" in answer["reason"]
    told = all_rows(store) + caplog.text
    assert not [word for word in (WORD, OTHER) if word in told]


def test_one_that_cannot_be_read_is_a_failure_but_not_of_a_delete(
    store: converge.Store,
    engine: StepEngine,
    thing: Thing,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORD")
    store.create_stack("s", parsed(folder))
    engine.run()
    assert store.why("s", "thing")[0]["reason"] == ("the engine's environment has no variable WORD")
    assert thing.given == []
    monkeypatch.setenv("WORD", WORD)
    store.update_stack("s", parsed(folder))
    engine.run()
    monkeypatch.delenv("WORD")
    store.delete_stack("s")
    engine.run()
    assert thing.given[-1][0]["password"] == "<secret env:WORD>"
    assert store.stacks() == []


def test_its_value_is_checked_when_it_is_known_and_not_quoted(
    store: converge.Store,
    engine: StepEngine,
    thing: Thing,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORD", "s3cret-that-is-too-long")
    parsed(folder).validate({"thing": thing})
    store.create_stack("s", parsed(folder))
    engine.run()
    reason = store.why("s", "thing")[0]["reason"]
    assert "it is '***'; its length must be at most 13" in reason


def test_a_parameter_can_name_it(
    store: converge.Store, engine: StepEngine, thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
parameters: {name: {type: string}}
resources: {thing: {type: thing, properties: {password: {get_secret: {get_param: name}}}}}
"""
    store.create_stack("s", converge.Template.parse(text), parameters={"name": "env:WORD"})
    engine.run()
    assert thing.given[0][0] == {"password": WORD}


def test_what_looks_like_it_in_data_is_not_read(
    store: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", WORD)
    monkeypatch.setenv("WORD2", OTHER)
    text = """
parameters: {data: {type: json}, text: {type: string}}
resources:
  thing:
    type: any
    properties:
      data: {get_param: data}
      text: {get_param: text}
      own: {get_secret: "env:WORD"}
"""

    class Anything(Thing):
        schema = None  # type: ignore[assignment]

    anything = Anything()
    engine = StepEngine(store, {"any": anything}, clock=clock)
    given = {"data": {"get_secret": "env:WORD2"}, "text": "<secret env:WORD2>"}
    store.create_stack("s", converge.Template.parse(text), parameters=given)
    engine.run()
    assert anything.given[0][0] == {**given, "own": WORD}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("resources: {r: {type: t, properties: {p: {get_secret: WORD}}}}", "env:NAME, file:PATH"),
        ("resources: {r: {type: t, properties: {p: {get_secret: [env, W]}}}}", "env:NAME, file:"),
        (
            'resources: {r: {type: t, properties: {p: {digest: [md5, {get_secret: "env:W"}]}}}}',
            "get_secret cannot stand in digest",
        ),
        (
            'resources: {r: {type: t, triggers: {get_secret: "env:W"}}}',
            "get_secret cannot stand outside of properties",
        ),
        (
            'outputs: {o: {value: {get_secret: "env:W"}}}\nresources: {}',
            "get_secret cannot stand outside of properties",
        ),
    ],
)
def test_where_it_cannot_be_is_refused_when_the_template_is_read(where: str, message: str) -> None:
    with pytest.raises(converge.TemplateError, match=message):
        converge.Template.parse(where)


def test_sources_and_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        secret_sources, "installed_sources", lambda: {"vault": str.upper, "none": lambda _: None}
    )
    monkeypatch.setenv("CONVERGE_SECRET_KEY", "x")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "empty").write_text("\n")
    read = secret_sources.read_secret
    assert read("vault:word") == "WORD"

    def refused(reference: str) -> str:
        with pytest.raises(converge.BadInput) as caught:
            read(reference, str(tmp_path))
        return str(caught.value)

    assert "no source of secrets 'valt'; did you mean 'vault'" in refused("valt:word")
    assert "is the engine's own" in refused("env:CONVERGE_SECRET_KEY")
    assert "cannot be read: No such file" in refused("file:gone")
    assert "is not UTF-8 text" in refused("file:binary")
    assert "file:empty is empty" in refused("file:empty")
    assert "is not a text but NoneType" in refused("none:x")
    monkeypatch.setenv("CONVERGE_SECRET_SOURCES", "vault, other")
    assert read("vault:word") == "WORD"
    assert "does not read secrets of the source 'env'" in refused("env:HOME")


def test_what_is_shown_is_what_stands_for_it(
    store: converge.Store, engine: StepEngine, folder: Path
) -> None:
    store.create_stack("s", parsed(folder))
    engine.run()
    assert "<secret env:WORD>" in json.dumps(store.show("s"))
