"""Where an agent has its messages from, and those of a file."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from converge.bus.carrier import CarrierError
from converge.bus.urls import TOPIC, BusUrl
from converge.errors import BadInput

#: Bytes of a body: no pipeline accepts more.
LARGEST = 64 * 1024 * 1024
#: Bytes of a line of a file that are read: so one that is too long is refused.
LONGEST_LINE = LARGEST + 1


@dataclass(frozen=True, slots=True)
class Address:
    """Which notifications are received: those of a topic and a priority, of an exchange."""

    exchange: str
    topic: str
    priority: str

    @property
    def queue(self) -> str:
        """The name of the queue, and the routing key."""
        return f"{self.topic}.{self.priority}"


def check_topics(url: BusUrl) -> None:
    """:raises BadInput: the URL names the topic of hints, which are no notifications."""
    if url.topic != TOPIC:
        raise BadInput(f"the bus {url.shown} has no topic; name topics with --topic")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that was received, and is neither acknowledged nor given back.

    :ivar headers: what came beside the body: JSON.
    :ivar priority: that of its queue.
    :ivar fallback_id: an id that is the same whenever it is received, if its body has none.
    :ivar fallback_time: when it was sent, if its body does not say: seconds since 1970.
    :ivar handle: what the source knows it by.
    :ivar bus: which of several buses it came by, for people; empty: there is one.
    :ivar received: when it was received, on the monotonic clock, in seconds.
    """

    body: bytes | str
    headers: Mapping[str, Any] = field(default_factory=dict)
    priority: str | None = None
    fallback_id: str | None = None
    fallback_time: float | None = None
    handle: Any = None
    bus: str = ""
    received: float = field(default_factory=time.monotonic, compare=False)


class Source(Protocol):
    """Messages of a bus. It is used by one thread.

    :ivar shown: what it is, for people, without secrets.
    """

    shown: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""

    def receive(self, timeout: float) -> Delivery | None:
        """The next message; None if none came within so many seconds.

        :raises CarrierError: nothing can be received. What was received and is not acknowledged
            comes again.
        """

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Let the bus forget messages.

        :raises CarrierError: perhaps it has not; then they come again.
        """

    def requeue(self, deliveries: Iterable[Delivery]) -> None:
        """Give messages back; they come again, in any order, perhaps to somebody else.

        :raises CarrierError: the connection is lost, which does the same.
        """

    def rest(self) -> None:
        """Keep the connection, although nothing is received for a while: it is called more than
        once a second.

        :raises CarrierError: it is lost.
        """

    def close(self) -> None:
        """Let go of the connection: all that is not acknowledged is given back."""


class FileSource:
    """The lines of a file, each of them a message. It ends with the file.

    A line without a message id has one made of the name of the file, its number and its text, so
    that a file may be read again: all in it is known then.

    :param path: of the file.
    :raises BadInput: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.shown = f"file:{path}"
        self.ended = False
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
            self._at = os.fstat(self._file.fileno()).st_mtime
        except OSError as error:
            raise BadInput(f"{self.shown} cannot be read: {error.strerror}") from None
        self._name = os.path.basename(path)
        self._number = 0
        self._back: deque[Delivery] = deque()

    def receive(self, timeout: float) -> Delivery | None:
        """The next line that is not empty; of one that is too long, its beginning.

        :raises CarrierError: the file cannot be read any more.
        """
        if self._back:
            return self._back.popleft()
        while line := self._read():
            self._number += 1
            text = line.strip()
            # so that no more of it is in memory than of any other message
            while len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                line = self._read()
            if text:
                return self._delivery(text)
        self.ended = True
        return None

    def _read(self) -> bytes:
        try:
            return self._file.readline(LONGEST_LINE)
        except OSError as error:
            raise CarrierError(f"{self.shown} cannot be read: {error.strerror}") from None

    def _delivery(self, text: bytes) -> Delivery:
        digest = sha256(f"{self._name}\0{self._number}\0".encode() + text).hexdigest()
        headers = {"file": self._name, "line": self._number}
        return Delivery(text, headers, None, digest[:32], self._at)

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Nothing to do."""

    def requeue(self, deliveries: Iterable[Delivery]) -> None:
        """Have these lines again, before all others."""
        self._back.extendleft(reversed(list(deliveries)))
        self.ended = False

    def rest(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
