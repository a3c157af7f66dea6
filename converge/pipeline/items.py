"""What goes through a sink: events, samples, and groups of them.

An item is frozen. As JSON it can be kept in a row and sent in a message: :func:`to_json` and
:func:`from_json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias
from uuid import UUID, uuid5

from converge.errors import BadInput
from converge.model import Json

#: The namespace of the ids of what is made of notifications.
_ITEMS = UUID("c2ae77a6-4ab7-5e4f-9f2e-5c5a37a3a9d1")

#: The value of a trait: text, a whole number, a number, or a time in seconds since 1970.
TraitValue: TypeAlias = str | int | float


def make_id(*parts: object) -> str:
    """The id of what is made of something: the same whenever it is made again.

    :param parts: what it is made of, and how; usually an id first.
    """
    return str(uuid5(_ITEMS, "\0".join(map(str, parts))))


@dataclass(frozen=True, slots=True)
class Trait:
    """A fact that an event definition takes out of a notification.

    :ivar type: ``text``, ``int``, ``float`` or ``datetime``.
    :ivar value: of a ``datetime``, the seconds since 1970.
    """

    name: str
    type: str
    value: TraitValue


@dataclass(frozen=True, slots=True)
class Event:
    """A notification, reduced to its traits.

    :ivar id: the message id of the notification.
    :ivar name: its event type.
    :ivar at: when it was sent: seconds since 1970.
    :ivar raw: the notification, if the sink wants it.
    """

    id: str
    name: str
    at: float
    traits: tuple[Trait, ...] = ()
    raw: Json = None

    def get(self, name: str) -> TraitValue | None:
        """The value of a trait; None if the event has no such trait."""
        return next((one.value for one in self.traits if one.name == name), None)


@dataclass(frozen=True, slots=True)
class Sample:
    """A measured value.

    :ivar id: the same whenever it is made of the same notification.
    :ivar name: of the meter.
    :ivar type: ``gauge``, ``delta`` or ``cumulative``.
    :ivar at: when it was measured: seconds since 1970.
    """

    id: str
    name: str
    type: str
    unit: str
    volume: float
    resource_id: str | None
    at: float
    user_id: str | None = None
    project_id: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """A field by name, else a value of the metadata; None if there is neither."""
        return getattr(self, name) if name in _SAMPLE_FIELDS else self.metadata.get(name)


@dataclass(frozen=True, slots=True)
class Group:
    """Items that a step has collected, handed on as one.

    :ivar name: of the step's sink and step.
    :ivar key: what the items have in common.
    :ivar at: when the last of them happened.
    :ivar complete: whether all that were waited for are there.
    """

    id: str
    name: str
    key: str
    at: float
    items: tuple[Event | Sample, ...]
    complete: bool = True

    def get(self, name: str) -> Any:
        """``key``, or the first value that one of the items has for a field."""
        if name in {"id", "key"}:
            return getattr(self, name)
        found = (get_value(one, name) for one in self.items)
        return next((value for value in found if value is not None), None)


Item: TypeAlias = Event | Sample | Group

_SAMPLE_FIELDS = {one.name for one in fields(Sample)} - {"metadata"}
_EVENT_FIELDS = {"id", "name", "at"}


def get_value(item: Item, name: str) -> Any:
    """What an item has under a name: a trait, a field, or a value of the metadata; ``name`` and
    ``at`` are fields of each. None if it has nothing."""
    if isinstance(item, Event):
        value = item.get(name)
        return getattr(item, name) if value is None and name in _EVENT_FIELDS else value
    if isinstance(item, Group) and name in {"name", "at"}:
        return getattr(item, name)
    return item.get(name)


def to_json(item: Item) -> dict[str, Json]:
    """An item as JSON."""
    if isinstance(item, Event):
        made: dict[str, Json] = {
            "kind": "event",
            "id": item.id,
            "name": item.name,
            "at": item.at,
            "traits": [[one.name, one.type, one.value] for one in item.traits],
        }
        if item.raw is not None:
            made["raw"] = item.raw
        return made
    if isinstance(item, Sample):
        values = {name: getattr(item, name) for name in _SAMPLE_FIELDS}
        return {"kind": "sample", **values, "metadata": dict(item.metadata)}
    return {
        "kind": "group",
        "id": item.id,
        "name": item.name,
        "key": item.key,
        "at": item.at,
        "complete": item.complete,
        "items": [to_json(one) for one in item.items],
    }


def from_json(value: Mapping[str, Json]) -> Item:
    """The item that :func:`to_json` made JSON of.

    :raises BadInput: it is none.
    """
    try:
        given = dict(value)
        kind = given.pop("kind")
        if kind == "event":
            traits = tuple(Trait(*one) for one in given.pop("traits"))
            return Event(**given, traits=traits)
        if kind == "sample":
            return Sample(**given)
        if kind == "group":
            return Group(**{**given, "items": tuple(from_json(one) for one in given["items"])})
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"this is not an event, sample or group of a pipeline: {error}") from error
    raise BadInput(f"this is not an event, sample or group of a pipeline: its kind is {kind!r}")


def to_json_list(items: Sequence[Item]) -> list[dict[str, Json]]:
    """Items as JSON."""
    return [to_json(one) for one in items]


def from_json_list(values: Sequence[Mapping[str, Json]]) -> list[Item]:
    """The items that :func:`to_json_list` made JSON of.

    :raises BadInput: one of them is none.
    """
    return [from_json(one) for one in values]
