"""What can be typed: the whole command line, and the messages about a mistyped one.

Imports nothing heavy, so that ``converge --help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from converge.cli.options import (
    agent,
    completion,
    database,
    engines,
    group,
    journal,
    limits,
    machine,
    notifications,
    reading,
    stacks,
)
from converge.cli.options.commands import Commands
from converge.cli.options.grammar import Parser
from converge.cli.options.shared import DATABASE
from converge.errors import did_you_mean

EPILOG = """\
exit status:
  0    complete
  1    the stack failed, was cancelled, or was superseded by another client
  2    bad usage or input, or the database cannot be used
  3    converge why: something is stuck; converge plan --exit-code: there are changes
  70   an error inside converge (CONVERGE_DEBUG=1 shows the traceback)
  130  interrupted by Ctrl-C; run `converge up` again to continue
  141  the output was closed by its reader
  143  terminated by SIGTERM, which acts like Ctrl-C

environment:
  CONVERGE_DB     the database's URL, as for --db
  CONVERGE_BUS    the URL of the bus, as for --bus
  CONVERGE_ACTOR  who asks, as for --actor
  CONVERGE_SECRET_KEY_FILE
                  a file of keys, one a line, to encrypt values in the database with
  CONVERGE_SECRET_KEY
                  the keys themselves, separated by commas
  CONVERGE_SECRET_SOURCES
                  from where get_secret may read: env, file, or others
  CONVERGE_DEBUG  show the traceback of every error
  CONVERGE_PASS_ENV
                  names of variables, separated by spaces or commas, as for --pass-env
  CONVERGE_FILE_ROOT
                  folders, separated by colons as in PATH, as for --file-root
  NO_COLOR        no colours
"""
#: In the order in which ``--help`` lists their commands.
GROUPS = (
    stacks,
    reading,
    engines,
    limits,
    journal,
    machine,
    notifications,
    agent,
    group,
    database,
    completion,
)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        # imported late: reading the metadata takes longer than all of the parsing
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("converge")
        except PackageNotFoundError:
            number = "(not installed)"
        print(f"converge {number}")
        parser.exit()


def build_parser() -> tuple[Parser, Commands]:
    """The parser of the whole command line, and the commands."""
    parser = Parser(
        prog="converge",
        parents=[DATABASE],
        description="Bring a graph of resources into the state that a template describes.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        dest=argparse.SUPPRESS,
        help="print the version",
    )
    commands = Commands(parser)
    for one in GROUPS:
        one.add(commands)
    return parser, commands


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, without the program's name.

    :returns: its ``command`` and that command's options; ``db`` is None where not given.
    :raises UsageError: it is wrong.
    :raises SystemExit: after ``--help`` and ``--version``, and after the help for no word at all.
    """
    parser, commands = build_parser()
    if not argv:
        parser.print_help()
        parser.exit()
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        _refuse(rest, parser, commands.by_name[arguments.command])
    arguments.db = getattr(arguments, "db", None)
    arguments.bus = getattr(arguments, "bus", None)
    commands.check(arguments)
    return arguments


def _refuse(rest: Sequence[str], parser: Parser, command: Parser) -> NoReturn:
    option = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
    if option is None:
        command.error(f"unexpected argument {rest[0]!r}")
    if option in command.options():
        command.error(f"{option} belongs after the command")
    known = {name for name in command.options() + parser.options() if name.startswith("--")}
    command.error(f"unknown option {option!r}{did_you_mean(option, known)}")
