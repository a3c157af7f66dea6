"""Tools for the tests of converge and of resource types: an engine stepped by hand, a world that
is only a dictionary, and a clock that stands still."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from converge.crash_points import Commit
from converge.engine.core import EngineCore
from converge.errors import Gone, Replace
from converge.model import DEFAULT_QUEUE, Json, Kind, Physical, Replacing, make_mark
from converge.protocol.policy import Policy
from converge.protocol.work import Operation, Outcome, Result, Work
from converge.resources.resource_type import Context, Real, ResourceType, check_types
from converge.retry import RetryPolicy
from converge.sql import engines
from converge.wait import Wait

if TYPE_CHECKING:
    from converge.store import Store

__all__ = ["FakeClock", "FakeType", "FakeWorld", "StepEngine"]


class FakeClock:
    """A clock that moves only when told to; pass it to :func:`converge.connect`.

    :param start: seconds since 1970.
    """

    def __init__(self, start: float = 1_000_000.0) -> None:
        self.seconds = start

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let some seconds pass."""
        self.seconds += seconds


@dataclass(slots=True)
class Thing:
    """Something that exists in a :class:`FakeWorld`."""

    id: str
    name: str
    properties: dict[str, Json]


@dataclass
class FakeWorld:
    """What resource types act on in tests, apart from the algorithm that drives them.

    :ivar things: what exists, by physical id: the resource's name, a dot, and how many of that
        name were made before.
    :ivar log: what was done, in order: ``create A.0``, ``update A.0``, ``delete A.0``.
    """

    things: dict[str, Thing] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    _made: dict[str, int] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _waits: dict[str, tuple[int, float]] = field(default_factory=dict)

    def fail(self, what: str, times: int = 1) -> None:
        """Let the next calls of, say, ``create A`` fail.

        :param times: how many of them; -1 for all.
        """
        self._failures[what] = times

    def wait(self, what: str, times: int = 1, seconds: float = 10.0) -> None:
        """Let the next calls of, say, ``create A`` have their effect and then ask to be called
        again: it is not ready yet.

        :param times: how many of them; -1 for all.
        :param seconds: that each wants to wait.
        """
        self._waits[what] = (times, seconds)

    def names(self) -> list[str]:
        """The physical ids of what exists, sorted."""
        return sorted(self.things)

    def properties(self) -> dict[str, dict[str, Json]]:
        """The properties of what exists, by physical id."""
        return {key: dict(thing.properties) for key, thing in sorted(self.things.items())}

    def types(self, **retry: Any) -> dict[str, ResourceType]:
        """Resource types that act on this world: ``fake`` is updated in place, except for its
        property ``replace``; ``fixed`` has no update; of ``only`` there can be one thing of each
        name.

        :param retry: what :class:`~converge.RetryPolicy` takes.
        """
        policy = RetryPolicy(**retry)
        return {
            "fake": FakeType(self, policy),
            "fixed": FixedType(self, policy),
            "only": OnlyType(self, policy),
        }

    def put(self, name: str, **properties: Json) -> str:
        """Make a thing that no stack has made.

        :returns: its physical id.
        """
        thing = Thing(name, name, properties)
        self.things[name] = thing
        return name

    def check_failure(self, what: str) -> None:
        """Raise if :meth:`fail` asked for it."""
        left = self._failures.get(what, 0)
        if left:
            self._failures[what] = left - 1
            raise RuntimeError(f"{what} failed")

    def check_wait(self, what: str) -> None:
        """Raise if :meth:`wait` asked for it."""
        left, seconds = self._waits.get(what, (0, 0.0))
        if left:
            self._waits[what] = (left - 1, seconds)
            raise Wait(seconds, f"{left} to go" if left > 0 else "")

    def create(self, token: str, name: str, properties: Mapping[str, Json]) -> Thing:
        """Make a thing; the same token makes it once."""
        self.check_failure(f"create {name}")
        if token in self._tokens and self._tokens[token] in self.things:
            thing = self.things[self._tokens[token]]
            thing.properties = dict(properties)
            return thing
        number = self._made.get(name, 0)
        self._made[name] = number + 1
        thing = Thing(f"{name}.{number}", name, dict(properties))
        self.things[thing.id] = thing
        self._tokens[token] = thing.id
        self.log.append(f"create {thing.id}")
        return thing


class FixedType(ResourceType):
    """A resource of a :class:`FakeWorld` that cannot be updated in place."""

    schema = None

    def __init__(self, world: FakeWorld, retry: RetryPolicy) -> None:
        self.world = world
        self.retry = retry  # type: ignore[misc]

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Make it. Its attributes are its properties, and ``made``, its physical id."""
        thing = self.world.create(context.token, context.name, properties)
        self.world.check_wait(f"create {context.name}")
        return Physical(thing.id, {**thing.properties, "made": thing.id})

    def delete(self, context: Context, physical_id: str) -> None:
        """Remove it, if it is there."""
        self.world.check_failure(f"delete {context.name}")
        if self.world.things.pop(physical_id, None) is not None:
            self.world.log.append(f"delete {physical_id}")
        self.world.check_wait(f"delete {context.name}")

    def read(self, context: Context, physical_id: str) -> Real:
        """What it is."""
        self.world.check_failure(f"read {context.name}")
        thing = self.world.things.get(physical_id)
        if thing is None:
            raise Gone(f"there is no {physical_id}")
        return Real(dict(thing.properties), {**thing.properties, "made": thing.id})

    def find(self, context: Context) -> Physical | None:
        """What an interrupted create made."""
        thing_id = self.world._tokens.get(context.token)
        return Physical(thing_id) if thing_id in self.world.things else None


class OnlyType(FixedType):
    """A resource of a :class:`FakeWorld` that can exist only once, and is not updated."""

    schema = None
    replace = Replacing.DELETE_FIRST

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Make it; fails if there is one of that name."""
        mine = self.world._tokens.get(context.token)
        for thing in self.world.things.values():
            if thing.name == context.name and thing.id != mine:
                raise RuntimeError(f"{thing.id} already exists")
        return super().create(context, properties)


class FakeType(FixedType):
    """A resource of a :class:`FakeWorld` that is updated in place; a change of its property
    ``replace`` needs a new one."""

    schema = None

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> Physical:
        """Change it."""
        if properties.get("replace") != previous.get("replace"):
            raise Replace
        if physical_id not in self.world.things:
            raise Replace
        self.world.check_failure(f"update {context.name}")
        self.world.things[physical_id].properties = dict(properties)
        self.world.log.append(f"update {physical_id}")
        self.world.check_wait(f"update {context.name}")
        return Physical(physical_id, {**properties, "made": physical_id})

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Fail if it is gone."""
        if physical_id not in self.world.things:
            raise RuntimeError(f"{physical_id} is gone")
        self.world.check_wait(f"check {context.name}")


class StepEngine:
    """An engine that does one node at a time, when told to, in the caller's thread.

    Nodes of a stack are served in the order in which they became ready: those of earlier steps
    first, ties in graph order. Stacks take turns.

    :param store: what :func:`converge.connect` gave.
    :param types: its resource types by name.
    :param clock: a clock to advance by a thousandth of a second at each step, so that the
        order is the same on every database.
    :param lease: seconds that its lease lasts; it is renewed only by :meth:`renew`.
    :param queues: the names of the queues that it serves.
    :param policy: is asked before each call of a handler, as by :class:`converge.Engine`.
    """

    def __init__(
        self,
        store: Store,
        types: Mapping[str, ResourceType],
        *,
        clock: FakeClock | None = None,
        lease: float = 3600.0,
        queues: Collection[str] = (DEFAULT_QUEUE,),
        policy: Policy | None = None,
    ) -> None:
        check_types(types)
        self.queues = queues
        self.store = store
        self.types = types
        self.clock = clock
        self.lease = lease
        self.policy = policy
        self.core = self._register()

    def _register(self) -> EngineCore:
        database = self.store.database
        mark = make_mark()
        engine_id = database.transact(
            lambda tx: engines.insert_engine(
                tx,
                platform.node(),
                os.getpid(),
                "?step",
                self.lease,
                mark=mark,
                types=self.types,
                queues=self.queues,
            ),
            Commit.REGISTER,
        )
        return EngineCore(
            database, engine_id, self.types, mark, queues=self.queues, policy=self.policy
        )

    @property
    def id(self) -> int:
        """Its id in the database."""
        return self.core.engine_id

    def renew(self) -> bool:
        """Renew the lease. False: it has run out."""
        return self.store.database.transact(
            lambda tx: engines.renew_lease(tx, self.id, self.core.mark), Commit.RENEW
        )

    def claim(self, limit: int = 1) -> list[Work]:
        """Claim nodes and do nothing with them yet."""
        while True:
            self.core.passed.clear()
            works = self.core.turn([], limit)
            if works or not self.core.passed:
                return works

    def call(self, work: Work) -> Outcome:
        """Call the handler of a claimed node, without writing its outcome."""
        if work.decision.operation is Operation.FINISH:
            return Outcome(work, Result.DONE)
        return self.core.call_handler(work, self.core.context(work))

    def write(self, *outcomes: Outcome) -> None:
        """Write outcomes; a replacement that one asks for is made as well."""
        todo = list(outcomes)
        while todo:
            todo = [self.call(work) for work in self.core.turn(todo, 0)]

    def step(self) -> str | None:
        """Do one node.

        :returns: what it was, such as ``update A``, ``cleanup A`` or ``stack``; None if none
            is ready.
        """
        if self.clock is not None:
            self.clock.advance(0.001)
        works = self.claim()
        if not works:
            return None
        work = works[0]
        name = label(work)
        self.write(self.call(work))
        return name

    def run(
        self, until: Callable[[str], bool] | str | None = None, most: int = 10_000
    ) -> list[str]:
        """Do nodes until none is ready.

        :param until: stop after the node of this label, or the first for which it is true.
        :param most: the most nodes to do.
        :returns: what was done.
        :raises RuntimeError: ``until`` never came, or more than ``most`` nodes were done.
        """
        done: list[str] = []
        while (name := self.step()) is not None:
            done.append(name)
            if name == until or (callable(until) and until(name)):
                return done
            if len(done) >= most:
                raise RuntimeError(f"still not idle after {most} nodes")
        if until is not None:
            raise RuntimeError(f"idle before {until}; done: {', '.join(done) or 'nothing'}")
        return done


def label(work: Work) -> str:
    """A claimed node in words."""
    if work.node.kind is Kind.STACK:
        return "stack"
    name = "?" if work.row is None else work.row.name
    return f"{work.node.kind} {name}"
