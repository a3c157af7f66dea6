"""The options of the commands that read about stacks."""

from __future__ import annotations

import argparse

from converge.cli.options.commands import Commands
from converge.cli.options.grammar import Parser
from converge.cli.options.shared import BUS, JSON, STACK, WIDE, add_status
from converge.cli.options.values import integer, limit, since

#: How many resources `converge show` shows.
SHOWN = 100
FORMATS = ("text", "dot", "mermaid", "svg", "json")


def add(commands: Commands) -> None:
    """Add them."""
    listing = commands.add("list", "List the stacks", WIDE, JSON)
    listing.add_argument("--nested", action="store_true", help="also nested stacks")
    show = commands.add(
        "show", "Show a stack: its status, resources and outputs", STACK, WIDE, JSON
    )
    show.add_argument(
        "--limit",
        metavar="N",
        type=limit,
        default=SHOWN,
        help=f"how many resources, by name, or all (default: {SHOWN})",
    )
    show.add_argument(
        "--after", metavar="RESOURCE", help="only resources whose names come after this one"
    )
    add_status(show, "only resources with this status; may be repeated")
    show.add_argument(
        "--type",
        metavar="TYPE",
        action="append",
        default=[],
        help="only resources of this type; may be repeated",
    )
    graph = commands.add("graph", "Draw the graph of a stack or of a template", check=_check_graph)
    graph.add_argument("what", metavar="NAME|FILE", help="a stack, or a template")
    graph.add_argument(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help="text, dot, mermaid, svg or json (default: by the ending of -o FILE, else text)",
    )
    graph.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        default=argparse.SUPPRESS,
        help="the same as --format json",
    )
    graph.add_argument("--around", metavar="RESOURCE", help="only the part around this resource")
    add_status(
        graph, "of a stack: only the parts around resources with this status; may be repeated"
    )
    graph.add_argument(
        "--depth",
        metavar="N",
        type=integer(0),
        help="how many steps such a part goes, to what is required and to what requires it "
        "(default: 1)",
    )
    graph.add_argument("-o", "--output", metavar="FILE", help="write it there (default: stdout)")
    events = commands.add("events", "Print what happened to a stack", STACK, BUS, JSON)
    events.add_argument(
        "--follow",
        action="store_true",
        help="continue until the current action has ended, with its exit status; with --json, a "
        "document a line",
    )
    events.add_argument(
        "--limit", metavar="N", type=integer(1), help="only the newest N (default: all)"
    )
    events.add_argument(
        "--since",
        metavar="SECONDS|TIME",
        type=since,
        help="only those of the last SECONDS, or since a time such as 2026-12-31T23:59:59Z",
    )
    why = commands.add(
        "why", "Say what a stack waits for, why it failed, or what is stuck", JSON, check=_check_why
    )
    why.add_argument(
        "name", metavar="NAME", nargs="?", help="the stack (default: what is stuck anywhere)"
    )
    why.add_argument("resource", metavar="RESOURCE", nargs="?", help="one of its resources")
    why.add_argument(
        "--traceback",
        action="store_true",
        help="also the traceback of the exception that the resource failed with",
    )


def _check_graph(arguments: argparse.Namespace, parser: Parser) -> None:
    if arguments.around is not None and arguments.status:
        parser.error("--around and --status cannot be combined")
    if arguments.depth is not None and arguments.around is None and not arguments.status:
        parser.error("--depth needs --around RESOURCE or --status STATUS")


def _check_why(arguments: argparse.Namespace, parser: Parser) -> None:
    if arguments.traceback and arguments.resource is None:
        parser.error("--traceback needs a NAME and a RESOURCE")
