"""The options of ``converge limit``."""

from __future__ import annotations

import argparse

from converge.cli.options.commands import Commands
from converge.cli.options.grammar import Parser
from converge.cli.options.shared import BUS, JSON
from converge.cli.options.values import integer

OPERATIONS = ("list", "set", "remove")
#: What a limit is of.
KINDS = ("type", "stack", "key")
_VALUES = ("places", "rate")


def add(commands: Commands) -> None:
    """Add it."""
    parser = commands.add(
        "limit",
        "Limit how many nodes run or start at once, by all engines together",
        BUS,
        JSON,
        check=_check,
    )
    parser.add_argument(
        "operation",
        metavar="|".join(OPERATIONS),
        choices=OPERATIONS,
        help="list: what is set, and how much of it is taken; set: a limit, with --places, --rate "
        "or both; remove: it limits nothing any more",
    )
    parser.add_argument("--type", metavar="NAME", help="nodes of this resource type")
    parser.add_argument("--stack", metavar="NAME", help="nodes of this stack")
    parser.add_argument(
        "--key", metavar="NAME", help="nodes of which the resource type names this key"
    )
    parser.add_argument(
        "--places",
        metavar="N",
        type=integer(0),
        help="set: the most nodes that are worked on at once",
    )
    parser.add_argument(
        "--rate",
        metavar="RATE",
        help="set: the most nodes that start in a time: 10/s, 5/min, 3/10s",
    )


def _check(arguments: argparse.Namespace, parser: Parser) -> None:
    operation = arguments.operation
    named = [kind for kind in KINDS if getattr(arguments, kind) is not None]
    given = [name for name in _VALUES if getattr(arguments, name) is not None]
    if operation == "list" and named:
        parser.error(f"--{named[0]} is an option of set and remove")
    if operation != "set" and given:
        parser.error(f"--{given[0]} is an option of set")
    if operation != "list" and len(named) != 1:
        parser.error(f"{operation}: name one of --type, --stack and --key")
    if operation == "set" and not given:
        parser.error("set: say --places, --rate or both; remove removes it")
