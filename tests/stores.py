"""Open stores that many tests use one after the other.

A new :class:`converge.Store` compiles every statement again, which takes longer than most
tests do. So each process keeps one per backend, empties it for the next test, and lets that
say what time it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event, text

import converge
from converge.sql import schema
from tests.backends import Backend

#: Idle connections that the next test may find: a server takes a hundred, and several processes
#: run tests with many threads.
_IDLE = 4
#: The names of the tables that have rows; none has foreign keys.
_FILLED = text(
    " UNION ALL ".join(
        f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})" for name in schema.metadata.tables
    )
)
#: By backend: lets a commit not wait for the disk.
_HURRIES = {"sqlite": "PRAGMA synchronous = OFF", "postgresql": "SET synchronous_commit = off"}


class Stores:
    """The open stores, by backend."""

    def __init__(self) -> None:
        self._open: dict[str, converge.Store] = {}

    def fresh(self, backend: Backend, clock: Callable[[], float] | None = None) -> converge.Store:
        """The backend's store, without rows, on a file or database of its own."""
        store = self._open.get(backend.name)
        if store is None:
            store = self._open[backend.name] = self._connect(backend)
        if store.database.engine.pool.checkedin() > _IDLE:  # type: ignore[attr-defined]
            store.database.close()
        store.database.clock = clock
        with store.transaction() as tx:
            # a test leaves rows in few of them
            for name in tx.execute(_FILLED).scalars().all():
                tx.execute(text(f"DELETE FROM {name}"))
        return store

    def close(self) -> None:
        """Close them all."""
        for store in self._open.values():
            store.close()
        self._open.clear()

    def _connect(self, backend: Backend) -> converge.Store:
        # which statements are sent must not depend on when the last hint was
        store = converge.connect(backend.migrated(), bus="memory://")
        hurry = _HURRIES.get(backend.name)
        if hurry is not None:
            # no test of these pulls the plug
            store.close()

            def connected(connection: Any, record: object) -> None:
                connection.execute(hurry)
                connection.commit()

            event.listen(store.database.engine, "connect", connected)
        return store


def stack_store(stack: converge.Stack) -> converge.Store:
    """The store that a stack is of."""
    store = stack._store
    assert isinstance(store, converge.Store)
    return store
