"""Secrets that are kept elsewhere: ``get_secret: SOURCE:NAME``.

The value is no part of anything that is stored. Where the function is evaluated, there is a text
that stands for it, and only what a handler is given has the value instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from converge.model import Json
from converge.template.functions import PURE, SECRET, function_of
from converge.template.values import LITERAL, Spot, show

#: A source, and what the source calls the secret.
_REFERENCE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*:[^<>\x00-\x1f\x7f]+")
#: Functions that put the text that stands for a secret where the secret is to be.
_PUTTING = frozenset(
    {
        "str_replace",
        "str_replace_strict",
        "str_replace_vstrict",
        "list_join",
        "list_concat",
        "map_merge",
        "repeat",
    }
)


def wrong_reference(argument: Json) -> str | None:
    """What is wrong with the argument of ``get_secret``; None if nothing is."""
    if isinstance(argument, str) and _REFERENCE.fullmatch(argument):
        return None
    given = f", not {show(argument)}" if isinstance(argument, str) else ""
    return (
        f"{SECRET} takes where a secret is: env:NAME, file:PATH, or the name of another source, a "
        f"colon, and what the secret is called there{given}"
    )


def stand_in(reference: str) -> str:
    """The text that stands for a secret: ``<secret env:NAME>``."""
    return f"<secret {reference}>"


def secret_references(value: Json) -> Iterator[str]:
    """All references to secrets in a value in which parameters are filled in."""
    stack = [value]
    while stack:
        value = stack.pop()
        name, argument = function_of(value) or ("", None)
        if name == LITERAL:
            # data is not evaluated, whatever it looks like
            continue
        if name == SECRET:
            if isinstance(argument, str):
                yield argument
        elif isinstance(value, dict | list):
            stack += value.values() if isinstance(value, dict) else value


def misplaced(value: Json, spot: Spot, *, is_property: bool) -> Iterator[tuple[str, Spot]]:
    """Where a value has a secret that could not be put there."""
    stack = [(value, spot, "" if is_property else "outside of properties")]
    while stack:
        value, spot, where = stack.pop()
        function = function_of(value)
        if function is not None:
            name = function[0]
            if name == LITERAL:
                continue
            if name == SECRET and where:
                yield f"{SECRET} cannot stand {where}: its value is known to handlers only", spot
            if name in PURE - _PUTTING:
                where = where or f"in {name}"
        parts: list[tuple[str | int, Json]] = []
        if isinstance(value, dict | list):
            parts = list(value.items() if isinstance(value, dict) else enumerate(value))
        stack += [
            (part, spot.child(key), where)
            for key, part in reversed(parts)
            if isinstance(part, dict | list)
        ]


def put_in(value: Any, secrets: Mapping[str, str]) -> Any:
    """A value with secrets in place of the texts that stand for them.

    :param secrets: by their references.
    """
    if not secrets:
        return value
    if isinstance(value, str):
        for reference, secret in secrets.items():
            value = value.replace(stand_in(reference), secret)
        return value
    if isinstance(value, list):
        return [put_in(part, secrets) for part in value]
    if isinstance(value, Mapping):
        return {key: put_in(part, secrets) for key, part in value.items()}
    return value


def has_stand_in(value: Json) -> bool:
    """Whether a text stands for a secret, or has one in it that does."""
    return isinstance(value, str) and "<secret " in value
