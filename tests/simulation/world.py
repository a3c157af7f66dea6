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

from converge import Physical, Replace, ResourceType, RetryPolicy
from converge.resources.resource_type import Context


@dataclass(slots=True)
class Thing:
    """Something that exists.

    :ivar token: that of the create that made it.
    """

    id: str
    token: str
    properties: dict[str, Any]


class World:
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

    def types(self, attempts: int, first: float) -> dict[str, ResourceType]:
        """The resource types that act on it.

        :param attempts: how often a handler is tried.
        :param first: seconds until the second attempt.
        """
        policy = RetryPolicy(attempts=attempts, first=first)
        return {
            "fake": Fake(self, policy),
            "fixed": Fixed(self, policy),
            "noting": Noting(self, policy),
            "only": Only(self, policy),
        }

    # -- what handlers do

    def create(self, context: Context, properties: Mapping[str, Any]) -> Thing:
        """Make a thing; the same token makes it once."""
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
        return thing

    def update(self, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Change a thing."""
        self.things[physical_id].properties = dict(properties)
        self._happened("update", physical_id, self.is_late())

    def delete(self, physical_id: str) -> None:
        """Remove a thing; gone already is no error."""
        if physical_id in self.things:
            late = self.is_late()
            if not late:
                self.before_delete(physical_id)
            del self.things[physical_id]
            self._happened("delete", physical_id, late)

    def check_alone(self, context: Context) -> None:
        """What can be there only once must not be made beside another."""
        label = f"{context.stack}/{context.name}"
        for thing in self.things.values():
            mine = thing.id.rpartition(".")[0] == label and thing.token != context.token
            if mine and thing.token in self.alone - self.unsure and not self.is_late():
                self._complain(f"{label} is made, and {thing.id} is there")
        self.alone.add(context.token)

    def trouble(self, moment: str) -> None:
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


class Fixed(ResourceType):
    """A resource that cannot be updated in place."""

    schema = None

    def __init__(self, world: World, retry: RetryPolicy) -> None:
        self.world = world
        self.retry = retry  # type: ignore[misc]

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Make it. Its attribute ``made`` is its physical id."""
        self.world.trouble("before")
        thing = self.world.create(context, properties)
        self.noted(context, thing)
        self.world.trouble("after")
        return Physical(thing.id, {"made": thing.id})

    def noted(self, context: Context, thing: Thing) -> None:
        """What is done between the effect and its record."""

    def delete(self, context: Context, physical_id: str) -> None:
        """Remove it."""
        self.world.trouble("before")
        self.world.delete(physical_id)
        self.world.trouble("after")

    def find(self, context: Context) -> Physical | None:
        """What an interrupted create made."""
        physical_id = self.world.by_token.get(context.token)
        return Physical(physical_id) if physical_id in self.world.things else None


class Fake(Fixed):
    """A resource that is updated in place; a change of its property ``replace`` needs a new one."""

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> None:
        """Change it; a new one if it is not there."""
        if properties["replace"] != previous.get("replace") or physical_id not in self.world.things:
            raise Replace
        self.world.trouble("before")
        self.world.update(physical_id, properties)
        self.world.trouble("after")

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Whether it is still there."""
        if physical_id not in self.world.things:
            raise RuntimeError(f"{physical_id} is gone")


class Only(Fake):
    """One that can be there only once: the old one goes before the new one is made."""

    replace = "delete_first"

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Make it; no other may be there."""
        self.world.check_alone(context)
        return super().create(context, properties)


class Noting(Fake):
    """One that records its physical id in the middle of the create."""

    def noted(self, context: Context, thing: Thing) -> None:
        """Record it."""
        context.record(thing.id)
