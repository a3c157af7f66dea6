"""A parser of arguments whose errors are converge's, with hints for mistyped words."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from converge.errors import BadInput, did_you_mean


class UsageError(BadInput):
    """The command line is wrong; the message says what would be right."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises :class:`UsageError` and has hints for mistyped words."""

    def __init__(self, **keywords: Any) -> None:
        keywords.setdefault("allow_abbrev", False)
        keywords.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**keywords)

    def error(self, message: str) -> NoReturn:
        """:raises UsageError: always."""
        raise UsageError(f"{message}\ntry: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"unknown {value!r}{did_you_mean(value, known)}")

    def options(self) -> list[str]:
        """Every option that this parser knows, for hints."""
        return [option for action in self._actions for option in action.option_strings]
