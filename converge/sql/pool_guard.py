"""Whether a pooled connection can be used again."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import Engine, event
from sqlalchemy import exc as sa_exceptions

from converge.sql.urls import sqlite_path

# A connection that was used within so many seconds is not checked: a check costs as much as a
# short statement, and a transaction whose connection is lost is run again anyway.
_FRESH = 1.0


class PoolGuard:
    """Decides whether a pooled connection can be used again.

    A connection that was idle is checked; oslo.db would have the pool check each one. A connection
    made before :meth:`discard_older` is closed. On SQLite, so is a connection whose file is not
    the one that has this name now.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: The database has answered. If its file is removed now, SQLite must not make an empty one.
        self.reached = False
        #: How often a connection was found broken. Since then it may be another server.
        self.broken_connections = 0
        self._discarded_until = 0.0
        self._path = sqlite_path(engine.url)
        # a URI may say that the file must exist already
        self._may_make_file = engine.dialect.name == "sqlite" and "mode" not in engine.url.query
        pool: Any = engine.pool
        pool._pre_ping = False
        event.listen(engine, "do_connect", self._connecting)
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "invalidate", self._broken)
        event.listen(engine, "checkin", self._returned)
        event.listen(engine, "checkout", self._taken)

    def discard_older(self) -> None:
        """Use no connection again that was made before now: after a failover, new ones may lead
        to the new primary."""
        # not dispose(): a thread that waits for a connection of a disposed pool waits on
        self._discarded_until = time.monotonic()

    def _connecting(self, dialect: object, record: object, words: Any, named: object) -> None:
        if self.reached and self._path is not None and self._identify_file() is None:
            raise sqlite3.OperationalError("unable to open database file: it was removed")
        if self._may_make_file:
            _make_private(words[0])

    def _connected(self, connection: Any, record: Any) -> None:
        record.info["made"] = time.monotonic()
        record.info["file"] = self._identify_file()

    def _broken(self, *arguments: object) -> None:
        self.broken_connections += 1

    def _returned(self, connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    def _taken(self, connection: Any, record: Any, proxy: object) -> None:
        if (
            record.info["made"] <= self._discarded_until
            or record.info["file"] != self._identify_file()
        ):
            raise sa_exceptions.DisconnectionError
        used = record.info.get("used")
        if self._path is not None or used is None or time.monotonic() - used < _FRESH:
            return
        try:
            alive = self._engine.dialect.do_ping(connection)
        except Exception:
            alive = False
        if not alive:
            # the others in the pool are as old
            raise sa_exceptions.InvalidatePoolError

    def _identify_file(self) -> object:
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


_making = threading.Lock()


def _make_private(name: str) -> None:
    """Make the file of an SQLite database, if there is none, readable and writable by its owner
    only: there are secrets in it. SQLite gives the files beside it the same mode."""
    if name.startswith("file:"):
        name = unquote(urlsplit(name).path)
    # a link may lead to a file that does not exist yet
    path = os.path.realpath(name)
    # closing a file releases all locks of this process on it, also those of SQLite
    with _making, suppress(OSError):
        # if this fails, SQLite will say why
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
