"""The options of ``converge group``."""

from __future__ import annotations

import argparse

from converge.cli.options.commands import Commands
from converge.cli.options.grammar import Parser
from converge.cli.options.shared import JSON
from converge.cli.options.values import integer

OPERATIONS = ("list", "show", "resize", "delete")
#: The same as in converge.group.keys, which is not imported for ``--help``.
MOST_PARTITIONS = 1024


def add(commands: Commands) -> None:
    """Add it."""
    parser = commands.add(
        "group", "Show groups of agents and who holds which partition", JSON, check=_check
    )
    parser.add_argument(
        "operation",
        metavar="|".join(OPERATIONS),
        choices=OPERATIONS,
        help="list: the groups; show NAME: members and partitions; resize NAME N: change the "
        "number of partitions while agents run; delete NAME: delete a group without members",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="the group")
    parser.add_argument(
        "partitions",
        metavar="N",
        nargs="?",
        type=integer(1, MOST_PARTITIONS),
        help=f"how many partitions it is to have, 1 to {MOST_PARTITIONS}",
    )


def _check(arguments: argparse.Namespace, parser: Parser) -> None:
    operation, name, partitions = arguments.operation, arguments.name, arguments.partitions
    if operation == "list" and name is not None:
        parser.error(f"unexpected argument {name!r}; `converge group show {name}` shows one")
    if operation != "list" and name is None:
        parser.error(f"{operation} needs the NAME of a group; see `converge group list`")
    if operation == "resize" and partitions is None:
        parser.error("resize needs a NAME and a number of partitions")
    if operation != "resize" and partitions is not None:
        parser.error(f"unexpected argument {str(partitions)!r}; {operation} takes a NAME")
