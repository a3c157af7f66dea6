"""The structure of a template: what is in its sections, and what refers to what.

Whatever Heat accepts has a structure, and can be drawn. What converge would ignore in it is for
``support`` to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from converge.canonical import dump, load
from converge.errors import BadInput, CircularDependency, TemplateError
from converge.graph import Graph
from converge.model import Json, Replacing, check_name
from converge.template.definitions import is_definition
from converge.template.entries import Entries, named_first, variation_in
from converge.template.functions import Reference, may_refer, references, split_instance
from converge.template.keys import EXTENSION, OUTPUT, RESOURCE, TEMPLATE
from converge.template.nesting import Nesting
from converge.template.parameters import PSEUDO, Parameter, parse_parameter
from converge.template.settings import check_settings
from converge.template.values import Document, Spot, hint, kind, show

#: What is evaluated before a start, in a resource as canonical JSON.
_FILLED = re.compile(r'\{"(?:get_param|get_output|if|not|and|or)":')


@dataclass(frozen=True, slots=True)
class Output:
    """A value that a stack shows when it is complete; its functions are not evaluated yet.

    :ivar condition: if it is false, the output is null; None if it has none.
    """

    value: Json
    description: str | None
    condition: Json
    spot: Spot = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Structure:
    """A document that was understood as a template.

    :ivar document: what it was read from, without its value; its errors say where.
    :ivar outline: the template as a JSON object, without its resources, and without what its
        author put aside.
    :ivar conditions: by name.
    :ivar lack: what is wrong with the section of the resources if it has none; None if it has some.
    :ivar varies: whether parameters decide which resources there are.
    :ivar notable: the names of the resources with functions, or with more than a type, properties
        and dependencies: in all others there is nothing that only ``support`` finds.
    :ivar unlike: the names of those whose texts are not their definitions.
    :ivar nested: the names of the outputs of each nested stack, by the name of the resource.
    """

    document: Document
    outline: dict[str, Json]
    description: str | None
    parameters: Mapping[str, Parameter]
    conditions: Mapping[str, Json]
    lack: str | None
    varies: bool
    resources: Entries
    notable: Sequence[str]
    unlike: Sequence[str]
    outputs: Mapping[str, Output]
    nested: Mapping[str, Collection[str]] = field(default_factory=dict)


def understand(document: Document, nesting: Nesting[Any] | None = None) -> Structure:
    """The structure of a document.

    :param nesting: reads the templates of nested stacks; None: they stay as they are written.
    :raises TemplateError: if it has none, as with a key that is not in the language, a reference
        to nothing, or a circle of them.
    """
    outline = _check_body(document)
    # from here on, there is only what the structure keeps of it
    document = replace(document, value=None)
    description = _description(document, "the description", outline, document.spot)
    parameters = {}
    for name, value, spot in _section(document, outline, "parameters", "parameter"):
        try:
            parameters[name] = parse_parameter(document, name, value, spot)
        except TemplateError as error:
            document.keep(error)
            # it is there, for what refers to it
            parameters[name] = Parameter(name, "", spot)
    conditions = {
        name: value for name, value, _ in _section(document, outline, "conditions", "condition")
    }
    for _ in _section(document, outline, "resources", "resource"):
        pass
    lack = None
    if outline.get("resources") is None:
        lack = "is empty" if "resources" in outline else "is missing"
    given: dict[str, Json] = outline.pop("resources", None) or {}
    place = document.spot.child("resources")
    names = _Names(document, parameters, given)
    texts: dict[str, str] = {}
    requires: dict[str, tuple[str, ...]] = {}
    unlike: list[str] = []
    for name, value in given.items():
        try:
            body = document.plain(value)
            if nesting is not None and nesting.is_nested(body):
                body = nesting.nest(name, body, place.child(name))
            requires[name] = _resource(names, name, body, place.child(name))
        except TemplateError as error:
            document.keep(error)
            body, requires[name] = {"type": ""}, ()
        text = texts[name] = dump(body)
        # only in the notable ones there can be functions
        is_notable = bool(names.notable) and names.notable[-1] == name
        if not is_definition(body) or (is_notable and _FILLED.search(text)):
            unlike.append(name)
    outputs = {}
    for name, value, spot in _section(document, outline, "outputs", "output"):
        try:
            outputs[name] = _output(document, name, value, spot)
        except TemplateError as error:
            document.keep(error)
    for section in ("conditions", "outputs"):
        names.referred(outline.get(section), document.spot.child(section))
    return Structure(
        document=document,
        outline=outline,
        description=description,
        parameters=MappingProxyType(parameters),
        conditions=MappingProxyType(conditions),
        lack=lack,
        varies=bool(names.varying),
        resources=Entries(texts, _graph(document, texts, requires, place), place),
        notable=names.notable,
        unlike=unlike,
        outputs=MappingProxyType(outputs),
        nested={} if nesting is None else nesting.outputs(),
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
            document.note(str(error), spot)
        yield name, value, spot


def _output(document: Document, name: str, value: Json, spot: Spot) -> Output:
    what = f"output {show(name)}"
    body = OUTPUT.check(document, value, spot, what)
    if "value" not in body:
        raise document.error(f"{what} has no value", spot)
    description = _description(document, f"the description of {what}", body, spot)
    return Output(body["value"], description, body.get("condition"), spot)


# references


@dataclass(frozen=True, slots=True)
class _Names:
    """What the references of a document can refer to.

    :ivar types: names of resource types that were found to be names.
    :ivar notable: see :class:`Structure`.
    :ivar varying: names of the resources whose being there depends on parameters.
    """

    document: Document
    parameters: Collection[str]
    resources: Mapping[str, Json]
    types: set[str] = field(default_factory=set)
    notable: list[str] = field(default_factory=list)
    varying: list[str] = field(default_factory=list)

    def referred(self, value: Json, spot: Spot, resource: str | None = None) -> set[str]:
        """The names of the resources that a value refers to.

        :param resource: the one that the value belongs to, if any.
        """
        found = set()
        for reference in references(value, spot):
            if reference.problem is not None:
                self.document.note(reference.problem, reference.spot)
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
                self.document.note(message, reference.spot)
                continue
            found.add(name)
        return found

    def _check_parameter(self, reference: Reference, name: str) -> None:
        if name in self.parameters or name.startswith("OS::") or reference.lenient:
            return
        message = f"get_param refers to {show(name)}, which is not a parameter"
        meant = hint(name, [*self.parameters, *PSEUDO])
        self.document.note(message + meant, reference.spot)

    def _resource(self, reference: Reference, name: str) -> str | None:
        if name in self.resources:
            return name
        if reference.lenient:
            return None
        group = self.group_of(name)
        if group is not None:
            return group
        # Heat also has the form "resource.attribute"
        before, dot, _ = name.partition(".")
        if reference.function == "get_attr" and dot and before in self.resources:
            return before
        message = f"{reference.function} refers to {show(name)}, which is not a resource"
        self.document.note(message + hint(name, self.resources), reference.spot)
        return None

    def group_of(self, name: str) -> str | None:
        """The resource with ``for_each`` of which an instance has this name, if there is one."""
        group, _ = split_instance(name) or ("", "")
        body = self.resources.get(group)
        return group if isinstance(body, Mapping) and "for_each" in body else None


# resources

_USUAL = frozenset(("type", "properties", "depends_on", "replace"))


class _Resource(NamedTuple):
    """What messages call a resource, or a part of it. Of a million, nearly all are right, and no
    text is made."""

    name: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.part}resource {show(self.name)}"


def _resource(names: _Names, name: str, value: Json, spot: Spot) -> tuple[str, ...]:
    """Check a resource.

    :returns: the names of those that it requires, sorted.
    """
    document, what = names.document, _Resource(name)
    body = RESOURCE.check(document, value, spot, what)
    type_name = body.get("type")
    if type_name is None:
        raise document.error(f"{what} has no type", spot)
    if not isinstance(type_name, str) or type_name not in names.types:
        try:
            names.types.add(check_name("resource type", type_name))
        except BadInput as error:
            raise document.error(f"{what}: {error}", spot.child("type")) from None
    properties = body.get("properties")
    if properties is not None:
        called = _Resource(name, "the properties of ")
        document.mapping(properties, spot.child("properties"), called)
    depends_on = body.get("depends_on")
    requires = _depends_on(names, what, depends_on, spot.child("depends_on"))
    is_notable = not _USUAL.issuperset(body) or isinstance(depends_on, dict)
    for key, part in body.items():
        if key not in ("type", "replace") and may_refer(part):
            requires |= names.referred(part, spot.child(key), name)
            is_notable = True
    if name in requires:
        raise document.error(f"{what} depends on itself", spot)
    if body.get("replace") is not None:
        _check_replacing(document, what, body["replace"], spot.child("replace"))
    check_settings(document, what, body, spot)
    if is_notable:
        names.notable.append(name)
        if variation_in(body):
            names.varying.append(name)
    return tuple(sorted(requires))


def _check_replacing(document: Document, what: _Resource, value: Json, spot: Spot) -> None:
    if not isinstance(value, str) or value not in set(Replacing):
        known = " or ".join(Replacing)
        raise document.error(f"replace of {what} must be {known}, not {show(value)}", spot)


def _depends_on(names: _Names, what: _Resource, value: Json, spot: Spot) -> set[str]:
    if value is None:
        return set()
    listed = value if isinstance(value, list) else [value]
    try:
        given = set(listed)
        if given <= names.resources.keys():
            return given
    except TypeError:
        pass  # what is not hashable is no name
    for index, each in enumerate(listed):
        if isinstance(each, str):
            if each in names.resources or names.group_of(each) is not None:
                continue
            message = f"{what} depends on {show(each)}, which is not a resource"
            message += hint(each, names.resources)
        elif isinstance(each, dict):
            continue
        else:
            message = f"depends_on of {what} must be a string or a list, not {kind(each)}"
        names.document.note(message, spot.child(index) if listed is value else spot)
    known = (
        each if each in names.resources else names.group_of(each)
        for each in named_first(listed, names.resources)
    )
    return {each for each in known if each is not None}


# the graph


def _graph(
    document: Document,
    texts: Mapping[str, str],
    requires: Mapping[str, Collection[str]],
    place: Spot,
) -> Graph[str]:
    try:
        return Graph.of(requires)
    except CircularDependency as error:
        requirer, required = str(error.cycle[0]), str(error.cycle[1])
        spot = _spot_of_edge(load(texts[requirer]), place.child(requirer), required)
        found = document.error(str(error), spot)
        found.__cause__ = error
        document.keep(found)
        return Graph.of(dict.fromkeys(texts, ()))


def _spot_of_edge(requirer: Mapping[str, Json], spot: Spot, required: str) -> Spot:
    for key, part in requirer.items():
        for reference in references(part, spot.child(key)):
            if reference.function != "get_param" and reference.name == required:
                return reference.spot
    return spot.child("depends_on")
