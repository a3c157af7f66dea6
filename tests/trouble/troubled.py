"""A store whose commits can go wrong at will."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from sqlalchemy import Connection, Engine, event

import converge
from converge import crash_points
from converge.crash_points import Commit
from converge.sql.database import Database
from tests.backends import Backend
from tests.trouble.faults import Faults
from tests.trouble.proxy import Loss, Proxy

READ_ONLY = {
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}


@dataclass
class Troubled:
    """A store behind a proxy.

    :ivar hits: the crash points that were reached, in order, since the test began.
    """

    server: Backend
    proxy: Proxy
    store: converge.Store
    hits: list[str] = field(default_factory=list)
    _losses: dict[str, Iterator[Loss | None]] = field(default_factory=dict)
    #: whether new connections can only read
    read_only: bool = False
    _lost: set[str] = field(default_factory=set)
    _local: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        # once, while nobody uses it: SQLAlchemy's lists of listeners are not safe in threads
        engine = self.store.database.engine
        self._listen(engine)
        separate = self.store.database.separate

        def separate_too() -> Database:
            other = separate()
            self._listen(other.engine)
            return other

        self.store.database.separate = separate_too  # type: ignore[method-assign]
        self.faults = Faults(engine)
        self.faults.__enter__()

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "commit", self._commit)
        event.listen(engine, "before_cursor_execute", self._execute)
        event.listen(engine, "connect", self._connect)

    def begin(self) -> None:
        """For a new test."""
        self.hits.clear()
        self._losses.clear()
        self._lost.clear()
        crash_points.hook = self._hit

    def end(self) -> None:
        """After a test: what was to be lost was lost."""
        crash_points.hook = None
        self.faults.stop()
        self.read_only = False
        assert self._lost == set(self._losses)

    def lose(self, commit: Commit, *losses: Loss | None) -> None:
        """Lose the connection at the next commits of this kind.

        :param losses: what becomes of each in turn; None: it goes well.
        """
        self._losses[commit.before] = iter(losses)

    def lose_every_other(self, commit: Commit, loss: Loss) -> None:
        """Lose the connection at the next commit of this kind, not at the one after, and so on."""
        self._losses[commit.before] = cycle([loss, None])

    def count(self, commit: Commit) -> tuple[int, int]:
        """How many transactions of this kind were about to commit, and how many came back."""
        return self.hits.count(commit.before), self.hits.count(commit.after)

    def _hit(self, name: str) -> None:
        self.hits.append(name)
        loss = next(self._losses.get(name, iter(())), None)
        if loss is not None:
            self._lost.add(name)
            self._local.loss = loss

    def _connect(self, driver: Any, record: object) -> None:
        if self.read_only:
            with driver.cursor() as cursor:
                cursor.execute(READ_ONLY[self.store.database.dialect])
            driver.commit()

    def _execute(self, connection: Connection, *more: object) -> None:
        # between the point and the commit there is none but one that commits by itself
        self._commit(connection, alone=True)

    def _commit(self, connection: Connection, *, alone: bool = False) -> None:
        # in the thread that hit the point, just before it commits
        loss = getattr(self._local, "loss", None)
        if loss is not None:
            self._local.loss = None
            port = local_port(connection.connection.dbapi_connection)
            self.proxy.lose(port, loss, alone=alone)


def local_port(driver: Any) -> int:
    """This end's port of a driver's connection."""
    if hasattr(driver, "_sock"):
        return int(driver._sock.getsockname()[1])
    with socket.socket(fileno=driver.fileno()) as borrowed:
        try:
            return int(borrowed.getsockname()[1])
        finally:
            borrowed.detach()
