"""Queues between the members of a group: what they hold is hints, the database is the truth."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from converge.bus.source import Delivery

#: The headers of what comes from such a queue: its name, and whether the bus has delivered it
#: before.
QUEUE, REDELIVERED = "queue", "redelivered"


class Post(Protocol):
    """A connection to the queues. It is used by one thread.

    :ivar shown: what it is, for people, without secrets.
    """

    shown: str

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Put messages into queues, which are made if they are not there.

        :param messages: each with the name of its queue.
        :raises CarrierError: perhaps some of them are lost.
        """

    def listen(self, queues: Collection[str]) -> None:
        """Receive from these queues from now on, and from no others. Those that it received from
        before go on as if nothing had been said.

        :raises CarrierError: the connection is lost.
        """

    def receive(self, timeout: float) -> Delivery | None:
        """The next message; None if none came within so many seconds.

        :raises CarrierError: the connection is lost; what is not acknowledged comes again.
        """

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Let the bus forget messages.

        :raises CarrierError: the connection is lost; they come again.
        """

    def remove(self, queues: Collection[str]) -> None:
        """Delete queues, with what is in them.

        :raises CarrierError: the connection is lost.
        """

    def close(self) -> None:
        """Close the connection: what is not acknowledged comes again, perhaps to another member."""
