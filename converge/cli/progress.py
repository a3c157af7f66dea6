"""What is shown while a stack converges: a live view on a terminal, else a line per event.

The functions that render are pure; the reporters write what they return.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from converge.cli.output import STYLES, duration, is_terminal, make_console, moment
from converge.escaping import escape, prose

#: What an engine says of itself.
LOG = logging.getLogger("converge.service")

#: How many running resources the live view names.
RUNNING_MAX = 8
_BAR_MAX = 40
_NAME_MAX = 48
#: How many names the closing lines give of each kind of change.
_NAMED_MAX = 5


def event_line(event: Mapping[str, Any]) -> str:
    """An event in one line: time, resource, action, status, reason."""
    resource = event.get("resource")
    parts = [
        moment(event["time"]),
        "(stack)" if resource is None else escape(resource),
        str(event["action"]),
        str(event["status"]),
    ]
    line = " ".join(parts)
    reason = event.get("reason")
    return f"{line}: {prose(reason)}" if reason else line


def with_actor(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The event, in whose reason is also who asked for it, if it is a traversal's start."""
    starts = event["resource"] is None and event["status"] == "IN_PROGRESS"
    if not starts or event["actor"] is None:
        return event
    reason = ", ".join(filter(None, (event["reason"], f"asked for by {event['actor']}")))
    return {**event, "reason": reason}


def counts(progress: Mapping[str, int]) -> str:
    """The numbers that are not 0, in words: ``12 of 17 done, 2 running, 1 failed``."""
    words = [f"{progress.get('done', 0)} of {progress.get('total', 0)} done"]
    words += [
        f"{progress[what]} {what}"
        for what in ("running", "waiting", "failed", "skipped")
        if progress.get(what)
    ]
    return ", ".join(words)


def summary(
    name: str, action: str, status: str, reason: str | None, seconds: float | None = None
) -> str:
    """The final line: ``stack 'shop': CREATE COMPLETE in 3.2 s``, with the reason of a failure."""
    text = f"stack {escape(repr(name))}: {action} {status}"
    if seconds is not None:
        text += f" in {duration(seconds)}"
    if reason and status != "COMPLETE":
        text += f": {prose(reason)}"
    return text


def live_view(
    name: str,
    action: str,
    progress: Mapping[str, int],
    running: Sequence[Mapping[str, Any]],
    seconds: float,
    width: int = 80,
) -> Any:
    """The live view, as an object that rich prints.

    :param running: ``resource``, ``kind`` and ``since_seconds`` of the nodes that run, or wait;
        these with ``progress``.
    :param seconds: since this process began to watch.
    :param width: of the terminal, in characters.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    total = max(progress.get("total", 0), 1)
    # failed and skipped nodes count, too
    dealt_with = sum(progress.get(what, 0) for what in ("done", "failed", "skipped"))
    style = "red" if progress.get("failed") else "green"
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(_cut(name), style="bold")
    head.append(f"  {action}  {counts(progress)}  {duration(seconds)}")
    length = max(10, min(_BAR_MAX, width - 2))
    filled = length * min(dealt_with, total) // total
    bar = Text("━" * filled, style=style, no_wrap=True, overflow="crop")
    bar.append("─" * (length - filled), style="dim")
    lines: list[Any] = [head, bar]
    longest = sorted(running, key=lambda one: -float(one["since_seconds"]))
    if longest:
        table = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True)
        for one in longest[:RUNNING_MAX]:
            label = Text(_cut(str(one["resource"])))
            if one.get("kind") == "cleanup":
                label.append(" (cleanup)", style="dim")
            if one.get("progress"):
                label.append(f"  {prose(one['progress'])}", style="cyan")
            table.add_row(label, duration(float(one["since_seconds"])))
        lines.append(table)
    if len(longest) > RUNNING_MAX:
        lines.append(Text(f"  and {len(longest) - RUNNING_MAX} more", style="dim"))
    return Group(*lines)


def _cut(name: str) -> str:
    plain = escape(name)
    return plain if len(plain) <= _NAME_MAX else plain[: _NAME_MAX - 1] + "…"


class Changes:
    """What a traversal changed, from its events, in a few lines."""

    #: What each event says happened to its resource, with the sign that plans have for it.
    _KINDS: Mapping[tuple[str, str], str] = {
        ("CREATE", "COMPLETE"): "+ created",
        ("UPDATE", "COMPLETE"): "~ updated",
        ("UPDATE", "REPLACED"): "-/+ replaced",
        ("MOVE", "COMPLETE"): "> moved",
        ("DELETE", "COMPLETE"): "- deleted",
        ("DELETE", "RETAINED"): "- left in place",
        ("CHECK", "COMPLETE"): "= checked",
    }

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._named: dict[str, list[str]] = {}
        # the new one and the old one have events of their own
        self._replaced: set[str] = set()

    def note(self, event: Mapping[str, Any]) -> None:
        """Take note of an event."""
        name = event["resource"]
        kind = self._KINDS.get((str(event["action"]), str(event["status"])))
        if name is None or kind is None:
            return
        if event["status"] == "REPLACED":
            self._replaced.add(name)
        elif event["status"] == "COMPLETE" and name in self._replaced:
            return
        self._counts[kind] += 1
        named = self._named.setdefault(kind, [])
        if len(named) < _NAMED_MAX:
            named.append(name)

    def lines(self) -> list[str]:
        """A line for each kind of change that there was."""
        found = []
        for kind in self._KINDS.values():
            if count := self._counts[kind]:
                names = ", ".join(map(_cut, self._named[kind]))
                more = f" and {count - _NAMED_MAX} more" if count > _NAMED_MAX else ""
                found.append(f"  {kind} {count}: {names}{more}")
        return found


class Reporter:
    """Reports progress to a person. This one prints only notes, on stderr."""

    #: Whether it needs :meth:`events` and :meth:`update`, which cost queries.
    wants_events = False
    wants_updates = False
    #: Seconds from one update to the next at least.
    update_every = 0.0
    #: Whether it prints events of traversals, too.
    tells_stacks = False
    #: Whether what it is told goes into a log that has warnings of converge's, too.
    logs = False

    def __init__(self, errors: IO[str]) -> None:
        self.stderr = errors

    def events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """New events, the oldest first."""

    def update(
        self,
        name: str,
        action: str,
        progress: Mapping[str, int],
        running: Sequence[Mapping[str, Any]],
        seconds: float,
    ) -> None:
        """The current progress."""

    def note(self, text: str) -> None:
        """A message that is not part of the result, such as what Ctrl-C does."""
        print(f"converge: {text}", file=self.stderr, flush=True)

    def closing(self) -> list[str]:
        """What was changed, for the end, where the events were not printed."""
        return []

    def end(self) -> None:
        """Restore the terminal. May be called again."""


class LogReporter(Reporter):
    """Notes are records of the log."""

    logs = True

    def note(self, text: str) -> None:
        LOG.info("%s", text)


class Reminders:
    """Says of what is not done at once that it has started, and of what runs for long that it
    does: after ten seconds, after half a minute, and then ever more seldom, but each ten minutes
    at least."""

    _STARTED, _FIRST, _SECOND, _MOST = 2.0, 10.0, 30.0, 600.0

    def __init__(self) -> None:
        # when of each node the next line is due, in seconds since it began
        self._due: dict[tuple[object, object], float] = {}

    def lines(self, action: str, running: Sequence[Mapping[str, Any]]) -> list[str]:
        """The lines that are due, of what runs longest first.

        :param running: as for :func:`live_view`.
        """
        running = sorted(running, key=lambda one: -float(one["since_seconds"]))
        due = {self._key(one): self._due.get(self._key(one), self._first(one)) for one in running}
        late = [one for one in running if one["since_seconds"] >= due[self._key(one)]]
        for one in late:
            due[self._key(one)] = self._next(float(one["since_seconds"]))
        # what is over begins anew if it comes again
        self._due = due
        found = [self._line(action, one) for one in late[:RUNNING_MAX]]
        if len(late) > RUNNING_MAX:
            found.append(f"... and {len(late) - RUNNING_MAX} more")
        return found

    def _first(self, one: Mapping[str, Any]) -> float:
        """When the first line is due: that a handler waits, its event has said."""
        return self._FIRST if "progress" in one else self._STARTED

    def _next(self, since: float) -> float:
        """When the line after one of this time is due."""
        if since < self._FIRST:
            return self._FIRST
        return max(self._SECOND, since + min(since, self._MOST))

    @staticmethod
    def _key(one: Mapping[str, Any]) -> tuple[object, object]:
        return one["resource"], one.get("kind")

    def _line(self, action: str, one: Mapping[str, Any]) -> str:
        since = float(one["since_seconds"])
        what = "DELETE" if one.get("kind") == "cleanup" else action
        line = f"... {escape(one['resource'])} {what} "
        line += "started" if since < self._FIRST else f"still IN_PROGRESS after {duration(since)}"
        return f"{line}: {prose(one['progress'])}" if one.get("progress") else line


class PlainReporter(Reporter):
    """A line per event, and now and then one for what takes long."""

    wants_events = True
    wants_updates = True
    update_every = 1.0
    tells_stacks = True

    def __init__(self, stream: IO[str], errors: IO[str]) -> None:
        super().__init__(errors)
        self._stream = stream
        self._reminders = Reminders()

    def update(
        self,
        name: str,
        action: str,
        progress: Mapping[str, int],
        running: Sequence[Mapping[str, Any]],
        seconds: float,
    ) -> None:
        for line in self._reminders.lines(action, running):
            self._stream.write(line + "\n")
        self._stream.flush()

    def events(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            self._stream.write(event_line(event) + "\n")
        self._stream.flush()


class JsonReporter(Reporter):
    """A JSON document a line, for each event."""

    def __init__(self, stream: IO[str], errors: IO[str]) -> None:
        super().__init__(errors)
        self._stream = stream

    def events(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            self._stream.write(json.dumps(event, default=str) + "\n")
        self._stream.flush()


class LiveReporter(Reporter):
    """A view that is redrawn in place; failures stay above it."""

    wants_events = True
    wants_updates = True

    def __init__(self, stream: IO[str], errors: IO[str]) -> None:
        from rich.live import Live

        super().__init__(errors)
        self._console = make_console(stream)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._ended = False
        self._changes = Changes()
        self._live.start()

    def events(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            self._changes.note(event)
            # the summary says how the stack itself ended
            if event["resource"] is not None and event["status"] in {"FAILED", "RETRY"}:
                self._print(event_line(event), STYLES[str(event["status"])])

    def update(
        self,
        name: str,
        action: str,
        progress: Mapping[str, int],
        running: Sequence[Mapping[str, Any]],
        seconds: float,
    ) -> None:
        view = live_view(name, action, progress, running, seconds, self._console.width)
        self._live.update(view, refresh=True)

    def note(self, text: str) -> None:
        if self._ended:
            super().note(text)
        else:
            self._print(f"converge: {text}", "bold")

    def closing(self) -> list[str]:
        return self._changes.lines()

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._live.stop()

    def _print(self, text: str, style: str) -> None:
        from rich.text import Text

        self._console.print(Text(text, style=style))


def make_reporter(stdout: IO[str], stderr: IO[str], *, json: bool) -> Reporter:
    """The reporter for these streams. With ``json`` it does not write to stdout."""
    if json:
        return LiveReporter(stderr, stderr) if is_terminal(stderr) else Reporter(stderr)
    return LiveReporter(stdout, stderr) if is_terminal(stdout) else PlainReporter(stdout, stderr)
