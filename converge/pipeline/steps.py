"""What a step of a sink is: the interface for authors, and the steps without memory.

A step is a function of an item, or a class. It is named in a pipeline file by the name of an
entry point of the group ``converge.pipeline_steps``, or as ``package.module:name``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from converge.errors import BadInput
from converge.model import Json
from converge.pipeline.items import Event, Group, Item, Sample, Trait, get_value
from converge.pipeline.patterns import Patterns

#: What a step may make of an item: another one, several, or nothing.
Made: TypeAlias = Item | Iterable[Item] | None


class Step(ABC):
    """A step that looks at one item at a time.

    Its parameters are those of ``__init__``, which raises :class:`~converge.errors.BadInput` for a
    wrong one. A step may be called again for the same item, after a death or a failure; ``id`` of
    the item is then the same.

    :cvar pure: it has no effect beside its result. Then what it has done is not recorded by itself.
    """

    pure: ClassVar[bool] = False

    @abstractmethod
    def apply(self, item: Item) -> Made:
        """What goes on in place of the item. An exception makes the delivery fail at this step."""


@dataclass(frozen=True, slots=True)
class Advance:
    """What became of the state of a key.

    :ivar state: the new state, as JSON; None: there is nothing more to know.
    :ivar made: what goes on.
    :ivar deadline: when :meth:`StatefulStep.expire` is called, unless the state changes before:
        seconds since 1970; None: never.
    """

    state: Json
    made: Sequence[Item] = ()
    deadline: float | None = None


class StatefulStep(ABC):
    """A step that remembers something of each key.

    What it remembers is in the database, and changes in the transaction that records that the step
    is done. So each item counts once. The methods are called without a transaction, and may be
    called again with the same arguments, so they must have no other effect.

    :cvar forgets: what is known of a key of which nothing came for as long as events are kept may
        be forgotten, unless it has a deadline: it is then as if nothing had come before.
    """

    forgets: ClassVar[bool] = False

    def begin(self, sink: str, name: str) -> None:
        """Learn where it stands.

        :param name: of the step in its sink.
        """
        self.place = f"{sink}/{name}"

    @abstractmethod
    def key(self, item: Item) -> Json:
        """What of an item is remembered together; None: the item goes on as it is."""

    @abstractmethod
    def advance(self, state: Json, item: Item, now: float) -> Advance:
        """Take an item.

        :param state: that of its key; None: there is none.
        :param now: the time: seconds since 1970.
        """

    def expire(self, state: Json, now: float) -> Advance:
        """The deadline has passed."""
        return Advance(None)


class FunctionStep(Step):
    """A function as a step."""

    def __init__(self, function: Any, parameters: Mapping[str, Any]) -> None:
        self._function = function
        self._parameters = parameters

    def apply(self, item: Item) -> Made:
        """What the function makes of it."""
        made: Made = self._function(item, **self._parameters)
        return made


def listed(made: Any) -> list[Item]:
    """What a step has made, as a list.

    :raises TypeError: it is no item, list of items or None.
    """
    if made is None:
        return []
    found = [made] if isinstance(made, Event | Sample | Group) else list(made)
    for one in found:
        if not isinstance(one, Event | Sample | Group):
            raise TypeError(
                f"a step must return an item, several of them, or None, not {type(one).__name__}"
            )
    return found


class Rename(Step):
    """Another name for an item, or for its traits.

    :param to: the new name; ``{name}`` stands for the old one, and so does any other field.
    :param traits: new names of traits, or of values of the metadata, by the old ones.
    """

    pure = True

    def __init__(self, to: str | None = None, traits: Mapping[str, str] | None = None) -> None:
        if to is None and not traits:
            raise BadInput("it needs to, a new name, or traits, a mapping of new names")
        if traits is not None and (
            not isinstance(traits, dict) or not all(isinstance(n, str) for n in traits.values())
        ):
            raise BadInput("traits must be a mapping of old names to new ones")
        self._to = None if to is None else Form(to)
        self._traits = dict(traits or {})

    def apply(self, item: Item) -> Item:
        """The item with its new name."""
        if self._to is not None:
            item = replace(item, name=self._to.fill(item))
        if not self._traits:
            return item
        if isinstance(item, Event):
            renamed = (
                Trait(self._traits.get(one.name, one.name), one.type, one.value)
                for one in item.traits
            )
            return replace(item, traits=tuple({one.name: one for one in renamed}.values()))
        if isinstance(item, Sample):
            metadata = {self._traits.get(key, key): one for key, one in item.metadata.items()}
            return replace(item, metadata=metadata)
        return item


class Filter(Step):
    """Only some items go on.

    :param names: patterns of names.
    :param where: for a field, the value that it must have: a pattern for text; a list of values.
    """

    pure = True

    def __init__(
        self, names: str | Sequence[str] | None = None, where: Mapping[str, Json] | None = None
    ) -> None:
        if names is None and not where:
            raise BadInput("it needs names, patterns of names, or where, values of fields")
        if where is not None and not isinstance(where, dict):
            raise BadInput("where must be a mapping of fields to values")
        texts = [names] if isinstance(names, str) else list(names or ["*"])
        self._names = Patterns(texts)
        if self._names.is_empty:
            raise BadInput("no name can match names")
        self._where = {
            field: value if isinstance(value, list) else [value]
            for field, value in (where or {}).items()
        }

    def apply(self, item: Item) -> Made:
        """The item, or nothing."""
        if not self._names.matches(item.name):
            return None
        met = all(
            any(_fits(get_value(item, field), value) for value in values)
            for field, values in self._where.items()
        )
        return item if met else None


def _fits(value: Any, wanted: Json) -> bool:
    if isinstance(wanted, str) and isinstance(value, str):
        return (
            Patterns([wanted]).matches(value)
            if "*" in wanted or "?" in wanted
            else (value == wanted)
        )
    return bool(value == wanted)


class Scale(Step):
    """The volume of samples in another unit: times a factor, plus an offset."""

    pure = True

    def __init__(
        self, factor: float = 1, offset: float = 0, unit: str | None = None, type: str | None = None
    ) -> None:
        for name, value in (("factor", factor), ("offset", offset)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadInput(f"{name} must be a number, not {value!r}")
        if type not in {None, "gauge", "delta", "cumulative"}:
            raise BadInput(f"type must be gauge, delta or cumulative, not {type!r}")
        self._factor, self._offset, self._unit, self._type = factor, offset, unit, type

    def apply(self, item: Item) -> Item:
        """The sample in the new unit; an event as it is."""
        if not isinstance(item, Sample):
            return item
        volume = item.volume * self._factor + self._offset
        if not math.isfinite(volume):
            raise ValueError(f"the volume {item.volume!r} becomes too large")
        return replace(
            item, volume=volume, unit=self._unit or item.unit, type=self._type or item.type
        )


class Form:
    """A text with fields of an item in braces: ``vm-{resource_id}``.

    :raises BadInput: the braces do not fit.
    """

    def __init__(self, text: str) -> None:
        from string import Formatter

        if not isinstance(text, str) or not text:
            raise BadInput(f"a text is expected, not {text!r}")
        try:
            self._parts = [(head, field) for head, field, _, _ in Formatter().parse(text)]
        except ValueError as error:
            raise BadInput(f"{text!r} is not a text with fields in braces: {error}") from None

    @property
    def fields(self) -> list[str]:
        """The names of the fields."""
        return [field for _, field in self._parts if field]

    def fill(self, item: Item) -> str:
        """The text for an item.

        :raises ValueError: the item has not all of the fields.
        """
        made = []
        for head, field in self._parts:
            made.append(head)
            if field is None:
                continue
            value = get_value(item, field)
            if value is None:
                raise ValueError(f"it has no {field!r}")
            made.append(str(value))
        return "".join(made)
