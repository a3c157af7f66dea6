"""Handlers that know how often they were called, and a disk that can be filled."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from sqlalchemy import event

import converge
from tests.waiting import WAIT


class Calls(converge.ResourceType):
    """Counts the calls of its handler."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.done: list[str] = []
        #: what happens while the handler runs
        self.during: Callable[[], None] = lambda: None

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> Any:
        self.calls.append(context.name)
        self.during()
        self.done.append(context.name)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        pass


class Disk:
    """What limits the file of an SQLite database to its size while it is full.

    :ivar refused: released by each transaction that is rolled back.
    """

    def __init__(self, store: converge.Store) -> None:
        self.full = False
        self.refused = threading.Semaphore(0)
        engine = store.database.engine
        self._path = engine.url.database
        event.listen(engine, "checkout", self._limit)
        event.listen(engine, "rollback", lambda connection: self.refused.release())

    def fill(self) -> None:
        """Use up the free pages, too."""
        with closing(sqlite3.connect(str(self._path), timeout=WAIT)) as connection, connection:
            free = connection.execute("PRAGMA freelist_count").fetchone()[0]
            connection.execute("CREATE TABLE filling (data)")
            connection.execute("INSERT INTO filling VALUES (zeroblob(?))", [free * 4096])
        self.full = True

    def _limit(self, connection: Any, record: object, proxy: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages if self.full else 1_000_000}")
