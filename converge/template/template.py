"""Templates: the desired state, in the syntax of Heat's templates.

Whoever reads a template, and for whatever purpose, what converge would ignore in it is refused. A
template for drawing may have anything that Heat accepts, but can only be drawn.
:meth:`Template.validate` checks what only the resource types know.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from io import StringIO
from typing import TYPE_CHECKING

from converge import collection
from converge.canonical import dump, load
from converge.errors import BadInput, TemplateError
from converge.graph import Graph
from converge.model import Json, ResourceDefinition
from converge.template.definitions import Definitions, dump_definition
from converge.template.entries import Entries
from converge.template.environment import read_environment
from converge.template.evaluate import OMITTED, NotRead, Scope
from converge.template.expansion import (
    expand,
    fill_properties,
    fill_settings,
    located,
    settle_groups,
)
from converge.template.files import put_in_files
from converge.template.functions import OUTPUT, references
from converge.template.moved import MOVED, final_names
from converge.template.nesting import Nesting
from converge.template.outputs import Outputs, hidden_parts
from converge.template.parameters import Parameter
from converge.template.reading import parse as parse_text
from converge.template.reading import read
from converge.template.structure import Output, understand
from converge.template.support import check_against, check_attributes, refuse_ignored
from converge.template.validation import check_values, in_order
from converge.template.values import Document, Spot, hint, plain, show

if TYPE_CHECKING:
    from converge.resources.resource_type import ResourceType

#: In a stored template: parameters decide which resources there are.
VARIES = "converge::varies"


class Template:
    """The desired state of a stack.

    Make one with :meth:`load`, :meth:`parse` or :meth:`from_dict`.

    :ivar source: the name of the file, or another name for messages.
    :ivar description: by its author, None if there is none.
    :ivar parameters: those that it declares, by name.
    :ivar resources: by name, in the order of the text.
    :ivar outputs: by name.
    :ivar directory: where its relative paths start: the folder of its file, as an absolute path;
        None if it is from no file, and no folder was given.
    """

    source: str
    directory: str | None
    description: str | None
    parameters: Mapping[str, Parameter]
    resources: Entries
    outputs: Mapping[str, Output]

    def __init__(
        self,
        document: Document,
        *,
        for_drawing: bool = False,
        directory: str | os.PathLike[str] | None = None,
        nesting: Nesting[Template] | None = None,
    ) -> None:
        """:param nesting: of the template that it is nested in, for this one."""
        self.directory = None if directory is None else os.path.abspath(directory)
        if not for_drawing:
            for problem in document.problems:
                raise problem
            if self.directory is not None and document.names_files:
                put_in_files(document, self.directory)
        if nesting is None and not for_drawing:
            nesting = self._nesting(document, self.directory)
        with collection.paused():
            self._structure = understand(document, nesting)
        self._nested: Mapping[str, Template] = {} if nesting is None else nesting.templates
        self.source = document.name
        self.description = self._structure.description
        self.parameters = self._structure.parameters
        self.resources = self._structure.resources
        self.outputs = self._structure.outputs
        self._is_supported = False
        if not for_drawing:
            self.check_supported()

    @classmethod
    def _nesting(cls, document: Document, directory: str | None) -> Nesting[Template]:
        """How the nested stacks of a template are read that is nested in no other."""
        real = None
        if directory is not None:
            real = os.path.realpath(os.path.join(directory, os.path.basename(document.name)))
        return Nesting(cls._inner, document, directory, ((document.name, real),))

    @classmethod
    def _inner(
        cls, document: Document, directory: str | None, nesting: Nesting[Template]
    ) -> Template:
        """The template of a nested stack."""
        return cls(document, directory=directory, nesting=nesting)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, for_drawing: bool = False) -> Template:
        """Read a file of YAML or, with a name that ends in ``.json``, of JSON.

        :param for_drawing: accept anything that Heat does; the template can only be drawn.
        :raises TemplateError: if it cannot be read, is wrong, or has what converge does not
            support.
        """
        folder = os.path.dirname(os.fspath(path)) or os.curdir
        return cls(read(path), for_drawing=for_drawing, directory=folder)

    @classmethod
    def find_mistakes(
        cls,
        path: str | os.PathLike[str],
        types: Mapping[str, ResourceType],
        *,
        parameters: Mapping[str, object] | None = None,
        environments: Iterable[str | os.PathLike[str]] = (),
        elsewhere: Collection[str] = (),
        text: str | bytes | None = None,
    ) -> list[TemplateError]:
        """All mistakes of a file, in the order of its lines. After some, as in the syntax, the rest
        is not looked at.

        :param types: the resource types that are to make its resources.
        :param parameters: values; if those and the defaults are all that it needs, what depends on
            them is looked at, too.
        :param environments: files of values, as :meth:`read_parameters` takes them.
        :param elsewhere: as :meth:`validate` takes them.
        :param text: what the file says, if it was read already.
        """
        found: list[TemplateError] = []
        folder = os.path.dirname(os.fspath(path)) or os.curdir
        try:
            document = read(path) if text is None else parse_text(text, os.fspath(path))
            document.mistakes = found
            if document.names_files:
                put_in_files(document, folder)
            nesting = cls._nesting(document, os.path.abspath(folder))
            structure = understand(document, nesting)
            for inner in nesting.templates.values():
                inner._note_mistakes(types, elsewhere)
            refuse_ignored(structure)
            check_against(structure, types, elsewhere)
            check_attributes(structure, types)
            if not found:
                template = cls(document, directory=folder)
                given = template.read_parameters(*environments) | dict(parameters or {})
                with suppress(NotRead):
                    # what other stacks give decides what there is
                    template._try_out(types, given)
        except TemplateError as error:
            found.append(error)
        return in_order(found)

    def _note_mistakes(self, types: Mapping[str, ResourceType], elsewhere: Collection[str]) -> None:
        """Find in a nested template what only the types know."""
        check_against(self._structure, types, elsewhere)
        check_attributes(self._structure, types)
        for inner in self._nested.values():
            inner._note_mistakes(types, elsewhere)

    def _try_out(self, types: Mapping[str, ResourceType], given: Mapping[str, object]) -> None:
        """Evaluate what can be evaluated before a start.

        :raises TemplateError: something in it is wrong.
        """
        for name in given:
            if name not in self.parameters:
                self.resolve_parameters({name: given[name]})
        if all(name in given or one.has_default for name, one in self.parameters.items()):
            values = self.resolve_parameters(given)
            made = self.definitions(values, "stack")
            for name in made:
                if made.type(name) in types:
                    check_values(self._structure, name, made[name], types)
            self.output_values(values, "stack")

    @classmethod
    def parse(
        cls,
        text: str | bytes,
        source: str = "<template>",
        *,
        for_drawing: bool = False,
        directory: str | os.PathLike[str] | None = None,
    ) -> Template:
        """Parse a text: YAML, or JSON if it starts with ``{``.

        :param source: its name in messages.
        :param for_drawing: accept anything that Heat does; the template can only be drawn.
        :param directory: where its relative paths start; None: where the engine that makes a
            resource was started.
        :raises TemplateError: if it is wrong, or has what converge does not support.
        """
        return cls(parse_text(text, source), for_drawing=for_drawing, directory=directory)

    @classmethod
    def from_dict(
        cls,
        body: Mapping[str, Json],
        source: str = "<template>",
        *,
        directory: str | os.PathLike[str] | None = None,
    ) -> Template:
        """A template from what :meth:`to_dict` returned, or made by a program. Lines are not known.

        :param source: its name in messages.
        :param directory: see :meth:`parse`.
        :raises TemplateError: if it is wrong, or has what converge does not support.
        """
        with collection.paused():
            if directory is None:
                return cls(Document.of_host(body, source))
            # a copy, as the contents of files are put in
            return cls(Document(source, plain(body, source), Spot()), directory=directory)

    @classmethod
    def from_store(cls, body: Mapping[str, Json]) -> Template:
        """A stored template, perhaps accepted by a version of converge that did not refuse what
        this one does: its resources must still be found and deleted."""
        given = {key: part for key, part in body.items() if key != VARIES}
        with collection.paused():
            return cls(Document.of_host(given, "<template>"), for_drawing=True)

    @classmethod
    def outputs_from_store(cls, body: Mapping[str, Json]) -> Template:
        """The outputs of a stored template without the mark :data:`VARIES`, whose resources need
        not be given: to understand all of many takes long. Those that the outputs refer to are in
        it by their names alone."""
        parts = body.get("outputs")
        named = (one.name for one in references(parts, Spot()) if one.name is not None)
        return cls.from_store({**body, "resources": {name: {"type": "none"} for name in named}})

    def dump(self) -> str:
        """What :meth:`from_store` takes, parsed: the template as canonical JSON, with a mark
        before its resources if parameters decide which of them there are."""
        # the resources are what comes last of the sorted keys
        written = StringIO()
        mark = {VARIES: True} if self._structure.varies else {}
        outline = dump({**self._structure.outline, **mark})[:-1]
        written.write(outline + ("," if len(outline) > 1 else "") + '"resources":{')
        texts = self.resources.texts
        for number, name in enumerate(sorted(texts)):
            written.write(f"{',' if number else ''}{dump(name)}:{texts[name]}")
        written.write("}}")
        return written.getvalue()

    @cached_property
    def size(self) -> int:
        """How many characters it has as canonical JSON."""
        return len(self.dump())

    def to_dict(self) -> dict[str, Json]:
        """A copy of the template as a JSON object; :meth:`from_dict` takes it."""
        body: dict[str, Json] = plain(self._structure.outline, self.source)
        texts = self.resources.texts
        return {**body, "resources": {name: load(text) for name, text in texts.items()}}

    @property
    def problems(self) -> list[TemplateError]:
        """Mistakes in its text with which it can be drawn all the same; none in any other
        template."""
        return list(self._structure.document.problems)

    def graph(self) -> Graph[str]:
        """Which resource requires which: every reference, wherever it is nested, is an edge."""
        return self.resources.graph

    def __repr__(self) -> str:
        return f"<Template {self.source} of {len(self.resources)} resources>"

    def check_supported(self) -> None:
        """Refuse what converge would ignore. Only a template for drawing has not passed this when
        it was read.

        :raises TemplateError: if there is anything of the kind.
        """
        if not self._is_supported:
            refuse_ignored(self._structure)
            self._is_supported = True

    def validate(self, types: Mapping[str, ResourceType], elsewhere: Collection[str] = ()) -> None:
        """Check that its resources can be made with the given resource types.

        :param elsewhere: names of other types, which engines elsewhere have: what the template says
            of their resources is not checked.
        :raises TemplateError: for an unknown type, for properties that are unknown, missing, of the
            wrong type, or do not meet a constraint, and for attributes that a type does not have.
        """
        self.check_supported()
        self._note_mistakes(types, elsewhere)

    def read_parameters(self, *paths: str | os.PathLike[str]) -> dict[str, Json]:
        """The values that environment files give, in the syntax of Heat's; of several, the last
        one counts.

        :raises TemplateError: if a file cannot be read, has anything but values, or has one that
            does not fit.
        """
        values: dict[str, Json] = {}
        defaults: dict[str, Json] = {}
        for path in paths:
            given, other = read_environment(path, self.parameters)
            values |= given
            defaults |= other
        return defaults | values

    def resolve_parameters(
        self, values: Mapping[str, object], kept: Mapping[str, Json] | None = None
    ) -> dict[str, Json]:
        """The value of every parameter: the given one, or its default.

        :param values: by name; strings are converted to the declared type.
        :param kept: what parameters have that are not given, instead of their defaults; those
            that the template does not declare are left out.
        :raises TemplateError: for an unknown parameter, a missing one, or a bad value; also
            if the template can only be drawn.
        """
        self.check_supported()
        for name in values:
            if name not in self.parameters:
                message = f"there is no parameter {show(name)}{hint(name, self.parameters)}"
                raise TemplateError(message, source=self.source)
        kept = {} if kept is None else kept
        missing = [
            name
            for name, parameter in self.parameters.items()
            if name not in values and name not in kept and not parameter.has_default
        ]
        if missing:
            shown = ", ".join(map(show, missing[:20])) + (", ..." if len(missing) > 20 else "")
            what = "parameter needs a value" if len(missing) == 1 else "parameters need values"
            spot = self.parameters[missing[0]].spot
            raise self._structure.document.error(f"{what}: {shown}", spot)
        resolved = {}
        for name, parameter in self.parameters.items():
            try:
                resolved[name] = parameter.value(
                    values.get(name, kept.get(name, parameter.default))
                )
            except BadInput as error:
                if name in kept and name not in values:
                    message = f"{error}; this value was kept from before, give another one"
                    raise self._structure.document.error(message, parameter.spot) from None
                raise self._structure.document.error(str(error), parameter.spot) from None
        return resolved

    def hidden_values(self, parameters: Mapping[str, Json]) -> list[Json]:
        """The values of the parameters that it declares hidden.

        :param parameters: as :meth:`resolve_parameters` gave them.
        """
        hidden = [
            value
            for name, value in parameters.items()
            if name in self.parameters and self.parameters[name].hidden
        ]
        return hidden + hidden_parts(parameters)

    @property
    def outputs_read(self) -> bool:
        """Whether ``get_output`` may be in its own outputs."""
        return f'{{"{OUTPUT}":' in dump(self._structure.outline.get("outputs"))

    def definitions(
        self,
        parameters: Mapping[str, Json],
        stack_name: str,
        outputs: Outputs | None = None,
    ) -> Definitions:
        """The desired state of each resource, in topological order.

        :param parameters: as :meth:`resolve_parameters` gave them.
        :param outputs: of other stacks; None: what is stored with the parameters, or else each
            ``get_output`` stays as it is.
        :raises TemplateError: if a ``get_param`` has no value, or a ``get_output``.
        """
        outputs = Outputs.stored(parameters) if outputs is None else outputs
        scope = self._scope(parameters, stack_name, outputs)
        moved = final_names(self._structure.outline.get(MOVED))
        reads = None if outputs is None else outputs.found
        if self._structure.varies:
            return Definitions.of(expand(self._structure, scope), moved, reads)
        texts = self.resources.texts
        filled = {
            name: dump(dump_definition(self._definition(name, scope)))
            for name in self._structure.unlike
        }
        texts = {**texts, **filled} if filled else texts
        return Definitions(texts, self.resources.graph, moved, reads)

    def _definition(self, name: str, scope: Scope) -> ResourceDefinition:
        entry = self.resources[name]
        properties = fill_properties(self._structure, entry, scope)
        settings = fill_settings(self._structure, entry, scope) if entry.settings else {}
        return ResourceDefinition(entry.type, properties, entry.requires, entry.replace, settings)

    def graph_with(self, parameters: Mapping[str, Json], stack_name: str) -> Graph[str]:
        """The graph of the resources that there are with these parameters.

        :param parameters: as :meth:`resolve_parameters` gave them.
        """
        if not self._structure.varies:
            return self.resources.graph
        return self.definitions(parameters, stack_name).graph

    def output_values(
        self,
        parameters: Mapping[str, Json],
        stack_name: str,
        outputs: Outputs | None = None,
    ) -> dict[str, Json]:
        """The values of the outputs, with parameters filled in, for :func:`resolve`; null where
        the condition is false.

        :param parameters: as :meth:`resolve_parameters` gave them.
        :param outputs: see :meth:`definitions`.
        :raises TemplateError: if a ``get_param`` has no value, or a ``get_output``.
        """
        outputs = Outputs.stored(parameters) if outputs is None else outputs
        scope = self._scope(parameters, stack_name, outputs)
        if self._structure.varies:
            settle_groups(self._structure, scope)
        found = {}
        for name, output in self.outputs.items():
            with located(self._structure.document, output.spot):
                wanted = output.condition is None or scope.holds(output.condition)
                value = scope.substitute(output.value) if wanted else None
                found[name] = None if value is OMITTED else value
        return found

    def _scope(
        self, parameters: Mapping[str, Json], stack_name: str, outputs: Outputs | None
    ) -> Scope:
        def parameter(name: str) -> Json:
            if name == "OS::stack_name":
                return stack_name
            if name not in parameters:
                raise BadInput(f"parameter {show(name)} has no value{hint(name, parameters)}")
            return parameters[name]

        return Scope(parameter, self._structure.conditions, outputs=outputs)
