"""What a validation finds besides what every reading refuses: the values of properties that are
known before anything is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from converge.errors import BadInput, TemplateError
from converge.model import Physical, ResourceDefinition
from converge.template.evaluate import NotRead, resolve
from converge.template.functions import references, split_instance
from converge.template.properties import property_problems, unmet
from converge.template.structure import Structure
from converge.template.values import Spot, show

if TYPE_CHECKING:
    from converge.resources.resource_type import ResourceType


def check_values(
    structure: Structure,
    name: str,
    definition: ResourceDefinition,
    types: Mapping[str, ResourceType],
) -> None:
    """Evaluate the properties of a resource that refer to no other one, and compare them with what
    its type declares.

    :raises TemplateError: if one is wrong, unless all mistakes are collected.
    """
    entry = name if name in structure.resources else (split_instance(name) or (name,))[0]
    place = structure.resources.spot(entry).child("properties")
    schema = types[definition.type].schema or {}
    for key, value in definition.properties.items():
        if any(one.function != "get_param" for one in references(value, Spot())):
            continue
        what = f"property {show(key)} of resource {show(name)}"
        try:
            found = resolve(value, _none)
        except NotRead:
            continue
        except BadInput as error:
            structure.document.note(f"{what}: {error}", place.child(key))
            continue
        wrong = [
            message
            for about, message in property_problems(
                definition.type, types[definition.type], {key: (type(found),)}
            )
            if about == key
        ]
        if not wrong and key in schema:
            wrong = [f"{what}: {message}" for message in unmet(schema[key], found)]
        for message in wrong:
            structure.document.note(message, place.child(key))


def _none(name: str) -> Physical:
    raise BadInput(f"resource {show(name)} is not made yet")


def in_order(mistakes: Iterable[TemplateError]) -> list[TemplateError]:
    """Mistakes by their lines, each once."""
    once = {str(error): error for error in mistakes}
    return sorted(once.values(), key=lambda error: error.line or 0)
