"""The commands that change a stack: ``up``, ``down``, ``rollback``, ``check``, ``cancel``,
``signal``."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converge.cli import EXIT_COMPLETE, EXIT_DRIFTED, EXIT_FAILED
from converge.cli.actors import find_actor
from converge.cli.database import is_there, opened, readable
from converge.cli.endings import (
    failed_document,
    interrupted_document,
    next_line,
    repeat_line,
    show_line,
)
from converge.cli.engine import built_in_types
from converge.cli.options.reading import SHOWN
from converge.cli.options.stacks import STDIN
from converge.cli.output import write_json
from converge.cli.progress import make_reporter, summary
from converge.cli.queries import write_outputs
from converge.errors import BadInput, NotFound
from converge.escaping import escape, prose
from converge.model import Action, Status

if TYPE_CHECKING:
    from converge.stack import Stack
    from converge.store import Store


def up(arguments: Namespace) -> int:
    """Create or update a stack."""
    from converge.cli.wanted import read_wanted

    wanted = read_wanted(arguments)
    expected = None
    if arguments.plan:
        from converge.cli import plans

        plans.check_can_ask(arguments)
    if arguments.refresh:
        looked = look_first(arguments, wanted.name)
        if looked not in LOOKED:
            return looked
    if arguments.plan:
        preview = plans.make_preview(arguments, wanted)
        if not arguments.json:
            plans.write(preview, sys.stdout)
        if preview.failures:
            raise BadInput("nothing was started, as something in the plan cannot be done")
        if preview and not (arguments.yes or plans.confirm("go on?")):
            print("nothing was started")
            return EXIT_FAILED
        expected = preview.traversal

    def begin(store: Store) -> Stack:
        return store.converge_stack(
            wanted.name,
            wanted.template,
            parameters=wanted.parameters,
            on_failure=arguments.on_failure,
            timeout=arguments.timeout,
            actor=find_actor(arguments),
            source=None if arguments.file == STDIN else os.path.abspath(arguments.file),
            # --stack confirms which stack is meant
            any_source=arguments.stack is not None,
            keep_parameters=arguments.keep_params,
            expected=expected,
            queue=arguments.queue,
            priority=arguments.priority,
            unprotect=arguments.unprotect,
            replace=arguments.replace,
            target=arguments.target,
        )

    return _converge(arguments, wanted.name, begin, create=True)


def down(arguments: Namespace) -> int:
    """Delete a stack."""
    if not _is_meant(arguments):
        print("nothing was deleted")
        return EXIT_FAILED
    return _converge(
        arguments,
        arguments.name,
        lambda store: store.delete_stack(
            arguments.name,
            on_failure=arguments.on_failure,
            timeout=arguments.timeout,
            actor=find_actor(arguments),
            unprotect=arguments.unprotect,
            despite=arguments.despite,
        ),
    )


def _is_meant(arguments: Namespace) -> bool:
    """Whether a delete is meant: at a terminal, what would go is shown, and asked for."""
    from converge.cli import plans

    if arguments.yes or not plans.can_ask(arguments) or not is_there(arguments):
        return True
    try:
        with readable(arguments) as reads:
            preview = reads.plan_delete(
                arguments.name,
                types=built_in_types(arguments),
                unprotect=arguments.unprotect,
                despite=arguments.despite,
            )
    except NotFound:
        # the delete itself says what is the matter
        return True
    if not preview:
        return True
    plans.write(preview, sys.stdout)
    return plans.confirm(f"delete stack {escape(repr(arguments.name))}?")


def rollback(arguments: Namespace) -> int:
    """Roll a stack back to an earlier version."""
    return _converge(
        arguments,
        arguments.name,
        lambda store: store.rollback_stack(
            arguments.name,
            version=arguments.to,
            on_failure=arguments.on_failure,
            timeout=arguments.timeout,
            actor=find_actor(arguments),
            unprotect=arguments.unprotect,
        ),
    )


def check(arguments: Namespace) -> int:
    """Check whether a stack's resources are as they should be."""
    return _look(arguments, arguments.name)


def _look(arguments: Namespace, name: str) -> int:
    return _converge(
        arguments,
        name,
        lambda store: store.check_stack(
            name, timeout=arguments.timeout, actor=find_actor(arguments)
        ),
    )


#: How a look before an update ends that was not stopped.
LOOKED = (EXIT_COMPLETE, EXIT_DRIFTED)


def look_first(arguments: Namespace, name: str) -> int:
    """Look at the real things before an update, which mends what differs, or before a plan. What is
    being done to the stack goes on first: a check would have to wait for it."""
    if not is_there(arguments):
        return EXIT_COMPLETE
    with readable(arguments) as reads:
        try:
            found = reads.show(name, limit=0)
        except NotFound:
            return EXIT_COMPLETE
    busy = found["status"] == Status.IN_PROGRESS and found["action"] != Action.CHECK
    if busy or found["version"] is None:
        return EXIT_COMPLETE
    return _look(arguments, name)


def _converge(
    arguments: Namespace, name: str, begin: Callable[[Store], Stack], *, create: bool = False
) -> int:
    from converge.cli.running import Outages, Watch, last_event, run_engine

    types = built_in_types(arguments)
    with opened(arguments, create=create) as store:
        after = last_event(store, name)
        stack = begin(store)
        if stack.outcome == "done":
            named = getattr(arguments, "target", ())
            _say(arguments, _done(stack, named))
            return _finish(arguments, store, stack, EXIT_COMPLETE)
        if arguments.no_wait:
            _say(arguments, _beginning(stack) + "; run `converge engine` to do the work")
            return _finish(arguments, store, stack, EXIT_COMPLETE)
        reporter = make_reporter(sys.stdout, sys.stderr, json=arguments.json)
        outages = Outages(reporter)
        try:
            _say(arguments, _beginning(stack))
            watch = Watch(store, stack, reporter, after)
            interrupted = run_engine(
                store,
                outages,
                workers=arguments.workers,
                async_workers=arguments.async_workers,
                grace=arguments.grace,
                types=types,
                patient=True,
                ended=watch.look,
                rest=f"`converge {arguments.command}` continues with stack {escape(repr(name))} "
                "from there",
                on_exit=lambda status: _leave(arguments, status),
            )
        finally:
            reporter.end()
        if interrupted is not None:
            _say(arguments, summary(name, stack.action, stack.status, None) + ", interrupted")
            _say(arguments, repeat_line(arguments))
            wrong = interrupted_document(interrupted)
            return _finish(arguments, store, stack, interrupted, wrong)
        if watch.superseded:
            reporter.note(
                f"another client started {stack.action} of stack {name!r} in the meantime "
                f"(traversal {stack.traversal})"
            )
            _say(arguments, show_line(arguments, name))
            wrong = failed_document(stack.action, "SUPERSEDED", None)
            return outages.wait_out(lambda: _finish(arguments, store, stack, EXIT_FAILED, wrong))
        status = str(stack.status)
        reason = watch.printed.shorten(stack.reason)
        line = summary(name, stack.action, status, reason, watch.seconds)
        if reason and status == "COMPLETE":
            line += f", {prose(reason)}"
        _say(arguments, line)
        for change in reporter.closing():
            _say(arguments, change)
        if stack.action == Action.CHECK and status in _OVER:
            drifted = outages.wait_out(lambda: _write_drift(arguments, store, stack))
            if status == Status.COMPLETE or arguments.command in _LOOKING:
                return drifted
        if status == "COMPLETE" and watch.failure is None:
            return outages.wait_out(lambda: _finish(arguments, store, stack, EXIT_COMPLETE))
        _say(arguments, next_line(arguments, name, status, watch.printed.last, stack.reason))
        wrong = failed_document(stack.action, status, stack.reason)
        return outages.wait_out(lambda: _finish(arguments, store, stack, EXIT_FAILED, wrong))


#: The commands that may look before they do something else.
_LOOKING = ("up", "plan")
#: How a check ends that nobody cancelled.
_OVER = (Status.COMPLETE, Status.FAILED)


def _write_drift(arguments: Namespace, store: Store, stack: Stack) -> int:
    """Print what has drifted; the exit status."""
    from converge.cli import drifts

    found = store.show(stack.name, limit=SHOWN, status=[Status.DRIFTED])
    status = EXIT_DRIFTED if drifts.count(found) else EXIT_COMPLETE
    for line in drifts.render(found):
        _say(arguments, line)
    if arguments.command in _LOOKING or stack.status != Status.COMPLETE:
        # what comes then, ends with the document
        return status
    _finish(arguments, store, stack, EXIT_COMPLETE)
    return status


def _leave(arguments: Namespace, status: int) -> None:
    """Print the end when there is no time for the whole document."""
    if arguments.json:
        write_json(interrupted_document(status), sys.stdout)
    else:
        print(repeat_line(arguments))


def _done(stack: Stack, target: Sequence[str]) -> str:
    name = f"stack {escape(repr(stack.name))}"
    if not stack.live:
        return f"{name} is already deleted"
    if target:
        names = ", ".join(escape(repr(one)) for one in sorted(set(target)))
        return f"{name}: nothing to do, all is as the template says of {names}"
    if stack.action != "ROLLBACK":
        return f"{name}: nothing to do, all is as the template says"
    if stack.version is None:
        return f"{name} is already rolled back to nothing"
    return (
        f"{name} is already rolled back to version {stack.version}; "
        "choose another one with --to VERSION"
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
    """Print the result: the document, or the outputs.

    :param wrong: what the document has if something went wrong.
    """
    if arguments.json:
        document = store.show(stack.name, limit=SHOWN) if stack.live else _deleted(stack)
        write_json({**document, "outcome": stack.outcome, **(wrong or {})}, sys.stdout)
    elif status == EXIT_COMPLETE and not arguments.no_wait and stack.live:
        write_outputs(store.outputs(stack.name))
    return status


def _deleted(stack: Stack) -> dict[str, Any]:
    from converge.inspection.views import COUNTS

    return {
        "name": stack.name,
        "action": stack.action,
        "status": stack.status,
        "reason": stack.reason,
        "traversal": stack.traversal,
        "actor": None,
        "version": None,
        "progress": dict.fromkeys(COUNTS, 0),
        "counts": {},
        "resources": {},
        "more": 0,
        "outputs": {},
        "reads": {},
        "read_by": {},
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
        "started": "cancelled; running handlers are told to stop",
        "resumed": "already cancelled; some handlers are still running",
        "done": "already cancelled",
    }
    print(f"stack {escape(repr(arguments.name))}: {said[outcome]}")
    return EXIT_COMPLETE


def signal(arguments: Namespace) -> int:
    """Send a signal to a resource."""
    with opened(arguments) as store:
        new = store.signal(
            arguments.name,
            arguments.resource,
            arguments.data,
            signal=arguments.signal,
            failure=arguments.failure,
            id=arguments.id,
        )
    if arguments.json:
        write_json({"new": new}, sys.stdout)
        return EXIT_COMPLETE
    who = f"resource {escape(repr(arguments.resource))} of stack {escape(repr(arguments.name))}"
    what = f"signal {escape(repr(arguments.signal))}"
    print(f"{who} has {what}" if new else f"{who} had {what} with this id already")
    return EXIT_COMPLETE
