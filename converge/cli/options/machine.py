"""The options of ``converge machine``."""

from __future__ import annotations

import argparse

from converge.cli.options.commands import Commands
from converge.cli.options.grammar import Parser
from converge.cli.options.shared import JSON
from converge.cli.options.values import seconds

MACHINE_OPERATIONS = ("list", "show", "retry", "delete", "prune")


def add(commands: Commands) -> None:
    """Add it."""
    parser = commands.add(
        "machine", "Show and maintain the instances of machines", JSON, check=_check_machine
    )
    parser.add_argument(
        "operation",
        metavar="|".join(MACHINE_OPERATIONS),
        choices=MACHINE_OPERATIONS,
        help="list: the machines; list MACHINE: its instances; show MACHINE KEY: an instance and "
        "its history; retry MACHINE KEY...: call failed actions again; delete MACHINE KEY...: "
        "delete instances with their history; prune MACHINE: delete those that ended long ago",
    )
    parser.add_argument("machine", metavar="MACHINE", nargs="?", help="the name of a machine")
    parser.add_argument("keys", metavar="KEY", nargs="*", help="the keys of instances")
    parser.add_argument(
        "--state",
        metavar="STATE",
        action="append",
        help="list, prune: only instances in this state; for prune, may be repeated",
    )
    parser.add_argument(
        "--failed",
        action="store_true",
        default=None,
        help="list: only moves whose action has FAILED",
    )
    parser.add_argument(
        "--age",
        metavar="SECONDS",
        type=seconds(),
        help="prune: those that last moved at least this long ago",
    )


def _check_machine(arguments: argparse.Namespace, parser: Parser) -> None:
    operation, machine, keys = arguments.operation, arguments.machine, arguments.keys
    options = [name for name in ("state", "failed", "age") if getattr(arguments, name) is not None]
    allowed = {"list": ("state", "failed"), "prune": ("state", "age")}.get(operation, ())
    for name in options:
        if name not in allowed:
            parser.error(f"--{name} is not an option of {operation}")
    if operation == "list":
        if keys:
            parser.error(f"unexpected argument {keys[0]!r}; `converge machine show` shows one")
        if options and machine is None:
            parser.error(f"--{options[0]} needs the name of a MACHINE")
        if len(options) == 2:
            parser.error("--state and --failed cannot be combined")
        if len(arguments.state or ()) > 1:
            parser.error("list takes one --state")
        return
    if operation == "prune":
        if machine is None or len(options) < 2:
            parser.error("prune needs a MACHINE, a final --state STATE, and --age SECONDS")
        if keys:
            parser.error(f"unexpected argument {keys[0]!r}; `converge machine delete` takes keys")
        return
    if machine is None or not keys:
        parser.error(f"{operation} needs a MACHINE and a KEY; see `converge machine list`")
    if operation == "show" and len(keys) > 1:
        parser.error(f"unexpected argument {keys[1]!r}; show takes one KEY")
