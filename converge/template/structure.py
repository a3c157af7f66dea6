"""The structure of a template: what is in its sections, and what refers to what.

Whatever Heat accepts has a structure, and can be drawn. What converge would ignore in it is for
``support`` to refuse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from converge.errors import BadInput, CircularDependency
from converge.graph import Graph
from converge.model import Json, Replacing, check_name
from converge.template.functions import Reference, references
from converge.template.keys import EXTENSION, OUTPUT, RESOURCE, TEMPLATE
from converge.template.parameters import PSEUDO, Parameter, parse_parameter
from converge.template.settings import read_settings
from converge.template.values import Document, Spot, hint, kind, show


@dataclass(frozen=True, slots=True)
class ResourceEntry:
    """A resource as the template has it.

    :ivar type: the name of its resource type.
    :ivar depends_on: names of resources that must come first even if it does not refer to them.
    :ivar requires: names of all resources that must come first, sorted.
    :ivar replace: in which order it is replaced; None leaves it to the type.
    :ivar settings: what else is said of it, by key; see ``settings``.
    """

    type: str
    properties: Mapping[str, Json]
    depends_on: tuple[str, ...]
    requires: tuple[str, ...]
    replace: Replacing | None
    settings: Mapping[str, Json]
    spot: Spot = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Output:
    """A value that a stack shows when it is complete; its functions are not evaluated yet."""

    value: Json
    description: str | None
    spot: Spot = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Structure:
    """A document that was understood as a template.

    :ivar document: what it was read from; its errors say where.
    :ivar body: the template as a JSON object, without what its author put aside.
    :ivar conditions: the names of Heat's conditions.
    :ivar graph: which resource requires which.
    """

    document: Document
    body: dict[str, Json]
    description: str | None
    parameters: Mapping[str, Parameter]
    conditions: tuple[str, ...]
    resources: Mapping[str, ResourceEntry]
    outputs: Mapping[str, Output]
    graph: Graph[str]


def understand(document: Document) -> Structure:
    """The structure of a document.

    :raises TemplateError: if it has none, as with a key that is not in the language, a reference
        to nothing, or a circle of them.
    """
    body = _check_body(document)
    description = _description(document, "the description", body, document.spot)
    parameters = {
        name: parse_parameter(document, name, value, spot)
        for name, value, spot in _section(document, body, "parameters", "parameter")
    }
    conditions = tuple(name for name, _, _ in _section(document, body, "conditions", "condition"))
    entries = list(_section(document, body, "resources", "resource"))
    names = _Names(document, parameters, {name: None for name, _, _ in entries})
    resources = {name: _resource(names, name, value, spot) for name, value, spot in entries}
    outputs = {
        name: _output(document, name, value, spot)
        for name, value, spot in _section(document, body, "outputs", "output")
    }
    for section in ("conditions", "outputs"):
        names.referred(body.get(section), document.spot.child(section))
    return Structure(
        document=document,
        body=body,
        description=description,
        parameters=MappingProxyType(parameters),
        conditions=conditions,
        resources=MappingProxyType(resources),
        outputs=MappingProxyType(outputs),
        graph=_graph(document, body, resources),
    )


# sections


def _check_body(document: Document) -> dict[str, Json]:
    remedy = "a template is a mapping with at least the key 'resources'"
    if document.value is None:
        raise document.error(f"is empty; {remedy}", Spot())
    if not isinstance(document.value, dict):
        raise document.error(f"is {kind(document.value)}; {remedy}", document.spot)
    for key in ("AWSTemplateFormatVersion", "HeatTemplateFormatVersion"):
        if key in document.value:
            message = f"{key}: this kind of template is not supported, only Heat's own (HOT)"
            raise document.error(message, document.spot.child(key))
    value = {key: part for key, part in document.value.items() if key[:2] != EXTENSION}
    body = TEMPLATE.check(document, value, document.spot, "a template")
    version = body.get("heat_template_version", "")
    if not isinstance(version, str):
        message = f"heat_template_version must be a date or a name, not {kind(version)}"
        raise document.error(message, document.spot.child("heat_template_version"))
    if body.get("resources") is None:
        what = "is empty" if "resources" in body else "is missing"
        message = f"the section 'resources' {what}; if it has none, write 'resources: {{}}'"
        raise document.error(message, document.spot.child("resources"))
    return body


def _description(document: Document, what: str, body: Mapping[str, Json], spot: Spot) -> str | None:
    description = body.get("description")
    if description is not None and not isinstance(description, str):
        message = f"{what} must be a string, not {kind(description)}"
        raise document.error(message, spot.child("description"))
    return description


def _section(
    document: Document, body: Mapping[str, Json], section: str, what: str
) -> Iterable[tuple[str, Json, Spot]]:
    place = document.spot.child(section)
    values = document.mapping(body.get(section), place, f"the section {section!r}")
    for name, value in values.items():
        spot = place.child(name)
        try:
            check_name(what, name)
        except BadInput as error:
            raise document.error(str(error), spot) from None
        yield name, value, spot


def _output(document: Document, name: str, value: Json, spot: Spot) -> Output:
    what = f"output {show(name)}"
    body = OUTPUT.check(document, value, spot, what)
    if "value" not in body:
        raise document.error(f"{what} has no value", spot)
    description = _description(document, f"the description of {what}", body, spot)
    return Output(value=body["value"], description=description, spot=spot)


# references


@dataclass(frozen=True, slots=True)
class _Names:
    """What the references of a document can refer to.

    :ivar types: names of resource types that were found to be names.
    """

    document: Document
    parameters: Collection[str]
    resources: Collection[str]
    types: set[str] = field(default_factory=set)

    def referred(self, value: Json, spot: Spot, resource: str | None = None) -> set[str]:
        """The names of the resources that a value refers to.

        :param resource: the one that the value belongs to, if any.
        """
        found = set()
        for reference in references(value, spot):
            if reference.problem is not None:
                raise self.document.error(reference.problem, reference.spot)
            if reference.name is None:
                continue
            if reference.function == "get_param":
                self._check_parameter(reference, reference.name)
                continue
            name = self._resource(reference, reference.name)
            if name is None:
                continue
            if name == resource:
                message = f"resource {show(name)} refers to itself with {reference.function}"
                raise self.document.error(message, reference.spot)
            found.add(name)
        return found

    def _check_parameter(self, reference: Reference, name: str) -> None:
        if name in self.parameters or name.startswith("OS::") or reference.lenient:
            return
        message = f"get_param refers to {show(name)}, which is not a parameter"
        meant = hint(name, [*self.parameters, *PSEUDO])
        raise self.document.error(message + meant, reference.spot)

    def _resource(self, reference: Reference, name: str) -> str | None:
        if name in self.resources:
            return name
        if reference.lenient:
            return None
        # Heat also has the form "resource.attribute"
        before, dot, _ = name.partition(".")
        if reference.function == "get_attr" and dot and before in self.resources:
            return before
        message = f"{reference.function} refers to {show(name)}, which is not a resource"
        raise self.document.error(message + hint(name, self.resources), reference.spot)


# resources


def _resource(names: _Names, name: str, value: Json, spot: Spot) -> ResourceEntry:
    document, what = names.document, f"resource {show(name)}"
    body = RESOURCE.check(document, value, spot, what)
    type_name = body.get("type")
    if type_name is None:
        raise document.error(f"{what} has no type", spot)
    if not isinstance(type_name, str) or type_name not in names.types:
        try:
            names.types.add(check_name("resource type", type_name))
        except BadInput as error:
            raise document.error(f"{what}: {error}", spot.child("type")) from None
    properties = document.mapping(
        body.get("properties"), spot.child("properties"), f"the properties of {what}"
    )
    depends_on = _depends_on(names, what, body.get("depends_on"), spot.child("depends_on"))
    requires = set(depends_on)
    for key, part in body.items():
        if key not in ("type", "replace") and isinstance(part, dict | list):
            requires |= names.referred(part, spot.child(key), name)
    if name in requires:
        raise document.error(f"{what} depends on itself", spot)
    required = tuple(sorted(requires))
    return ResourceEntry(
        type=type_name,
        properties=MappingProxyType(properties),
        # mostly the same, and there may be a million
        depends_on=required if depends_on == required else depends_on,
        requires=required,
        replace=_replacing(document, what, body.get("replace"), spot.child("replace")),
        settings=read_settings(document, what, body, spot),
        spot=spot,
    )


def _replacing(document: Document, what: str, value: Json, spot: Spot) -> Replacing | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in set(Replacing):
        known = " or ".join(Replacing)
        raise document.error(f"replace of {what} must be {known}, not {show(value)}", spot)
    return Replacing(value)


def _depends_on(names: _Names, what: str, value: Json, spot: Spot) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    found: list[str] = []
    for index, each in enumerate(listed):
        place = spot.child(index) if listed is value else spot
        if isinstance(each, str):
            if each not in names.resources:
                message = f"{what} depends on {show(each)}, which is not a resource"
                raise names.document.error(message + hint(each, names.resources), place)
            found.append(each)
        elif isinstance(each, dict):
            # perhaps a condition: whatever it may result in is an edge
            found += (text for text in _strings(each) if text in names.resources)
        else:
            message = f"depends_on of {what} must be a string or a list, not {kind(each)}"
            raise names.document.error(message, place)
    return tuple(dict.fromkeys(found))


def _strings(value: Json) -> Iterable[str]:
    """All strings in a value that are not keys."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            stack += value.values() if isinstance(value, dict) else value


# the graph


def _graph(
    document: Document, body: Mapping[str, Json], resources: Mapping[str, ResourceEntry]
) -> Graph[str]:
    edges: list[tuple[str, str | None]] = []
    for name, entry in resources.items():
        edges.append((name, None))
        edges += ((name, required) for required in entry.requires)
    try:
        return Graph(edges)
    except CircularDependency as error:
        requirer, required = str(error.cycle[0]), str(error.cycle[1])
        spot = _spot_of_edge(body["resources"][requirer], resources[requirer].spot, required)
        raise document.error(str(error), spot) from error


def _spot_of_edge(requirer: Mapping[str, Json], spot: Spot, required: str) -> Spot:
    for key, part in requirer.items():
        for reference in references(part, spot.child(key)):
            if reference.function != "get_param" and reference.name == required:
                return reference.spot
    return spot.child("depends_on")
