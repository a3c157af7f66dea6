"""How a command ended, in words and as JSON: what failed, and what to type next.

The reason of a failure is printed once. If the event of a resource has it, the lines that follow
only name the resource.
"""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

from converge.cli import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED
from converge.cli.options.reading import SHOWN
from converge.escaping import escape
from converge.hiding import hide

#: What stands for the middle of a reason that was too long.
_CUT = " [...] "


class PrintedFailures:
    """The failures that were printed.

    :param stacks: whether failures of traversals are printed, too, and not only of resources.
    :ivar last: the resource that failed first in the latest traversal.
    """

    def __init__(self, *, stacks: bool) -> None:
        self.last: str | None = None
        self._stacks = stacks
        self._whole: set[str] = set()
        self._traversal: int | None = None
        self._reasons: dict[str, set[str]] = {}

    def note(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Note an event that will be printed; the event, with its reason shortened."""
        if event["traversal"] != self._traversal:
            self._traversal, self.last = event["traversal"], None
        name, reason = event["resource"], event["reason"]
        if name is None:
            short = self.shorten(reason)
            if self._stacks and reason and event["status"] in ("FAILED", "CANCELLED"):
                self._whole.add(reason)
            return {**event, "reason": short}
        if event["status"] == "FAILED":
            self.last = self.last or name
            self._reasons.setdefault(name, set()).add(reason or "")
        return dict(event)

    def shorten(self, reason: str | None) -> str | None:
        """The reason of a traversal, without the reasons of resources that were printed."""
        for name, told in self._reasons.items():
            what = f"resource {name!r}"
            before, found, after = (reason or "").partition(f"{what}: ")
            if not found:
                continue
            for one in told:
                if after.startswith(one):
                    return f"{before}{what}{after[len(one) :]}"
                if _CUT in after and one.startswith(after.partition(_CUT)[0][:500]):
                    return f"{before}{what}"
        for one in self._whole:
            if reason == one:
                return None
            if (reason or "").endswith(f": {one}"):
                return (reason or "")[: -len(one) - 2]
        return reason


def next_line(
    arguments: Namespace, name: str, status: str, failed: str | None, reason: str | None
) -> str:
    """What to type next, after a failure.

    :param status: of the stack; COMPLETE if it was rolled back.
    :param failed: the resource that failed first, if that is known.
    :param reason: of the stack.
    """
    if status == "COMPLETE":
        return _line(arguments, "events", name)
    if status == "FAILED" and failed is not None:
        return _line(arguments, "why", name, failed)
    if status == "FAILED" and (reason or "").startswith("resource "):
        return _line(arguments, "why", name)
    return repeat_line(arguments)


def show_line(arguments: Namespace, name: str) -> str:
    """What to type to show a stack that another client has started."""
    return _line(arguments, "show", name)


def page_line(arguments: Namespace, last: str | None) -> str:
    """What to type to see more resources than `converge show` has shown.

    :param last: the last that it has shown, None if it has shown none.
    """
    words = ["show", arguments.name]
    for option in ("status", "type"):
        for value in getattr(arguments, option):
            words += [f"--{option}", value]
    if last is None:
        return _line(arguments, *words)
    if arguments.limit != SHOWN:
        words += ["--limit", str(arguments.limit)]
    return _line(arguments, *words, "--after", last)


def repeat_line(arguments: Namespace) -> str:
    """The same command again, which continues. Values of parameters may be secret."""
    if arguments.command == "up":
        words = [arguments.file]
        if arguments.stack is not None:
            words += ["--stack", arguments.stack]
        for file in arguments.environment:
            words += ["-e", file]
        for parameter, _ in arguments.param:
            words += ["--param", f"{parameter}=..."]
        words += ["--refresh"] * getattr(arguments, "refresh", False)
        words += ["--keep-params"] * arguments.keep_params
        for name in arguments.replace:
            words += ["--replace", name]
        for name in arguments.target:
            words += ["--target", name]
    else:
        words = [arguments.name]
    if getattr(arguments, "to", None) is not None:
        words += ["--to", str(arguments.to)]
    if getattr(arguments, "on_failure", "stop") != "stop":
        words += ["--on-failure", arguments.on_failure]
    return _line(arguments, arguments.command, *words)


def _line(arguments: Namespace, *words: str) -> str:
    given = ["converge", *words]
    if arguments.db:
        given += ["--db", arguments.db if hide(arguments.db) == arguments.db else "URL"]
    return f"next: {shlex.join(map(escape, given))}"


# -- as JSON


def error_document(message: str, kind: str, status: int, **more: Any) -> dict[str, Any]:
    """What a command with ``--json`` prints for an error.

    :param kind: the name of the exception's type, or one of those below.
    :param status: the exit status.
    """
    return {"error": {"message": message, "kind": kind, "exit": status, **more}}


_INTERRUPTS = {
    EXIT_INTERRUPTED: ("interrupted", "Interrupted"),
    EXIT_TERMINATED: ("terminated", "Terminated"),
}


def interrupted_document(status: int) -> dict[str, Any]:
    """The document of a command that a signal ended."""
    return error_document(*_INTERRUPTS[status], status)


def failed_document(action: str, status: str, reason: str | None) -> dict[str, Any]:
    """The document of a stack that did not reach the state that was asked for.

    :param status: of the stack; SUPERSEDED if another client started another traversal.
    """
    kind = "StackRolledBack" if status == "COMPLETE" else f"Stack{status.capitalize()}"
    return error_document(reason or f"the {action} is {status}", kind, EXIT_FAILED)


def find_json(words: Iterable[str]) -> bool:
    """Whether a command line, which may be wrong, asks for JSON."""
    for word in words:
        if word == "--":
            return False
        if word == "--json":
            return True
    return False
