"""The values of steps as JSON, so that a record returns what the step returned.

JSON's own types are stored as they are; a tuple comes back as a list, except in a set. Other types
are stored as an object with the key ``$``, which names the type: ``datetime`` (with or without time
zone), ``date``, ``time``, ``timedelta``, ``UUID``, ``Decimal``, ``bytes``, ``set``, ``frozenset``,
and the floats that JSON lacks.
"""

from __future__ import annotations

import base64
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from converge.errors import BadInput, with_article

#: The longest value, in characters of JSON.
LENGTH = 4 * 1024 * 1024

_TAG = "$"
_TINY_OFFSET = re.compile(r"([-+])00:00:00\.(\d{6})$")
_QUOTED_TAG = f'"{_TAG}"'
# made once, for speed: json.dumps() makes an encoder at every call
_TO_TEXT = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_TO_SORTED = json.JSONEncoder(allow_nan=False, separators=(",", ":"), sort_keys=True).encode
_FROM_TEXT = json.JSONDecoder().raw_decode
_PLAIN = (str, int, float, bool, type(None), list, tuple, dict)

#: name → (type, to JSON, from JSON); a subclass of a type comes before it
_TAGGED: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "datetime": (datetime, datetime.isoformat, lambda text: _parse_time(datetime, text)),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, lambda text: _parse_time(time, text)),
    "timedelta": (
        timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
    "UUID": (UUID, str, UUID),
    "Decimal": (Decimal, str, Decimal),
    "bytes": (
        bytes,
        lambda value: base64.b64encode(value).decode("ascii"),
        lambda text: base64.b64decode(text, validate=True),
    ),
    "set": (set, lambda value: _in_order(value), lambda items: set(_decode_members(items))),
    "frozenset": (
        frozenset,
        lambda value: _in_order(value),
        lambda items: frozenset(_decode_members(items)),
    ),
    "float": (float, repr, float),
    # a mapping that itself has the key $
    "dict": (dict, lambda value: _encode_items(value), lambda items: _decode_items(items)),
}


def dumps(value: object) -> str:
    """A value as JSON text, in ASCII.

    :raises BadInput: a part of it cannot be stored (the message says which, and where), or it is
        longer than :data:`LENGTH`.
    """
    try:
        text = _TO_TEXT(_encode(value))
    except RecursionError:
        raise BadInput("it contains itself, or is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadInput(str(error)) from None
    if len(text) > LENGTH:
        raise BadInput(f"it has {len(text)} characters as JSON; at most {LENGTH} can be stored")
    return text


def canonical(value: object) -> str:
    """A value as JSON text that is the same for equal values, in whatever order their dicts are.

    :raises BadInput: a part of it cannot be stored.
    """
    try:
        return _TO_SORTED(_encode(value))
    except RecursionError:
        raise BadInput("it contains itself, or is nested too deeply") from None
    except ValueError as error:
        raise BadInput(str(error)) from None


def loads(text: str) -> Any:
    """The value that :func:`dumps` was given."""
    value = _FROM_TEXT(text)[0]
    # most values have only JSON's own types
    return _decode(value) if _QUOTED_TAG in text else value


def _encode(value: Any, where: str = "") -> Any:
    kind = type(value)
    if kind in (str, bool, int) or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else {_TAG: "float", "value": repr(value)}
    if kind in (list, tuple):
        return [_encode(one, f"{where}[{number}]") for number, one in enumerate(value)]
    if kind is dict:
        return (
            {_TAG: "dict", "value": _encode_items(value)}
            if _TAG in value
            else _encode_items(value, where)
        )
    for name, (known, to_json, _) in _TAGGED.items():
        if kind is known:
            return {_TAG: name, "value": to_json(value)}
    at = f" at {where}" if where else ""
    raise BadInput(f"{with_article(kind.__name__)}{at} cannot be stored; {_ALLOWED} can")


def _encode_items(value: Mapping[Any, Any], where: str = "") -> dict[str, Any]:
    encoded = {}
    for key, one in value.items():
        if type(key) is not str:
            at = f" at {where}" if where else ""
            what = with_article(type(key).__name__)
            raise BadInput(f"the key {key!r}{at} is {what}; keys must be strings")
        encoded[key] = _encode(one, f"{where}[{key!r}]")
    return encoded


def _in_order(items: Any) -> list[Any]:
    # equal sets must have the same text
    return sorted((_encode(one) for one in items), key=lambda one: json.dumps(one, sort_keys=True))


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(one) for one in value]
    if isinstance(value, dict):
        if _TAG in value:
            return _TAGGED[value[_TAG]][2](value["value"])
        return _decode_items(value)
    return value


def _parse_time(kind: Any, text: str) -> Any:
    value = kind.fromisoformat(text)
    tiny = _TINY_OFFSET.search(text)
    if tiny:
        # fromisoformat() ignores an offset of less than a second (Python 3.11)
        offset = timedelta(microseconds=int(tiny[1] + tiny[2]))
        value = value.replace(tzinfo=timezone(offset))
    return value


def _decode_members(items: Any) -> Iterator[Any]:
    """The members of a set: a list was a tuple, as lists cannot be members."""
    return (_hashable(_decode(one)) for one in items)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _decode_items(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _decode(one) for key, one in value.items()}


_ALLOWED = ", ".join(
    ["None", "bool", "int", "float", "str", "list", "tuple", "dict"]
    + [name for name in _TAGGED if name not in ("float", "dict")]
)


@lru_cache(maxsize=1000)
def _unstorable_return(function: Any) -> str | None:
    """The name of the type that a function is declared to return, if that cannot be stored."""
    try:
        said = typing.get_type_hints(function).get("return", Any)
    except Exception:
        return None
    return None if _may_be_stored(said) else getattr(said, "__name__", str(said))


def check_returns(function: Callable[..., object]) -> None:
    """Check the declared return type of a function.

    :raises BadInput: values of that type cannot be stored.
    """
    try:
        name = _unstorable_return(function)
    except TypeError:  # not hashable
        return
    if name is not None:
        raise BadInput(f"it is declared to return {name}, which cannot be stored; {_ALLOWED} can")


def _may_be_stored(said: Any) -> bool:
    if said is Any:  # a class since Python 3.11
        return True
    origin = typing.get_origin(said)
    if origin in (typing.Union, types.UnionType):
        return any(_may_be_stored(one) for one in typing.get_args(said))
    kind = origin or said
    if not isinstance(kind, type) or kind is object or typing.is_typeddict(kind):
        return True
    known: tuple[type, ...] = (*_PLAIN, *(one for one, _, _ in _TAGGED.values()))
    try:
        # a value of an abstract type, such as Mapping, may be of a known type at run time
        if kind not in known and not any(issubclass(one, kind) for one in known):
            return False
    except TypeError:  # a protocol
        return True
    # an empty container could be stored, but nobody declares one that is always empty
    parts = typing.get_args(said) if origin is not None else ()
    return all(part is ... or _may_be_stored(part) for part in parts)
