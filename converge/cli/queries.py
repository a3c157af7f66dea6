"""The commands that only read: ``list``, ``show``, ``graph``, ``events``, ``why``, ``engines``."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converge.cli import EXIT_COMPLETE
from converge.cli.database import is_there, opened, readable
from converge.cli.output import moment, shown, write_file, write_json, write_table
from converge.cli.progress import PlainReporter, counts, summary
from converge.cli.words import holds, lease
from converge.errors import NotFound
from converge.escaping import escape, lines, prose

if TYPE_CHECKING:
    from converge.graph import Graph

_TEMPLATE_ENDINGS = {".yaml", ".yml", ".json"}


def list_(arguments: Namespace) -> int:
    """List the stacks."""
    stacks: list[dict[str, Any]] = []
    if is_there(arguments):
        with readable(arguments) as reads:
            stacks = reads.stacks()
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
    """Times, which are seconds since 1970, in UTC; other values unchanged."""
    return moment(value) if isinstance(value, float) else value


def show(arguments: Namespace) -> int:
    """Show a stack."""
    with readable(arguments) as reads:
        document = reads.show(arguments.name)
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
    write_outputs(document["outputs"], before="\n")
    return EXIT_COMPLETE


def write_outputs(outputs: Mapping[str, Any], before: str = "") -> None:
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
        # a stack's name may be longer than a file's can be
        return False


def _stack_graph(arguments: Namespace) -> tuple[str, Graph[str], Mapping[str, str]]:
    name = arguments.what
    with readable(arguments) as reads:
        try:
            edges, resources = reads.graph(name), reads.show(name)["resources"]
        except NotFound as error:
            raise NotFound(f"{error}, and no file of that name") from error
    return name, edges, {one: str(about["status"]) for one, about in resources.items()}


def events(arguments: Namespace) -> int:
    """Print what happened to a stack."""
    from converge.cli.running import EventReader

    if arguments.follow:
        return _follow(arguments)
    with readable(arguments) as reads:
        found = EventReader(reads, arguments.name, after=0).new()
    if arguments.json:
        write_json(found, sys.stdout)
    else:
        PlainReporter(sys.stdout, sys.stderr).events(found)
    return EXIT_COMPLETE


def _follow(arguments: Namespace) -> int:
    from converge.cli.running import POLL_MOST, EventReader, Outages, tolerate_outages

    with opened(arguments) as store:
        reader = EventReader(store, arguments.name, after=0)
        reporter = PlainReporter(sys.stdout, sys.stderr)
        reporter.events(reader.new())
        outages = Outages(reporter)
        try:
            stack = outages.wait_out(lambda: store.stack(arguments.name))
        except NotFound:  # it was deleted: there will be no more events
            return EXIT_COMPLETE

        def look() -> bool:
            ended = stack.refresh().status != "IN_PROGRESS"
            reporter.events(reader.rest() if ended else reader.new())
            return ended

        ended = tolerate_outages(look, outages)
        while not ended():
            time.sleep(POLL_MOST)
    return EXIT_COMPLETE


def why(arguments: Namespace) -> int:
    """Say what a stack or resource waits for, why it failed, or what is stuck anywhere."""
    found: list[dict[str, Any]] = []
    if arguments.name is not None or is_there(arguments):
        with readable(arguments) as reads:
            found = reads.why(arguments.name, arguments.resource)
    if arguments.json:
        write_json(found, sys.stdout)
    elif not found:
        print("nothing is stuck" if arguments.name is None else "nothing is waiting")
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
    if is_there(arguments):
        with readable(arguments) as reads:
            found = reads.engines(ended=arguments.all)
    if arguments.json:
        write_json(found, sys.stdout)
    elif not found:
        print("no engines")
    else:
        columns = ("id", "host", "pid", "state", "started", "lease", "nodes", "holds")
        rows = [{**one, "lease": lease(one), "holds": holds(one)} for one in found]
        write_table(columns, ([_cell(one[key]) for key in columns] for one in rows), sys.stdout)
    return EXIT_COMPLETE
