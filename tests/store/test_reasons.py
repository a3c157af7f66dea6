"""What is kept of a handler's exception, on each database: its reason, its traceback, a line in
the log; and nothing of what is secret."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.cli import main
from converge.reasons import TRACEBACK_LENGTH
from converge.testing import FakeClock, StepEngine
from tests.templates import one_of_each, several

SECRETS = {"word": "s3cret-word-1", "key": '{"private": "s3cret-key-2"}'}
OLD = "s3cret-old-3"
TEMPLATE = """
parameters:
  word: {type: string, hidden: true}
  key: {type: json, hidden: true}
  size: {type: number, default: 1}
resources:
  thing:
    type: thing
    properties: {word: {get_param: word}, key: {get_param: [key, private]}, size: {get_param: size}}
outputs:
  word: {value: {str_replace: {template: "it is W", params: {W: {get_param: word}}}}}
"""


class Thing(converge.ResourceType):
    """Fails as it is told to, with all that it knows."""

    retry = converge.RetryPolicy(attempts=2, first=1)
    fails = True
    word = "x"

    def create(self, context: converge.Context, properties: Any) -> None:
        self._fail(properties)

    def update(self, *given: Any) -> None:
        # the old ones, too
        self._fail({**given[2], "before": given[3]})

    def delete(self, context: converge.Context, physical_id: str) -> None:
        self._fail(context.properties)

    def _fail(self, properties: object) -> None:
        if self.fails:
            raise LookupError(f"{properties} {self.word}")


def fail_twice(engine: StepEngine, clock: FakeClock) -> None:
    engine.run()
    clock.advance(2)
    engine.run()


def test_a_traceback_is_kept_until_its_resource_is_well_and_logged(
    store: converge.Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "converge.failures")
    thing = Thing()
    engine = StepEngine(store, {"thing": thing}, clock=clock)
    template = one_of_each("thing")
    store.create_stack("s", template)
    engine.run()
    line = Thing._fail.__code__.co_firstlineno + 2
    reason = f"LookupError: {{}} x (test_reasons.py:{line} in _fail)"
    (answer,) = store.why("s", "thing")
    assert (answer["state"], answer["reason"]) == ("READY", reason)
    assert answer["traceback"].startswith("Traceback (most recent call last):\n")
    assert answer["traceback"].endswith("LookupError: {} x\n")
    clock.advance(2)
    engine.run()
    (answer,) = store.why("s", "thing")
    assert answer["message"] == f"resource 'thing' is FAILED: {reason}"
    assert "in _fail\n" in answer["traceback"]
    words = "stack 's': create of resource 'thing' failed"
    lines = [(one.levelname, one.getMessage().splitlines()[:2]) for one in caplog.records]
    assert lines == [
        (
            "WARNING",
            [f"{words}, will be retried in 1 s: {reason}", "Traceback (most recent call last):"],
        ),
        ("ERROR", [f"{words}: {reason}", "Traceback (most recent call last):"]),
    ]

    # a check that only tells of it again keeps it
    store.check_stack("s")
    engine.run()
    (answer,) = store.why("s", "thing")
    assert (answer["reason"], answer["traceback"][:9]) == (reason, "Traceback")
    # a longer one keeps its end
    thing.word = "x" * 30_000
    store.update_stack("s", template)
    fail_twice(engine, clock)
    (answer,) = store.why("s", "thing")
    assert TRACEBACK_LENGTH - 3 <= len(answer["traceback"]) <= TRACEBACK_LENGTH
    assert answer["traceback"].endswith("xxx\n")
    # another failure has not the traceback of the last one
    thing.schema = {"size": converge.Property(int, required=True)}  # type: ignore[misc]
    store.update_stack("s", template)
    engine.run()
    (answer,) = store.why("s", "thing")
    assert "'size'" in answer["reason"]
    assert answer["traceback"] is None
    del thing.schema
    store.update_stack("s", template)
    fail_twice(engine, clock)
    assert store.why("s", "thing")[0]["traceback"] is not None
    thing.fails = False
    store.update_stack("s", template)
    engine.run()
    (answer,) = store.why("s", "thing")
    assert (answer["state"], answer["reason"], answer["traceback"]) == ("COMPLETE", None, None)


def test_a_person_reads_the_traceback_of_a_resource(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def why(*words: str) -> tuple[int, str]:
        status = main(["why", "--db", url, "s", *words])
        return status, capsys.readouterr().out

    url = f"sqlite:///{tmp_path}/a.db"
    store = converge.connect(url, create_schema=True)
    template = one_of_each("thing")
    store.create_stack("s", template)
    assert why("thing", "--traceback")[1].endswith("\nthere is no traceback\n")

    class Slow(Thing):
        # on the real clock: it is still waited for when the answers come
        retry = converge.RetryPolicy(attempts=2, first=600)

    thing = Slow()
    thing.word = "\x1b[2J"
    StepEngine(store, {"thing": thing}).run()
    status, text = why("thing", "--traceback")
    assert status == 0
    message, first, *_, last = text.splitlines()
    assert message.startswith("resource 'thing' will be retried in ")
    assert first == "Traceback (most recent call last):"
    # a terminal is not moved by it
    assert last == r"LookupError: {} \x1b[2J"
    _, retry, reason = message.partition(" (retry 1 of 1)")
    assert retry
    assert why("thing")[1].endswith(f"{retry}{reason}\n")
    store.close()


def test_what_hidden_parameters_are_and_were_is_told_nowhere(
    store: converge.Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    thing = Thing()
    engine = StepEngine(store, {"thing": thing}, clock=clock)
    template = converge.Template.parse(TEMPLATE)
    thing.fails = False
    stack = store.create_stack("s", template, parameters={**SECRETS, "word": OLD})
    engine.run()
    assert stack.refresh().status == "COMPLETE"

    def told() -> str:
        return str(
            [
                store.show("s"),
                store.events("s"),
                store.stacks(),
                store.why("s"),
                store.why("s", "thing"),
                [one.getMessage() for one in caplog.records],
            ]
        )

    thing.fails = True
    store.update_stack("s", template, parameters=SECRETS)
    engine.run()
    assert "retry 1 of 1); it failed: LookupError: {'key': '***'" in told()
    assert "s3cret" not in told()
    clock.advance(2)
    engine.run()
    assert "resource 'thing' failed: LookupError: {'key': '***'" in told()
    assert "s3cret" not in told()
    store.delete_stack("s")
    fail_twice(engine, clock)
    assert "resource 'thing' failed: LookupError: {'key': '***'" in told()
    assert "the DELETE is FAILED" in told()
    assert "s3cret" not in told()

    shown = store.show("s")
    assert shown["resources"]["thing"]["properties"] == {"key": "***", "size": 1, "word": "***"}
    # a program can have them
    shown = store.show("s", reveal=True)
    assert shown["resources"]["thing"]["properties"]["word"] == OLD


def test_outputs_with_hidden_parameters_are_starred_unless_revealed(
    store: converge.Store, clock: FakeClock
) -> None:
    thing = Thing()
    thing.fails = False
    template = converge.Template.parse(TEMPLATE)
    store.create_stack("s", template, parameters=SECRETS)
    StepEngine(store, {"thing": thing}, clock=clock).run()
    assert store.show("s")["outputs"] == {"word": "it is ***"}
    assert store.outputs("s") == {"word": "it is ***"}
    assert store.show("s", reveal=True)["outputs"] == {"word": "it is s3cret-word-1"}


def test_no_secret_is_looked_for_but_once_in_each_traversal_that_fails(
    store: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converge.engine import core
    from converge.protocol.secrets import read_secrets

    looks: list[int] = []

    def look(tx: Any, stack_id: int) -> Any:
        looks.append(stack_id)
        return read_secrets(tx, stack_id)

    monkeypatch.setattr(core, "read_secrets", look)
    thing = Thing()
    engine = StepEngine(store, {"thing": thing}, clock=clock)
    stack = store.create_stack("s", several("thing", 3), on_failure="continue")
    fail_twice(engine, clock)
    assert stack.refresh().status == "FAILED"
    assert looks == [stack.id]
    thing.fails = False
    store.update_stack("s", several("thing", 3))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert looks == [stack.id]
