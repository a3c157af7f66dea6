"""Rates: how many nodes of a limit start in a time. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from converge.errors import BadInput
from converge.sql.limits import LimitRow

#: So many starts of a limit are remembered one by one; of more, those in this part of its time
#: count as if they were the last of these.
GRAIN = 64
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_RATE = re.compile(r"([0-9]{1,9})/([0-9]{1,6}(?:\.[0-9]{1,3})?)?(s|min|h)")
#: The most places, and the most starts.
MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """So many starts in so many seconds, in whichever of these one looks."""

    count: int
    seconds: float

    def stamp(self, now: float) -> float:
        """As when a start counts."""
        if self.count <= GRAIN:
            return now
        grain = self.seconds / GRAIN
        return (now // grain + 1) * grain

    def recent(self, starts: Iterable[Sequence[float]], now: float) -> list[list[float]]:
        """Those of the last starts that count: each as the time and how many."""
        # a clock that was set back must not keep it closed for longer
        last = self.stamp(now)
        found = [[min(at, last), count] for at, count in starts]
        return [one for one in found if one[0] + self.seconds > now]

    def left(self, recent: Iterable[Sequence[float]]) -> int:
        """How many may start now."""
        return max(0, self.count - int(sum(count for _, count in recent)))

    def add(self, recent: list[list[float]], now: float, count: int) -> list[list[float]]:
        """The last starts, with some more."""
        at = self.stamp(now)
        if recent and recent[-1][0] == at:
            return [*recent[:-1], [at, recent[-1][1] + count]]
        return [*recent, [at, count]] if count else recent

    def open_at(self, recent: Sequence[Sequence[float]]) -> float:
        """Before when there is none; 0 if there may be one now."""
        return 0.0 if self.left(recent) else min(at for at, _ in recent) + self.seconds


def parse_rate(text: object) -> tuple[int, float]:
    """The starts and seconds of a rate: ``10/s``, ``100/min``, ``5/h``, ``3/10s``.

    :raises BadInput: it is none.
    """
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise BadInput(f"a rate is written as 10/s, 100/min, 5/h or 3/10s, not as {text!r}")
    count, seconds = int(found[1]), float(found[2] or 1) * _UNITS[found[3]]
    if not 1 <= count <= MOST or not 0.1 <= seconds <= 86_400.0:
        raise BadInput(f"a rate has 1 to {MOST:,} starts in 0.1 s to 24 h, not as in {text!r}")
    return count, seconds


def rate_of(row: LimitRow) -> Rate | None:
    """A limit's rate; None: it has none."""
    if row.rate_count is None or row.rate_seconds is None:
        return None
    return Rate(row.rate_count, row.rate_seconds)


def tell_rate(row: LimitRow) -> str | None:
    """A limit's rate, as it is written."""
    rate = rate_of(row)
    if rate is None:
        return None
    for unit, seconds in reversed(_UNITS.items()):
        if rate.seconds == seconds:
            return f"{rate.count}/{unit}"
    return f"{rate.count}/{rate.seconds:g}s"
