"""What one sees while a stack converges."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from converge.cli.progress import (
    RUNNING_MAX,
    Changes,
    LiveReporter,
    PlainReporter,
    Reporter,
    counts,
    event_line,
    live_view,
    make_reporter,
    summary,
)

PROGRESS = {"total": 17, "done": 12, "running": 2, "failed": 0, "skipped": 0}
FAILURE = {
    "id": 7,
    "time": 1795316400.75,
    "resource": "[red]web[/]",
    "action": "CREATE",
    "status": "FAILED",
    "reason": "exit status 1\n\x1b[2Jgone",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def render(*arguments: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(live_view(*arguments))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_event_is_one_line() -> None:
    assert event_line(FAILURE) == (
        "2026-11-22T03:00:00Z [red]web[/] CREATE FAILED: exit status 1 | \\x1b[2Jgone"
    )


def test_an_event_of_the_stack_says_so() -> None:
    event = {"time": 0, "resource": None, "action": "DELETE", "status": "COMPLETE", "reason": ""}
    assert event_line(event) == "1970-01-01T00:00:00Z (stack) DELETE COMPLETE"


def test_counts_name_what_is_not_zero() -> None:
    assert counts(PROGRESS) == "12 of 17 done, 2 running"
    assert counts({"total": 3, "done": 1, "failed": 1, "skipped": 1}) == (
        "1 of 3 done, 1 failed, 1 skipped"
    )


def test_the_summary_has_a_reason_only_for_failures() -> None:
    assert summary("shop", "CREATE", "COMPLETE", "done", 3.21) == (
        "stack 'shop': CREATE COMPLETE in 3.2 s"
    )
    assert summary("a'b", "UPDATE", "FAILED", "web: no\nroom") == (
        'stack "a\'b": UPDATE FAILED: web: no | room'
    )


def test_the_live_view_has_counts_a_bar_and_what_runs() -> None:
    running = [
        {"resource": "[b]db[/b]", "kind": "update", "engine": "e", "since_seconds": 3.04},
        {"resource": "old\n", "kind": "cleanup", "engine": "e", "since_seconds": 65},
    ]
    lines = render("shop", "UPDATE", PROGRESS, running, 70.0).splitlines()
    assert lines[0].split("  ") == ["shop", "UPDATE", "12 of 17 done, 2 running", "1 min 10 s"]
    assert "━" in lines[1]
    # the longest first
    assert lines[2].split() == ["old\\n", "(cleanup)", "1", "min", "05", "s"]
    assert lines[3].split() == ["[b]db[/b]", "3.0", "s"]
    assert len(lines) == 4


def test_the_live_view_names_eight_of_many() -> None:
    running = [{"resource": f"r{i}", "kind": "update", "since_seconds": i} for i in range(30)]
    lines = render("shop", "CREATE", PROGRESS, running, 1.0).splitlines()
    assert len(lines) == 2 + 8 + 1
    assert lines[-1] == "  and 22 more"


@pytest.mark.parametrize("width", [10, 20, 40, 200])
def test_the_live_view_fits_the_terminal(width: int) -> None:
    running = [{"resource": "n" * 300, "kind": "update", "since_seconds": 1}]
    view = live_view("s" * 255, "CREATE", PROGRESS, running, 1.0, width)
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)


def test_a_live_view_without_nodes_can_be_drawn() -> None:
    empty = {"total": 0, "done": 0, "running": 0, "failed": 0, "skipped": 0}
    assert "0 of 0 done" in render("shop", "CREATE", empty, [], 0.0)


def test_plain_lines_are_events_in_order() -> None:
    out, err = io.StringIO(), io.StringIO()
    reporter = PlainReporter(out, err)
    reporter.events([{**FAILURE, "reason": None}, FAILURE])
    reporter.note("stopping")
    assert out.getvalue().splitlines() == [
        event_line({**FAILURE, "reason": None}),
        event_line(FAILURE),
    ]
    assert err.getvalue() == "converge: stopping\n"


def test_without_a_terminal_what_takes_long_is_told_ever_more_seldom() -> None:
    out = io.StringIO()
    reporter = PlainReporter(out, out)

    def told(*running: tuple[str, float], **more: Any) -> list[str]:
        out.seek(0)
        out.truncate()
        nodes = [
            {"resource": name, "kind": "update", "since_seconds": since, **more}
            for name, since in running
        ]
        reporter.update("shop", "CREATE", PROGRESS, nodes, 1.0)
        return out.getvalue().splitlines()

    # what starts and ends at once has one line, its event
    assert told(("db", 1.9)) == []
    assert told(("db", 2.0), ("a", 0.5)) == ["... db CREATE started"]
    assert told(("db", 9.9), ("a", 1.5)) == []
    assert told(("db", 10.0)) == ["... db CREATE still IN_PROGRESS after 10 s"]
    assert told(("db", 29.0), ("a", 2.5)) == ["... a CREATE started"]
    # the longest first
    assert told(("a", 11.0), ("db", 30.5)) == [
        "... db CREATE still IN_PROGRESS after 30 s",
        "... a CREATE still IN_PROGRESS after 11 s",
    ]
    assert told(("db", 60.5)) == []
    assert told(("db", 61.0)) == ["... db CREATE still IN_PROGRESS after 1 min 01 s"]
    # "a" was over meanwhile, so it begins anew
    assert told(("a", 10.0)) == ["... a CREATE still IN_PROGRESS after 10 s"]
    assert len(told(("a", 5000.0))) == 1
    assert told(("a", 5599.0)) == []
    assert len(told(("a", 5600.0))) == 1
    # a handler that waits says how far it is
    # that it waits, and for what, its event has said
    assert told(("c", 3.0), progress="BUILDING") == []
    (line,) = told(("b", 10.0), kind="cleanup", progress="BUILDING,\n40 %")
    assert line == "... b DELETE still IN_PROGRESS after 10 s: BUILDING, | 40 %"
    many = [(f"n{number}", 20.0) for number in range(RUNNING_MAX + 2)]
    assert told(*many)[-1] == "... and 2 more"


def test_the_live_reporter_keeps_failures_and_restores_the_cursor() -> None:
    out, err = Terminal(), io.StringIO()
    reporter = LiveReporter(out, err)
    reporter.update("shop", "CREATE", PROGRESS, [], 1.0)
    reporter.events([FAILURE, {**FAILURE, "status": "COMPLETE", "resource": "quiet"}])
    reporter.note("stopping [b]now[/b]")
    reporter.end()
    reporter.end()
    text = out.getvalue()
    assert "[red]web[/] CREATE FAILED: exit status 1 | \\x1b[2Jgone" in text.replace("\r\n", "")
    assert "quiet" not in text
    assert reporter.closing() == ["  + created 1: quiet"]
    assert "stopping [b]now[/b]" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert err.getvalue() == ""


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    reporter = LiveReporter(out, io.StringIO())
    reporter.events([FAILURE])
    reporter.end()
    assert "\x1b[31m" not in out.getvalue()


@pytest.mark.parametrize(
    ("out", "err", "json", "term", "kind"),
    [
        (io.StringIO(), io.StringIO(), False, "xterm", PlainReporter),
        (Terminal(), io.StringIO(), False, "dumb", PlainReporter),
        (Terminal(), io.StringIO(), False, "xterm", LiveReporter),
        (Terminal(), io.StringIO(), True, "xterm", Reporter),
        (io.StringIO(), Terminal(), True, "xterm", LiveReporter),
    ],
)
def test_the_reporter_fits_the_streams(
    out: io.StringIO,
    err: io.StringIO,
    json: bool,
    term: str,
    kind: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", term)
    reporter = make_reporter(out, err, json=json)
    reporter.end()
    assert type(reporter) is kind
    if json:
        assert out.getvalue() == ""


def test_the_closing_lines_count_what_changed_and_name_some() -> None:
    changes = Changes()
    told = [
        *((f"a{number}", "CREATE", "COMPLETE") for number in range(7)),
        ("b", "UPDATE", "FAILED"),
        ("b", "UPDATE", "COMPLETE"),
        # the new one and the old one of a replacement are no changes of their own
        ("c", "UPDATE", "REPLACED"),
        ("c", "CREATE", "COMPLETE"),
        ("c", "DELETE", "COMPLETE"),
        ("d", "DELETE", "RETAINED"),
        (None, "UPDATE", "COMPLETE"),
    ]
    for resource, action, status in told:
        changes.note({"resource": resource, "action": action, "status": status})
    assert changes.lines() == [
        "  + created 7: a0, a1, a2, a3, a4 and 2 more",
        "  ~ updated 1: b",
        "  -/+ replaced 1: c",
        "  - left in place 1: d",
    ]
    assert Changes().lines() == []
