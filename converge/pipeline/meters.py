"""Meter definitions: from a notification to samples, in the format of Ceilometer.

A name, type or unit is a JSON path if it starts with ``$``; all else is a path anyway. ``lookup``
(formerly ``multi``) names the fields of which one notification has several: it gives as many
samples as there are names.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any

from converge.errors import BadInput, did_you_mean
from converge.model import Json
from converge.pipeline.items import Sample, make_id
from converge.pipeline.notification import Notification, Reason, Refused, parse_time
from converge.pipeline.reading import Log, Place, load
from converge.pipeline.traits import Source

LOG = logging.getLogger(__name__)

TYPES = ("gauge", "delta", "cumulative")
_NEEDED = ("name", "type", "event_type", "unit", "volume", "resource_id")
_PATHS = ("volume", "resource_id", "user_id", "project_id", "timestamp")
_KEYS = (*_NEEDED, *_PATHS[2:], "metadata", "user_metadata", "lookup", "multi")
_USER = Source(["ctxt.user_id", "ctxt.user"])
_PROJECT = Source(["ctxt.project_id", "ctxt.tenant_id", "ctxt.tenant"])


class _Constant:
    """A name, type or unit that is the same for all notifications."""

    def __init__(self, value: str) -> None:
        self._value = value

    def all(self, body: Mapping[str, Json], *, nulls: bool = False) -> list[Json]:
        return [self._value]

    def first(self, body: Mapping[str, Json]) -> Json:
        return self._value


class MeterDefinition:
    """One definition.

    :ivar identity: what tells it from all others.
    :param number: its place in the file, from 0: part of the ids of its samples.
    :param name: as it is written.
    :param types: of the event types: one of them must match from the start.
    :param lookup: the fields of which there are several.
    """

    def __init__(
        self,
        number: int,
        name: str,
        types: Iterable[re.Pattern[str]],
        sources: Mapping[str, Source | _Constant],
        metadata: Mapping[str, Source],
        user_metadata: Source | None,
        lookup: Iterable[str],
    ) -> None:
        self.name = name
        self.identity = f"{number} {name}"[:255]
        self._number = number
        self._types = list(types)
        self._sources = sources
        self._metadata = metadata
        self._user_metadata = user_metadata
        self._lookup = {*lookup, "name"} if lookup else set()

    def matches(self, event_type: str) -> bool:
        """Whether it is for this event type."""
        return any(one.match(event_type) for one in self._types)

    def make(self, notification: Notification, body: Mapping[str, Any]) -> list[Sample]:
        """The samples of a notification; none if it lacks a volume.

        :raises Refused: a value is not of its type.
        """
        rows = self._several(body) if self._lookup else [self._one(body)]
        metadata = self._read_metadata(body) if rows else {}
        made = []
        for index, row in enumerate(rows):
            if row.get("volume") is not None and row.get("name") is not None:
                made.append(self._sample(notification, index, row, metadata))
        return made

    def _one(self, body: Mapping[str, Any]) -> dict[str, Json]:
        return {name: source.first(body) for name, source in self._sources.items()}

    def _several(self, body: Mapping[str, Any]) -> list[dict[str, Json]]:
        names = self._sources["name"].all(body)
        columns: dict[str, Iterable[Json]] = {}
        for name, source in self._sources.items():
            found = source.all(body, nulls=True)
            if len(found) == len(names):
                columns[name] = found
            elif name not in self._lookup and len(found) <= 1:
                columns[name] = repeat(found[0] if found else None)
            else:
                raise Refused(
                    Reason.DEFINITION,
                    f"meter {self.name}: there are {len(names)} names, but {len(found)} of {name}",
                )
        return [dict(zip(columns, row, strict=True)) for row in _rows(columns, len(names))]

    def _read_metadata(self, body: Mapping[str, Any]) -> dict[str, Json]:
        found = {name: source.first(body) for name, source in self._metadata.items()}
        found = {name: value for name, value in found.items() if value is not None}
        if self._user_metadata is not None:
            given = self._user_metadata.first(body)
            if isinstance(given, dict):
                found["user_metadata"] = given
        return found

    def _sample(
        self,
        notification: Notification,
        index: int,
        row: Mapping[str, Json],
        metadata: Mapping[str, Json],
    ) -> Sample:
        kind = row["type"]
        if kind not in TYPES:
            raise self._wrong("type", f"one of {', '.join(TYPES)}", kind)
        at = row.get("timestamp")
        user, project = row.get("user_id"), row.get("project_id")
        return Sample(
            make_id(notification.message_id, "meter", self._number, self.name, index),
            self._text("name", row["name"]) or "",
            kind,
            self._text("unit", row["unit"]) or "",
            self._volume(row["volume"]),
            self._text("resource_id", row["resource_id"]),
            notification.at if at is None else self._time(at),
            self._text("user_id", user or None) or notification_text(notification, "user"),
            self._text("project_id", project or None) or notification_text(notification, "project"),
            metadata,
        )

    def _text(self, name: str, value: Json) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, dict | list):
            raise self._wrong(name, "a text", value)
        return str(value)

    def _volume(self, value: Json) -> float:
        try:
            volume = float(value) if not isinstance(value, bool | dict | list) else math.nan
        except (ValueError, OverflowError):
            volume = math.nan
        if not math.isfinite(volume):
            raise self._wrong("volume", "a number", value)
        # a whole number stays one
        return value if isinstance(value, int) else volume

    def _time(self, value: Json) -> float:
        try:
            return parse_time(value) if isinstance(value, str) else self._volume(value)
        except ValueError:
            raise self._wrong("timestamp", "a time in ISO 8601", value) from None

    def _wrong(self, name: str, expected: str, value: Json) -> Refused:
        return Refused(
            Reason.DEFINITION,
            f"meter {self.name}: {name} must be {expected}, not {str(value)[:60]!r}",
        )


def notification_text(notification: Notification, what: str) -> str | None:
    """The user or project that a notification's context names."""
    value = (_USER if what == "user" else _PROJECT).first({"ctxt": notification.context})
    return value if isinstance(value, str) else None


def _rows(columns: Mapping[str, Iterable[Json]], count: int) -> Iterable[tuple[Json, ...]]:
    # those that repeat have no end
    return (row for row, _ in zip(zip(*columns.values(), strict=False), range(count), strict=False))


class MeterDefinitions:
    """All definitions. Each one that matches gives samples."""

    def __init__(self, definitions: Iterable[MeterDefinition] = ()) -> None:
        self._definitions = list(definitions)
        self._found: dict[str, list[MeterDefinition]] = {}

    def __len__(self) -> int:
        return len(self._definitions)

    def __add__(self, more: MeterDefinitions) -> MeterDefinitions:
        """These, then more."""
        return MeterDefinitions([*self._definitions, *more._definitions])

    @classmethod
    def load(
        cls,
        what: str | os.PathLike[str] | Mapping[str, Any],
        *,
        name: str = "meters",
        log: Log | None = None,
        first: int = 0,
    ) -> MeterDefinitions:
        """Read definitions.

        :param what: a file, a text with several lines, or a mapping as the file has it.
        :param log: where mistakes are collected.
        :param first: the number of the first of them, if there are others before.
        :raises PipelineError: there are mistakes, and they are not collected.
        """
        found = log or Log()
        whole = load(what, name, found)
        if whole.value is not None:
            whole.check_keys(("metric",), ("metric",))
        made = [_read(place, number) for number, place in enumerate(whole.items("metric"), first)]
        if log is None:
            found.check()
        return cls(one for one in made if one is not None)

    def make(
        self, notification: Notification, body: Mapping[str, Any], only: str | None = None
    ) -> tuple[list[Sample], list[Refused]]:
        """The samples of a notification, and what is wrong with those that it does not give.

        :param body: :meth:`Notification.as_body`.
        :param only: those of one definition: the ``identity`` of that; None: all.
        """
        samples: list[Sample] = []
        problems: list[Refused] = []
        for definition in self._find(notification.event_type):
            if only is not None and definition.identity != only:
                continue
            try:
                samples += definition.make(notification, body)
            except Refused as refused:
                refused.definition = definition.identity
                problems.append(refused)
        return samples, problems

    def _find(self, event_type: str) -> list[MeterDefinition]:
        found = self._found.get(event_type)
        if found is None:
            if len(self._found) > 10_000:
                self._found.clear()
            found = [one for one in self._definitions if one.matches(event_type)]
            self._found[event_type] = found
        return found


def _read(place: Place, number: int) -> MeterDefinition | None:
    if not place.check_keys(_KEYS, _NEEDED):
        return None
    name = str(place.value["name"])
    lookup = place.texts("lookup") or place.texts("multi")
    for one in lookup:
        if one not in (*_NEEDED, *_PATHS):
            place.child("lookup").refuse(
                f"there is no field {one!r}{did_you_mean(one, (*_NEEDED, *_PATHS))}"
            )
    sources: dict[str, Source | _Constant] = {}
    for key in ("name", "type", "unit"):
        text = place.text(key) or ""
        if text.startswith("$"):
            source = place.child(key).attempt(lambda text=text: Source(text))  # type: ignore[misc]
            if source is not None:
                sources[key] = source
            continue
        if key == "type" and text not in TYPES:
            place.child(key).refuse(f"there is no type {text!r}{did_you_mean(text, TYPES)}")
        sources[key] = _Constant(text)
    for key in _PATHS:
        if place.has(key):
            spec = place.value[key]
            source = place.child(key).attempt(lambda spec=spec: Source(spec))  # type: ignore[misc]
            if source is not None:
                sources[key] = source
    user = None
    if place.has("user_metadata"):
        given = place.value["user_metadata"]
        user = place.child("user_metadata").attempt(lambda: Source(given))
    return MeterDefinition(
        number, name, _event_types(place), sources, _metadata(place), user, lookup
    )


def _metadata(place: Place) -> dict[str, Source]:
    found: dict[str, Source] = {}
    if place.has("metadata"):
        metadata = place.child("metadata")
        if not isinstance(metadata.value, dict):
            metadata.refuse("a mapping of names is expected")
            return found
        for name, spec in metadata.value.items():
            source = metadata.child(name).attempt(lambda spec=spec: Source(spec))  # type: ignore[misc]
            if source is not None:
                found[name] = source
    return found


def _event_types(place: Place) -> list[re.Pattern[str]]:
    found = []
    for text in place.texts("event_type"):
        made = place.child("event_type").attempt(lambda text=text: _regular(text))  # type: ignore[misc]
        if made is not None:
            found.append(made)
    return found


def _regular(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise BadInput(f"{text!r} is not a regular expression: {error}") from None
