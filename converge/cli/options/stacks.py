"""The options of the commands that change a stack, and of those about a template."""

from __future__ import annotations

import argparse

from converge.cli.options.commands import Commands
from converge.cli.options.grammar import Parser
from converge.cli.options.shared import (
    ACTOR,
    BUS,
    JSON,
    POLICIES,
    RUN,
    STACK,
    TYPES,
    UNPROTECT,
    VALUES,
    WORKERS,
    policy,
)
from converge.cli.options.values import integer, json_value, queue, version
from converge.model import MOST_PRIORITY

#: The name of a file that is no file.
STDIN = "-"


def add(commands: Commands) -> None:
    """Add them."""
    up = commands.add(
        "up",
        "Create or update a stack from a template",
        VALUES,
        UNPROTECT,
        WORKERS,
        RUN,
        ACTOR,
        policy(POLICIES),
        JSON,
        check=_check_up,
    )
    _add_wanted(up)
    _add_asked(up)
    up.add_argument(
        "--plan",
        action="store_true",
        help="first print what would be done, and ask at the terminal whether to go on",
    )
    up.add_argument("--yes", action="store_true", help="with --plan: go on without asking")
    up.add_argument(
        "--refresh",
        action="store_true",
        help="first look at the real things, as `converge check` does, and mend what differs",
    )
    plan = commands.add(
        "plan",
        "Say what `converge up` would do, and why, without doing it",
        VALUES,
        UNPROTECT,
        WORKERS,
        ACTOR,
        JSON,
        check=_check_wanted,
    )
    _add_wanted(plan)
    _add_asked(plan)
    plan.add_argument(
        "--refresh",
        action="store_true",
        help="first look at the real things, as `converge check` does, and change none",
    )
    plan.set_defaults(timeout=None, no_wait=False)
    plan.add_argument(
        "--exit-code",
        action="store_true",
        help="exit with 3 if there are changes, and with 0 if there are none",
    )
    up.add_argument(
        "--queue",
        metavar="NAME",
        type=queue,
        help="whose engines work on the stack (default: as before; at first, default)",
    )
    up.add_argument(
        "--priority",
        metavar="N",
        type=integer(-MOST_PRIORITY, MOST_PRIORITY),
        help="what is ready of a higher one comes first, "
        f"{-MOST_PRIORITY} to {MOST_PRIORITY} (default: as before; at first, 0)",
    )
    validate = commands.add("validate", "Say all mistakes of a template at once", VALUES, JSON)
    _add_file(validate)
    schema = commands.add("schema", "Print a JSON Schema of templates, for editors")
    schema.add_argument("-o", "--output", metavar="FILE", help="write it there (default: stdout)")
    down = commands.add(
        "down",
        "Delete a stack and all its resources; at a terminal, ask first",
        STACK,
        UNPROTECT,
        WORKERS,
        RUN,
        ACTOR,
        policy(POLICIES[:2]),
        JSON,
    )
    down.add_argument("--yes", action="store_true", help="do not ask")
    down.add_argument(
        "--despite",
        metavar="STACK",
        action="append",
        default=[],
        help="a stack that reads outputs of this one, and can do without it; may be repeated",
    )
    rollback = commands.add(
        "rollback",
        "Roll a stack back to an earlier version",
        STACK,
        UNPROTECT,
        WORKERS,
        RUN,
        ACTOR,
        policy(POLICIES),
        JSON,
    )
    rollback.add_argument(
        "--to",
        metavar="VERSION",
        type=version,
        help="its number, or empty to delete all resources (default: for a stack that is "
        "COMPLETE, the version that completed before; else the one that completed last)",
    )
    commands.add(
        "check",
        "Check whether a stack's resources are as they should be",
        STACK,
        WORKERS,
        RUN,
        ACTOR,
        JSON,
    )
    commands.add("cancel", "Stop what is being done to a stack", STACK, BUS, JSON)
    forget = commands.add("forget", "Forget (abandon) a resource without deleting it", STACK, JSON)
    forget.add_argument("resource", metavar="RESOURCE", help="its name in the template")
    forget.add_argument(
        "--id",
        metavar="N",
        type=integer(1),
        help="which version, of a name that has several",
    )
    adopt = commands.add(
        "adopt",
        "Take a thing that is there into a stack, as if converge had made it",
        STACK,
        VALUES,
        TYPES,
        JSON,
        check=_check_adopt,
    )
    adopt.add_argument("resource", metavar="RESOURCE", help="its name in the template")
    adopt.add_argument("id", metavar="ID", help="the thing, as its type calls it")
    adopt.add_argument(
        "--template",
        metavar="FILE",
        help="the file that names it, and that `converge up` gets next (default: what the stack "
        "is at)",
    )
    move = commands.add(
        "move",
        "Give a resource another name, or another stack, and leave it as it is",
        STACK,
        JSON,
    )
    move.add_argument(
        "--to", metavar="STACK", help="the stack that it is to belong to (default: its own)"
    )
    move.add_argument("old", metavar="OLD", help="the name that it has")
    move.add_argument("new", metavar="NEW", help="the name that it gets")
    signal = commands.add("signal", "Tell a resource what it waits for", STACK, BUS, JSON)
    signal.add_argument("resource", metavar="RESOURCE", help="its name in the template")
    signal.add_argument(
        "--name",
        dest="signal",
        metavar="NAME",
        default="signal",
        help="the signal's name (default: signal)",
    )
    signal.add_argument(
        "--data", metavar="JSON", type=json_value, help="what the resource is told (default: null)"
    )
    signal.add_argument(
        "--failure", metavar="REASON", help="it has failed: so does the resource, for this reason"
    )
    signal.add_argument(
        "--id",
        metavar="ID",
        help="of two signals with the same one, the second is ignored: a call can be repeated",
    )


def _add_wanted(parser: Parser) -> None:
    """The file, and the stack that it is for."""
    _add_file(parser)
    parser.add_argument(
        "--stack",
        metavar="NAME",
        help="default: the file's name without its ending; needed for stdin",
    )
    parser.add_argument(
        "--keep-params",
        "--existing",
        action="store_true",
        help="parameters that are not given keep the values that the stack has (default: they have "
        "their defaults again)",
    )


def _add_file(parser: Parser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="the template, YAML or JSON; - reads it from stdin"
    )


def _add_asked(parser: Parser) -> None:
    """What is done with resources that are named."""
    parser.add_argument(
        "--replace",
        metavar="RESOURCE",
        action="append",
        default=[],
        help="a resource that is replaced although nothing of it changes; may be repeated",
    )
    parser.add_argument(
        "--target",
        metavar="RESOURCE",
        action="append",
        default=[],
        help="touch only this resource and what it requires, and leave the others as they are; "
        "may be repeated",
    )


def _check_wanted(arguments: argparse.Namespace, parser: Parser) -> None:
    if arguments.file == STDIN and arguments.stack is None:
        parser.error("a template from stdin has no name: say --stack NAME")
    names = [name for name, _ in arguments.param]
    for name in names:
        if names.count(name) > 1:
            parser.error(f"argument --param: {name!r} is given more than once")


def _check_adopt(arguments: argparse.Namespace, parser: Parser) -> None:
    if arguments.template is None and (arguments.param or arguments.environment):
        parser.error("parameters go with --template: the stack has its own")


def _check_up(arguments: argparse.Namespace, parser: Parser) -> None:
    _check_wanted(arguments, parser)
    if arguments.yes and not arguments.plan:
        parser.error("--yes goes with --plan: without it, `converge up` does not ask")
    if arguments.refresh and arguments.no_wait:
        parser.error(
            "--refresh waits for what it looks at, so it does not go with --no-wait: "
            "use `converge check` with --no-wait, and then `converge up`"
        )
