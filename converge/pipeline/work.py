"""Deliveries while they are handled: what has come how far, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from converge.pipeline.items import Item, from_json_list
from converge.sql.deliveries import DeliveryRow

if TYPE_CHECKING:
    from converge.sql.transaction import Transaction

#: Seconds after which a sweep takes a delivery that another one has taken, if that died.
LEASE = 60.0

#: What is called first in each transaction: it raises :class:`~converge.errors.StaleLock` if the
#: caller may not go on, as another member has its partition.
Guard: TypeAlias = "Callable[[Transaction], object]"


@dataclass(slots=True)
class Work:
    """A delivery in hand.

    :ivar items: what comes into the stage at ``position``.
    :ivar error: why that stage has failed.
    :ivar lost: it is over, or others go on with it.
    :ivar event_type: of its notification, for a dead letter.
    :ivar due: a sweep has taken it: no message of it comes again, so another sweep must find it.
    """

    id: int
    origin: str
    sink: str
    share: int
    position: int
    version: int
    attempts: int
    items: list[Item]
    step: str | None = None
    error: BaseException | None = None
    lost: bool = False
    event_type: str | None = None
    due: bool = False

    @classmethod
    def of(cls, row: DeliveryRow, items: Sequence[Item] = ()) -> Work:
        """The delivery of a row.

        :param items: what its message gives, if the row says nothing else.
        """
        given = list(items) if row.items is None else from_json_list(row.items)
        return cls(
            row.id,
            row.origin,
            row.sink,
            row.share,
            row.position,
            row.version,
            row.attempts,
            given,
            row.step,
            due=row.next_at is not None,
        )

    @property
    def goes_on(self) -> bool:
        """Whether it can go on now."""
        return self.error is None and not self.lost


@dataclass(slots=True)
class BatchResult:
    """What became of a batch of messages.

    :ivar received: messages.
    :ivar recorded: new notifications.
    :ivar duplicates: notifications that were recorded before, and done with.
    :ivar resumed: notifications that were recorded before, and not done with.
    :ivar refused: messages that are no notification: dead letters.
    :ivar rejected: events that the store does not take, and what definitions do not fit: dead
        letters, too, but passed on.
    :ivar delivered: deliveries that came to their end, by sink.
    :ivar retried: deliveries that will be tried again, by sink.
    :ivar failed: deliveries that failed for good, by sink: dead letters.
    :ivar seconds: how long each sink took.
    """

    received: int = 0
    recorded: int = 0
    duplicates: int = 0
    resumed: int = 0
    refused: int = 0
    rejected: int = 0
    delivered: dict[str, int] = field(default_factory=dict)
    retried: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def dead_letters(self) -> int:
        """How many dead letters it made, or counted once more."""
        return self.refused + self.rejected + sum(self.failed.values())


def count(counts: dict[str, int], name: str, number: int = 1) -> None:
    """Add to a count by name."""
    if number:
        counts[name] = counts.get(name, 0) + number
