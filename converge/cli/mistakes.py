"""The mistakes of a file, as every command that looks for them prints them."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converge.cli.options.stacks import STDIN
from converge.errors import TemplateError
from converge.escaping import lines

if TYPE_CHECKING:
    from converge.resources.resource_type import ResourceType

#: What a template from stdin is called in messages.
STDIN_NAME = "<stdin>"


def read_stdin(arguments: Namespace) -> bytes | None:
    """The template, if it comes from stdin; None if it is in a file."""
    return sys.stdin.buffer.read() if arguments.file == STDIN else None


def find_mistakes(
    arguments: Namespace, types: Mapping[str, ResourceType], text: bytes | None
) -> list[TemplateError]:
    """All mistakes of the template that the arguments name.

    :param text: what :func:`read_stdin` read.
    """
    from converge.template import Template

    return Template.find_mistakes(
        arguments.file if text is None else STDIN_NAME,
        types,
        parameters=dict(arguments.param),
        environments=arguments.environment,
        elsewhere=arguments.elsewhere,
        text=text,
    )


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
