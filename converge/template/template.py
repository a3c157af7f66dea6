"""Templates: the desired state, in the syntax of Heat's templates.

Whoever reads a template, and for whatever purpose, what converge would ignore in it is refused. A
template for drawing may have anything that Heat accepts, but can only be drawn.
:meth:`Template.validate` checks what only the resource types know.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from converge.errors import BadInput, CircularDependency, TemplateError
from converge.graph import Graph
from converge.model import Json, Replacing, ResourceDefinition, check_name
from converge.template.functions import (
    Reference,
    function_of,
    misuses,
    references,
    resolve,
    resolve_properties,
    substitute,
)
from converge.template.keys import EXTENSION, OUTPUT, PARAMETER_GROUP, RESOURCE, TEMPLATE
from converge.template.parameters import PSEUDO, Parameter, parse_parameter, refuse_foreign
from converge.template.properties import check_properties, property_problems
from converge.template.reading import parse as parse_text
from converge.template.reading import read
from converge.template.values import Document, Spot, hint, kind, plain, show

if TYPE_CHECKING:
    from converge.resources.resource_type import ResourceType

__all__ = [
    "Output",
    "Parameter",
    "ResourceEntry",
    "Template",
    "check_properties",
    "resolve",
    "resolve_properties",
]

_PARAMETER_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "json": (dict, list),
    "comma_delimited_list": (list,),
}


@dataclass(frozen=True, slots=True)
class ResourceEntry:
    """A resource as the template has it.

    :ivar type: the name of its resource type.
    :ivar depends_on: names of resources that must come first even if it does not refer to them.
    :ivar requires: names of all resources that must come first, sorted.
    :ivar replace: in which order it is replaced; None leaves it to the type.
    """

    type: str
    properties: Mapping[str, Json]
    depends_on: tuple[str, ...]
    requires: tuple[str, ...]
    replace: Replacing | None
    spot: Spot = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Output:
    """A value that a stack shows when it is complete; its functions are not evaluated yet."""

    value: Json
    description: str | None
    spot: Spot = field(repr=False, compare=False)


class Template:
    """The desired state of a stack.

    Make one with :meth:`load`, :meth:`parse` or :meth:`from_dict`.

    :ivar source: the name of the file, or another name for messages.
    :ivar description: by its author, None if there is none.
    :ivar parameters: those that it declares, by name.
    :ivar resources: by name, in the order of the text.
    :ivar outputs: by name.
    """

    source: str
    description: str | None
    parameters: Mapping[str, Parameter]
    resources: Mapping[str, ResourceEntry]
    outputs: Mapping[str, Output]

    def __init__(self, document: Document, *, for_drawing: bool = False) -> None:
        self.source = document.name
        self._document = document
        self._body = self._parse_body()
        description = self._body.get("description")
        if description is not None and not isinstance(description, str):
            message = f"the description must be a string, not {kind(description)}"
            raise document.error(message, document.spot.child("description"))
        self.description = description
        self.parameters = MappingProxyType(
            {
                name: parse_parameter(document, name, value, spot)
                for name, value, spot in self._section("parameters", "parameter")
            }
        )
        self._conditions = {
            name: spot for name, _, spot in self._section("conditions", "condition")
        }
        self.resources = MappingProxyType(self._parse_resources())
        self.outputs = MappingProxyType(
            {
                name: self._parse_output(name, value, spot)
                for name, value, spot in self._section("outputs", "output")
            }
        )
        for section in ("conditions", "outputs"):
            self._check_references(self._body.get(section), document.spot.child(section))
        self._graph = self._make_graph()
        self._is_supported = False
        if not for_drawing:
            self.check_supported()

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, for_drawing: bool = False) -> Template:
        """Read a file of YAML or, with a name that ends in ``.json``, of JSON.

        :param for_drawing: accept anything that Heat does; the template can only be drawn.
        :raises TemplateError: if it cannot be read, is wrong, or has what converge does not
            support.
        """
        return cls(read(path), for_drawing=for_drawing)

    @classmethod
    def parse(
        cls, text: str | bytes, source: str = "<template>", *, for_drawing: bool = False
    ) -> Template:
        """Parse a text: YAML, or JSON if it starts with ``{``.

        :param source: its name in messages.
        :param for_drawing: accept anything that Heat does; the template can only be drawn.
        :raises TemplateError: if it is wrong, or has what converge does not support.
        """
        return cls(parse_text(text, source), for_drawing=for_drawing)

    @classmethod
    def from_dict(cls, body: Mapping[str, Json], source: str = "<template>") -> Template:
        """A template from what :meth:`to_dict` returned, or made by a program. Lines are not known.

        :param source: its name in messages.
        :raises TemplateError: if it is wrong, or has what converge does not support.
        """
        return cls(Document(source, plain(body, source), Spot()))

    @classmethod
    def from_store(cls, body: Mapping[str, Json]) -> Template:
        """A stored template, perhaps accepted by a version of converge that did not refuse what
        this one does: its resources must still be found and deleted."""
        return cls(Document("<template>", plain(body, "<template>"), Spot()), for_drawing=True)

    def to_dict(self) -> dict[str, Json]:
        """A copy of the template as a JSON object; :meth:`from_dict` takes it."""
        body: dict[str, Json] = plain(self._body, self.source)
        return body

    def graph(self) -> Graph[str]:
        """Which resource requires which: every reference, wherever it is nested, is an edge."""
        return self._graph

    def __repr__(self) -> str:
        return f"<Template {self.source} of {len(self.resources)} resources>"

    # reading

    def _error(self, message: str, spot: Spot) -> TemplateError:
        return self._document.error(message, spot)

    def _parse_body(self) -> dict[str, Json]:
        document = self._document
        remedy = "a template is a mapping with at least the key 'resources'"
        if document.value is None:
            raise document.error(f"is empty; {remedy}", Spot())
        if not isinstance(document.value, dict):
            message = f"is {kind(document.value)}; {remedy}"
            raise document.error(message, document.spot)
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

    def _section(self, section: str, what: str) -> Iterable[tuple[str, Json, Spot]]:
        place = self._document.spot.child(section)
        values = self._document.mapping(self._body.get(section), place, f"the section {section!r}")
        for name, value in values.items():
            spot = place.child(name)
            try:
                check_name(what, name)
            except BadInput as error:
                raise self._error(str(error), spot) from None
            yield name, value, spot

    def _parse_resources(self) -> dict[str, ResourceEntry]:
        entries = list(self._section("resources", "resource"))
        names = {name: None for name, _, _ in entries}.keys()
        return {
            name: self._parse_resource(name, value, spot, names) for name, value, spot in entries
        }

    def _parse_resource(
        self, name: str, value: Json, spot: Spot, names: Collection[str]
    ) -> ResourceEntry:
        what = f"resource {show(name)}"
        body = RESOURCE.check(self._document, value, spot, what)
        type_name = body.get("type")
        if type_name is None:
            raise self._error(f"{what} has no type", spot)
        try:
            check_name("resource type", type_name)
        except BadInput as error:
            raise self._error(f"{what}: {error}", spot.child("type")) from None
        properties = self._document.mapping(
            body.get("properties"), spot.child("properties"), f"the properties of {what}"
        )
        depends_on = self._depends_on(what, body.get("depends_on"), spot.child("depends_on"), names)
        requires = set(depends_on)
        for key, part in body.items():
            if key not in ("type", "replace"):
                requires |= self._check_references(part, spot.child(key), names, name)
        if name in requires:
            raise self._error(f"{what} depends on itself", spot)
        return ResourceEntry(
            type=type_name,
            properties=MappingProxyType(properties),
            depends_on=depends_on,
            requires=tuple(sorted(requires)),
            replace=self._replacing(what, body, spot.child("replace")),
            spot=spot,
        )

    def _replacing(self, what: str, body: Mapping[str, Json], spot: Spot) -> Replacing | None:
        value = body.get("replace")
        if value is None:
            return None
        if not isinstance(value, str) or value not in set(Replacing):
            known = " or ".join(Replacing)
            raise self._error(f"replace of {what} must be {known}, not {show(value)}", spot)
        return Replacing(value)

    def _depends_on(
        self, what: str, value: Json, spot: Spot, names: Collection[str]
    ) -> tuple[str, ...]:
        if value is None:
            return ()
        listed = value if isinstance(value, list) else [value]
        found: list[str] = []
        for index, each in enumerate(listed):
            place = spot.child(index) if listed is value else spot
            if isinstance(each, str):
                if each not in names:
                    message = f"{what} depends on {show(each)}, which is not a resource"
                    raise self._error(message + hint(each, names), place)
                found.append(each)
            elif isinstance(each, dict):
                # perhaps a condition: whatever it may result in is an edge
                found += (text for text in _strings(each) if text in names)
            else:
                message = f"depends_on of {what} must be a string or a list, not {kind(each)}"
                raise self._error(message, place)
        return tuple(dict.fromkeys(found))

    def _check_references(
        self,
        value: Json,
        spot: Spot,
        names: Collection[str] | None = None,
        resource: str | None = None,
    ) -> set[str]:
        """The names of the resources that a value refers to."""
        names = self.resources if names is None else names
        found = set()
        for reference in references(value, spot):
            if reference.problem is not None:
                raise self._error(reference.problem, reference.spot)
            if reference.name is None:
                continue
            if reference.function == "get_param":
                self._check_parameter(reference)
                continue
            name = self._resource_name(reference, names)
            if name is None:
                continue
            if name == resource:
                message = f"resource {show(name)} refers to itself with {reference.function}"
                raise self._error(message, reference.spot)
            found.add(name)
        return found

    def _resource_name(self, reference: Reference, names: Collection[str]) -> str | None:
        name = reference.name or ""
        if name in names:
            return name
        if reference.lenient:
            return None
        # Heat also has the form "resource.attribute"
        before, dot, _ = name.partition(".")
        if reference.function == "get_attr" and dot and before in names:
            return before
        message = f"{reference.function} refers to {show(name)}, which is not a resource"
        raise self._error(message + hint(name, names), reference.spot)

    def _check_parameter(self, reference: Reference) -> None:
        name = reference.name or ""
        if name in self.parameters or name.startswith("OS::") or reference.lenient:
            return
        message = f"get_param refers to {show(name)}, which is not a parameter"
        raise self._error(message + hint(name, [*self.parameters, *PSEUDO]), reference.spot)

    def _parse_output(self, name: str, value: Json, spot: Spot) -> Output:
        what = f"output {show(name)}"
        body = OUTPUT.check(self._document, value, spot, what)
        if "value" not in body:
            raise self._error(f"{what} has no value", spot)
        description = body.get("description")
        if description is not None and not isinstance(description, str):
            message = f"the description of {what} must be a string, not {kind(description)}"
            raise self._error(message, spot.child("description"))
        return Output(value=body["value"], description=description, spot=spot)

    def _make_graph(self) -> Graph[str]:
        edges: list[tuple[str, str | None]] = []
        for name, entry in self.resources.items():
            edges.append((name, None))
            edges += ((name, required) for required in entry.requires)
        try:
            return Graph(edges)
        except CircularDependency as error:
            first, second = str(error.cycle[0]), str(error.cycle[1])
            raise self._error(str(error), self._spot_of_edge(first, second)) from error

    def _spot_of_edge(self, requirer: str, required: str) -> Spot:
        spot = self.resources[requirer].spot
        body = self._body["resources"][requirer]
        for key, part in body.items():
            for reference in references(part, spot.child(key)):
                if reference.function != "get_param" and reference.name == required:
                    return reference.spot
        return spot.child("depends_on")

    # being brought about

    def check_supported(self) -> None:
        """Refuse what converge would ignore. Only a template for drawing has not passed this when
        it was read.

        :raises TemplateError: if there is anything of the kind.
        """
        if self._is_supported:
            return
        document, body = self._document, self._body
        for problem in document.problems:
            raise problem
        if self._conditions:
            place = document.spot.child("conditions")
            raise TEMPLATE.unsupported(document, "conditions", place, "a template")
        self._check_groups()
        for name, parameter in self.parameters.items():
            refuse_foreign(document, name, body["parameters"][name], parameter.spot)
        for name, entry in self.resources.items():
            self._check_resource(name, entry)
        for name, output in self.outputs.items():
            what = f"output {show(name)}"
            OUTPUT.refuse_foreign(document, body["outputs"][name], output.spot, what)
            self._check_value(output.value, output.spot.child("value"))
        self._is_supported = True

    def _check_groups(self) -> None:
        place = self._document.spot.child("parameter_groups")
        groups = self._body.get("parameter_groups")
        if not isinstance(groups, list | None):
            message = f"parameter_groups must be a list, not {kind(groups)}"
            raise self._error(message, place)
        for index, group in enumerate(groups or ()):
            spot = place.child(index)
            body = PARAMETER_GROUP.check(self._document, group, spot, "a parameter group")
            for name in _listed(body.get("parameters") or []):
                if not isinstance(name, str) or name not in self.parameters:
                    message = f"a parameter group has {show(name)}, which is not a parameter"
                    raise self._error(
                        message + hint(name, self.parameters), spot.child("parameters")
                    )

    def _check_resource(self, name: str, entry: ResourceEntry) -> None:
        what, spot, body = f"resource {show(name)}", entry.spot, self._body["resources"][name]
        RESOURCE.refuse_foreign(self._document, body, spot, what)
        if any(isinstance(each, dict) for each in _listed(body.get("depends_on"))):
            message = f"depends_on of {what} must be names, not functions"
            raise self._error(message, spot.child("depends_on"))
        for key, value in entry.properties.items():
            self._check_value(value, spot.child("properties").child(key))

    def validate(self, types: Mapping[str, ResourceType]) -> None:
        """Check that its resources can be made with the given resource types.

        :raises TemplateError: for an unknown type, and for properties that are unknown, missing,
            or of the wrong type.
        """
        self.check_supported()
        for name, entry in self.resources.items():
            self._validate_resource(name, entry, types)

    def _validate_resource(
        self, name: str, entry: ResourceEntry, types: Mapping[str, ResourceType]
    ) -> None:
        what, spot = f"resource {show(name)}", entry.spot
        if entry.type not in types:
            message = f"{what} has the unknown type {show(entry.type)}{hint(entry.type, types)}"
            raise self._error(message, spot.child("type"))
        schema = types[entry.type].schema
        place = spot.child("properties")
        function = function_of(dict(entry.properties))
        if function is not None and function[0] not in (schema or ()):
            message = f"the properties of {what} must be a mapping of names, not the function "
            raise self._error(message + show(function[0])[1:-1], place.child(function[0]))
        given = {key: self._types(value) for key, value in entry.properties.items()}
        for wrong, message in property_problems(entry.type, types[entry.type], given):
            raise self._error(f"{what}: {message}", place.child(wrong) if wrong else spot)

    def _check_value(self, value: Json, spot: Spot) -> None:
        for message, place in misuses(value, spot):
            raise self._error(message, place)
        for reference in references(value, spot):
            name = reference.name or ""
            if reference.function == "get_param" and name not in self.parameters:
                self._check_pseudo(name, reference.spot)

    def _check_pseudo(self, name: str, spot: Spot) -> None:
        if name not in PSEUDO:
            known = ", ".join(sorted(PSEUDO))
            message = f"converge does not have the parameter {show(name)}; it has "
            raise self._error(message + known if name else "get_param needs a name", spot)

    def _types(self, value: Json) -> tuple[type, ...]:
        """The types that a value can have once its functions are evaluated; empty if unknown."""
        function = function_of(value)
        if function is None:
            return (type(value),)
        name, argument = function
        if name == "get_param":
            if isinstance(argument, list) and len(argument) == 1:
                argument = argument[0]
            parameter = self.parameters.get(argument) if isinstance(argument, str) else None
            return _PARAMETER_TYPES[parameter.type] if parameter else ()
        return () if name == "get_attr" else (str,)

    def resolve_parameters(self, values: Mapping[str, object]) -> dict[str, Json]:
        """The value of every parameter: the given one, or its default.

        :param values: by name; strings are converted to the declared type.
        :raises TemplateError: for an unknown parameter, a missing one, or a bad value; also
            if the template can only be drawn.
        """
        self.check_supported()
        for name in values:
            if name not in self.parameters:
                message = f"there is no parameter {show(name)}{hint(name, self.parameters)}"
                raise TemplateError(message, source=self.source)
        missing = [
            name
            for name, parameter in self.parameters.items()
            if name not in values and not parameter.has_default
        ]
        if missing:
            shown = ", ".join(map(show, missing[:20])) + (", ..." if len(missing) > 20 else "")
            what = "parameter needs a value" if len(missing) == 1 else "parameters need values"
            raise self._error(f"{what}: {shown}", self.parameters[missing[0]].spot)
        resolved = {}
        for name, parameter in self.parameters.items():
            try:
                resolved[name] = parameter.value(values.get(name, parameter.default))
            except BadInput as error:
                raise self._error(str(error), parameter.spot) from None
        return resolved

    def definitions(
        self, parameters: Mapping[str, Json], stack_name: str
    ) -> dict[str, ResourceDefinition]:
        """The desired state of each resource, in topological order.

        :param parameters: as :meth:`resolve_parameters` gave them.
        :raises TemplateError: if a ``get_param`` has no value.
        """
        definitions = {}
        for name in self._graph:
            entry = self.resources[name]
            place = entry.spot.child("properties")
            properties = {
                key: self._substitute(value, place.child(key), parameters, stack_name)
                for key, value in entry.properties.items()
            }
            definitions[name] = ResourceDefinition(
                entry.type, properties, entry.requires, entry.replace
            )
        return definitions

    def output_values(self, parameters: Mapping[str, Json], stack_name: str) -> dict[str, Json]:
        """The values of the outputs, with parameters filled in, for :func:`resolve`.

        :param parameters: as :meth:`resolve_parameters` gave them.
        :raises TemplateError: if a ``get_param`` has no value.
        """
        return {
            name: self._substitute(output.value, output.spot, parameters, stack_name)
            for name, output in self.outputs.items()
        }

    def _substitute(
        self, value: Json, spot: Spot, parameters: Mapping[str, Json], stack_name: str
    ) -> Json:
        def parameter(name: str) -> Json:
            if name == "OS::stack_name":
                return stack_name
            if name not in parameters:
                raise BadInput(f"parameter {show(name)} has no value{hint(name, parameters)}")
            return parameters[name]

        try:
            return substitute(value, parameter)
        except BadInput as error:
            raise self._error(str(error), spot) from None


def _strings(value: Json) -> Iterable[str]:
    """All strings in a value that are not keys."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            stack += value.values() if isinstance(value, dict) else value


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]
