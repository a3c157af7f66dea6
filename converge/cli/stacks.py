"""The commands that change a stack: ``up``, ``down``, ``rollback``, ``check``, ``cancel``,
``forget``."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converge.cli import EXIT_COMPLETE, EXIT_FAILED
from converge.cli.database import opened
from converge.cli.endings import (
    again,
    failed_document,
    interrupted_document,
    next_line,
    show_line,
)
from converge.cli.engine import built_in_types
from converge.cli.output import write_json
from converge.cli.progress import make_reporter, summary
from converge.cli.queries import write_outputs
from converge.errors import BadInput
from converge.escaping import escape, prose

if TYPE_CHECKING:
    from converge.stack import Stack
    from converge.store import Store


def up(arguments: Namespace) -> int:
    """Create or update a stack."""
    from converge.model import check_name
    from converge.resources import load_types
    from converge.template import Template

    # all of it before the database is opened: a mistake must not leave an empty one behind
    name = arguments.stack if arguments.stack is not None else Path(arguments.file).stem
    template = Template.load(arguments.file)
    try:
        check_name("stack", name)
    except BadInput as error:
        hint = "" if arguments.stack is not None else "; give another one with --stack"
        raise BadInput(f"{error}{hint}") from error
    parameters = dict(arguments.param)
    template.validate(load_types())
    template.resolve_parameters(parameters)

    def begin(store: Store) -> Stack:
        return store.converge_stack(
            name,
            template,
            parameters=parameters,
            on_failure=arguments.on_failure,
            timeout=arguments.timeout,
            source=os.path.abspath(arguments.file),
            # who names the stack knows which one it is
            any_source=arguments.stack is not None,
        )

    return _converge(arguments, name, begin, create=True)


def down(arguments: Namespace) -> int:
    """Delete a stack."""
    return _converge(
        arguments,
        arguments.name,
        lambda store: store.delete_stack(
            arguments.name, on_failure=arguments.on_failure, timeout=arguments.timeout
        ),
    )


def rollback(arguments: Namespace) -> int:
    """Take a stack back to an earlier version."""
    return _converge(
        arguments,
        arguments.name,
        lambda store: store.rollback_stack(
            arguments.name,
            version=arguments.to,
            on_failure=arguments.on_failure,
            timeout=arguments.timeout,
        ),
    )


def check(arguments: Namespace) -> int:
    """Look whether a stack's resources are as they should be."""
    return _converge(
        arguments,
        arguments.name,
        lambda store: store.check_stack(arguments.name, timeout=arguments.timeout),
    )


def _converge(
    arguments: Namespace, name: str, begin: Callable[[Store], Stack], *, create: bool = False
) -> int:
    from converge.cli.running import Trouble, Watch, last_event, run_engine

    types = built_in_types(arguments)
    with opened(arguments, create=create) as store:
        after = last_event(store, name)
        stack = begin(store)
        if stack.outcome == "done":
            _say(arguments, _done(stack))
            return _finish(arguments, store, stack, EXIT_COMPLETE)
        if arguments.no_wait:
            _say(arguments, _beginning(stack) + "; `converge engine` does the work")
            return _finish(arguments, store, stack, EXIT_COMPLETE)
        reporter = make_reporter(sys.stdout, sys.stderr, json=arguments.json)
        trouble = Trouble(reporter)
        try:
            _say(arguments, _beginning(stack))
            watch = Watch(store, stack, reporter, after)
            interrupted = run_engine(
                store,
                trouble,
                workers=arguments.workers,
                grace=arguments.grace,
                types=types,
                begun=True,
                ended=watch.look,
                going_on=f"`converge {arguments.command}` goes on with stack {escape(repr(name))} "
                "from there",
                on_leave=lambda status: _leave(arguments, status),
            )
        finally:
            reporter.end()
        if interrupted is not None:
            _say(arguments, summary(name, stack.action, stack.status, None) + ", interrupted")
            _say(arguments, again(arguments))
            wrong = interrupted_document(interrupted)
            return _finish(arguments, store, stack, interrupted, wrong)
        if watch.superseded:
            reporter.note(
                f"somebody else started {stack.action} of stack {name!r} meanwhile "
                f"(traversal {stack.traversal})"
            )
            _say(arguments, show_line(arguments, name))
            wrong = failed_document(stack.action, "SUPERSEDED", None)
            return trouble.wait_out(lambda: _finish(arguments, store, stack, EXIT_FAILED, wrong))
        status = str(stack.status)
        reason = watch.told.shorten(stack.reason)
        line = summary(name, stack.action, status, reason, watch.seconds)
        if reason and status == "COMPLETE" and (stack.action == "CHECK" or watch.failure):
            line += f", {prose(reason)}"
        _say(arguments, line)
        if status == "COMPLETE" and watch.failure is None:
            return trouble.wait_out(lambda: _finish(arguments, store, stack, EXIT_COMPLETE))
        _say(arguments, next_line(arguments, name, status, watch.told.last, stack.reason))
        wrong = failed_document(stack.action, status, stack.reason)
        return trouble.wait_out(lambda: _finish(arguments, store, stack, EXIT_FAILED, wrong))


def _leave(arguments: Namespace, status: int) -> None:
    """Say how it ends where there is no time for the whole document."""
    if arguments.json:
        write_json(interrupted_document(status), sys.stdout)
    else:
        print(again(arguments))


def _done(stack: Stack) -> str:
    name = f"stack {escape(repr(stack.name))}"
    if not stack.live:
        return f"{name} is deleted already"
    if stack.version is None:
        return f"{name} was rolled back already, to nothing"
    return (
        f"{name} was rolled back already, to version {stack.version}; "
        "--to VERSION goes to another one"
    )


def _beginning(stack: Stack) -> str:
    text = f"stack {escape(repr(stack.name))}: {stack.action} {stack.outcome}"
    if stack.superseded is not None:
        text += f" traversal {stack.superseded}"
    return text


def _say(arguments: Namespace, line: str) -> None:
    if not arguments.json:
        print(line, flush=True)


def _finish(
    arguments: Namespace,
    store: Store,
    stack: Stack,
    status: int,
    wrong: Mapping[str, Any] | None = None,
) -> int:
    """Print the end of it: the document, or the outputs.

    :param wrong: what the document says of what went wrong.
    """
    if arguments.json:
        document = store.show(stack.name) if stack.live else _deleted(stack)
        write_json({**document, "outcome": stack.outcome, **(wrong or {})}, sys.stdout)
    elif status == EXIT_COMPLETE and not arguments.no_wait and stack.live:
        write_outputs(store.show(stack.name)["outputs"])
    return status


def _deleted(stack: Stack) -> dict[str, Any]:
    return {
        "name": stack.name,
        "action": stack.action,
        "status": stack.status,
        "reason": stack.reason,
        "traversal": stack.traversal,
        "version": None,
        "progress": {"total": 0, "done": 0, "running": 0, "failed": 0, "skipped": 0},
        "resources": {},
        "outputs": {},
        "unchecked": [],
    }


def cancel(arguments: Namespace) -> int:
    """Stop what is being done to a stack."""
    with opened(arguments) as store:
        stack = store.cancel_stack(arguments.name)
    outcome = stack.outcome
    if arguments.json:
        names = ("name", "action", "status", "reason", "traversal", "outcome")
        write_json({name: getattr(stack, name) for name in names}, sys.stdout)
        return EXIT_COMPLETE
    said = {
        "started": "cancelled; what runs is told to stop",
        "resumed": "cancelled already; what runs has still to stop",
        "done": "cancelled already",
    }
    print(f"stack {escape(repr(arguments.name))}: {said[outcome]}")
    return EXIT_COMPLETE


def forget(arguments: Namespace) -> int:
    """Let a stack forget a resource."""
    from dataclasses import asdict

    with opened(arguments) as store:
        done = store.forget_resource(arguments.name, arguments.resource, id=arguments.id)
    if arguments.json:
        write_json(None if done is None else asdict(done), sys.stdout)
        return EXIT_COMPLETE
    who = f"stack {escape(repr(arguments.name))}"
    what = f"resource {escape(repr(arguments.resource))}"
    if done is None:
        print(f"{who} has let go of {what} already")
        return EXIT_COMPLETE
    made = "nothing that is known of" if done.physical_id is None else repr(done.physical_id)
    print(
        f"{who} has let go of {what} (id {done.id}, type {escape(repr(done.type))}, {done.action} "
        f"{done.status}); nothing was deleted, and nobody looks after it any more: {escape(made)}"
    )
    return EXIT_COMPLETE
