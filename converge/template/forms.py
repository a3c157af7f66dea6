"""What the functions of a template take: checks that hold before and after their arguments have
values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from converge.errors import BadInput
from converge.model import Json
from converge.template.functions import function_of
from converge.template.values import SIZE_LIMIT, kind

#: Checks the form of an argument, and says what is wrong with it. ``settled``: it has no functions
#: left, so what looks like one is data.
Check = Callable[[Json, bool], str | None]

_WORDS: dict[type, str] = {str: "a string", list: "a list", dict: "a mapping", int: "a number"}


class Pure(NamedTuple):
    """A function of values alone: the same argument gives the same result.

    :ivar evaluate: its result for an argument without functions, whose form is right; raises
        BadInput.
    """

    check: Check
    evaluate: Callable[[Json], Json]


def misfit(what: str, value: Json, settled: bool, *kinds: type) -> str | None:
    """What is wrong with a part that must be of one of some kinds; whether one that is still a
    function fits is not known yet."""
    if not settled and function_of(value) is not None:
        return None
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds):
        return None
    if value is None and type(None) in kinds:
        return None
    words = [_WORDS[each] for each in kinds if each in _WORDS]
    return f"{what} must be {' or '.join(words)}, not {kind(value)}"


def takes_list(name: str, form: str, least: int, most: int | None = None) -> Check:
    """The check that an argument is a list of so many parts.

    :param form: the list, in words.
    """

    def check(argument: Json, settled: bool) -> str | None:
        if not settled and function_of(argument) is not None:
            return None
        good = isinstance(argument, list) and len(argument) >= least
        if good and (most is None or len(argument) <= most):
            return None
        return f"{name} takes a list: {form}"

    return check


def check_keys(
    name: str, argument: Json, needed: tuple[str, ...], allowed: tuple[str, ...] = ()
) -> str | None:
    """What is wrong with an argument that must be a mapping with these keys."""
    if (
        isinstance(argument, dict)
        and set(needed) <= argument.keys()
        and argument.keys() <= {*needed, *allowed}
    ):
        return None
    words = " and ".join(map(repr, needed))
    more = f", and perhaps {', '.join(map(repr, allowed))}" if allowed else ""
    return f"{name} takes a mapping with the keys {words}{more}"


def check_size(name: str, size: int) -> None:
    """Refuse a result that is too large: nested functions could make a huge one of a small text.

    :raises BadInput: it has more than :data:`SIZE_LIMIT` characters, or values.
    """
    if size > SIZE_LIMIT:
        raise BadInput(f"the result of {name} is longer than {SIZE_LIMIT:,} characters")


def weight(value: Json) -> int:
    """About how many characters a value has."""
    total = 0
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            total += len(value) + 1
        elif isinstance(value, dict):
            total += sum(len(key) + 1 for key in value)
            stack += value.values()
        elif isinstance(value, list):
            total += 1
            stack += value
        else:
            total += 1
    return total
