"""Agents of one group, stepped by hand: a bus in memory, time that is told to pass, members that
die and that are paused."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from converge import Store
from converge.agent.agent import Agent
from converge.agent.gathering import Batching
from converge.agent.sharing import Pace, Sharing
from converge.bus.carrier import CarrierError
from converge.bus.post import QUEUE, REDELIVERED
from converge.bus.source import Delivery
from converge.group.group import Settings
from converge.group.signing import Secrets
from converge.pipeline import Pipeline
from converge.sql.deliveries import count_deliveries
from converge.testing import FakeClock

SECRET = "a secret of the tests"
#: Seconds. So long that no thread renews it while a test runs: that is told, too.
LEASE = 3600.0
#: All at every turn, and nothing is waited for.
PACE = Pace(0.0, 0.0, 0.0, 0.0, 0.0)
#: The same, but what no hint tells is not found.
HINTS_ONLY = replace(PACE, look=1e9)


@dataclass
class Bus:
    """The queue of notifications, and those of the partitions.

    :ivar consumers: who receives from each queue of a partition; the first one does.
    :ivar touched: the queues at which a consumer began or ended, in order.
    """

    waiting: deque[Delivery] = field(default_factory=deque)
    queues: dict[str, deque[Delivery]] = field(default_factory=lambda: defaultdict(deque))
    consumers: dict[str, list[MemoryPost]] = field(default_factory=lambda: defaultdict(list))
    touched: list[tuple[str, str]] = field(default_factory=list)
    is_down: bool = False

    def send(self, *bodies: bytes) -> None:
        """Put notifications into the queue."""
        self.waiting += [Delivery(body) for body in bodies]

    @property
    def left(self) -> int:
        """How many messages wait."""
        return len(self.waiting) + sum(map(len, self.queues.values()))


@dataclass
class MemorySource:
    """What an agent receives from the queue."""

    bus: Bus
    shown: str = "memory"
    ended: bool = False
    unacknowledged: list[Delivery] = field(default_factory=list)

    def receive(self, timeout: float) -> Delivery | None:
        if not self.bus.waiting:
            return None
        self.unacknowledged.append(self.bus.waiting.popleft())
        return self.unacknowledged[-1]

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        for one in deliveries:
            self.unacknowledged.remove(one)

    def requeue(self, deliveries: Iterable[Delivery]) -> None:
        self.bus.waiting.extendleft(reversed(list(deliveries)))
        self.acknowledge(list(deliveries))

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self.bus.waiting.extendleft(reversed(self.unacknowledged))
        self.unacknowledged.clear()


class MemoryPost:
    """A connection to the queues of partitions."""

    shown = "memory"

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.queues: set[str] = set()
        self.unacknowledged: list[tuple[str, Delivery]] = []

    def _check(self) -> None:
        if self.bus.is_down:
            raise CarrierError("the bus is down")

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        self._check()
        for name, body in messages:
            self.bus.queues[name].append(Delivery(body, {QUEUE: name, REDELIVERED: False}))

    def listen(self, queues: Collection[str]) -> None:
        self._check()
        for name in sorted(self.queues - set(queues)):
            self.bus.touched.append(("end", name))
            self.bus.consumers[name].remove(self)
        for name in sorted(set(queues) - self.queues):
            self.bus.touched.append(("begin", name))
            self.bus.consumers[name].append(self)
        self.queues = set(queues)

    def receive(self, timeout: float) -> Delivery | None:
        self._check()
        for name in sorted(self.queues):
            if self.bus.consumers[name][0] is self and self.bus.queues[name]:
                one = self.bus.queues[name].popleft()
                self.unacknowledged.append((name, one))
                return one
        return None

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        self._check()
        gone = list(map(id, deliveries))
        self.unacknowledged = [one for one in self.unacknowledged if id(one[1]) not in gone]

    def remove(self, queues: Collection[str]) -> None:
        self._check()
        for name in queues:
            self.bus.queues.pop(name, None)
            for one in self.bus.consumers.pop(name, ()):
                one.queues.discard(name)

    def close(self) -> None:
        for name, one in reversed(self.unacknowledged):
            headers = {**one.headers, REDELIVERED: True}
            self.bus.queues[name].appendleft(replace(one, headers=headers))
        self.unacknowledged.clear()
        for name in self.queues:
            self.bus.consumers[name].remove(self)
        self.queues.clear()


class Fleet:
    """One database, one bus, and agents that come and go."""

    def __init__(self, store: Store, clock: FakeClock, make: Callable[[], Pipeline]) -> None:
        self.store, self.clock, self.make = store, clock, make
        self.bus = Bus()
        self.living: list[Agent] = []
        self.gone: list[Agent] = []
        # one pool for all leases: another one would compile every statement again
        database: Any = store.database
        database.separate = lambda: database

    def join(
        self,
        partitions: int | None = 4,
        most: int = 5,
        pace: Pace = PACE,
        most_open: int = 10_000,
        **more: Any,
    ) -> Agent:
        """A new agent."""
        pipeline = self.make()
        settings = Settings("g", Secrets(more.pop("secrets", [SECRET])), partitions, **more)
        share = partial(
            Sharing,
            self.store,
            pipeline,
            settings,
            lambda: MemoryPost(self.bus),
            lease=LEASE,
            pace=pace,
            most_open=most_open,
        )
        agent = Agent(
            self.store, pipeline, lambda: MemorySource(self.bus), Batching(most, 0.01), share=share
        )
        self.living.append(agent)
        return agent

    def settle(self) -> None:
        """Let all take partitions and give them back, until nothing moves."""
        for _ in range(3):
            for agent in self.living:
                sharing(agent).turn()

    def turn(self) -> None:
        """Let each do both of its halves once."""
        for agent in self.living:
            agent.turn()
            sharing(agent).turn()

    def work(self, most: int = 60) -> None:
        """Work until nothing is left to do."""
        for _ in range(most):
            self.turn()
            if not self.bus.left and not self.open:
                return
        raise AssertionError("it never ends")

    @property
    def open(self) -> int:
        """How many deliveries are under way."""
        return sum(self.store.database.read(count_deliveries).values())

    def pause(self, agent: Agent) -> None:
        """Let an agent do nothing any more, not even renew its lease."""
        self.living.remove(agent)
        self.gone.append(agent)

    def kill(self, agent: Agent) -> None:
        """Let an agent be no more: the bus has back what it had."""
        self.pause(agent)
        source, post = agent._source, sharing(agent)._post
        for one in (source, post, sharing(agent).outbox._post):
            if one is not None:
                one.close()

    def wait(self, seconds: float = LEASE * 1.1) -> None:
        """Let time pass; the living renew their leases."""
        for _ in range(2):
            self.clock.advance(seconds / 2)
            for agent in self.living:
                sharing(agent)._member.lease.renew()

    def close(self) -> None:
        """Stop all."""
        for agent in (*self.living, *self.gone):
            agent._close()
            sharing(agent).close()
            sharing(agent).outbox.close()
        del self.store.database.separate


def sharing(agent: Agent) -> Sharing:
    """The half of an agent that works on partitions."""
    assert agent.sharing is not None
    return agent.sharing


def held(agent: Agent) -> set[int]:
    """The numbers of the partitions that an agent holds."""
    return {lock.number for lock in sharing(agent)._member.locks.values()}


def note(number: int, key: int, **payload: Any) -> bytes:
    """A notification about a volume: the one of this number, about the volume of this key."""
    return json.dumps(
        {
            "message_id": f"m-{number}",
            "event_type": "volume.create.end",
            "publisher_id": "volume.host",
            "priority": "INFO",
            "timestamp": f"2026-11-01T00:{number // 60 % 60:02}:{number % 60:02}",
            "payload": {"volume_id": f"vol-{key}", "size": 10 + number, **payload},
        }
    ).encode()
