"""Listening to PostgreSQL's notifications."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event

from converge.errors import StoreError
from converge.sql.database import Database
from converge.sql.notices import CHANNEL


class Listener:
    """Listens in a connection of its own.

    Behind a pooler that gives a session to each transaction, nothing is heard.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waker: socket.socket | None = None

    def listen(self, heard: Callable[[str], None], ready: Callable[[], None], stop: Event) -> None:
        """Listen until ``stop`` is set and :meth:`wake` called.

        :param heard: is called with each text.
        :param ready: is called once, when all that is sent from now on will be heard.
        :raises StoreError: the connection cannot be made, or is lost.
        """
        if self._database.is_pooled():
            raise StoreError(
                f"{self._database.shown}: a pooler gives each transaction another session, so no "
                "notification is heard"
            )
        own = self._database.separate()
        self._waker, woken = socket.socketpair()
        try:
            with own.session() as session:
                session.execute(f"LISTEN {CHANNEL}")
                ready()
                waiting = select.poll()
                waiting.register(session.fileno(), select.POLLIN)
                waiting.register(woken, select.POLLIN)
                while not stop.is_set():
                    waiting.poll()
                    for notice in session.notifies(timeout=0):
                        heard(notice.payload)
        finally:
            waker, self._waker = self._waker, None
            waker.close()
            woken.close()
            own.close()

    def wake(self) -> None:
        """Make :meth:`listen` look at its ``stop``."""
        waker = self._waker
        if waker is not None:
            # it may just have ended
            with suppress(OSError):
                waker.send(b"\0")
