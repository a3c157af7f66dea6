"""PostgreSQL's notifications as a carrier: the bus is the database itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from converge.bus.carrier import CarrierError
from converge.errors import StoreError


class Listener(Protocol):
    """What listens; see :class:`converge.sql.listening.Listener`."""

    def listen(
        self, heard: Callable[[str], None], ready: Callable[[], None], stop: threading.Event
    ) -> None:
        """Listen until ``stop`` is set and :meth:`wake` called."""

    def wake(self) -> None:
        """Make :meth:`listen` look at its ``stop``."""


class DatabaseCarrier:
    """Carries messages by NOTIFY and LISTEN.

    :param shown: the database, without secrets.
    :param send: sends a notification in a transaction of its own.
    :param listener: hears them.
    """

    in_transactions: bool = True
    # a lost connection is noticed by who listens, and by every transaction
    check_every: float | None = None

    def __init__(self, shown: str, send: Callable[[str], None], listener: Listener) -> None:
        self.shown = shown
        self._send = send
        self._listener = listener

    def send(self, text: str) -> None:
        """Send one message.

        :raises CarrierError: the database cannot be used.
        """
        try:
            self._send(text)
        except StoreError as error:
            raise CarrierError(str(error)) from error

    def receive(
        self, heard: Callable[[object], None], ready: Callable[[], None], stop: threading.Event
    ) -> None:
        """Receive messages until ``stop`` is set and :meth:`wake` called.

        :raises CarrierError: the connection cannot be made, or is lost.
        """
        try:
            self._listener.listen(heard, ready, stop)
        except StoreError as error:
            raise CarrierError(str(error)) from error

    def wake(self) -> None:
        """Make :meth:`receive` look at its ``stop``."""
        self._listener.wake()

    def close(self) -> None:
        """Nothing to do: who listens closes its connection."""
