"""A JSON Schema of templates, made from the resource types: an editor completes and checks by it.

It accepts all that converge accepts; what only a whole template shows, such as a reference to
nothing, ``converge validate`` finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from converge.model import Replacing
from converge.template.functions import EVALUATED
from converge.template.keys import ALWAYS, FILES, PARAMETER, POLICIES, STACK, TEMPLATE
from converge.template.parameters import TYPES

if TYPE_CHECKING:
    from converge.resources.resource_type import Property, ResourceType

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAMES: Mapping[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
}
_SIZES: Mapping[type, str] = {str: "Length", list: "Items", dict: "Properties"}
_FUNCTION = {"$ref": "#/$defs/function"}
_CONDITION = {"anyOf": [{"type": ["boolean", "string"]}, _FUNCTION]}


def make_schema(types: Mapping[str, ResourceType]) -> dict[str, Any]:
    """The schema of templates whose resources are of these types."""
    sections = {
        "heat_template_version": {"type": "string"},
        "description": {"type": "string"},
        "parameter_groups": {"type": "array", "items": {"type": "object"}},
        "parameters": _named({"$ref": "#/$defs/parameter"}),
        "conditions": _named(_CONDITION),
        "resources": _named({"$ref": "#/$defs/resource"}),
        "moved": _named({"type": "string"}),
        "outputs": _named({"$ref": "#/$defs/output"}),
    }
    assert sections.keys() == set(TEMPLATE.known)
    return {
        "$schema": DIALECT,
        "title": "converge template",
        "type": "object",
        "properties": sections,
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
        "anyOf": [{"required": ["resources"]}, {"required": ["outputs"]}],
        "$defs": {
            "function": {
                "description": "a mapping with one key, the name of a function",
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "properties": {name: {} for name in sorted(EVALUATED)},
                "additionalProperties": False,
            },
            "parameter": _parameter(),
            "resource": _resource(types),
            "output": _closed(
                {"description": {"type": "string"}, "value": {}, "condition": _CONDITION},
                ["value"],
            ),
        },
    }


def _named(each: Mapping[str, Any]) -> dict[str, Any]:
    """A section: a mapping of names; empty, it is null."""
    return {"type": ["object", "null"], "additionalProperties": each}


def _closed(properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": required,
        "additionalProperties": False,
    }


def _parameter() -> dict[str, Any]:
    properties: dict[str, Any] = {name: {} for name in PARAMETER.known}
    properties |= {
        "type": {"enum": list(TYPES)},
        "description": {"type": "string"},
        "label": {"type": "string"},
        "constraints": {"type": "array", "items": {"type": "object"}},
    }
    return _closed(properties, ["type"])


def _type_names(types: Mapping[str, ResourceType]) -> dict[str, Any]:
    known = {"enum": sorted(types)}
    if STACK not in types:
        return known
    # or the file of a nested stack
    return {"anyOf": [known, {"type": "string", "pattern": FILES}]}


def _resource(types: Mapping[str, ResourceType]) -> dict[str, Any]:
    seconds = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _FUNCTION]}
    resource = _closed(
        {
            "type": _type_names(types),
            "properties": {"type": ["object", "null"]},
            "depends_on": {"type": ["string", "array", "null"], "items": {"type": "string"}},
            "replace": {"enum": [*map(str, Replacing), None]},
            "condition": _CONDITION,
            "for_each": {"type": ["array", "object"]},
            "triggers": {},
            "protect": {"anyOf": [{"type": "boolean"}, _FUNCTION]},
            "deletion_policy": {"anyOf": [{"enum": [*POLICIES, None]}, _FUNCTION]},
            "external_id": {"anyOf": [{"type": "string", "minLength": 1}, _FUNCTION]},
            "retry": {"type": ["integer", "object"]},
            "timeout": seconds,
            "deadline": seconds,
            "queue": {"anyOf": [{"type": "string", "minLength": 1}, _FUNCTION]},
            "runs": {"anyOf": [{"enum": [ALWAYS, None]}, _FUNCTION]},
        },
        ["type"],
    )
    resource["allOf"] = [
        {
            "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
            "then": _of_type(one),
        }
        for name, one in sorted(types.items())
        if one.schema is not None
    ]
    return resource


def _of_type(one: ResourceType) -> dict[str, Any]:
    declared = one.schema or {}
    needed = [name for name, each in declared.items() if each.required and each.default is None]
    properties = _closed({name: _property(each) for name, each in declared.items()}, needed)
    properties["type"] = "object" if needed else ["object", "null"]
    then: dict[str, Any] = {"properties": {"properties": properties}}
    # what is used as it is has no properties
    own = {"anyOf": [{"required": ["properties"]}, {"required": ["external_id"]}]}
    return then | own if needed else then


def _property(declared: Property) -> dict[str, Any]:
    """A property: a value of its type that meets its constraints, null, or a function."""
    about: dict[str, Any] = {}
    if declared.description is not None:
        about["description"] = declared.description
    if declared.secret:
        about["writeOnly"] = True
    if declared.default is not None:
        about["default"] = declared.default
    if declared.type is object:
        return about
    value: dict[str, Any] = {"type": _NAMES[declared.type], **_constraints(declared)}
    if declared.texts:
        scalar = {"type": ["string", "number", "boolean"]}
        value["additionalProperties"] = {"anyOf": [scalar, _FUNCTION]}
    choices = [value, _FUNCTION]
    return {**about, "anyOf": [*choices, {"type": "null"}] if declared.takes_null else choices}


def _constraints(declared: Property) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, argument in declared.constraints.items():
        if kind == "allowed_values":
            found["enum"] = list(argument)
        elif kind == "allowed_pattern":
            found["pattern"] = f"^(?:{argument})$"
        elif kind in ("range", "length"):
            what = _SIZES.get(declared.type, "imum") if kind == "length" else "imum"
            found |= {f"{bound}{what}": each for bound, each in argument.items()}
        elif kind == "modulo" and argument["offset"] == 0:
            found["multipleOf"] = abs(argument["step"])
    return found
