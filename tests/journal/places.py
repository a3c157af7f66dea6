"""Where journals are kept in these tests, each place with what its backend lacks: a way to let
an owner die, and time pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from sqlalchemy import update

from converge import Store
from converge.journal import Backend, Journal
from converge.journal.memory import Memory, MemoryBackend
from converge.journal.redis import PREFIX, RedisBackend
from converge.journal.sql import SqlBackend
from converge.sql import schema
from converge.testing import FakeClock

#: Seconds; no test waits for its end.
LEASE = 3600.0


class Place(ABC):
    """One kind of place, empty at first.

    :ivar transactional: whether a step can be recorded in the caller's transaction.
    """

    transactional = False

    def __init__(self) -> None:
        self._open: list[Backend] = []
        #: Seconds for which journals would have slept.
        self.slept: list[float] = []

    def backend(self) -> Any:
        """A new owner."""
        self._open.append(self._make())
        return self._open[-1]

    def journal(self) -> Journal:
        """A new owner's journal, which sleeps without taking time."""
        return Journal(self.backend(), sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let time pass instead."""
        self.slept.append(seconds)
        self.pass_time(seconds)

    def close(self) -> None:
        """Close all that was opened."""
        for backend in self._open:
            backend.close()

    @abstractmethod
    def _make(self) -> Backend: ...

    @abstractmethod
    def kill(self, backend: Any) -> None:
        """An owner gives no sign of life for the length of its lease."""

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Time passes; it is less than a lease."""


class InMemory(Place):
    """What several owners share in one process."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = FakeClock()
        self._memory = Memory(self._clock)

    def _make(self) -> Backend:
        return MemoryBackend(self._memory, LEASE)

    def kill(self, backend: Any) -> None:
        """As after a lease without a call."""
        self._memory.owners[backend._owner] = self._clock()

    def pass_time(self, seconds: float) -> None:
        """The clock goes on."""
        self._clock.advance(seconds)


class InDatabase(Place):
    """A database with converge's tables.

    :param open_store: gives an empty one for a clock.
    :param real: use the database's own clock, for tests in which no time passes.
    """

    transactional = True

    def __init__(
        self, open_store: Callable[[FakeClock | None], Store], *, real: bool = False
    ) -> None:
        super().__init__()
        self._clock = FakeClock(0.0 if real else 1_000_000.0)
        self.store = open_store(None if real else self._clock)

    def _make(self) -> Backend:
        return SqlBackend(self.store.database, LEASE)

    def kill(self, backend: Any) -> None:
        """Its row tells of a lease that has ended."""
        row = schema.engine
        with self.store.database.engine.begin() as connection:
            dead = row.c.id == backend.owner.current_id()
            connection.execute(update(row).where(dead).values(expires_at=self._clock()))

    def pass_time(self, seconds: float) -> None:
        """The clock goes on."""
        self._clock.advance(seconds)


class InRedis(Place):
    """A prefix of keys in a Redis, whose clock cannot be set: what is there is made older.

    :param url: with the prefix.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._prefix = f"{{{url.rpartition('=')[2] or PREFIX}}}:"

    def _make(self) -> Backend:
        return RedisBackend.open(self._url, LEASE)

    @property
    def _client(self) -> Any:
        return self._open[0]._client  # type: ignore[attr-defined]

    def kill(self, backend: Any) -> None:
        """Its key is gone, as it is when the lease has ended."""
        assert self._client.delete(f"{self._prefix}owner:{backend.owner.current_id()}") == 1

    def pass_time(self, seconds: float) -> None:
        """All that was written is older, and due sooner."""
        client = self._client
        for name in client.zrange(f"{self._prefix}scopes", 0, -1):
            scope, steps = f"{self._prefix}scope:{name}", f"{self._prefix}steps:{name}"
            for field in ("created", "updated", "finished"):
                if client.hexists(scope, field):
                    client.hincrbyfloat(scope, field, -seconds)
            for field, text in client.hgetall(steps).items():
                if field[0] == "@":
                    parts = text.split(" ")
                    parts[5:7] = [f"{float(one) - seconds:.6f}" for one in parts[5:7]]
                    client.hset(steps, field, " ".join(parts))
        for name in client.zrange(f"{self._prefix}finished", 0, -1):
            client.zincrby(f"{self._prefix}finished", -seconds, name)
