"""When a batch is full: by count or by time, whichever comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from converge.errors import BadInput
from converge.model import check_seconds

T = TypeVar("T")

#: The most messages of a batch.
MOST = 10_000


@dataclass(frozen=True, slots=True)
class Batching:
    """How messages are gathered.

    :ivar most: messages of a batch.
    :ivar wait: seconds that the first message of a batch waits for others, at most.
    """

    most: int = 100
    wait: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.most, bool) or not 1 <= self.most <= MOST:
            raise BadInput(f"a batch has 1 to {MOST:,} messages, not {self.most!r}")
        check_seconds("the wait of a batch", self.wait)


def gather(
    receive: Callable[[float], T | None],
    batching: Batching,
    now: Callable[[], float],
    *,
    idle: float = 1.0,
    stopped: Callable[[], bool] = lambda: False,
) -> list[T]:
    """Receive a batch. The first message never waits for others longer than it should.

    :param receive: returns the next message, or None if none came within so many seconds.
    :param now: seconds, from any start.
    :param idle: seconds that a first message is waited for.
    :param stopped: whether to hand on at once what there is.
    :returns: empty, if no message came.
    """
    first = receive(idle)
    if first is None:
        return []
    batch, end = [first], now() + batching.wait
    while len(batch) < batching.most and not stopped():
        left = end - now()
        if left <= 0:
            break
        one = receive(left)
        if one is None:
            break
        batch.append(one)
    return batch
