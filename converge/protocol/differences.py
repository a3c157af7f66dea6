"""Which properties of a resource change, as far as they are known before what they refer to is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from converge.model import Json, same
from converge.resources.resource_type import ResourceType


@dataclass(frozen=True, slots=True)
class Pending:
    """A value that is known only when these resources have been brought about."""

    names: frozenset[str]

    def __str__(self) -> str:
        return f"(after {', '.join(sorted(self.names))})"


@dataclass(frozen=True, slots=True)
class Difference:
    """A property that changes.

    :ivar before: its value; None if it had none.
    :ivar after: its value, in which parts can be :class:`Pending`; None if it will have none.
    :ivar sure: whether it differs for certain.
    :ivar secret: whether its type declares it secret.
    """

    name: str
    before: Json
    after: Json
    sure: bool = True
    secret: bool = False


def names_in(value: Json) -> tuple[str, ...]:
    """The resources that a value waits for, sorted."""
    return tuple(sorted(set(_pending_names(value))))


def _pending_names(value: Json) -> Iterator[str]:
    if isinstance(value, Pending):
        yield from value.names
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _pending_names(part)
    elif isinstance(value, list):
        for part in value:
            yield from _pending_names(part)


def fill(value: Json, before: Json) -> Json:
    """A value in which what is pending is as it was before. What was not there stays pending: it
    differs, whatever it will be."""
    if isinstance(value, Pending):
        return before
    if isinstance(value, Mapping):
        old = before if isinstance(before, Mapping) else {}
        return {key: fill(part, old[key]) if key in old else part for key, part in value.items()}
    if isinstance(value, list) and isinstance(before, list):
        return [*map(fill, value, before), *value[len(before) :]]
    return value


def list_differences(
    resource_type: ResourceType, before: Mapping[str, Json], after: Mapping[str, Json]
) -> tuple[Difference, ...]:
    """The properties that differ, by name.

    :param before: as they are.
    :param after: as they are wanted, in which parts can be :class:`Pending`.
    """
    schema = resource_type.schema or {}
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if name in before and name in after and same(old, new):
            continue
        sure = name not in before or name not in after or not same(old, fill(new, old))
        secret = name in schema and schema[name].secret
        found.append(Difference(name, old, new, sure, secret))
    return tuple(found)
