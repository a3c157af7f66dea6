"""Nested stacks: a resource of the type :data:`STACK` holds a template, and one whose type is the
path of a file has the template of that file.

The file is read with the template that names it. So what is stored of a template needs no files,
and whoever works on it later finds all of it there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from converge.errors import BadInput
from converge.model import Json
from converge.template.elsewhere import secret_references
from converge.template.files import locate
from converge.template.functions import SECRET, function_of
from converge.template.keys import FILES, STACK
from converge.template.parameters import Parameter
from converge.template.reading import parse, read
from converge.template.values import LEVELS, LITERAL, Document, Spot, hint, kind, show

T = TypeVar("T", bound="Inner")

#: The properties of a nested stack.
TEMPLATE = "template"
PARAMETERS = "parameters"
FILE = "file"
#: Characters, as JSON, of all nested templates of one template together.
SIZE_LIMIT = 2 * 1024 * 1024

_FILE = re.compile(FILES)
_PROPERTIES = (TEMPLATE, PARAMETERS, FILE)
#: What a resource can have that a nested stack cannot, with the reason.
_REFUSED = {
    "runs": "a nested stack runs after what it requires, so it cannot have runs; give it to a "
    "resource in it",
    "external_id": "a nested stack is made by converge, so it cannot have an external_id; to read "
    "what another stack gives, write get_output",
}


def is_file(type_name: object) -> bool:
    """Whether a resource type is the path of a template."""
    return isinstance(type_name, str) and _FILE.search(type_name) is not None


def body_of(properties: Mapping[str, Json]) -> dict[str, Json] | None:
    """The template among the properties of a nested stack; None if it is none."""
    given = properties.get(TEMPLATE)
    function = function_of(given)
    body = function[1] if function is not None and function[0] == LITERAL else given
    return body if isinstance(body, dict) else None


class Inner(Protocol):
    """The template of a nested stack."""

    source: str
    parameters: Mapping[str, Parameter]

    @property
    def outputs(self) -> Mapping[str, object]:
        """Its outputs, by name."""

    @property
    def size(self) -> int:
        """How many characters it has as JSON."""

    def to_dict(self) -> dict[str, Json]:
        """It as a JSON object."""


@dataclass(slots=True)
class Nesting(Generic[T]):
    """The nested stacks of a template that is read.

    :ivar make: makes a template of a document, with its folder and its own nesting.
    :ivar document: what is read.
    :ivar directory: its folder; None if it is from none.
    :ivar chain: the files that led to it, and its own, as they are written and as they are.
    :ivar known: the templates that were read, by the paths of their files.
    :ivar templates: those of its nested stacks, by the name of the resource.
    """

    make: Callable[[Document, str | None, Nesting[T]], T]
    document: Document
    directory: str | None
    chain: tuple[tuple[str, str | None], ...]
    known: dict[str, T] = field(default_factory=dict)
    templates: dict[str, T] = field(default_factory=dict)
    _size: int = 0

    def is_nested(self, body: Json) -> bool:
        """Whether a resource is a nested stack."""
        if not isinstance(body, dict):
            return False
        type_name = body.get("type")
        return type_name == STACK or is_file(type_name)

    def nest(self, name: str, body: dict[str, Json], spot: Spot) -> dict[str, Json]:
        """A nested stack as a resource of the type :data:`STACK` that has all of its template.

        :raises TemplateError: its template cannot be read, is wrong, or leads back to itself.
        """
        what = f"resource {show(name)}"
        for key, message in _REFUSED.items():
            if body.get(key) is not None:
                self.document.note(f"{what}: {message}", spot.child(key))
        place = spot.child("properties")
        given = body.get("properties")
        if function_of(given) is not None:
            raise self.document.error(
                f"the properties of {what} must be a mapping of names, not a function", place
            )
        properties = self.document.mapping(given, place, f"the properties of {what}")
        path: str | None = None
        if body["type"] == STACK:
            template, path, parameters = self._given(what, properties, spot)
        else:
            path, parameters = body["type"], properties
            template = self._read(what, path, spot.child("type"))
        self._weigh(what, template, spot)
        where = place if body["type"] != STACK else place.child(PARAMETERS)
        for message, found in _parameter_problems(template, parameters, where, place):
            self.document.note(f"{what}: {message}", found)
        self.templates[name] = template
        held = {TEMPLATE: {LITERAL: template.to_dict()}, PARAMETERS: parameters}
        made = held if path is None else {**held, FILE: path}
        return {**body, "type": STACK, "properties": made}

    def outputs(self) -> dict[str, list[str]]:
        """The names of the outputs of each nested stack, by the name of the resource."""
        return {name: list(one.outputs) for name, one in self.templates.items()}

    def _given(
        self, what: str, properties: Mapping[str, Json], spot: Spot
    ) -> tuple[T, str | None, dict[str, Json]]:
        """What a resource of the type :data:`STACK` says itself."""
        document, place = self.document, spot.child("properties")
        for key in properties:
            if key not in _PROPERTIES:
                message = f"{what}: type {STACK!r} has no property {show(key)}"
                document.note(message + hint(key, _PROPERTIES), place.child(key))
        found, path = properties.get(TEMPLATE), properties.get(FILE)
        at = place.child(TEMPLATE)
        if found is None:
            message = (
                f"{what}: type {STACK!r} needs the property {TEMPLATE!r}; for that of a file, "
            )
            raise document.error(f"{message}write its path as the type: ./child.yaml", spot)
        if not isinstance(path, str | None):
            raise document.error(f"{what}: {FILE} must be a string, not {kind(path)}", place)
        parameters = properties.get(PARAMETERS)
        if function_of(parameters) is not None:
            message = f"{what}: {PARAMETERS} must be a mapping of names, not a function"
            raise document.error(message, place.child(PARAMETERS))
        parameters = document.mapping(
            parameters, place.child(PARAMETERS), f"{PARAMETERS} of {what}"
        )
        called = f"{document.name}: {what}"
        if isinstance(found, str):
            inner = parse(found, called)
        else:
            body = body_of(properties)
            function = function_of(found)
            if body is None or (function is not None and function[0] != LITERAL):
                given = f"the function {function[0]}" if function is not None else kind(found)
                message = f"{what}: {TEMPLATE} must be a template, written out, not {given}"
                raise document.error(message, at)
            if document.is_host_s or body is not found:
                inner = Document.of_host(body, called)
            else:
                inner = Document(document.name, body, at, names_files=document.names_files)
        inner.mistakes = document.mistakes
        folder = self.directory
        if folder is not None and path is not None:
            folder = os.path.join(folder, os.path.dirname(path))
        return self._make(what, inner, folder, (called, None), spot), path, parameters

    def _read(self, what: str, path: str, spot: Spot) -> T:
        if self.directory is None:
            raise self.document.error(
                f"{what}: {show(path)} is a file, and the template is from none, so it is not "
                "known in which folder that is; load the template from its file, or give a "
                "directory",
                spot,
            )
        real = locate(self.document, self.directory, path, spot, what)
        shown = os.path.normpath(os.path.join(os.path.dirname(self.document.name), path))
        if any(one == real for _, one in self.chain):
            raise self.document.error(
                f"{what}: the files lead back to each other: {self._chain(shown)}", spot
            )
        if real not in self.known:
            inner = read(real, shown)
            inner.mistakes = self.document.mistakes
            folder = os.path.dirname(real)
            self.known[real] = self._make(what, inner, folder, (shown, real), spot)
        return self.known[real]

    def _make(
        self,
        what: str,
        document: Document,
        directory: str | None,
        link: tuple[str, str | None],
        spot: Spot,
    ) -> T:
        if len(self.chain) > LEVELS:
            raise self.document.error(
                f"{what}: stacks are nested more than {LEVELS} levels deep: {self._chain(link[0])}",
                spot,
            )
        within = Nesting(self.make, document, directory, (*self.chain, link), self.known)
        return self.make(document, directory, within)

    def _weigh(self, what: str, template: T, spot: Spot) -> None:
        self._size += template.size
        if self._size > SIZE_LIMIT:
            raise self.document.error(
                f"{what}: the nested templates have more than {SIZE_LIMIT:,} characters together: "
                f"{self._chain(template.source)}",
                spot,
            )

    def _chain(self, last: str) -> str:
        return " > ".join([*(shown for shown, _ in self.chain), last])


def _parameter_problems(
    template: Inner, given: Mapping[str, Json], spot: Spot, missing_spot: Spot
) -> Iterator[tuple[str, Spot]]:
    """What is wrong with the parameters that a nested stack is given, and what is missing."""
    where = template.source
    for name, value in given.items():
        place = spot.child(name)
        if name not in template.parameters:
            known = hint(name, template.parameters) or "; it has none" * (not template.parameters)
            yield f"{where} has no parameter {show(name)}{known}", place
            continue
        if next(secret_references(value), None) is not None:
            message = (
                f"parameter {show(name)}: {SECRET} is known to handlers only, and what a nested "
                f"stack is given is stored; write {SECRET} in {where}"
            )
            yield message, place
        declared = template.parameters[name]
        # what is wrong with it is said already; what is a function has no value yet
        if value is None or not declared.type or _has_function(value):
            continue
        try:
            declared.value(value)
        except BadInput as error:
            yield f"{where}: {error}", place
    missing = [
        name
        for name, one in template.parameters.items()
        if given.get(name) is None and not one.has_default and one.type
    ]
    if missing:
        shown = ", ".join(map(show, missing[:20])) + (", ..." if len(missing) > 20 else "")
        need = "parameter needs a value" if len(missing) == 1 else "parameters need values"
        yield f"{where}: {need}: {shown}", missing_spot


def _has_function(value: Any) -> bool:
    stack = [value]
    while stack:
        one = stack.pop()
        if function_of(one) is not None:
            return True
        if isinstance(one, dict | list):
            stack += one.values() if isinstance(one, dict) else one
    return False
