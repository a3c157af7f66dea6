"""When hints are sent, when an engine looks for work, and when what failed is tried again.

Nothing here waits or looks at a clock: the time is passed in, in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil

#: A random number from 0 to 1.
Random = Callable[[], float]

#: Seconds between two messages of one process: after a pause, and while they follow each other.
INTERVAL = 0.05
LONGEST_INTERVAL = 0.2
#: An idle engine that has found nothing for some time waits up to so many times as long for its
#: next look.
PATIENCE = 4.0
_GROWTH = 1.5
#: Up to so many seconds, or hinted looks that found nothing, to the next hinted one.
_FIRST_PAUSE = 0.01
_MOST_PAUSE = 0.32


class Pace:
    """Lets something happen at once, and then again after an interval. If it happens again as soon
    as it may, the interval becomes longer: whoever is told all the time knows it by now. What is
    urgent never waits for more than the first interval.

    :param first: seconds.
    :param most: the longest interval.
    """

    def __init__(self, first: float = INTERVAL, most: float = LONGEST_INTERVAL) -> None:
        self._first = first
        self._most = most
        self._interval = first
        self._last = float("-inf")

    def wait(self, now: float, *, urgent: bool = False) -> float:
        """Seconds until it may happen again; 0 if it may happen now."""
        return max(0.0, self._last + (self._first if urgent else self._interval) - now)

    def take(self, now: float, *, urgent: bool = False) -> bool:
        """Let it happen now. False: it is too early."""
        if self.wait(now, urgent=urgent):
            return False
        quiet = now - self._last > 2 * self._interval
        self._interval = self._first if quiet else min(2 * self._interval, self._most)
        self._last = now
        return True


class Backoff:
    """How long to wait before the next attempt: each time twice as long, up to a limit. A part of
    it is random, so that many processes do not try at the same time.

    :param first: seconds to the second attempt.
    :param most: the longest wait in seconds.
    :ivar has_failed: whether an attempt has failed since the last success.
    """

    def __init__(self, first: float, most: float, draw: Random = random.random) -> None:
        self._first = first
        self._most = most
        self._draw = draw
        self._wait = first
        self.has_failed = False

    def next(self) -> float:
        """Seconds to wait now."""
        wait, self._wait = self._wait, min(2 * self._wait, self._most)
        self.has_failed = True
        return wait * (0.5 + self._draw() / 2)

    def reset(self) -> None:
        """It has succeeded."""
        self._wait = self._first
        self.has_failed = False


class Looks:
    """When an idle engine looks for work.

    It polls: at first after ``poll`` seconds, and more and more seldom while there is nothing. A
    hint makes it look at once. If others were quicker, and it finds nothing, it lets some hints
    pass, more and more: so many idle engines that hear of the same node do not look for it in vain
    all the time.

    :param poll: seconds.
    """

    def __init__(self, poll: float, draw: Random = random.random) -> None:
        self._poll = poll
        self._draw = draw
        self._wait = poll
        self._pause = 0.0
        self._looked_at = float("-inf")
        self._planned: list[float] = []
        self._times: set[float] = set()
        self._hinted = False

    def found(self, count: int, now: float) -> None:
        """Note how many nodes were claimed in a look that could have claimed some."""
        if count:
            self._wait, self._pause = self._poll, 0.0
        else:
            self._wait = min(_GROWTH * self._wait, PATIENCE * self._poll)
            if self._hinted:
                self._pause = min(max(_FIRST_PAUSE, 2 * self._pause), _MOST_PAUSE)
        self._hinted = False
        self._looked_at = now

    def plan(self, at: float, slack: float = 0.0) -> None:
        """Look at that time, too: something is to be tried again then.

        :param slack: up to so many seconds later will do, so that one look is for many.
        """
        if slack:
            at = ceil(at / slack) * slack
        if at not in self._times:
            self._times.add(at)
            heappush(self._planned, at)

    def next_poll(self, now: float) -> float:
        """When to look if there is no hint."""
        # up to a quarter sooner, so that engines that were started together do not stay together
        at = now + self._wait * (1 - self._draw() / 4)
        while self._planned and self._planned[0] <= now:
            # once: whoever has no free worker then looks when there is one
            self._times.discard(heappop(self._planned))
            at = now
        return min(at, self._planned[0]) if self._planned else at

    def heard(self, now: float) -> float:
        """When to look because of a hint that has come now."""
        self._hinted = True
        return max(now, self._looked_at + self._pause)
