"""The commands that only read: ``list``, ``show``, ``graph``, ``events``, ``why``, ``engines``."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converge.cli import EXIT_COMPLETE, EXIT_FAILED, EXIT_STUCK
from converge.cli.database import is_there, opened, readable
from converge.cli.endings import page_line
from converge.cli.output import duration, moment, shown, write_file, write_json, write_table
from converge.cli.progress import JsonReporter, PlainReporter, counts, summary, with_actor
from converge.cli.words import grouped, holds, lease, queues
from converge.errors import BadInput, NotFound, did_you_mean
from converge.escaping import escape, lines, prose

if TYPE_CHECKING:
    from converge.cli.running import EventReader
    from converge.graph import Graph
    from converge.inspection.queries import Queries

#: How many resources that wait are named.
_WAITING_MAX = 20

_TEMPLATE_ENDINGS = {".yaml", ".yml", ".json"}


def list_(arguments: Namespace) -> int:
    """List the stacks."""
    stacks: list[dict[str, Any]] = []
    idle = False
    if is_there(arguments):
        with readable(arguments) as reads:
            stacks = reads.stacks(nested=arguments.nested)
            unfinished = any(one["status"] == "IN_PROGRESS" for one in stacks)
            idle = unfinished and all(one["state"] != "ALIVE" for one in reads.engines())
    if arguments.json:
        write_json(stacks, sys.stdout)
    elif not stacks:
        print("no stacks")
    else:
        columns = ("name", "action", "status", "version", "updated", "reason")
        write_table(
            columns,
            ([_cell(one.get(key)) for key in columns] for one in stacks),
            sys.stdout,
            wide=arguments.wide,
        )
    if idle:
        print("converge: no engine is alive; to go on, run `converge engine`", file=sys.stderr)
    return EXIT_COMPLETE


def _cell(value: object) -> object:
    """Times, which are seconds since 1970, in UTC; other values unchanged."""
    return moment(value) if isinstance(value, float) else value


def show(arguments: Namespace) -> int:
    """Show a stack."""
    with readable(arguments) as reads:
        document = reads.show(
            arguments.name,
            limit=arguments.limit,
            after=arguments.after,
            status=arguments.status,
            type=arguments.type,
        )
        waiting = []
        if document["progress"]["waiting"] and not arguments.json:
            waiting = reads.waiting(arguments.name, limit=_WAITING_MAX + 1)
    if arguments.json:
        write_json(document, sys.stdout)
        return EXIT_COMPLETE
    from converge.protocol.outputs import describe_reads

    name, reason = document["name"], document["reason"]
    print(summary(name, document["action"], document["status"], None))
    if reason:
        print(f"reason: {prose(reason)}")
    who = f", asked for by {escape(document['actor'])}" if document["actor"] else ""
    print(f"traversal {document['traversal']}: {counts(document['progress'])}{who}")
    for what in ("reads", "read_by"):
        if document[what]:
            print(f"{what.replace('_', ' ')}: {escape(describe_reads(document[what]))}")
    if document["outer"]:
        outer = document["outer"]
        print(f"of resource {escape(outer['resource'])} of stack {escape(outer['stack'])}")
    for resource, inner in document["nested"].items():
        print(f"nested: {escape(resource)} is stack {escape(inner)}")
    if document["counts"]:
        every = (f"{count} {status}" for status, count in document["counts"].items())
        print(f"resources: {', '.join(every)}")
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
            wide=arguments.wide,
        )
    _write_waiting(waiting)
    write_outputs(document["outputs"], before="\n")
    if document["more"]:
        last = next(reversed(document["resources"]), None)
        print(f"\n{document['more']} more resources", page_line(arguments, last), sep="\n")
    return EXIT_COMPLETE


def _write_waiting(waiting: Sequence[Mapping[str, Any]]) -> None:
    """What the handlers that wait have said."""
    if waiting:
        print("\nwaiting:")
    for one in waiting[:_WAITING_MAX]:
        of_cleanup = " (cleanup)" if one["kind"] == "cleanup" else ""
        progress = f": {prose(one['progress'])}" if one["progress"] else ""
        again = f"until {one['until']}"
        if one["again_in_seconds"] is not None:
            again = f"looked at again in {duration(one['again_in_seconds'])}"
        about = f"for {duration(one['since_seconds'])}; {again}"
        print(f"  {escape(one['resource'])}{of_cleanup}{progress} ({about})")
    if len(waiting) > _WAITING_MAX:
        print("  and more")


def write_outputs(outputs: Mapping[str, Any], before: str = "") -> None:
    if outputs:
        lines = [f"  {escape(name)} = {shown(value)}\n" for name, value in outputs.items()]
        sys.stdout.write(before + "outputs:\n" + "".join(lines))


def graph(arguments: Namespace) -> int:
    """Draw a graph."""
    from converge.drawing.graphs import ENDINGS, draw

    what, output = arguments.what, arguments.output
    how = arguments.format or ENDINGS.get(Path(output or "").suffix.lower(), "text")
    path = Path(what)
    if path.suffix.lower() in _TEMPLATE_ENDINGS or _is_file(path):
        title, edges, statuses = _template_graph(arguments, path)
    else:
        title, edges, statuses = _stack_graph(arguments)
    text = draw(edges, how, title=title, statuses=statuses)
    if output in (None, "-"):
        sys.stdout.write(text)
    else:
        write_file(output, text)
    return EXIT_COMPLETE


_Drawn = tuple[str, "Graph[str]", Mapping[str, str]]


def _template_graph(arguments: Namespace, path: Path) -> _Drawn:
    if arguments.status:
        raise BadInput(
            f"{escape(path)} is a template, whose resources have no status; --status is for a stack"
        )
    from converge.template import Template

    template = Template.load(path, for_drawing=True)
    for problem in template.problems:
        warning = f"converge: warning: {problem}; it is drawn, but `converge up` refuses it"
        print(escape(warning), file=sys.stderr)
    edges = template.graph()
    if arguments.around is None:
        return path.stem, edges, {}
    return _around(arguments, path.stem, edges), _part(arguments, edges, [arguments.around]), {}


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):
        # a stack's name may be longer than a file's can be
        return False


def _stack_graph(arguments: Namespace) -> _Drawn:
    name = arguments.what
    with readable(arguments) as reads:
        try:
            edges = reads.graph(name)
        except NotFound as error:
            raise NotFound(f"{error}, and no file of that name") from error
        if arguments.around is not None:
            title = _around(arguments, name, edges)
            edges = _part(arguments, edges, [arguments.around])
        elif arguments.status:
            # what is no longer wanted has a status, and is not in the graph
            found = reads.statuses(name, status=arguments.status)
            title = f"{name}, {' or '.join(dict.fromkeys(arguments.status))}"
            edges = _part(arguments, edges, [one for one in found if one in edges])
        else:
            return name, edges, reads.statuses(name)
        return title, edges, reads.statuses(name, resources=edges)


def _around(arguments: Namespace, title: str, edges: Graph[str]) -> str:
    """The title of a part.

    :raises NotFound: there is no resource to be around.
    """
    if arguments.around not in edges:
        hint = did_you_mean(arguments.around, edges)
        raise NotFound(f"{title!r} has no resource {arguments.around!r}{hint}")
    return f"{title}, around {arguments.around}"


def _part(arguments: Namespace, edges: Graph[str], nodes: Iterable[str]) -> Graph[str]:
    return edges.around(nodes, 1 if arguments.depth is None else arguments.depth)


def events(arguments: Namespace) -> int:
    """Print what happened to a stack."""
    if arguments.follow:
        return _follow(arguments)
    with readable(arguments) as reads:
        found, _ = _past(arguments, reads)
    if arguments.json:
        write_json(found, sys.stdout)
    else:
        PlainReporter(sys.stdout, sys.stderr).events(map(with_actor, found))
    return EXIT_COMPLETE


def _past(arguments: Namespace, reads: Queries) -> tuple[list[dict[str, Any]], EventReader]:
    """The events that are asked for, and who reads those that come after them."""
    from converge.cli.running import EventReader

    name, limit, since = arguments.name, arguments.limit, arguments.since
    if limit is None and since is None:
        reader = EventReader(reads, name, after=0)
        return reader.new(), reader
    # before the others are read: what comes meanwhile is among them, or after it
    newest = reads.events(name, limit=1)
    found = reads.events(name, limit=limit or sys.maxsize, since=since)
    last = max((one["id"] for one in [*newest, *found]), default=0)
    return found, EventReader(reads, name, after=last)


def _follow(arguments: Namespace) -> int:
    from converge.cli.running import POLL_CONNECTED, POLL_MOST, Outages, log_to, tolerate_outages

    with opened(arguments) as store:
        found, reader = _past(arguments, store)
        kind = JsonReporter if arguments.json else PlainReporter
        reporter = kind(sys.stdout, sys.stderr)

        def write(events: Iterable[Mapping[str, Any]]) -> None:
            reporter.events(events if arguments.json else map(with_actor, events))

        write(found)
        outages = Outages(reporter)
        try:
            stack = outages.wait_out(lambda: store.stack(arguments.name))
        except NotFound:  # it was deleted: there will be no more events
            return EXIT_COMPLETE

        def look() -> bool:
            ended = stack.refresh().status != "IN_PROGRESS"
            write(reader.rest() if ended else reader.new())
            return ended

        ended = tolerate_outages(look, outages)
        with log_to(outages), store.bus.watching(stack.id, events=True) as watch:
            while True:
                # before the look: nothing is missed between it and the wait
                watch.news.clear()
                if ended():
                    break
                watch.news.wait(POLL_CONNECTED if store.bus.is_connected else POLL_MOST)
    return EXIT_COMPLETE if stack.status == "COMPLETE" else EXIT_FAILED


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
        for line in grouped(found):
            print(prose(line))
        if arguments.traceback:
            traceback = found[0]["traceback"]
            print("there is no traceback" if traceback is None else lines(traceback.rstrip()))
    return EXIT_STUCK if found and arguments.name is None else EXIT_COMPLETE


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
        columns = ("id", "host", "pid", "state", "started", "lease", "queues", "nodes", "holds")
        rows = [
            {**one, "lease": lease(one), "queues": queues(one), "holds": holds(one)}
            for one in found
        ]
        cells = ([_cell(one[key]) for key in columns] for one in rows)
        write_table(columns, cells, sys.stdout, wide=arguments.wide)
    return EXIT_COMPLETE
