"""What becomes of errors, signals and broken pipes at the outermost edge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from converge.cli import commands, main
from converge.cli.running import EventReader, Interrupts, Watch, wait_until
from converge.errors import Conflict, StoreError, TemplateError


class BrokenProcess(OSError):
    """Has no words."""


def failing(error: BaseException) -> object:
    def run(arguments: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (TemplateError("no", source="a\nb.yaml", line=3), 2, "converge: error: a\nb.yaml:3: no\n"),
        (Conflict("first \x1b[31m"), 2, "converge: error: first \\x1b[31m\n"),
        (StoreError("away"), 2, "converge: error: away\n"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("boom"), 70, "unexpected RuntimeError: boom\nset CONVERGE_DEBUG=1"),
    ],
)
def test_errors_are_one_message_without_a_traceback(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("CONVERGE_DEBUG", raising=False)
    monkeypatch.setattr(commands, "run", failing(error))
    assert main(["list"]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("error", "document"),
    [
        (
            TemplateError("no", source="a.yaml", line=3),
            {"message": "a.yaml:3: no", "kind": "TemplateError", "exit": 2}
            | {"source": "a.yaml", "line": 3},
        ),
        (Conflict("first \x1b[31m"), {"message": "first \x1b[31m", "kind": "Conflict", "exit": 2}),
        (StoreError("away"), {"message": "away", "kind": "StoreError", "exit": 2}),
        (BrokenProcess(), {"message": "BrokenProcess", "kind": "BrokenProcess", "exit": 2}),
        (KeyboardInterrupt(), {"message": "interrupted", "kind": "Interrupted", "exit": 130}),
        (RuntimeError("boom"), {"message": "boom", "kind": "RuntimeError", "exit": 70}),
    ],
)
def test_errors_of_commands_with_json_are_json(
    error: BaseException,
    document: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("CONVERGE_DEBUG", raising=False)
    monkeypatch.setattr(commands, "run", failing(error))
    assert main(["list", "--json"]) == document["exit"]
    output = capsys.readouterr()
    assert json.loads(output.out) == {"error": document}
    assert output.err == ""


# of every command, and of none
WRONG = [
    "up nothing.yaml",
    "up t.yaml --workers 0",
    "down s",
    "rollback s --to x",
    "check s",
    "cancel s",
    "forget s r",
    "move s a b",
    "signal s r",
    "list extra",
    "show s",
    "graph s",
    "events s --follow",
    "why s",
    "engine",
    "engines --al",
    "recover --all",
    "journal prune",
    "machine show m k",
    "db",
    "up",
    "nonsense",
    "",
]


@pytest.mark.parametrize("words", WRONG)
def test_every_command_refuses_in_json_where_that_is_asked_for(
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    assert main([*words.split(), "--json"]) == 2
    output = capsys.readouterr()
    error = json.loads(output.out)["error"]
    assert error["message"]
    assert (error["exit"], output.err) == (2, "")


def test_debugging_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONVERGE_DEBUG", "1")
    monkeypatch.setattr(commands, "run", failing(RuntimeError("boom")))
    assert main(["list"]) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["show s", "events s", "why s", "down s", "rollback s", "check s", "cancel s"]
)
def test_without_a_database_there_is_no_stack_and_none_is_made(
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    assert main(words.split()) == 2
    assert "there is no stack 's': this folder has no converge.db" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("list", "no stacks\n"),
        ("list --json", "[]\n"),
        ("engines", "no engines\n"),
        ("engines --json", "[]\n"),
        ("why", "nothing is stuck\n"),
        ("why --json", "[]\n"),
        ("recover", "nothing to recover\n"),
    ],
)
def test_without_a_database_there_is_nothing_to_show(
    words: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    assert main(words.split()) == 0
    assert capsys.readouterr().out == text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("numbers", "status"),
    [((signal.SIGINT,), 130), ((signal.SIGTERM, signal.SIGINT), 143)],
)
def test_signals_are_counted_and_the_first_decides(
    numbers: tuple[signal.Signals, ...], status: int
) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts()
    with interrupts.caught():
        for number in numbers:
            signal.raise_signal(number)
        assert not wait_until(lambda: False, interrupts)
    assert (interrupts.count, interrupts.status) == (len(numbers), status)
    assert signal.getsignal(signal.SIGINT) is before


class FakeStore:
    """A store that only has events, given out in the order in which they become visible."""

    def __init__(self) -> None:
        self.visible: list[int] = []

    def events(self, name: str, *, after: int, limit: int = 1000) -> list[dict[str, int]]:
        return [{"id": number} for number in sorted(self.visible) if number > after][:limit]


def test_every_event_is_read_once_even_if_late() -> None:
    store = FakeStore()
    reader = EventReader(store, "s", after=5)  # type: ignore[arg-type]
    store.visible = [4, 5, 6, 9]
    assert [event["id"] for event in reader.new()] == [6, 9]
    assert reader.new() == []
    store.visible += [7, 10]
    assert [event["id"] for event in reader.new()] == [10]
    assert [event["id"] for event in reader.rest()] == [7]
    assert reader.rest() == []


def test_more_events_than_a_page_are_read() -> None:
    store = FakeStore()
    store.visible = list(range(1, 2501))
    assert len(EventReader(store, "s", after=0).new()) == 2500  # type: ignore[arg-type]


class FakeStack:
    """A stack that goes through given states: action, status, traversal, reason."""

    name = "s"

    def __init__(self, *states: tuple[str, str, int, str | None]) -> None:
        self._states = list(states)
        self.refresh()

    def refresh(self) -> None:
        self.action, self.status, self.traversal, self.reason = self._states.pop(0)


class Silent:
    wants_events = wants_updates = tells_stacks = False


RUNNING = ("UPDATE", "IN_PROGRESS", 1, None)


def watch(*states: tuple[str, str, int, str | None]) -> Watch:
    return Watch(FakeStore(), FakeStack(RUNNING, *states), Silent(), 0)  # type: ignore[arg-type]


def test_a_watch_ends_with_its_traversal() -> None:
    watched = watch(RUNNING, ("UPDATE", "COMPLETE", 1, None))
    assert [watched.look(), watched.look()] == [False, True]
    assert not watched.superseded
    assert watched.failure is None


def test_a_watch_follows_the_rollback_of_a_failure() -> None:
    why = "rolled back: resource 'a': boom"
    watched = watch(("ROLLBACK", "IN_PROGRESS", 2, why), ("ROLLBACK", "COMPLETE", 2, None))
    assert [watched.look(), watched.look()] == [False, True]
    assert not watched.superseded
    assert watched.failure == why


@pytest.mark.parametrize("action", ["UPDATE", "DELETE", "ROLLBACK"])
def test_a_watch_ends_when_somebody_else_starts_something(action: str) -> None:
    watched = watch((action, "IN_PROGRESS", 2, None))
    assert watched.look()
    assert watched.superseded


def test_stdout_that_nobody_reads_ends_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "converge", "--version"]
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, "")
