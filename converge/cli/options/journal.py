"""The options of ``converge journal``."""

from __future__ import annotations

import argparse

from converge.cli.options.commands import Commands
from converge.cli.options.grammar import Parser
from converge.cli.options.shared import JSON
from converge.cli.options.values import integer, seconds

JOURNAL_OPERATIONS = ("list", "show", "forget", "prune")


def add(commands: Commands) -> None:
    """Add it."""
    parser = commands.add(
        "journal",
        "Show and maintain the journal: the steps that were done",
        JSON,
        check=_check_journal,
    )
    parser.add_argument(
        "operation",
        metavar="|".join(JOURNAL_OPERATIONS),
        choices=JOURNAL_OPERATIONS,
        help="list: the scopes; show SCOPE: its steps; forget SCOPE: delete it, so that its work "
        "would start afresh; prune: delete finished scopes",
    )
    parser.add_argument("scope", metavar="SCOPE", nargs="?", help="for show and forget")
    parser.add_argument(
        "--failed",
        action="store_true",
        help="forget: only the steps that failed for good, so that they are done again",
    )
    parser.add_argument(
        "--age",
        metavar="SECONDS",
        type=seconds(),
        help="prune: those that finished at least this long ago",
    )
    parser.add_argument(
        "--keep", metavar="N", type=integer(0), help="prune: all but the N that finished last"
    )


def _check_journal(arguments: argparse.Namespace, parser: Parser) -> None:
    names = arguments.operation in ("show", "forget")
    if names and arguments.scope is None:
        parser.error(
            f"{arguments.operation} needs the name of a SCOPE; see `converge journal list`"
        )
    if not names and arguments.scope is not None:
        parser.error(f"unexpected argument {arguments.scope!r}")
    limits = [name for name in ("age", "keep") if getattr(arguments, name) is not None]
    if arguments.operation == "prune" and not limits:
        parser.error("prune needs --age SECONDS or --keep N; with both, both must apply")
    if arguments.operation != "prune" and limits:
        parser.error(f"--{limits[0]} is an option of prune")
    if arguments.operation != "forget" and arguments.failed:
        parser.error("--failed is an option of forget")
