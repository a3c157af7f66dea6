"""What a hint holds, how hints are merged, and their form in a message."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

#: The version of the form of messages. What has a higher one is left alone.
VERSION = 1
#: The most stacks, and the most lanes, that a hint names; more are "any".
MOST_STACKS = 100
MOST_LANES = 50
#: The longest message, in characters. PostgreSQL takes less than 8,000 bytes.
MOST_CHARACTERS = 7_000
_MOST_ID = 2**63 - 1


class _Any:
    """Any stack, or any lane: there are too many to name them, or nobody knows which."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any()
#: Stacks, by their ids; lanes, by their numbers (see :mod:`converge.sql.lanes`).
Stacks = frozenset[int] | _Any
Lanes = frozenset[int] | _Any
NONE: Final[frozenset[int]] = frozenset()


class Malformed(ValueError):
    """A message is not one of converge's, or not one that this version knows."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What may have changed in the database.

    :ivar ready: the lanes in which nodes wait for an engine.
    :ivar changed: the stacks that have new events.
    :ivar ended: the stacks of which a traversal has ended.
    """

    ready: Lanes = NONE
    changed: Stacks = NONE
    ended: Stacks = NONE

    def __bool__(self) -> bool:
        return any(part != NONE for part in (self.ready, self.changed, self.ended))

    @property
    def is_urgent(self) -> bool:
        """Whether somebody may wait for just this: a traversal has ended."""
        return self.ended != NONE

    def __or__(self, other: Hint) -> Hint:
        """Both hints in one."""
        return Hint(
            _union(self.ready, other.ready, MOST_LANES),
            _union(self.changed, other.changed, MOST_STACKS),
            _union(self.ended, other.ended, MOST_STACKS),
        )


#: Anything may have changed: what somebody is told who may have missed hints.
LOOK: Final = Hint(ANY, ANY, ANY)


def _union(one: Stacks, other: Stacks, most: int) -> Stacks:
    if isinstance(one, _Any) or isinstance(other, _Any):
        return ANY
    return _named(one | other, most)


def _named(numbers: Iterable[int], most: int) -> Stacks:
    named = frozenset(numbers)
    return named if len(named) <= most else ANY


def name_stacks(ids: Iterable[int]) -> Stacks:
    """These stacks, or any if there are too many to name."""
    return _named(ids, MOST_STACKS)


def concerns(named: Stacks | Lanes, number: int) -> bool:
    """Whether a stack, or a lane, is among these."""
    return isinstance(named, _Any) or number in named


@dataclass(slots=True)
class News:
    """What a transaction does that others wait for, gathered while it is open.

    :ivar ready: how many more nodes it made READY than it claimed, by their lanes; None: nobody
        knows in which. What it claims itself, nobody needs to be told of; and what was READY
        before, somebody was told of then.
    :ivar changed: the stacks that it writes events of.
    :ivar ended: the stacks of which it ends a traversal.
    """

    ready: Counter[int | None] = field(default_factory=Counter)
    changed: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.changed) or bool(self.ended) or self._lanes != NONE

    @property
    def _lanes(self) -> Lanes:
        unknown = self.ready[None]
        if unknown > 0:
            # some of what was claimed may be of these
            unknown += sum(min(0, count) for lane, count in self.ready.items() if lane is not None)
        if unknown > 0:
            return ANY
        lanes = (lane for lane, count in self.ready.items() if lane is not None and count > 0)
        return _named(lanes, MOST_LANES)

    @property
    def hint(self) -> Hint:
        """What is told of it."""
        return Hint(self._lanes, name_stacks(self.changed), name_stacks(self.ended))


# -- messages


def encode(hint: Hint, sender: str) -> str:
    """A hint as the text of a message.

    :param sender: who sends it: a text without meaning, the same for all messages of a bus.
    """
    document: dict[str, Any] = {"v": VERSION, "from": sender, "ready": hint.ready != NONE}
    if hint.ready != NONE and not isinstance(hint.ready, _Any):
        document["lanes"] = sorted(hint.ready)
    for name, stacks in (("changed", hint.changed), ("ended", hint.ended)):
        if stacks != NONE:
            document[name] = "any" if isinstance(stacks, _Any) else sorted(stacks)
    return json.dumps(document, separators=(",", ":"))


def decode(text: object) -> tuple[str, Hint]:
    """Who sent a message, and its hint. Nothing that others can send makes this fail otherwise, or
    makes it work for long.

    :raises Malformed: it is none that this version knows.
    """
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise Malformed("not a text, or too long")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None
    if not isinstance(document, dict):
        raise Malformed("not a JSON object")
    if document.get("v") != VERSION or isinstance(document["v"], bool):
        raise Malformed("not of a known version")
    sender, ready = document.get("from"), document.get("ready")
    if not isinstance(sender, str) or not isinstance(ready, bool):
        raise Malformed("'from' must be a text, and 'ready' true or false")
    # who does not know of lanes does not name them
    lanes = _numbers(document, "lanes", 0, MOST_LANES) if "lanes" in document else ANY
    changed, ended = (
        _numbers(document, name, 1, MOST_STACKS) if name in document else NONE
        for name in ("changed", "ended")
    )
    return sender, Hint(lanes if ready else NONE, changed, ended)


def _numbers(document: dict[str, Any], name: str, least: int, most: int) -> Stacks:
    value = document[name]
    if value == "any":
        return ANY
    if not isinstance(value, list) or not all(
        type(one) is int and least <= one <= _MOST_ID for one in value
    ):
        raise Malformed(f"{name!r} must be a list of numbers, or 'any'")
    return _named(value, most)
