"""What a hint holds, how hints are merged, and their form in a message."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

#: The version of the form of messages. What has a higher one is left alone.
VERSION = 1
#: The most stacks that a hint names; more are "any".
MOST_STACKS = 100
#: The longest message, in characters. PostgreSQL takes less than 8,000 bytes.
MOST_CHARACTERS = 7_000
_MOST_ID = 2**63 - 1


class _Any:
    """Any stack: too many have changed to name them, or nobody knows which."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any()
#: Stacks, by their ids.
Stacks = frozenset[int] | _Any
NONE: Final[frozenset[int]] = frozenset()


class Malformed(ValueError):
    """A message is not one of converge's, or not one that this version knows."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What may have changed in the database.

    :ivar ready: nodes wait for an engine.
    :ivar changed: the stacks that have new events.
    :ivar ended: the stacks of which a traversal has ended.
    """

    ready: bool = False
    changed: Stacks = NONE
    ended: Stacks = NONE

    def __bool__(self) -> bool:
        return self.ready or self.changed != NONE or self.ended != NONE

    def __or__(self, other: Hint) -> Hint:
        """Both hints in one."""
        return Hint(
            self.ready or other.ready,
            _union(self.changed, other.changed),
            _union(self.ended, other.ended),
        )


#: Anything may have changed: what somebody is told who may have missed hints.
LOOK: Final = Hint(ready=True, changed=ANY, ended=ANY)


def _union(one: Stacks, other: Stacks) -> Stacks:
    if isinstance(one, _Any) or isinstance(other, _Any):
        return ANY
    return name_stacks(one | other)


def name_stacks(ids: Iterable[int]) -> Stacks:
    """These stacks, or any if there are too many to name."""
    named = frozenset(ids)
    return named if len(named) <= MOST_STACKS else ANY


def concerns(stacks: Stacks, stack_id: int) -> bool:
    """Whether a stack is among these."""
    return isinstance(stacks, _Any) or stack_id in stacks


@dataclass(slots=True)
class News:
    """What a transaction does that others wait for, gathered while it is open.

    :ivar ready: how many more nodes it made READY than it claimed. What it claims itself, nobody
        needs to be told of; and what was READY before, somebody was told of then.
    :ivar parked: it left nodes to engines that have other types, whatever it claimed itself.
    :ivar changed: the stacks that it writes events of.
    :ivar ended: the stacks of which it ends a traversal.
    """

    ready: int = 0
    parked: bool = False
    changed: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return self.ready > 0 or self.parked or bool(self.changed) or bool(self.ended)

    @property
    def hint(self) -> Hint:
        """What is told of it."""
        return Hint(
            self.ready > 0 or self.parked, name_stacks(self.changed), name_stacks(self.ended)
        )


# -- messages


def encode(hint: Hint, sender: str) -> str:
    """A hint as the text of a message.

    :param sender: who sends it: a text without meaning, the same for all messages of a bus.
    """
    document: dict[str, Any] = {"v": VERSION, "from": sender, "ready": hint.ready}
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
    return sender, Hint(ready, _stacks(document, "changed"), _stacks(document, "ended"))


def _stacks(document: dict[str, Any], name: str) -> Stacks:
    value = document.get(name, [])
    if value == "any":
        return ANY
    if not isinstance(value, list) or not all(
        type(one) is int and 0 < one <= _MOST_ID for one in value
    ):
        raise Malformed(f"{name!r} must be a list of ids, or 'any'")
    return name_stacks(value)
