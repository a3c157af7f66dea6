"""Event definitions: from a notification to an event, in the format of Ceilometer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from converge.errors import did_you_mean
from converge.pipeline.items import Event, Trait
from converge.pipeline.notification import Notification, Reason, Refused
from converge.pipeline.patterns import Patterns
from converge.pipeline.reading import Log, Place, load
from converge.pipeline.traits import TYPES, Source, convert

#: What each event has, whatever its definition says, unless that names the same trait.
DEFAULT_TRAITS: Mapping[str, Any] = {
    "service": {"fields": "publisher_id"},
    "request_id": {"fields": "ctxt.request_id"},
    "project_id": {"fields": ["payload.tenant_id", "ctxt.tenant", "ctxt.project_id"]},
    "user_id": {"fields": ["payload.user_id", "ctxt.user_id"]},
    "tenant_id": {"fields": ["payload.tenant_id", "ctxt.tenant"]},
}


class EventDefinition:
    """One definition.

    :ivar types: the event types that it is for.
    """

    def __init__(self, types: Patterns, traits: Mapping[str, tuple[str, Source]]) -> None:
        self.types = types
        self._traits = [(name, kind, source) for name, (kind, source) in traits.items()]

    def traits(self, notification: Notification, body: Mapping[str, Any]) -> list[Trait]:
        """The traits that the notification has.

        :raises Refused: a value is not of its trait's type.
        """
        found = []
        for name, kind, source in self._traits:
            value = source.first(body)
            if value is None:
                continue
            try:
                made = convert(value, kind)
            except ValueError as error:
                raise Refused(
                    Reason.DEFINITION,
                    f"trait {name} must be {_KINDS[kind]}, not {str(value)[:60]!r}: {error}",
                ) from None
            if made is not None:
                found.append(Trait(name, kind, made))
        return found


_KINDS = {
    "text": "a text",
    "int": "a whole number",
    "float": "a number",
    "datetime": "a time in ISO 8601",
}


class EventDefinitions:
    """All definitions. The last one that matches an event type counts.

    :param definitions: in the order of the file.
    :param drop_unmatched: whether a notification that no definition is for is no event. Otherwise
        it is one with the default traits.
    """

    def __init__(
        self, definitions: Iterable[EventDefinition] = (), *, drop_unmatched: bool = False
    ) -> None:
        self._definitions = list(definitions)[::-1]
        self._drop = drop_unmatched
        self._found: dict[str, EventDefinition | None] = {}
        self._other = EventDefinition(Patterns(["*"]), _default_traits())

    def __len__(self) -> int:
        return len(self._definitions)

    def __add__(self, more: EventDefinitions) -> EventDefinitions:
        """These, then more; what is unmatched is treated as here."""
        both = [*self._definitions[::-1], *more._definitions[::-1]]
        return EventDefinitions(both, drop_unmatched=self._drop)

    @classmethod
    def load(
        cls,
        what: str | os.PathLike[str] | list[Any],
        *,
        name: str = "event definitions",
        drop_unmatched: bool = False,
        log: Log | None = None,
    ) -> EventDefinitions:
        """Read definitions.

        :param what: a file, a text with several lines, or a list as the file has it.
        :param log: where mistakes are collected.
        :raises PipelineError: there are mistakes, and they are not collected.
        """
        found = log or Log()
        whole = load(what, name, found)
        if whole.value is not None and not isinstance(whole.value, list):
            whole.refuse("event definitions are a list")
        made = [_read(place) for place in whole]
        if log is None:
            found.check()
        return cls(
            (one for one in made if one is not None),
            drop_unmatched=drop_unmatched,
        )

    def make(self, notification: Notification, body: Mapping[str, Any]) -> Event | None:
        """The event of a notification.

        :param body: :meth:`Notification.as_body`.
        :returns: None if no definition is for it, and such are dropped.
        :raises Refused: a value is not of its trait's type.
        """
        definition = self._find(notification.event_type)
        if definition is None:
            return None
        traits = definition.traits(notification, body)
        return Event(
            notification.message_id, notification.event_type, notification.at, tuple(traits)
        )

    def _find(self, event_type: str) -> EventDefinition | None:
        if event_type not in self._found:
            if len(self._found) > 10_000:
                self._found.clear()
            self._found[event_type] = next(
                (one for one in self._definitions if one.types.matches(event_type)),
                None if self._drop else self._other,
            )
        return self._found[event_type]


def _default_traits() -> dict[str, tuple[str, Source]]:
    return {name: ("text", Source(spec)) for name, spec in DEFAULT_TRAITS.items()}


def _read(place: Place) -> EventDefinition | None:
    if not place.check_keys(("event_type", "traits"), ("event_type", "traits")):
        return None
    types = Patterns(place.texts("event_type"))
    if types.is_empty:
        place.child("event_type").refuse("no event type can match it")
    all_traits = place.child("traits")
    if not isinstance(all_traits.value, dict):
        all_traits.refuse("a mapping of names of traits is expected")
        return None
    traits = _default_traits()
    for name in all_traits.value:
        one = all_traits.child(name)
        kind = "text"
        if isinstance(one.value, dict):
            one.check_keys(("type", "fields", "plugin"), ("fields",))
            if not one.has("fields"):
                continue
            kind = one.text("type", "text") or "text"
        if kind not in TYPES:
            one.child("type").refuse(f"there is no type {kind!r}{did_you_mean(kind, TYPES)}")
        source = one.attempt(lambda value=one.value: Source(value))  # type: ignore[misc]
        if source is not None:
            traits[name] = (kind, source)
    return EventDefinition(types, traits)
