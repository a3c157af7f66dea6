"""JSON paths, as Ceilometer's definitions write them: a thin layer over jsonpath-ng.

Most paths only name one field after the other; those are followed here, as the library makes an
object of each step. All others are the library's, with its extensions: filters, arithmetic,
``split`` and ``sub``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from converge.errors import BadInput
from converge.model import Json


class Match(NamedTuple):
    """A value that a path has found, and where: names and indexes joined by dots."""

    path: str
    value: Json


Getter: TypeAlias = Callable[[Mapping[str, Json]], list[Match]]


@cache
def compile_path(text: str) -> Getter:
    """What finds the values of a path.

    A value that the path's operations do not fit, such as a text that is to be multiplied, is not
    found.

    :raises BadInput: it is no path.
    """
    # imported here: what only runs a stack needs none
    from jsonpath_ng.ext.parser import parse

    try:
        with warnings.catch_warnings():
            # Ceilometer's own files have words without quotes
            warnings.simplefilter("ignore", DeprecationWarning)
            path = parse(text)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{text!r} is not a JSON path: {reason}") from None
    names = _plain_names(path)
    return _follow(names) if names is not None else _find_with(path, _leading_names(path))


def compile_paths(texts: Iterable[str]) -> Getter:
    """What finds the values of several paths, in their order.

    :raises BadInput: one of them is no path.
    """
    getters = [compile_path(text) for text in texts]
    if len(getters) == 1:
        return getters[0]
    return lambda body: [match for getter in getters for match in getter(body)]


def _plain_names(path: Any) -> list[str] | None:
    """The fields that a path names one after the other; None if it does more."""
    from jsonpath_ng import Child, Fields, Root

    if isinstance(path, Root):
        return []
    if isinstance(path, Fields):
        names: list[str] = list(path.fields)
        return names if len(names) == 1 and names[0] != "*" else None
    if type(path) is Child:
        left, right = _plain_names(path.left), _plain_names(path.right)
        if left is not None and right is not None and not isinstance(path.right, Root):
            return left + right
    return None


def _follow(names: list[str]) -> Getter:
    shown = ".".join(names)

    def get(body: Mapping[str, Json]) -> list[Match]:
        value: Json = body
        for name in names:
            if not isinstance(value, dict) or name not in value:
                return []
            value = value[name]
        return [Match(shown, value)]

    return get


def _leading_names(path: Any) -> list[str]:
    """The fields without which a path finds nothing: those that it starts with."""
    from jsonpath_ng import Child

    while type(path) is Child:
        names = _plain_names(path.left)
        if names is not None:
            return names
        path = path.left
    return []


def _find_with(path: Any, leading: list[str]) -> Getter:
    """:param leading: looked for first, as most notifications lack what most paths want."""

    def get(body: Mapping[str, Json]) -> list[Match]:
        value: Json = body
        for name in leading:
            if not isinstance(value, dict) or name not in value:
                return []
            value = value[name]
        try:
            found = path.find(body)
        except Exception:
            # the library raises whatever Python does for values of other types
            return []
        return [Match(_full_path(one), one.value) for one in found]

    return get


def _full_path(found: Any) -> str:
    return str(getattr(found, "full_path", ""))
