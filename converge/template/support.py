"""What converge can bring about of a template: the rest is refused, not ignored.

What only the resource types know is compared with them, where the caller has them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from converge.canonical import load
from converge.errors import TemplateError
from converge.model import Json
from converge.template.elsewhere import misplaced
from converge.template.entries import variation_in
from converge.template.functions import (
    SECRET,
    attributes_in,
    function_of,
    references,
    split_instance,
)
from converge.template.keys import OUTPUT, PARAMETER_GROUP, RESOURCE, STACK
from converge.template.misuses import condition_problems, misread, misuses
from converge.template.moved import MOVED, moved_problems
from converge.template.nesting import TEMPLATE
from converge.template.parameters import PSEUDO, Parameter, refuse_foreign
from converge.template.properties import property_problems, unmet
from converge.template.settings import EXTERNAL_ID, heat_problems, settings_in
from converge.template.structure import Structure
from converge.template.values import Spot, hint, kind, quote, show

if TYPE_CHECKING:
    from converge.resources.resource_type import ResourceType

#: Functions whose results are texts; and the types of others' results, if they are known.
_TEXTS = ("str_replace", "str_replace_strict", "str_replace_vstrict", "list_join", "digest")
_RESULTS: Mapping[str, tuple[type, ...]] = {
    "make_url": (str,),
    "list_concat": (list,),
    "list_concat_unique": (list,),
    "repeat": (list,),
    "map_merge": (dict,),
    "map_replace": (dict,),
    "contains": (bool,),
    "equals": (bool,),
    "not": (bool,),
    "and": (bool,),
    "or": (bool,),
}
_PARAMETER_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "json": (dict, list),
    "comma_delimited_list": (list,),
}


def refuse_ignored(structure: Structure) -> None:
    """Refuse what converge would ignore.

    :raises TemplateError: if there is anything of the kind.
    """
    document, outline = structure.document, structure.outline
    for problem in document.problems:
        document.keep(problem)
    if structure.lack is not None and not outline.get("outputs"):
        message = (
            f"the section 'resources' {structure.lack}; if it has none, write 'resources: {{}}'"
        )
        document.note(message, document.spot.child("resources"))
    _check_groups(structure)
    for name, condition in structure.conditions.items():
        spot = document.spot.child("conditions").child(name)
        _check_condition(structure, condition, spot)
    for name, parameter in structure.parameters.items():
        if not parameter.type:
            # what is wrong with it is said already
            continue
        try:
            refuse_foreign(document, name, outline["parameters"][name], parameter.spot)
        except TemplateError as error:
            document.keep(error)
    for name in structure.notable:
        _check_resource(structure, name, load(structure.resources.texts[name]))
    _check_moved(structure)
    for name, output in structure.outputs.items():
        what = f"output {show(name)}"
        OUTPUT.refuse_foreign(document, outline["outputs"][name], output.spot, what)
        if output.condition is not None:
            _check_condition(structure, output.condition, output.spot.child("condition"))
        _check_value(structure, output.value, output.spot.child("value"))
    _check_nested(structure)


def _check_nested(structure: Structure) -> None:
    """Refuse outputs that nested stacks do not have."""
    if not structure.nested:
        return
    place = structure.document.spot.child("outputs")
    parts = [(structure.outline.get("outputs"), place)]
    parts += [
        (load(structure.resources.texts[name]), structure.resources.spot(name))
        for name in structure.notable
    ]
    for value, spot in parts:
        for name, attribute, at in attributes_in(value, spot):
            group = name if name in structure.nested else (split_instance(name) or (name,))[0]
            known = structure.nested.get(group)
            if known is not None and attribute not in known:
                message = f"nested stack {show(name)} has no output {show(attribute)}"
                message += hint(attribute, known) or "; it has none" * (not known)
                structure.document.note(message, at)


def _check_moved(structure: Structure) -> None:
    def is_resource(name: str) -> bool:
        group = (split_instance(name) or ("", ""))[0]
        if name not in structure.resources:
            return group in structure.resources and has_instances(group)
        return not has_instances(name)

    def has_instances(name: str) -> bool:
        return "for_each" in structure.resources[name].variation

    place = structure.document.spot.child(MOVED)
    for message, spot in moved_problems(structure.outline.get(MOVED), is_resource, place):
        structure.document.note(message, spot)


def _check_groups(structure: Structure) -> None:
    document = structure.document
    place = document.spot.child("parameter_groups")
    groups = structure.outline.get("parameter_groups")
    if not isinstance(groups, list | None):
        message = f"parameter_groups must be a list, not {kind(groups)}"
        document.note(message, place)
        return
    for index, group in enumerate(groups or ()):
        spot = place.child(index)
        body = PARAMETER_GROUP.check(document, group, spot, "a parameter group")
        for name in _listed(body.get("parameters") or []):
            if not isinstance(name, str) or name not in structure.parameters:
                message = f"a parameter group has {show(name)}, which is not a parameter"
                message += hint(name, structure.parameters)
                document.note(message, spot.child("parameters"))


def _check_resource(structure: Structure, name: str, body: dict[str, Json]) -> None:
    document, what = structure.document, f"resource {show(name)}"
    spot = structure.resources.spot(name)
    RESOURCE.refuse_foreign(document, body, spot, what)
    if any(isinstance(each, dict) for each in _listed(body.get("depends_on"))):
        message = f"depends_on of {what} must be names, not functions"
        document.note(message, spot.child("depends_on"))
    variation = variation_in(body)
    each = "for_each" in variation
    if "condition" in variation:
        _check_condition(structure, variation["condition"], spot.child("condition"))
    if each:
        _check_for_each(structure, what, variation["for_each"], spot.child("for_each"))
    for message, place in heat_problems(what, body, spot):
        document.note(message, place)
    for key, value in settings_in(body).items():
        _check_value(structure, value, spot.child(key), each=each)
    for key, value in (body.get("properties") or {}).items():
        if key == TEMPLATE and body.get("type") == STACK:
            # it was looked at by itself
            continue
        if isinstance(value, dict | list):
            place = spot.child("properties").child(key)
            _check_value(structure, value, place, each=each, is_property=True)


def _check_condition(structure: Structure, value: Json, spot: Spot) -> None:
    for message, place in condition_problems(value, spot, structure.conditions):
        structure.document.note(message, place)
    _check_value(structure, value, spot)
    _refuse_resources(structure, "a condition", value, spot)


def _check_for_each(structure: Structure, what: str, value: Json, spot: Spot) -> None:
    if not isinstance(value, list | dict):
        message = f"for_each of {what} must be a list or a mapping, not {kind(value)}"
        structure.document.note(message, spot)
        return
    _check_value(structure, value, spot)
    _refuse_resources(structure, f"for_each of {what}", value, spot)


def _refuse_resources(structure: Structure, what: str, value: Json, spot: Spot) -> None:
    for reference in references(value, spot):
        if reference.function != "get_param":
            message = f"{what} decides what there is: it can refer to parameters only"
            structure.document.note(message, reference.spot)


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]


def _check_value(
    structure: Structure, value: Json, spot: Spot, *, each: bool = False, is_property: bool = False
) -> None:
    document = structure.document
    for message, place in misplaced(value, spot, is_property=is_property):
        document.note(message, place)
    for message, place in misuses(value, spot, structure.conditions, each=each):
        document.note(message, place)
    for reference in references(value, spot):
        name = reference.name or ""
        if reference.lenient and name not in structure.resources:
            message = (
                f"{reference.function} refers to {show(name)}: repeat puts in its values after "
                "references are evaluated; write for_each on a resource, or name each"
            )
            document.note(message, reference.spot)
            continue
        if reference.function != "get_param" or name in structure.parameters or name in PSEUDO:
            continue
        if not name:
            document.note("get_param needs a name", reference.spot)
            continue
        if not name.startswith("OS::"):
            # it is no parameter, which is said already
            continue
        known = ", ".join(sorted(PSEUDO))
        message = f"converge does not have the parameter {show(name)}; it has {known}"
        document.note(message, reference.spot)


def check_against(
    structure: Structure, types: Mapping[str, ResourceType], elsewhere: Collection[str] = ()
) -> None:
    """Check that the resources can be made with the given resource types.

    :param elsewhere: names of types that are not given, and of which nothing is checked.
    :raises TemplateError: for an unknown type, and for properties that are unknown, missing, or
        of the wrong type.
    """
    document = structure.document
    for name, entry in structure.resources.items():
        what, spot = f"resource {show(name)}", entry.spot
        if not entry.type:
            # what is wrong with it is said already
            continue
        if entry.type in elsewhere:
            continue
        if entry.type not in types:
            message = f"{what} has the unknown type {show(entry.type)}{hint(entry.type, types)}"
            document.note(message, spot.child("type"))
            continue
        if EXTERNAL_ID in entry.settings:
            # it has no properties
            continue
        schema = types[entry.type].schema
        place = spot.child("properties")
        function = function_of(dict(entry.properties))
        if function is not None and function[0] not in (schema or ()):
            message = f"the properties of {what} must be a mapping of names, not the function "
            document.note(message + show(function[0])[1:-1], place.child(function[0]))
            continue
        given = {
            key: _possible_types(value, structure.parameters)
            for key, value in entry.properties.items()
        }
        for wrong, message in property_problems(entry.type, types[entry.type], given):
            if wrong and schema and wrong in schema and schema[wrong].type is str:
                value, found = entry.properties[wrong], place.child(wrong)
                if isinstance(value, int | float):
                    message += f"; {quote(value, found)}"
            document.note(f"{what}: {message}", place.child(wrong) if wrong else spot)
        for key, declared in (schema or {}).items():
            if declared.constraints and key in entry.properties:
                for message in unmet(declared, entry.properties[key]):
                    message = f"property {show(key)} of {what}: {message}"
                    document.note(message, place.child(key))
            if declared.texts and key in entry.properties:
                for message, found in _text_problems(entry.properties[key], place.child(key)):
                    message = f"property {show(key)} of {what}: {message}"
                    document.note(message, found)


def check_attributes(structure: Structure, types: Mapping[str, ResourceType]) -> None:
    """Check that types that declare their attributes have those that the template refers to.

    :raises TemplateError: if one has not.
    """
    outline, place = structure.outline.get("outputs"), structure.document.spot.child("outputs")
    _check_attributes(structure, types, outline, place)
    for name in structure.notable:
        body = load(structure.resources.texts[name])
        _check_attributes(structure, types, body, structure.resources.spot(name))


def _check_attributes(
    structure: Structure, types: Mapping[str, ResourceType], value: Json, spot: Spot
) -> None:
    for name, attribute, place in attributes_in(value, spot):
        target = name if name in structure.resources else (split_instance(name) or (name, ""))[0]
        if target not in structure.resources:
            continue
        entry = structure.resources[target]
        type_name = entry.type
        can_read = callable(getattr(types.get(type_name), "read", None))
        if EXTERNAL_ID in entry.settings and type_name in types and not can_read:
            message = (
                f"resource {show(name)} has an external_id, and its type {show(type_name)} cannot "
                f"read what it is: there is no attribute {show(attribute)}"
            )
            structure.document.note(message, place)
            continue
        declared = None if type_name not in types else types[type_name].attribute_names
        if declared is not None and attribute not in declared:
            known = hint(attribute, declared) or "; it has none" * (not declared)
            message = f"resource {show(name)} of type {show(type_name)} has no attribute "
            structure.document.note(f"{message}{show(attribute)}{known}", place)


def _text_problems(value: Json, spot: Spot) -> Iterator[tuple[str, Spot]]:
    """What is wrong with the values of a mapping of texts."""
    if not isinstance(value, dict) or function_of(value) is not None:
        return
    for key, each in value.items():
        place = spot.child(key)
        if each is None or (isinstance(each, dict | list) and function_of(each) is None):
            message = f"{show(key)} must be a string, a number or a boolean, not {kind(each)}"
            yield message + ('; for an empty text, write ""' if each is None else ""), place
        for message, found in misread(each, place):
            yield f"{show(key)}: {message}", found


def _possible_types(value: Json, parameters: Mapping[str, Parameter]) -> tuple[type, ...]:
    """The types that a value can have once its functions are evaluated; empty if unknown."""
    function = function_of(value)
    if function is None:
        return (type(value),)
    name, argument = function
    if name == "get_param":
        if isinstance(argument, list) and len(argument) == 1:
            argument = argument[0]
        parameter = parameters.get(argument) if isinstance(argument, str) else None
        return _PARAMETER_TYPES.get(parameter.type, ()) if parameter else ()
    if name in ("get_resource", SECRET, *_TEXTS):
        return (str,)
    return _RESULTS.get(name, ())
