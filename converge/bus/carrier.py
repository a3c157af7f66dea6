"""What carries messages to other processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class CarrierError(Exception):
    """Messages cannot be carried now; the text says why, without secrets."""


class Carrier(Protocol):
    """Carries the text of each message to every process that receives. It may lose, double, delay
    and reorder them.

    :ivar shown: what it is, for people, without secrets.
    :ivar in_transactions: whether a transaction sends its message itself: then nobody hears of it
        before the commit, and no death of the sender comes between.
    :ivar check_every: after so many seconds without a message an empty one is sent, to notice if
        that is no longer possible; None: :meth:`receive` notices it.
    """

    shown: str
    in_transactions: bool
    check_every: float | None

    def send(self, text: str) -> None:
        """Send one message; may take some seconds.

        :raises CarrierError: it was not sent, or nobody knows.
        """

    def receive(
        self, heard: Callable[[object], None], ready: Callable[[], None], stop: threading.Event
    ) -> None:
        """Receive messages until ``stop`` is set and :meth:`wake` called.

        :param heard: is called with each, whatever it is.
        :param ready: is called once, when it is sure to receive all that is sent from now on.
        :raises CarrierError: it cannot receive, or no longer.
        """

    def wake(self) -> None:
        """Make :meth:`receive` look at its ``stop``."""

    def close(self) -> None:
        """Let go of all connections; another use makes new ones. It may take some seconds."""
