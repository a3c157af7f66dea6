"""``get_output``: what other stacks give, read once before a start.

What was read is stored with the parameters of the version. So it is the same for all of a
traversal, and for a rollback to that version, whatever becomes of the other stack; an update reads
anew, and where another value is found, that is another version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from converge.errors import BadInput
from converge.model import Json
from converge.template.values import hint, show

#: Where it is among the parameters of a stored version: no parameter can have this name.
KEY = "converge::outputs"

_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class Given:
    """An output as it was found.

    :ivar hidden: secrets of the other stack that are in the value.
    :ivar lack: why it has no value, None if it has one.
    """

    value: Json
    hidden: tuple[str, ...] = ()
    lack: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A stack that others read.

    :ivar outputs: by name.
    """

    id: int
    outputs: Mapping[str, Given]


class Outputs:
    """The outputs of other stacks: each stack is read once, when the first one is asked for.

    :ivar found: what was asked for, as it is stored: by the name of the stack, its ``id`` and its
        ``outputs``, by name, each with its ``value`` and, if there are any, its ``hidden`` parts.
    """

    def __init__(
        self, read: Callable[[str], Source] | None, found: dict[str, Json] | None = None
    ) -> None:
        """:param read: reads a stack, or raises BadInput; None: nothing more is read."""
        self.found: dict[str, Json] = {} if found is None else found
        self._read = read
        self._sources: dict[str, Source] = {}

    @classmethod
    def stored(cls, parameters: Mapping[str, Json]) -> Outputs | None:
        """What was read for a stored version, None if nothing was.

        :param parameters: of that version.
        """
        found = parameters.get(KEY)
        return None if found is None else cls(None, found)

    def __call__(self, stack: str, name: str) -> Json:
        """The value of an output.

        :raises BadInput: there is no such stack or output, or it has no value.
        """
        known = self.found.get(stack, {}).get("outputs", {})
        if name in known:
            return known[name]["value"]
        if self._read is None:
            raise BadInput(f"output {show(name)} of stack {show(stack)} was not read")
        if stack not in self._sources:
            try:
                self._sources[stack] = self._read(stack)
            except BadInput as error:
                raise BadInput(f"output {show(name)} cannot be read: {error}") from None
        source = self._sources[stack]
        if name not in source.outputs:
            message = f"stack {show(stack)} has no output {show(name)}"
            raise BadInput(message + _there_is(source.outputs, name))
        given = source.outputs[name]
        if given.lack is not None:
            raise BadInput(
                f"output {show(name)} of stack {show(stack)} has no value: {given.lack}; bring "
                "that stack to COMPLETE first"
            )
        kept = self.found.setdefault(stack, {"id": source.id, "outputs": {}})
        hidden = {"hidden": list(given.hidden)} if given.hidden else {}
        kept["outputs"][name] = {"value": given.value, **hidden}
        return given.value


def _there_is(outputs: Mapping[str, Given], name: str) -> str:
    if not outputs:
        return "; it has none"
    meant = hint(name, outputs)
    if "did you mean" in meant or len(outputs) > _SHOWN_NAMES:
        return meant
    return "; it has " + ", ".join(show(one)[1:-1] for one in sorted(outputs))


def hidden_parts(parameters: Mapping[str, Json]) -> list[Json]:
    """What is secret of that which was read for a stored version.

    :param parameters: of that version.
    """
    return [
        part
        for source in parameters.get(KEY, {}).values()
        for one in source["outputs"].values()
        for part in one.get("hidden", ())
    ]
