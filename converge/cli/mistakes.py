"""The mistakes of a file, as every command that looks for them prints them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from converge.errors import TemplateError
from converge.escaping import lines


def list_mistakes(found: Sequence[TemplateError]) -> list[dict[str, Any]]:
    """They for a JSON document."""
    return [
        {"message": error.message, "source": error.source, "line": error.line} for error in found
    ]


def print_mistakes(found: Sequence[TemplateError]) -> None:
    """They on stderr."""
    for error in found:
        print(f"converge: error: {lines(str(error))}", file=sys.stderr)


def print_count(found: Sequence[TemplateError]) -> None:
    """How many there are, on stderr."""
    count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
    print(f"converge: {count}", file=sys.stderr)
