"""Which properties and attributes of a resource are secret: the marks in its row.

A type declares them. What has the value of one in it is secret, too, whoever it belongs to: a
password that another resource refers to is one there as well. So each row is marked when its
resource is made, from what it requires, and whoever reads a row knows by itself what not to show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from converge.hiding import SHORT, STARS, Secrets
from converge.model import Json

if TYPE_CHECKING:
    from converge.resources.resource_type import ResourceType

#: The key of a resource's settings for its marks: the names of properties, and of attributes.
MARKS = "secret"
_PROPERTIES = "properties"
_ATTRIBUTES = "attributes"

Settings = Mapping[str, Json] | None


def mark_properties(
    resource_type: ResourceType, properties: Mapping[str, Json], secrets: Iterable[Json]
) -> list[str]:
    """The names of the properties that are secret.

    :param secrets: of what it refers to.
    """
    declared = {name for name, one in (resource_type.schema or {}).items() if one.secret}
    declared |= set(resource_type.secret_properties(properties))
    return _containing(properties, secrets, declared & properties.keys())


def mark_attributes(
    resource_type: ResourceType, attributes: Mapping[str, Json], secrets: Iterable[Json]
) -> list[str]:
    """The names of the attributes that are secret.

    :param secrets: those of its properties.
    """
    declared = attributes.keys() & set(resource_type.secret_attributes)
    return _containing(attributes, secrets, declared)


def _containing(
    values: Mapping[str, Json], secrets: Iterable[Json], declared: Iterable[str]
) -> list[str]:
    found = set(declared)
    listed = list(secrets)
    # a short one is in many values by chance; most resources know none
    known = Secrets(listed, SHORT) if listed else None
    if known:
        found |= {name for name, value in values.items() if known.hide_in_json(value) != value}
    return sorted(found)


def with_marks(
    settings: Settings,
    *,
    properties: Iterable[str] | None = None,
    attributes: Iterable[str] | None = None,
) -> dict[str, Json]:
    """Settings with these marks; None leaves those that there are."""
    found = dict(settings or {})
    marks = dict(found.pop(MARKS, {}))
    for key, names in ((_PROPERTIES, properties), (_ATTRIBUTES, attributes)):
        if names is not None:
            marks[key] = sorted(names)
        if not marks.get(key):
            marks.pop(key, None)
    return found | {MARKS: marks} if marks else found


def marked_attributes(settings: Settings) -> list[str]:
    """The names of the attributes that are marked."""
    return list(_marked(settings, _ATTRIBUTES))


def marked_properties(settings: Settings) -> list[str]:
    """The names of the properties that are marked."""
    return list(_marked(settings, _PROPERTIES))


def _marked(settings: Settings, key: str) -> Iterable[str]:
    names: Iterable[str] = (settings or {}).get(MARKS, {}).get(key, ())
    return names


class Marked(Protocol):
    """A resource whose settings say what of it is secret."""

    @property
    def settings(self) -> Settings: ...

    @property
    def properties(self) -> Mapping[str, Json]: ...

    @property
    def attributes(self) -> Mapping[str, Json]: ...


def secrets_of(rows: Iterable[Marked]) -> list[Json]:
    """The secret values of several resources."""
    return [
        value
        for row in rows
        for value in secret_values(row.settings, row.properties, row.attributes)
    ]


def secret_values(
    settings: Settings,
    properties: Mapping[str, Json] | None = None,
    attributes: Mapping[str, Json] | None = None,
) -> list[Json]:
    """The values that a resource's settings mark."""
    groups = ((_PROPERTIES, properties), (_ATTRIBUTES, attributes))
    return [
        values[name]
        for key, values in groups
        if values
        for name in _marked(settings, key)
        if name in values
    ]


def without_secrets(
    settings: Settings, properties: Mapping[str, Json], attributes: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, Json]]:
    """The properties and attributes of a resource with ``***`` in place of what is marked."""
    return (
        _starred(properties, _marked(settings, _PROPERTIES)),
        _starred(attributes, _marked(settings, _ATTRIBUTES)),
    )


def _starred(values: Mapping[str, Json], names: Iterable[str]) -> dict[str, Json]:
    return {**values, **dict.fromkeys((name for name in names if name in values), STARS)}
