"""The commands: each takes the parsed arguments and returns the exit status."""

from __future__ import annotations

import logging
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converge.cli import EXIT_COMPLETE, EXIT_FAILED
from converge.cli.endings import (
    again,
    failed_document,
    interrupted_document,
    next_line,
    show_line,
)
from converge.cli.output import moment, shown, write_file, write_json, write_table
from converge.cli.progress import PlainReporter, Reporter, counts, make_reporter, summary
from converge.cli.words import holds, lease, recovered
from converge.errors import BadInput, NotFound
from converge.escaping import escape, lines, prose
from converge.model import DEFAULT_FILE, DEFAULT_URL

if TYPE_CHECKING:
    from converge.cli.running import Trouble
    from converge.graph import Graph
    from converge.resources.resource_type import ResourceType
    from converge.stack import Stack
    from converge.store import Store

_SILENT = logging.NullHandler()
_TEMPLATE_ENDINGS = {".yaml", ".yml", ".json"}


def run(arguments: Namespace) -> int:
    """Run the command that was parsed."""
    # else Python prints what libraries log, with tracebacks; it is in the exception, too
    if not os.environ.get("CONVERGE_DEBUG"):
        logging.getLogger().addHandler(_SILENT)
    return COMMANDS[arguments.command](arguments)


# The database


def database_url(arguments: Namespace) -> str | None:
    """The URL that was given, None for the default."""
    return arguments.db or os.environ.get("CONVERGE_DB") or None


@contextmanager
def opened(arguments: Namespace, *, create: bool = False) -> Iterator[Store]:
    """The store. Only the default's schema is made here, and only if ``create``.

    :raises NotFound: the default is not there, and is not to be created.
    """
    store = connect(arguments, create=create)
    try:
        yield store
    finally:
        store.close()


def connect(arguments: Namespace, *, create: bool = False) -> Store:
    """Open the store; see :func:`opened`."""
    import converge

    url = database_url(arguments)
    if url is None and not create and not has_default():
        name = arguments.what if arguments.command == "graph" else arguments.name
        raise NotFound(
            f"there is no stack {name!r}, as there is no {DEFAULT_FILE} in this folder; "
            "`converge up FILE` makes it, --db URL or CONVERGE_DB names another database"
        )
    return converge.connect(url or DEFAULT_URL, create_schema=url is None)


def has_default() -> bool:
    """Whether the default database is there."""
    return os.path.lexists(DEFAULT_FILE)


def _is_there(arguments: Namespace) -> bool:
    """Whether there is a database to look into; without one there is nothing in it."""
    return database_url(arguments) is not None or has_default()


# Starting and following


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


def _types(arguments: Namespace) -> dict[str, ResourceType]:
    """The built-in types, as the operator wants them."""
    from converge.resources import Command, File

    names = arguments.pass_env
    if not names:
        names = os.environ.get("CONVERGE_PASS_ENV", "").replace(",", " ").split()
    roots = arguments.file_root
    if not roots:
        roots = [one for one in os.environ.get("CONVERGE_FILE_ROOT", "").split(os.pathsep) if one]
    try:
        command = Command(pass_env=names)
    except BadInput as error:
        source = "--pass-env" if arguments.pass_env else "CONVERGE_PASS_ENV"
        raise BadInput(str(error).replace("pass_env", source, 1)) from error
    try:
        return {"command": command, "file": File(roots=roots)}
    except BadInput as error:
        source = "--file-root" if arguments.file_root else "CONVERGE_FILE_ROOT"
        raise BadInput(str(error).replace("roots", source, 1)) from error


def _converge(
    arguments: Namespace, name: str, begin: Callable[[Store], Stack], *, create: bool = False
) -> int:
    from converge.cli.running import Trouble, Watch, last_event, run_engine

    types = _types(arguments)
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
        _write_outputs(store.show(stack.name)["outputs"])
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


# Looking


def list_(arguments: Namespace) -> int:
    """List the stacks."""
    stacks: list[dict[str, Any]] = []
    if _is_there(arguments):
        with opened(arguments) as store:
            stacks = store.stacks()
    if arguments.json:
        write_json(stacks, sys.stdout)
    elif not stacks:
        print("no stacks")
    else:
        columns = ("name", "action", "status", "version", "updated", "reason")
        write_table(
            columns, ([_cell(one.get(key)) for key in columns] for one in stacks), sys.stdout
        )
    return EXIT_COMPLETE


def _cell(value: object) -> object:
    """Times, which are seconds since 1970, in UTC; all else as it is."""
    return moment(value) if isinstance(value, float) else value


def show(arguments: Namespace) -> int:
    """Show a stack."""
    with opened(arguments) as store:
        document = store.show(arguments.name)
    if arguments.json:
        write_json(document, sys.stdout)
        return EXIT_COMPLETE
    name, reason = document["name"], document["reason"]
    print(summary(name, document["action"], document["status"], None))
    if reason:
        print(f"reason: {prose(reason)}")
    print(f"traversal {document['traversal']}: {counts(document['progress'])}")
    if document["resources"]:
        print()
        write_table(
            ("name", "type", "status", "physical id", "requires"),
            (
                [
                    resource,
                    about["type"],
                    about["status"],
                    about["physical_id"],
                    ", ".join(about["requires"]),
                ]
                for resource, about in document["resources"].items()
            ),
            sys.stdout,
        )
    _write_outputs(document["outputs"], before="\n")
    return EXIT_COMPLETE


def _write_outputs(outputs: Mapping[str, Any], before: str = "") -> None:
    if outputs:
        lines = [f"  {escape(name)} = {shown(value)}\n" for name, value in outputs.items()]
        sys.stdout.write(before + "outputs:\n" + "".join(lines))


def graph(arguments: Namespace) -> int:
    """Draw a graph."""
    from converge.drawing.graphs import ENDINGS, draw

    what, output = arguments.what, arguments.output
    how = arguments.format or ENDINGS.get(Path(output or "").suffix.lower(), "text")
    statuses: Mapping[str, str] = {}
    path = Path(what)
    if path.suffix.lower() in _TEMPLATE_ENDINGS or _is_file(path):
        from converge.template import Template

        title, edges = path.stem, Template.load(path, for_drawing=True).graph()
    else:
        title, edges, statuses = _stack_graph(arguments)
    text = draw(edges, how, title=title, statuses=statuses)
    if output in (None, "-"):
        sys.stdout.write(text)
    else:
        write_file(output, text)
    return EXIT_COMPLETE


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):
        # the name of a stack may be longer than that of any file
        return False


def _stack_graph(arguments: Namespace) -> tuple[str, Graph[str], Mapping[str, str]]:
    name = arguments.what
    with opened(arguments) as store:
        try:
            edges, resources = store.graph(name), store.show(name)["resources"]
        except NotFound as error:
            raise NotFound(f"{error}; neither is there a file of that name") from error
    return name, edges, {one: str(about["status"]) for one, about in resources.items()}


def events(arguments: Namespace) -> int:
    """Print what happened to a stack."""
    from converge.cli.running import POLL_MOST, EventReader, Trouble, patiently

    with opened(arguments) as store:
        reader = EventReader(store, arguments.name, after=0)
        found = reader.new()
        if arguments.json:
            write_json(found, sys.stdout)
            return EXIT_COMPLETE
        reporter = PlainReporter(sys.stdout, sys.stderr)
        reporter.events(found)
        if not arguments.follow:
            return EXIT_COMPLETE
        trouble = Trouble(reporter)
        try:
            stack = trouble.wait_out(lambda: store.stack(arguments.name))
        except NotFound:  # it was deleted; nothing more will happen to it
            return EXIT_COMPLETE

        def look() -> bool:
            ended = stack.refresh().status != "IN_PROGRESS"
            reporter.events(reader.rest() if ended else reader.new())
            return ended

        ended = patiently(look, trouble)
        while not ended():
            time.sleep(POLL_MOST)
    return EXIT_COMPLETE


def why(arguments: Namespace) -> int:
    """Say what a stack or resource waits for, why it failed, or what is stuck anywhere."""
    found: list[dict[str, Any]] = []
    if arguments.name is not None or _is_there(arguments):
        with opened(arguments) as store:
            found = store.why(arguments.name, arguments.resource)
    if arguments.json:
        write_json(found, sys.stdout)
    elif not found:
        print("nothing is stuck" if arguments.name is None else "nothing is waited for")
    else:
        for one in found:
            print(prose(one["message"]))
        if arguments.traceback:
            traceback = found[0]["traceback"]
            print("there is no traceback" if traceback is None else lines(traceback.rstrip()))
    return EXIT_COMPLETE


def engines(arguments: Namespace) -> int:
    """List the engines."""
    found: list[dict[str, Any]] = []
    if _is_there(arguments):
        with opened(arguments) as store:
            found = store.engines(ended=arguments.all)
    if arguments.json:
        write_json(found, sys.stdout)
    elif not found:
        print("no engines")
    else:
        columns = ("id", "host", "pid", "state", "started", "lease", "nodes", "holds")
        rows = [{**one, "lease": lease(one), "holds": holds(one)} for one in found]
        write_table(columns, ([_cell(one[key]) for key in columns] for one in rows), sys.stdout)
    return EXIT_COMPLETE


def recover(arguments: Namespace) -> int:
    """Do a round of recovery by hand."""
    from dataclasses import asdict

    from converge.protocol.recover import Sweep

    done = Sweep()
    if _is_there(arguments):
        with opened(arguments) as store:
            done = store.recover()
    if arguments.json:
        write_json(asdict(done), sys.stdout)
    else:
        for line in recovered(done):
            print(line)
    return EXIT_COMPLETE


# Serving


def engine(arguments: Namespace) -> int:
    """Run an engine."""
    from converge.cli.running import Trouble, run_engine

    types = _types(arguments)
    if arguments.until_idle and not _is_there(arguments):
        return EXIT_COMPLETE
    trouble = Trouble(Reporter(sys.stderr))
    # a service may be started before its database
    patient = not arguments.until_idle
    with _when_there(arguments, trouble) if patient else opened(arguments, create=True) as store:
        greeting = f"an engine with {arguments.workers} workers is running; Ctrl-C stops it"
        status = run_engine(
            store,
            trouble,
            workers=arguments.workers,
            grace=arguments.grace,
            lease=arguments.lease,
            types=types,
            until_idle=arguments.until_idle,
            begun=patient,
            greeting="" if arguments.until_idle else greeting,
        )
    return EXIT_COMPLETE if status is None else status


@contextmanager
def _when_there(arguments: Namespace, trouble: Trouble) -> Iterator[Store]:
    """The store, as soon as its server lets us in."""
    from converge.sql.faults import Unreachable

    with trouble.wait_out(lambda: connect(arguments, create=True), kind=Unreachable) as store:
        yield store


def journal(arguments: Namespace) -> int:
    """Look after the journal."""
    from converge.cli.journal import run

    return run(arguments, database_url(arguments), DEFAULT_URL if has_default() else None)


def machine(arguments: Namespace) -> int:
    """Look after the instances of machines."""
    from converge.cli.machine import run

    if not _is_there(arguments):
        return run(arguments, None)
    with opened(arguments) as store:
        return run(arguments, store)


def db(arguments: Namespace) -> int:
    """Look after the database's schema."""
    from converge.sql import migrate

    url = database_url(arguments) or DEFAULT_URL
    if arguments.operation == "sql":
        sys.stdout.write(migrate.sql(url))
    elif arguments.operation == "current":
        print(migrate.current(url) or "no tables of converge's")
    elif arguments.operation == "upgrade":
        migrate.upgrade(url)
        print(f"the schema is at version {migrate.current(url)}")
    elif differences := migrate.check(url):
        print("the tables differ from what this converge expects:")
        for difference in differences:
            print(f"  {escape(difference)}")
        return EXIT_FAILED
    else:
        print("the schema is up to date")
    return EXIT_COMPLETE


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "up": up,
    "down": down,
    "rollback": rollback,
    "check": check,
    "cancel": cancel,
    "forget": forget,
    "list": list_,
    "show": show,
    "graph": graph,
    "events": events,
    "why": why,
    "engine": engine,
    "engines": engines,
    "recover": recover,
    "journal": journal,
    "machine": machine,
    "db": db,
}
