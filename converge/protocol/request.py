"""What a caller asks for, checked and worked out as far as the database is not needed.

It is done before a transaction begins: meanwhile nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from converge import collection
from converge.canonical import dump
from converge.errors import BadInput
from converge.model import Json, OnFailure, check_name, check_priority, check_seconds
from converge.resources.resource_type import ResourceType, check_types
from converge.sql.types import SOURCE_LENGTH, fit_text
from converge.template import Definitions, Template
from converge.template.outputs import KEY, Outputs, Source


@dataclass(frozen=True, slots=True)
class Intent:
    """How a traversal is to behave; stored in its row.

    :ivar on_failure: what the failure of a node means for the others.
    :ivar timeout: seconds until the whole traversal fails, None for no limit.
    :ivar node_timeout: seconds that each handler call may take, None for no limit.
    :ivar queue: whose engines work on the stack; None leaves it as it is.
    :ivar priority: from -100 to 100; None leaves it as it is.
    :ivar replace: names of resources that are replaced although nothing of them changes.
    :ivar target: names of resources; if there are any, only these, and what they require, are
        touched.
    :ivar actor: who asks for it, None if nobody says.
    :raises BadInput: there is no such policy, a time is not positive, or another value is wrong.
    """

    on_failure: OnFailure | str = OnFailure.STOP
    timeout: float | None = None
    node_timeout: float | None = None
    queue: str | None = None
    priority: int | None = None
    replace: Collection[str] = ()
    target: Collection[str] = ()
    actor: str | None = None

    def __post_init__(self) -> None:
        for what in ("replace", "target"):
            names = getattr(self, what)
            if isinstance(names, str):
                raise BadInput(f"{what} must be several names, such as [{names!r}]")
        if self.on_failure not in set(OnFailure):
            raise BadInput(
                f"on_failure must be one of {', '.join(OnFailure)}, not {self.on_failure!r}"
            )
        if self.queue is not None:
            check_name("queue", self.queue)
        if self.actor is not None:
            check_name("actor", self.actor)
        if self.priority is not None:
            check_priority(self.priority)
        for name in ("timeout", "node_timeout"):
            value = getattr(self, name)
            if value is not None:
                check_seconds(name, value)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a stack is to become.

    :ivar body: the template, as it is stored: as canonical JSON.
    :ivar parameters: the values of all its parameters, as they are stored, and what was read of
        other stacks.
    :ivar definitions: the resources that it wants.
    :ivar directory: where its relative paths start, None if it is from no file.
    :ivar keeps: what the parameters that were not given are from, None if from their defaults.
    """

    body: str
    parameters: str
    definitions: Definitions
    directory: str | None = None
    keeps: Kept | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """The parameters that a stack had, for what an update does not give.

    :ivar template_id: the version that has them, None if the stack did not exist.
    """

    template_id: int | None
    parameters: Mapping[str, Json]


def work_out(
    name: str,
    template: Template,
    parameters: Mapping[str, Any] | None,
    types: Mapping[str, ResourceType] | None,
    keeps: Kept | None = None,
    read: Callable[[str], Source] | None = None,
) -> Wanted:
    """What a template with these parameters wants of the stack of that name.

    :param keeps: what parameters have that are not given; None: their defaults.
    :param types: check that these can bring it about; None checks only what does not need them.
    :param read: reads the outputs of another stack; None: there is none.
    :raises BadInput: the template or a parameter is wrong, or an output of another stack that it
        wants is not there.
    """

    def read_other(other: str) -> Source:
        if other == name:
            raise BadInput(
                f"stack {name!r} cannot read its own outputs; refer to its resources with get_attr"
            )
        if read is None:
            raise BadInput(f"there is no stack {other!r}")
        return read(other)

    kept = None if keeps is None else keeps.parameters
    values = template.resolve_parameters(parameters or {}, kept)
    if types is not None:
        check_types(types)
        template.validate(types)
    directory = template.directory
    if directory is not None and fit_text(directory, SOURCE_LENGTH) != directory:
        raise BadInput(
            f"the folder of the template, {directory[:60]!r}..., cannot be stored: its path has "
            f"{len(directory)} characters, or some that are not text; at most {SOURCE_LENGTH} are "
            "allowed"
        )
    with collection.paused():
        outputs = Outputs(read_other)
        definitions = template.definitions(values, name, outputs)
        if template.outputs_read:
            template.output_values(values, name, outputs)
        if outputs.found:
            values[KEY] = outputs.found
        return Wanted(template.dump(), dump(values), definitions, directory, keeps)
