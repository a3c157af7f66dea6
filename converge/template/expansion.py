"""From the entries of a template to definitions: which resources there are with these parameters,
and what is wanted of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from converge.errors import BadInput
from converge.model import Json, ResourceDefinition, check_name
from converge.template.entries import ResourceEntry
from converge.template.evaluate import OMITTED, NotRead, Scope
from converge.template.functions import instance_name, references
from converge.template.settings import normalize
from converge.template.structure import Structure
from converge.template.values import Document, Spot, as_text, kind, show

#: The most resources that one ``for_each`` makes.
MOST_INSTANCES = 100_000


@contextmanager
def located(document: Document, spot: Spot) -> Iterator[None]:
    """What is wrong is wrong at this place."""
    try:
        yield
    except NotRead:
        raise
    except BadInput as error:
        raise document.error(str(error), spot) from None


def fill_properties(structure: Structure, entry: ResourceEntry, scope: Scope) -> dict[str, Json]:
    """The properties of a resource with all filled in that depends on parameters.

    :raises TemplateError: if something has no value.
    """
    place = entry.spot.child("properties")
    found = {}
    for key, value in entry.properties.items():
        if isinstance(value, dict | list):
            with located(structure.document, place.child(key)):
                value = scope.substitute(value)
        if value is not OMITTED:
            found[key] = value
    return found


def fill_settings(structure: Structure, entry: ResourceEntry, scope: Scope) -> dict[str, Json]:
    """The settings of a resource, likewise.

    :raises TemplateError: if something has no value, or one that does not fit.
    """
    found = {}
    for key, value in entry.settings.items():
        with located(structure.document, entry.spot.child(key)):
            value = scope.substitute(value)
            if value is not OMITTED:
                # what replaces it may refer to resources, the rest is needed now
                found[key] = value if key == "triggers" else scope.evaluate(value, key)
    with located(structure.document, entry.spot):
        return normalize(found)


def settle_groups(structure: Structure, scope: Scope) -> dict[str, dict[str, Json]]:
    """Find out which resources there are: those that are not, and for what others are made, are
    noted in the scope.

    :returns: of each resource with ``for_each``, the values by their keys.
    :raises TemplateError: if a condition or a ``for_each`` has no value, or a wrong one.
    """
    absent = set()
    groups: dict[str, dict[str, Json]] = {}
    # those that say more than a type and properties
    for name in structure.notable:
        entry = structure.resources[name]
        variation = entry.variation
        if "condition" in variation:
            with located(structure.document, entry.spot.child("condition")):
                if not scope.holds(variation["condition"]):
                    absent.add(name)
                    continue
        if "for_each" in variation:
            with located(structure.document, entry.spot.child("for_each")):
                items = scope.evaluate(variation["for_each"], "for_each")
                groups[name] = _by_key(f"resource {show(name)}", items)
                for key in groups[name]:
                    _check_instance(structure, instance_name(name, key))
    scope.absent = absent
    scope.groups = {name: tuple(items) for name, items in groups.items()}
    return groups


def _by_key(what: str, items: Json) -> dict[str, Json]:
    if not isinstance(items, list | dict | None):
        raise BadInput(f"for_each of {what} must be a list or a mapping, not {kind(items)}")
    items = items or []
    if len(items) > MOST_INSTANCES:
        raise BadInput(f"for_each of {what} has {len(items):,} items; at most {MOST_INSTANCES:,}")
    if isinstance(items, dict):
        return items
    found: dict[str, Json] = {}
    for item in items:
        if not isinstance(item, str | int | float) or isinstance(item, bool):
            raise BadInput(
                f"an item in the for_each of {what} is {kind(item)}: the items of a list name the "
                "resources; write a mapping, whose keys do"
            )
        key = as_text(item)
        if key in found:
            raise BadInput(f"for_each of {what} has {show(key)} twice")
        found[key] = item
    return found


def _check_instance(structure: Structure, name: str) -> None:
    check_name("resource", name)
    if name in structure.resources:
        raise BadInput(f"there would be two resources {show(name)}")


def expand(structure: Structure, scope: Scope) -> dict[str, ResourceDefinition]:
    """The desired state of each resource, in topological order, of a template in which parameters
    decide which there are.

    :raises TemplateError: as :func:`settle_groups` and :func:`fill_properties` do.
    """
    groups = settle_groups(structure, scope)
    made: dict[str, ResourceDefinition] = {}
    for name in structure.resources.graph:
        entry = structure.resources[name]
        if name in scope.absent:
            continue
        if name not in groups:
            made[name] = _define(structure, entry, scope, made)
            continue
        for key, value in groups[name].items():
            of_one = replace(scope, each=(key, value))
            made[instance_name(name, key)] = _define(structure, entry, of_one, made)
    return made


def _define(
    structure: Structure,
    entry: ResourceEntry,
    scope: Scope,
    made: Mapping[str, ResourceDefinition],
) -> ResourceDefinition:
    properties = fill_properties(structure, entry, scope)
    settings = fill_settings(structure, entry, scope) if entry.settings else entry.settings
    # of an absent resource nothing is required, and of the branch that was not chosen
    required = {
        one.name
        for one in references([properties, settings.get("triggers")], Spot())
        if one.name is not None and one.name in made
    }
    for name in entry.depends_on:
        # of an instance by its own name; what is absent is not waited for
        if name in scope.groups:
            required.update(instance_name(name, key) for key in scope.groups[name])
        elif name in made:
            required.add(name)
    return ResourceDefinition(
        entry.type, properties, tuple(sorted(required)), entry.replace, settings
    )
