"""Checking the properties of a resource against what its type declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from converge.errors import BadInput
from converge.model import Json
from converge.template.elsewhere import has_stand_in
from converge.template.functions import function_of
from converge.template.parameters import Constraint
from converge.template.values import Spot, hint, show

if TYPE_CHECKING:
    from converge.resources.resource_type import Property, ResourceType

_WORDS: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


def check_properties(
    type_name: str, resource_type: ResourceType, properties: Mapping[str, Json]
) -> None:
    """Check properties whose functions are evaluated against what the type declares.

    A property that is null counts as not given, unless it is not nullable.

    :raises BadInput: if one is unknown, missing or of the wrong type.
    """
    given = {name: (type(value),) for name, value in properties.items()}
    for _, message in property_problems(type_name, resource_type, given):
        raise BadInput(message)
    for name, declared in (resource_type.schema or {}).items():
        if declared.constraints and name in properties:
            for message in unmet(declared, properties[name]):
                raise BadInput(f"property {show(name)} of type {show(type_name)}: {message}")


def unmet(declared: Property, value: Json) -> Iterator[str]:
    """Which constraints of a property a value does not meet. Null, and what is not known yet, meets
    all."""
    if value is None or function_of(value) is not None or has_stand_in(value):
        return
    for kind, argument in declared.constraints.items():
        constraint = Constraint(kind, argument, None, Spot())
        complaint = constraint.complaint(value)
        if complaint is not None:
            shown = "has a hidden value" if declared.secret else f"is {show(value)}"
            yield f"it {shown}; {complaint}"


def property_problems(
    type_name: str, resource_type: ResourceType, given: Mapping[str, tuple[type, ...]]
) -> Iterator[tuple[str | None, str]]:
    """What is wrong with properties whose values are of some types.

    :param given: by name the Python types that the value can have; empty if unknown.
    :returns: the name of the property, None where one is missing, and a message.
    """
    schema = resource_type.schema
    if schema is None:
        return
    for name, types in given.items():
        if name not in schema:
            known = hint(name, schema) or ("" if schema else "; it has none")
            yield name, f"type {show(type_name)} has no property {show(name)}{known}"
            continue
        declared = schema[name]
        if types == (type(None),) and declared.takes_null:
            continue
        if types and not any(_fits(each, declared.type) for each in types):
            wanted = _WORDS.get(declared.type, declared.type.__name__)
            found = " or ".join(_found(each) for each in types)
            message = f"property {show(name)} of type {show(type_name)} must be {wanted}"
            yield name, f"{message}, not {found}"
    for name, declared in schema.items():
        if declared.required and declared.default is None and name not in given:
            yield None, f"type {show(type_name)} needs the property {show(name)}"


def _fits(given: type, declared: type) -> bool:
    if declared is object:
        return True
    if given is bool or declared is bool:
        return given is declared
    return issubclass(given, declared) or (declared is float and given is int)


def _found(given: type) -> str:
    if given is type(None):
        return "null"
    return "a number" if given in (int, float) else _WORDS.get(given, given.__name__)


def with_defaults(
    resource_type: ResourceType, properties: Mapping[str, Json]
) -> Mapping[str, Json]:
    """Properties with the defaults that the type declares for those that are not given, or null."""
    missing = {
        name: declared.default
        for name, declared in (resource_type.schema or {}).items()
        if declared.default is not None and properties.get(name) is None
    }
    return {**properties, **missing} if missing else properties
