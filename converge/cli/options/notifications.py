"""The options of ``converge pipeline``, ``deadletters``, ``deliveries`` and ``event-store``."""

from __future__ import annotations

import argparse

from converge.cli.options.commands import Commands
from converge.cli.options.grammar import Parser
from converge.cli.options.shared import JSON, add_limit, add_older_than
from converge.cli.options.values import integer, since

PIPELINE_OPERATIONS = ("check", "graph", "try")
LETTER_OPERATIONS = ("list", "show", "retry", "drop")
DELIVERY_OPERATIONS = ("list",)
STORE_OPERATIONS = ("list", "prune")
_FORMATS = ("text", "dot", "mermaid", "svg", "json")
_FILTERS = ("reason", "sink", "step", "type", "older_than")

PIPELINE_FILES = Parser(add_help=False)
PIPELINE_FILES.add_argument(
    "--event-definitions",
    metavar="FILE",
    help="event definitions in Ceilometer's format (default: those that the pipeline names)",
)
PIPELINE_FILES.add_argument(
    "--meters",
    metavar="FILE",
    help="meter definitions in Ceilometer's format (default: those that the pipeline names)",
)


def add(commands: Commands) -> None:
    """Add them."""
    _add_pipeline(commands)
    _add_letters(commands)
    _add_deliveries(commands)
    _add_store(commands)


def _add_pipeline(commands: Commands) -> None:
    parser = commands.add(
        "pipeline",
        "Check, draw and try pipeline files for notifications",
        PIPELINE_FILES,
        JSON,
        check=_check_pipeline,
    )
    parser.add_argument(
        "operation",
        metavar="|".join(PIPELINE_OPERATIONS),
        choices=PIPELINE_OPERATIONS,
        help="check: say all mistakes at once; graph: draw it; try: say what would become of the "
        "notifications that come by stdin, one JSON object a line, and write nothing",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="pipeline files, YAML or JSON")
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        metavar="FORMAT",
        help="graph: text, dot, mermaid, svg or json; default: by the ending of -o FILE, else text",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="graph: write it there (default: stdout)"
    )
    parser.add_argument(
        "--call-steps",
        action="store_true",
        default=None,
        help="try: also call steps of your own, which may have effects",
    )


def _check_pipeline(arguments: argparse.Namespace, parser: Parser) -> None:
    owners = {"format": "graph", "output": "graph", "call_steps": "try"}
    for name, operation in owners.items():
        if getattr(arguments, name) is not None and arguments.operation != operation:
            parser.error(f"--{name.replace('_', '-')} is an option of {operation}")
    if arguments.json and arguments.format not in (None, "json"):
        parser.error("--json is --format json: give one of the two")


def _add_letters(commands: Commands) -> None:
    parser = commands.add(
        "deadletters",
        "Show, retry and drop notifications that could not be handled",
        JSON,
        check=_check_letters,
    )
    parser.add_argument(
        "operation",
        metavar="|".join(LETTER_OPERATIONS),
        choices=LETTER_OPERATIONS,
        help="list: the oldest first; show ID: one with its body; retry: have agents try them "
        "again, at the step that failed; drop: delete them. retry and drop need IDs or a filter",
    )
    parser.add_argument(
        "ids", metavar="ID", nargs="*", type=integer(1), help="their numbers, as list shows them"
    )
    parser.add_argument("--reason", metavar="REASON", help="only those with this reason")
    parser.add_argument("--sink", metavar="SINK", help="only those that failed in this sink")
    parser.add_argument("--step", metavar="STEP", help="only those that failed at this step")
    parser.add_argument("--type", metavar="EVENT_TYPE", help="only those of this event type")
    add_older_than(parser, "only those that last came at least this long ago")
    add_limit(parser, "the most that are listed, the oldest first (default: 100)", 100)
    parser.add_argument(
        "--after", metavar="ID", type=integer(0), help="list: only those with a higher number"
    )


def _check_letters(arguments: argparse.Namespace, parser: Parser) -> None:
    operation, ids = arguments.operation, arguments.ids
    filters = [name for name in _FILTERS if getattr(arguments, name) is not None]
    if operation == "show":
        if len(ids) != 1 or filters:
            parser.error("show takes one ID")
        return
    if operation == "list" and ids:
        parser.error(f"unexpected argument '{ids[0]}'; `converge deadletters show` shows one")
    if operation in {"retry", "drop"} and not ids and not filters:
        parser.error(
            f"{operation} needs the IDs of dead letters, or a filter: "
            + ", ".join(f"--{name.replace('_', '-')}" for name in _FILTERS)
        )
    if arguments.after is not None and operation != "list":
        parser.error("--after is an option of list")


def _trait(text: str) -> tuple[str, str, str]:
    for sign in ("<=", ">=", "<", ">", "="):
        name, found, value = text.partition(sign)
        if found and name and not set(name) & set("<>="):
            if sign != "=":
                try:
                    float(value)
                except ValueError:
                    raise argparse.ArgumentTypeError(
                        f"must have a number after {sign}, not {text!r}"
                    ) from None
            return name, sign, value
    raise argparse.ArgumentTypeError(f"must be NAME=VALUE, NAME>NUMBER or the like, not {text!r}")


def _add_deliveries(commands: Commands) -> None:
    parser = commands.add(
        "deliveries", "Show the notifications that are on their way through sinks", JSON
    )
    parser.add_argument(
        "operation",
        metavar="|".join(DELIVERY_OPERATIONS),
        choices=DELIVERY_OPERATIONS,
        help="list: the oldest first, each with the stage of its sink that comes next",
    )
    parser.add_argument("--sink", metavar="SINK", help="only those to this sink")
    parser.add_argument(
        "--state",
        metavar="STATE",
        choices=("held", "due", "failed"),
        help="only those in this state: held: an agent has it, or the holder of its partition is "
        "to go on with it; due: it is tried again at its time; failed: it is a dead letter",
    )
    add_limit(parser, "the most that are listed, the oldest first (default: 100)", 100)
    parser.add_argument(
        "--after", metavar="ID", type=integer(0), default=0, help="only those with a higher number"
    )


def _check_store(arguments: argparse.Namespace, parser: Parser) -> None:
    listing = ("type", "trait", "since", "limit", "after")
    if arguments.operation == "list":
        for name in ("older_than", "dry_run"):
            if getattr(arguments, name) is not None:
                parser.error(f"--{name.replace('_', '-')} is an option of prune")
        if arguments.limit is None:
            arguments.limit = 100
        arguments.after = arguments.after or 0
        return
    for name in listing:
        if getattr(arguments, name) not in (None, []):
            parser.error(f"--{name} is an option of list")
    if arguments.older_than is None:
        parser.error(
            "prune needs --older-than SECONDS: say `converge event-store prune --older-than "
            "2592000` to delete what was sent a month ago; --dry-run only counts it"
        )


def _add_store(commands: Commands) -> None:
    parser = commands.add(
        "event-store",
        "Show and prune the events that notifications were recorded as",
        JSON,
        check=_check_store,
    )
    parser.add_argument(
        "operation",
        metavar="|".join(STORE_OPERATIONS),
        choices=STORE_OPERATIONS,
        help="list: in the order in which they were recorded; prune: delete old ones, and old "
        "samples",
    )
    parser.add_argument(
        "--type",
        metavar="EVENT_TYPE",
        action="append",
        default=[],
        help="list: only events of this type, in which * stands for any text; may be repeated",
    )
    parser.add_argument(
        "--trait",
        metavar="NAME=VALUE",
        type=_trait,
        action="append",
        default=[],
        help="list: only events with this trait; numbers and times (in seconds since 1970) may be "
        "compared with <, <=, > and >=; may be repeated, then all must hold",
    )
    parser.add_argument(
        "--since",
        metavar="SECONDS|TIME",
        type=since,
        help="list: only those sent in the last SECONDS, or since a time such as "
        "2026-12-31T23:59:59Z",
    )
    add_limit(parser, "list: the most that are listed, the first ones (default: 100)")
    parser.add_argument(
        "--after", metavar="ID", type=integer(0), help="list: only those with a higher number"
    )
    add_older_than(parser, "prune: what was sent or measured at least this long ago")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        default=None,
        help="prune: only count what would be deleted",
    )
