"""What converge could not evaluate in a template, found before anything has a value."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from converge.model import Json
from converge.template.elsewhere import wrong_reference
from converge.template.functions import (
    CHOICES,
    EACH,
    EVALUATED,
    FILE,
    OUTPUT,
    PURE,
    REFERENCES,
    SECRET,
    function_of,
    nearest,
    references,
)
from converge.template.library import FUNCTIONS
from converge.template.texts import as_param
from converge.template.values import Spot, hint, kind, misreading, quote, show

_PARAMETERS_ONLY = "it can refer to parameters only"
_REPLACING = frozenset({"str_replace", "str_replace_strict", "str_replace_vstrict"})

#: A message, and the place that it is about.
Problem = tuple[str, Spot]


def misuses(
    value: Json, spot: Spot, conditions: Collection[str] = (), *, each: bool = False
) -> Iterator[Problem]:
    """What converge could not evaluate in a value.

    :param conditions: the names of the template's conditions.
    :param each: whether the value is of a resource with ``for_each``.
    """
    stack = [(value, spot)]
    while stack:
        value, spot = stack.pop()
        if isinstance(value, dict):
            function = function_of(value)
            if function is not None:
                yield from _misuses_of(*function, spot.child(function[0]), conditions, each)
            elif not REFERENCES.isdisjoint(value):
                name = next(key for key in value if key in REFERENCES)
                yield f"{name} must be the only key of its mapping", spot.child(name)
            parts: list[tuple[str | int, Json]] = list(value.items())
        else:
            parts = list(enumerate(value)) if isinstance(value, list) else []
        for key, part in reversed(parts):
            if isinstance(part, dict | list):
                stack.append((part, spot.child(key)))


def condition_problems(value: Json, spot: Spot, names: Collection[str]) -> Iterator[Problem]:
    """What is wrong with a condition: it is true, false, the name of one, or a function."""
    if isinstance(value, bool):
        return
    if isinstance(value, str):
        if value not in names:
            known = hint(value, names) or "; the template has none" * (not names)
            yield f"there is no condition {show(value)}{known}", spot
        return
    function = function_of(value)
    if function is None:
        message = f"a condition is true, false, the name of one, or a function, not {kind(value)}"
        yield message, spot
        return
    name, argument = function
    place = spot.child(name)
    if name in ("get_resource", "get_attr"):
        yield (
            f"a condition can refer to parameters only: it decides what there is, not {name}",
            place,
        )
    if name == "not":
        yield from condition_problems(argument, place, names)
    elif name in ("and", "or") and isinstance(argument, list):
        for index, part in enumerate(argument):
            yield from condition_problems(part, place.child(index), names)


def misread(value: Json, spot: Spot) -> Iterator[Problem]:
    """What in a value would not be the text that is written, where text is wanted. Numbers and
    booleans that read as they are written are text."""
    wrong = misreading(value, spot)
    if wrong is not None:
        yield wrong, spot
    for each, place in _branches(value, spot):
        yield from misread(each, place)


def _branches(value: Json, spot: Spot) -> Iterator[tuple[Json, Spot]]:
    function = function_of(value)
    if function is not None and function[0] == "if" and isinstance(function[1], list):
        for index, each in enumerate(function[1][1:], 1):
            yield each, spot.child("if").child(index)


def _misuses_of(
    name: str, argument: Json, spot: Spot, conditions: Collection[str], each: bool
) -> Iterator[Problem]:
    message = misuse(name, argument, settled=False)
    if message is None and name == EACH and not each:
        message = f"{EACH} is for resources with for_each"
    if message is not None:
        yield message, spot
        return
    if name in CHOICES:
        if name == "if":
            yield from condition_problems(argument[0], spot.child(0), conditions)
        else:
            value = {name: argument}
            yield from condition_problems(value, Spot(spot.line, {name: spot}), conditions)
    elif name == OUTPUT:
        for reference in references(argument, spot):
            if reference.function != "get_param":
                yield (
                    f"{OUTPUT} is read before anything is made: {_PARAMETERS_ONLY}",
                    reference.spot,
                )
    elif name in _REPLACING and isinstance(argument["params"], dict):
        for key, value in argument["params"].items():
            yield from _misread_param(value, spot.child("params").child(key))
    elif name == "list_join":
        for index, part in enumerate(argument[1:], 1):
            for number, value in enumerate(part if isinstance(part, list) else ()):
                yield from misread(value, spot.child(index).child(number))


def _misread_param(value: Json, spot: Spot) -> Iterator[Problem]:
    """:func:`misread` for a value that is put into a text as Heat does: true becomes True."""
    if not isinstance(value, bool):
        yield from misread(value, spot)
        return
    written = spot.written or ("true" if value else "false")
    # of a program's value, nobody knows how it would be written
    if spot.line is not None and written != as_param(value):
        yield f"{written} becomes {as_param(value)} here, as in Heat; {quote(value, spot)}", spot


def misuse(name: str, argument: Json, *, settled: bool) -> str | None:
    """What is wrong with the form of a function; None if it can be evaluated.

    :param settled: whether the functions in its argument are evaluated already.
    """
    if name not in EVALUATED:
        return f"converge does not evaluate the function {show(name)[1:-1]}{nearest(name)}"
    if name in PURE:
        return FUNCTIONS[name].check(argument, settled)
    if name in CHOICES:
        return _misuse_of_choice(name, argument)
    if name == EACH:
        first = argument[0] if isinstance(argument, list) and argument else argument
        if first not in ("key", "value") or (first == "key" and isinstance(argument, list)):
            return f"{EACH} takes key, value, or a list: [value, KEY...]"
        return _misuse_of_keys(name, argument)
    if name == FILE:
        return f"{FILE} takes the path of a file as a plain string, in the template's folder"
    if name == OUTPUT:
        return _misuse_of_output(argument, settled)
    if name == SECRET:
        is_open = not settled and function_of(argument) is not None
        return None if is_open else wrong_reference(argument)
    if name == "get_attr" and isinstance(argument, str):
        return "get_attr takes a list: [name, attribute, key...]"
    if name != "get_param":
        target = argument[0] if isinstance(argument, list) and argument else argument
        if function_of(target) is not None:
            return f"the name in {name} must be a plain string, not a function"
    return _misuse_of_keys(name, argument)


def _misuse_of_choice(name: str, argument: Json) -> str | None:
    if name == "if":
        if isinstance(argument, list) and len(argument) in (2, 3):
            return None
        return (
            "if takes a list: a condition, the value if it is true, and the value if it is false; "
            "without the last, what it is the value of is left out"
        )
    if name == "not":
        return "not takes a condition" if argument is None else None
    if isinstance(argument, list) and len(argument) >= 2:
        return None
    return f"{name} takes a list of two or more conditions"


def _misuse_of_output(argument: Json, settled: bool) -> str | None:
    if not settled and function_of(argument) is not None:
        return None
    names = argument[:2] if isinstance(argument, list) else []
    is_open = [not settled and function_of(one) is not None for one in names]
    if len(names) == 2 and all(
        open_ or (isinstance(one, str) and one) for one, open_ in zip(names, is_open, strict=True)
    ):
        return _misuse_of_keys(OUTPUT, argument[1:])
    return f"{OUTPUT} takes a list: the name of a stack, the name of an output, and keys within it"


def _misuse_of_keys(name: str, argument: Json) -> str | None:
    for part in argument[1:] if isinstance(argument, list) else ():
        whole = isinstance(part, str | int) and not isinstance(part, bool)
        if not whole and function_of(part) is None:
            return f"the keys in {name} must be strings or whole numbers, not {kind(part)}"
    return None
