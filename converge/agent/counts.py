"""What an agent has done since its start, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from converge.pipeline import BatchResult


@dataclass(slots=True)
class GroupCounts:
    """What an agent is and does in its group.

    :ivar partitions: that it holds.
    :ivar lag: deliveries that its partitions have open; no more than 10,000 are counted.
    :ivar lag_seconds: how long ago the oldest of them was recorded; 0: there is none.
    :ivar rests: times that it ceased to receive, as too much was open.
    :ivar hints: messages of other members, and of itself, that were opened.
    :ivar redelivered: those that the bus has delivered again after they were handled.
    :ivar refused: messages that were not acted upon, by kind: ``unsigned``, ``forged``,
        ``foreign``, ``malformed``, ``replayed``.
    :ivar unsent: hints that could not be sent.
    :ivar stale: times that something was not recorded, as another member held the partition.
    """

    partitions: int = 0
    lag: int = 0
    lag_seconds: float = 0.0
    rests: int = 0
    hints: int = 0
    redelivered: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    unsent: int = 0
    stale: int = 0


@dataclass(slots=True)
class Counts:
    """What an agent has done since its start.

    :ivar batches: that were acknowledged.
    :ivar given_back: messages that went back to the bus, as the store could not be used.
    :ivar outages: of the store or of the bus.
    :ivar pruned: notifications that were deleted, as they are old.
    :ivar buses: messages received, by bus.
    :ivar group: None: it is in no group.
    """

    received: int = 0
    batches: int = 0
    recorded: int = 0
    duplicates: int = 0
    resumed: int = 0
    dead_letters: int = 0
    given_back: int = 0
    outages: int = 0
    pruned: int = 0
    buses: dict[str, int] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    group: GroupCounts | None = None

    def add(self, result: BatchResult) -> None:
        """Count what became of a batch."""
        self.recorded += result.recorded
        self.duplicates += result.duplicates
        self.resumed += result.resumed
        self.dead_letters += result.dead_letters
        for name, number in result.delivered.items():
            self.delivered[name] = self.delivered.get(name, 0) + number
        for name, taken in result.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + taken
