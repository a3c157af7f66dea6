"""What the engines of a simulation act on: it keeps count of what is done to it, and knows what
must never be done to it.

The database can fence what is written to it, but not what a handler does outside: one that was
begun before its engine was paused may have its effect after another engine took its node over.
Such an effect is *late*. The database must hold out against it; of the thing that it hit, nothing
can be said until the next effect on that thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from converge import Context
from tests import world


@dataclass(slots=True)
class Thing:
    """Something that exists.

    :ivar token: that of the create that made it.
    """

    id: str
    token: str
    properties: dict[str, Any]


class World(world.World):
    """:param random: decides which handlers fail.
    :param complain: told of what must not be.
    :ivar failing: the probability with which a handler fails.
    :ivar unsure: tokens of things that a late effect hit.
    :ivar is_late: asked at each effect whether it comes too late.
    :ivar before_delete: told of the physical id of what is about to be deleted in time.
    """

    def __init__(self, random: Random, complain: Callable[[str], None]) -> None:
        self.things: dict[str, Thing] = {}
        self.by_token: dict[str, str] = {}
        self.failing = 0.0
        self.unsure: set[str] = set()
        #: tokens of things that can be there only once
        self.alone: set[str] = set()
        #: tokens of things that went before their replacements were made
        self.gone_first: set[str] = set()
        self.effects: list[str] = []
        self.is_late: Callable[[], bool] = lambda: False
        self.before_delete: Callable[[str], None] = lambda physical_id: None
        self._made: dict[str, int] = {}
        self._tokens: dict[str, str] = {}
        self._random = random
        self._complain = complain

    # -- what handlers do

    def create(self, context: Context, properties: Mapping[str, Any]) -> str:
        """Make a thing."""
        self._trouble("before")
        physical_id = self.by_token.get(context.token)
        thing = self.things.get(physical_id) if physical_id is not None else None
        if thing is None:
            label = f"{context.stack}/{context.name}"
            number = self._made[label] = self._made.get(label, -1) + 1
            thing = Thing(f"{label}.{number}", context.token, {})
            self.things[thing.id] = thing
            self.by_token[thing.token] = thing.id
            self._tokens[thing.id] = thing.token
        thing.properties = dict(properties)
        self._happened("create", thing.id, self.is_late())
        return thing.id

    def created(self, context: Context) -> None:
        """What can fail after it was recorded."""
        self._trouble("after")

    def update(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Change a thing."""
        self._trouble("before")
        self.change(physical_id, properties)
        self._trouble("after")

    def change(self, physical_id: str, properties: Mapping[str, Any]) -> None:
        """The effect of an update."""
        self.things[physical_id].properties = dict(properties)
        self._happened("update", physical_id, self.is_late())

    def delete(self, context: Context, physical_id: str) -> None:
        """Remove a thing."""
        self._trouble("before")
        if physical_id in self.things:
            late = self.is_late()
            if not late:
                self.before_delete(physical_id)
            del self.things[physical_id]
            self._happened("delete", physical_id, late)
        self._trouble("after")

    def look(self, context: Context, physical_id: str) -> dict[str, Any] | None:
        """A look, which can fail, too."""
        self._trouble("before")
        thing = self.things.get(physical_id)
        return None if thing is None else dict(thing.properties)

    def has(self, physical_id: str) -> bool:
        """Whether a thing is there."""
        return physical_id in self.things

    def find(self, token: str) -> str | None:
        """What was made with this token, if it is there."""
        physical_id = self.by_token.get(token)
        return physical_id if physical_id in self.things else None

    def check_alone(self, context: Context) -> None:
        """What can be there only once must not be made beside another."""
        label = f"{context.stack}/{context.name}"
        for thing in self.things.values():
            mine = thing.id.rpartition(".")[0] == label and thing.token != context.token
            if mine and thing.token in self.alone - self.unsure and not self.is_late():
                self._complain(f"{label} is made, and {thing.id} is there")
        self.alone.add(context.token)

    def _trouble(self, moment: str) -> None:
        """Raise, if a handler is to fail now.

        :param moment: ``before`` or ``after`` the effect.
        """
        if self._random.random() < self.failing / 2:
            if self._random.random() < 0.1:
                raise SystemExit("a handler that wants to end the process")
            raise RuntimeError(f"trouble {moment} the effect")

    def _happened(self, verb: str, physical_id: str, late: bool) -> None:
        self.effects.append(f"{'late ' if late else ''}{verb} {physical_id}")
        token = self._tokens[physical_id]
        if late:
            self.unsure.add(token)
            return
        self.unsure.discard(token)
        self._check_references()

    def _check_references(self) -> None:
        """A thing that refers to one that is not there was made too early, or the other deleted
        too early."""
        for thing in self.things.values():
            if thing.token in self.unsure:
                continue
            for value in thing.properties.values():
                if not isinstance(value, str) or value in self.things:
                    continue
                token = self._tokens.get(value)
                if token not in self.unsure and token not in self.gone_first:
                    self._complain(f"{thing.id} refers to {value}, which is not there")
