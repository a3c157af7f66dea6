"""The options of ``converge db``."""

from __future__ import annotations

import argparse

from converge.cli.options.commands import Commands
from converge.cli.options.grammar import Parser
from converge.cli.options.shared import JSON, add_older_than
from converge.cli.options.values import integer

DB_OPERATIONS = ("upgrade", "current", "check", "sql", "prune", "reencrypt", "new-key")
#: How many ended traversals of each live stack a prune keeps by itself.
KEEP = 10


def add(commands: Commands) -> None:
    """Add it."""
    parser = commands.add(
        "db", "Create, upgrade, check or prune the database", JSON, check=_check_db
    )
    parser.add_argument(
        "operation",
        metavar="|".join(DB_OPERATIONS),
        choices=DB_OPERATIONS,
        help="upgrade: bring its schema up to date; current: print the schema's revision; check: "
        "tell whether it is up to date; sql: print what upgrade would do; prune: delete what is "
        "old: deleted stacks, and traversals that are over, with their events; "
        "reencrypt: encrypt what may be secret with the first key of CONVERGE_SECRET_KEY or of the "
        "file CONVERGE_SECRET_KEY_FILE; new-key: print a new key",
    )
    add_older_than(parser, "prune: what ended at least this long ago")
    parser.add_argument(
        "--keep",
        metavar="N",
        type=integer(0),
        help="prune: of each live stack, the N newest traversals that are over stay, however old "
        f"(default: {KEEP})",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        default=None,
        help="prune: only count what would be deleted",
    )


def _check_db(arguments: argparse.Namespace, parser: Parser) -> None:
    if arguments.operation == "prune":
        if arguments.older_than is None:
            parser.error(
                "prune needs --older-than SECONDS: say `converge db prune --older-than 2592000` to "
                "delete what ended a month ago; --dry-run only counts it"
            )
        return
    for name in ("older_than", "keep", "dry_run"):
        if getattr(arguments, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is an option of prune")
    if arguments.json:
        parser.error("--json is an option of prune")
