"""Worlds that the resources of tests act on, and the types of these resources. What a world
remembers, where it keeps that, and what it makes of a call that must not be, is its own."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from converge import (
    AsyncContext,
    Context,
    Gone,
    Physical,
    Real,
    Replace,
    ResourceType,
    RetryPolicy,
    Wait,
)

Properties = Mapping[str, Any]


class World(ABC):
    """What there is, by physical id. Each of these methods may raise, to let a handler fail."""

    def types(self, retry: RetryPolicy) -> dict[str, ResourceType]:
        """Resource types that act on it: ``fake`` is updated in place, but replaced when its
        property ``replace`` changes; ``noting`` records its physical id at once; ``fixed`` has no
        update; ``only`` can be there only once; ``slow`` is not ready at once; ``asked`` waits for
        a signal; ``seen`` can be looked at; ``awaited`` has handlers that are ``async def``."""
        kinds = (Fake, Fixed, Noting, Only, Slow, Asked, Seen, Awaited)
        return {kind.__name__.lower(): kind(self, retry) for kind in kinds}

    @abstractmethod
    def create(self, context: Context, properties: Properties) -> str:
        """Make a thing, and return its physical id; the same token makes it once."""

    def created(self, context: Context) -> None:  # noqa: B027 - most have nothing to do then
        """A create is about to return."""

    @abstractmethod
    def update(self, context: Context, physical_id: str, properties: Properties) -> None:
        """Change a thing."""

    def declined(self, context: Context, physical_id: str) -> None:  # noqa: B027 - likewise
        """An update is about to ask for another thing."""

    @abstractmethod
    def delete(self, context: Context, physical_id: str) -> None:
        """Remove a thing; gone already is no error."""

    def check(self, context: Context, physical_id: str) -> None:
        """Look at a thing."""
        if not self.has(physical_id):
            raise RuntimeError(f"{physical_id} is gone")

    @abstractmethod
    def check_alone(self, context: Context) -> None:
        """What can be there only once is about to be made: no other may be there."""

    @abstractmethod
    def has(self, physical_id: str) -> bool:
        """Whether a thing is there."""

    @abstractmethod
    def look(self, context: Context, physical_id: str) -> dict[str, Any] | None:
        """The properties of a thing; None if it is not there."""

    @abstractmethod
    def find(self, token: str) -> str | None:
        """What was made with this token, if it is there."""


class Fixed(ResourceType):
    """A resource that cannot be updated in place."""

    schema = None

    def __init__(self, world: World, retry: RetryPolicy) -> None:
        self.world = world
        self.retry = retry  # type: ignore[misc]

    def create(self, context: Context, properties: Properties) -> Physical:
        """Make it. Its attributes are its properties, and ``made``, its physical id."""
        thing = self.world.create(context, properties)
        self.note(context, thing)
        self.world.created(context)
        return Physical(thing, {**properties, "made": thing})

    def note(self, context: Context, thing: str) -> None:
        """What is done between the effect and its record."""

    def delete(self, context: Context, physical_id: str) -> None:
        """Remove it."""
        self.world.delete(context, physical_id)

    def find(self, context: Context) -> Physical | None:
        """What an interrupted create made."""
        thing = self.world.find(context.token)
        return None if thing is None else Physical(thing)

    def check(self, context: Context, physical_id: str, properties: Properties) -> None:
        """Whether it is still there."""
        self.world.check(context, physical_id)


class Fake(Fixed):
    """A resource that is updated in place; a change of its property ``replace`` needs another."""

    def update(
        self, context: Context, physical_id: str, properties: Properties, previous: Properties
    ) -> Physical:
        """Change it; another one if it is not there."""
        changed = properties.get("replace") != previous.get("replace")
        if changed or not self.world.has(physical_id):
            self.world.declined(context, physical_id)
            raise Replace
        self.world.update(context, physical_id, properties)
        return Physical(physical_id, {**properties, "made": physical_id})


class Seen(Fake):
    """One whose real properties can be read."""

    def read(self, context: Context, physical_id: str) -> Real:
        """What it is."""
        found = self.world.look(context, physical_id)
        if found is None:
            raise Gone(f"there is no {physical_id}")
        return Real(found)


class Only(Fake):
    """One that can be there only once: the old one goes before the new one is made."""

    replace = "delete_first"

    def create(self, context: Context, properties: Properties) -> Physical:
        """Make it; no other may be there."""
        self.world.check_alone(context)
        return super().create(context, properties)


class Noting(Fake):
    """One that records its physical id in the middle of the create."""

    def note(self, context: Context, thing: str) -> None:
        """Record it."""
        context.record(thing)


#: Seconds for which a handler of :class:`Slow` waits, unless the property ``pause`` says otherwise.
PAUSE = 5.0


class Slow(Noting):
    """One whose handlers have their effect at once, and are then called once more, as it is not
    ready."""

    def create(self, context: Context, properties: Properties) -> Physical:
        """Make it, and look whether it is ready."""
        made = super().create(context, properties)
        self.wait(context, properties)
        return made

    def update(
        self, context: Context, physical_id: str, properties: Properties, previous: Properties
    ) -> Physical:
        """Change it, and look whether it is ready."""
        changed = super().update(context, physical_id, properties, previous)
        self.wait(context, properties)
        return changed

    def delete(self, context: Context, physical_id: str) -> None:
        """Remove it, and look whether it is gone."""
        super().delete(context, physical_id)
        self.wait(context, context.properties)

    def wait(self, context: Context, properties: Properties) -> None:
        """In the first call: wait."""
        if not context.waited:
            raise Wait(properties.get("pause", PAUSE), "begun")


class Asked(Noting):
    """One that waits for a signal once it is made."""

    def create(self, context: Context, properties: Properties) -> Physical:
        """Make it, and wait."""
        made = super().create(context, properties)
        return Physical(made.id, {**made.attributes, "said": context.wait_signal()})


class Awaited(ResourceType):
    """One whose handlers are ``async def``: it records its physical id, does a step, and waits for
    a signal once it is made."""

    schema = None

    def __init__(self, world: World, retry: RetryPolicy) -> None:
        self.world = world
        self.retry = retry  # type: ignore[misc]

    async def create(self, context: AsyncContext, properties: Properties) -> Physical:
        """Make it, and wait."""
        thing = self.world.create(context.plain, properties)
        await context.record(thing)
        doubled = await context.step("double", self.double, properties.get("size", 0))
        said = await context.wait_signal()
        return Physical(thing, {**properties, "made": thing, "doubled": doubled, "said": said})

    async def double(self, size: int) -> int:
        """A step, which lets others go on."""
        await asyncio.sleep(0)
        return 2 * size

    async def update(
        self, context: AsyncContext, physical_id: str, properties: Properties, previous: Properties
    ) -> Physical:
        """Change it."""
        doubled = await context.step("double", self.double, properties.get("size", 0))
        self.world.update(context.plain, physical_id, properties)
        return Physical(physical_id, {**properties, "made": physical_id, "doubled": doubled})

    async def delete(self, context: AsyncContext, physical_id: str) -> None:
        """Remove it."""
        await asyncio.sleep(0)
        self.world.delete(context.plain, physical_id)

    async def find(self, context: AsyncContext) -> Physical | None:
        """What an interrupted create made."""
        thing = self.world.find(context.token)
        return None if thing is None else Physical(thing)
