"""The functions of a template: their names, and the references in a value.

A function is a mapping with one key, its name. References are found wherever they are
nested, even inside functions that converge does not evaluate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from converge.model import Json
from converge.template.values import LITERAL, Spot, kind

#: Functions that refer to something else in the template.
REFERENCES = frozenset({"get_resource", "get_attr", "get_param"})
#: Functions of values alone.
PURE = frozenset(
    (
        "contains",
        "digest",
        "equals",
        "filter",
        "list_concat",
        "list_concat_unique",
        "list_join",
        "make_url",
        "map_merge",
        "map_replace",
        "repeat",
        "str_replace",
        "str_replace_strict",
        "str_replace_vstrict",
        "str_split",
    )
)
#: Functions that are evaluated when the parameters are known: they choose.
CHOICES = frozenset({"if", "not", "and", "or"})
#: The value that a resource with ``for_each`` is made for.
EACH = "get_each"
#: The content of a file; it is put in when the template is read.
FILE = "get_file"
#: A secret that is kept elsewhere.
SECRET = "get_secret"
#: What another stack gives; it is read before a start.
OUTPUT = "get_output"
#: Functions that converge evaluates.
EVALUATED = REFERENCES | PURE | CHOICES | {EACH, FILE, SECRET, OUTPUT}
#: Functions of Heat that converge does not evaluate, each with what comes nearest. There are also
#: those that begin with ``Fn::``.
UNSUPPORTED: Mapping[str, str] = {
    "yaql": "filter, repeat, map_merge, list_concat or str_split may do, or a command",
    "resource_facade": "pass the value as a parameter",
    "Ref": "write get_resource or get_param",
}
#: Those of CloudFormation, by what comes nearest.
_NEAREST = {
    "Fn::GetAtt": "get_attr",
    "Fn::Join": "list_join",
    "Fn::Split": "str_split",
    "Fn::Replace": "str_replace",
    "Fn::Select": "get_attr or get_param with a key",
    "Fn::If": "if",
    "Fn::Equals": "equals",
    "Fn::Not": "not",
    "Fn::And": "and",
    "Fn::Or": "or",
    "Fn::MemberListToMap": "map_merge",
}
_NESTING = frozenset((dict, list))
_INSTANCE = re.compile(r"(.+)\[(.*)\]", re.DOTALL)
# Each name within a repeat is compared with each of them.
_MOST_VARIABLES = 100


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in a template.

    :ivar function: the function's name.
    :ivar name: what it refers to; None where a function has to be evaluated to know.
    :ivar spot: where it is.
    :ivar problem: what is wrong with its form, None if nothing is.
    :ivar lenient: the name need not be in the template, and is then ignored.
    """

    function: str
    name: str | None
    spot: Spot
    problem: str | None = None
    lenient: bool = False


def instance_name(group: str, key: str) -> str:
    """The name of one of the resources that a resource with ``for_each`` stands for."""
    return f"{group}[{key}]"


def split_instance(name: str) -> tuple[str, str] | None:
    """The resource with ``for_each`` and the key in the name of an instance; None for another
    name."""
    found = _INSTANCE.fullmatch(name)
    return None if found is None else (found[1], found[2])


def function_of(value: Json) -> tuple[str, Json] | None:
    """The name and the argument of a function, None for any other value."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, argument),) = value.items()
        if name in EVALUATED or name in UNSUPPORTED or name == LITERAL or name[:4] == "Fn::":
            return name, argument
    return None


def may_refer(value: Json) -> bool:
    """Whether there can be a function in a value: a quick look, for a million of them."""
    if isinstance(value, list):
        return not _NESTING.isdisjoint(map(type, value))
    return isinstance(value, dict) and (
        not _NESTING.isdisjoint(map(type, value.values())) or function_of(value) is not None
    )


def references(value: Json, spot: Spot) -> Iterator[Reference]:
    """All references in a value, in the order of the text."""
    # names within a repeat can contain its loop variables
    stack: list[tuple[Json, Spot, tuple[str, ...]]] = [(value, spot, ())]
    while stack:
        value, spot, variables = stack.pop()
        if isinstance(value, list):
            parts: list[tuple[str | int, Json]] = list(enumerate(value))
        elif isinstance(value, dict):
            function = function_of(value)
            if function is not None:
                if function[0] == LITERAL:
                    continue
                found = _reference(*function, spot.child(function[0]))
                if found is not None:
                    varies = any(variable in (found.name or "") for variable in variables)
                    yield replace(found, lenient=True) if varies else found
                variables = (variables + _loop_variables(*function))[:_MOST_VARIABLES]
            parts = list(value.items())
        else:
            continue
        for key, part in reversed(parts):
            if isinstance(part, dict | list):
                stack.append((part, spot.child(key), variables))


def attributes_in(value: Json, spot: Spot) -> Iterator[tuple[str, str, Spot]]:
    """The attributes that a value refers to by plain names: the resource, the attribute, and the
    place."""
    stack = [(value, spot)]
    while stack:
        value, spot = stack.pop()
        function = function_of(value)
        if function is not None and function[0] == LITERAL:
            continue
        if function is not None and function[0] == "get_attr":
            argument = function[1]
            if isinstance(argument, list) and len(argument) > 1:
                name, attribute = argument[:2]
                if isinstance(name, str) and isinstance(attribute, str):
                    yield name, attribute, spot.child("get_attr")
        parts: list[tuple[str | int, Json]] = []
        if isinstance(value, dict | list):
            parts = list(value.items() if isinstance(value, dict) else enumerate(value))
        for key, part in reversed(parts):
            if isinstance(part, dict | list):
                stack.append((part, spot.child(key)))


def _reference(function: str, argument: Json, spot: Spot) -> Reference | None:
    if function in ("Ref", "Fn::GetAtt"):
        name = argument[0] if isinstance(argument, list) and argument else argument
        text = name.partition(".")[0] if isinstance(name, str) else None
        return Reference(function, text, spot, lenient=True)
    if function not in REFERENCES:
        return None
    name = argument
    if isinstance(argument, list) and argument and function != "get_resource":
        name = argument[0]
    if isinstance(name, str) and name:
        return Reference(function, name, spot)
    if function_of(name) is not None:
        return Reference(function, None, spot)
    forms = {
        "get_resource": "the name of a resource",
        "get_attr": "a list: the name of a resource, an attribute, and keys within it",
        "get_param": "the name of a parameter, or a list of it and keys within its value",
    }
    given = f"a list that starts with {kind(name)}" if name is not argument else kind(argument)
    given = "nothing" if argument in ("", [], None) else given
    return Reference(function, None, spot, f"{function} takes {forms[function]}, not {given}")


def _loop_variables(function: str, argument: Json) -> tuple[str, ...]:
    loops = (
        argument.get("for_each") if function == "repeat" and isinstance(argument, dict) else None
    )
    return tuple(name for name in loops if name) if isinstance(loops, dict) else ()


def nearest(name: str) -> str:
    """What comes nearest to a function that converge does not evaluate, to append to a message."""
    if name in UNSUPPORTED:
        return f"; {UNSUPPORTED[name]}"
    near = _NEAREST.get(name)
    return f"; write {near}" if near else f"; it evaluates {', '.join(sorted(EVALUATED))}"
