"""What comes to a member's partitions: who may have sent it, and whether it came before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from converge.group.signing import Message, Refused, Secrets
from converge.sql.groups import PartitionLock, Spot

#: The longest name of a queue, in bytes of UTF-8.
MOST_NAME = 255


@dataclass(frozen=True, slots=True)
class Place:
    """What a queue is for: a partition, and a sink."""

    group: str
    generation: int
    number: int
    sink: str

    @property
    def queue(self) -> str:
        """The name of the queue."""
        name = f"converge.{self.group}.{self.generation}.{self.number}.{self.sink}"
        if len(name.encode()) <= MOST_NAME:
            return name
        return f"converge.{sha256(name.encode()).hexdigest()}"


class Inbox:
    """Opens what comes to the partitions that a member holds.

    :param group: its name.
    """

    def __init__(self, group: str, secrets: Secrets) -> None:
        self._group = group
        self._secrets = secrets
        self._known: dict[Spot, int] = {}
        self._reached: dict[Spot, int] = {}

    def begin(self, known: Mapping[Spot, int]) -> None:
        """A partition is held from now on; these of its messages were handled before."""
        self._known.update(known)

    def end(self, lock: PartitionLock) -> None:
        """A partition is held no more."""
        for spots in (self._known, self._reached):
            for spot in [one for one in spots if one.lock == lock]:
                del spots[spot]

    def open(
        self, lock: PartitionLock, sink: str, data: object, *, redelivered: bool
    ) -> Message | None:
        """The message of what came to a partition; None if it was handled before, and the bus says
        itself that it delivers it again.

        :raises Refused: it is none of this group's, or of another queue, or somebody sends again
            what was handled before. Nothing of it was used.
        """
        message = self._secrets.open(data, group=self._group, sink=sink, partition=lock.number)
        if message.generation != lock.generation:
            raise Refused(
                "foreign",
                f"it is for a partition of generation {message.generation}, not {lock.generation}",
            )
        spot = Spot(lock, sink, message.sender)
        if message.sequence <= self._reached.get(spot, self._known.get(spot, 0)):
            if redelivered:
                return None
            raise Refused("replayed", f"message {message.sequence} of {message.sender} came before")
        self._reached[spot] = message.sequence
        return message

    @property
    def known(self) -> Mapping[Spot, int]:
        """The numbers that are in the database."""
        return self._known

    @property
    def reached(self) -> Mapping[Spot, int]:
        """The numbers that are to be noted."""
        return self._reached

    def noted(self) -> None:
        """They are noted."""
        self._known.update(self._reached)
        self._reached = {}
