"""The command ``completion``: what a shell needs to complete commands and options."""

from __future__ import annotations

from argparse import Namespace

from converge.cli import EXIT_COMPLETE
from converge.errors import BadInput


def run(arguments: Namespace) -> int:
    """Print it."""
    from converge.cli.parser import build_parser

    try:
        import shtab
    except ImportError as error:
        raise BadInput("the package shtab is not installed; type: pip install shtab") from error
    parser, commands = build_parser()
    for command in commands.by_name.values():
        for action in command._actions:
            if action.metavar == "FILE":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))
    return EXIT_COMPLETE
