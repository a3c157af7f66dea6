"""The server's sessions whose connection was lost during a commit."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from sqlalchemy import Connection, bindparam, text

from converge.errors import CommitUnknown

# The sessions that still do something, without the one that asks. An idle session may not have
# noticed yet that its connection is lost.
_BUSY = {
    "postgresql": "SELECT pid FROM pg_stat_activity"
    " WHERE state = 'active' AND pid IN :ids AND pid <> pg_backend_pid()",
    "mysql": "SELECT id FROM information_schema.processlist"
    " WHERE command <> 'Sleep' AND id IN :ids AND id <> CONNECTION_ID()",
}
_BUSY["mariadb"] = _BUSY["mysql"]
_WAIT_SECONDS = 10.0


class LostSessions:
    """The sessions that may still be at work on a commit whose reply was lost."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def add(self, number: int) -> None:
        """Note that the connection of a session was lost during a commit."""
        self._numbers.add(number)

    def wait(self, connect: Callable[[], AbstractContextManager[Connection]], shown: str) -> None:
        """Wait until the server is done with them.

        :param connect: gives a connection to the server.
        :param shown: the database, for the message.
        :raises CommitUnknown: a session is still busy after some seconds.
        """
        end = time.monotonic() + _WAIT_SECONDS
        while lost := list(self._numbers):
            with connect() as connection, connection.begin():
                query = text(_BUSY[connection.dialect.name])
                query = query.bindparams(bindparam("ids", expanding=True))
                busy = set(connection.execute(query, {"ids": lost}).scalars())
            self._numbers.difference_update(set(lost) - busy)
            if not busy:
                return
            if time.monotonic() > end:
                # given up for good: after a failover other sessions may have these numbers
                self._numbers.difference_update(lost)
                raise CommitUnknown(f"{shown}: the server is still busy with a lost commit")
            time.sleep(0.05)
