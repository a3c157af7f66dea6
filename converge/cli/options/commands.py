"""The commands of the command line, as they are added."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from converge.cli.options.grammar import Parser
from converge.cli.options.shared import DATABASE

#: Looks at what was parsed, and calls the parser's ``error`` if options do not go together.
Check = Callable[[argparse.Namespace, Parser], None]


class Commands:
    """The commands that there are.

    :ivar by_name: the parser of each.
    """

    def __init__(self, parser: Parser) -> None:
        self._subparsers: argparse._SubParsersAction[Any] = parser.add_subparsers(
            dest="command", metavar="COMMAND", required=True, parser_class=Parser
        )
        self.by_name: dict[str, Parser] = {}
        self._checks: dict[str, Check] = {}

    def add(self, name: str, summary: str, *parents: Parser, check: Check | None = None) -> Parser:
        """Add a command.

        :param parents: what options it shares with others.
        :param check: what looks at its options together.
        """
        self.by_name[name] = self._subparsers.add_parser(
            name, help=summary, description=summary, parents=[DATABASE, *parents]
        )
        if check is not None:
            self._checks[name] = check
        return self.by_name[name]

    def check(self, arguments: argparse.Namespace) -> None:
        """:raises UsageError: options do not go together."""
        if (check := self._checks.get(arguments.command)) is not None:
            check(arguments, self.by_name[arguments.command])
