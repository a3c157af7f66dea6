"""The claim window: how many nodes an engine holds at a time, for how many it looks, and for how
long it waits for outcomes."""

from __future__ import annotations

import math

#: The most nodes that an engine holds at a time.
WINDOW = 1000
#: The most outcomes that it writes, and the most nodes that it claims, in one transaction: who has
#: just started a stack waits for it.
WRITTEN = CLAIMED = 256
#: For how many seconds of the workers' time nodes are claimed ahead.
AHEAD = 0.25
#: The same while several stacks have nodes here, and the most that it holds of them then: what one
#: has made ready is to be claimed, called and written soon, not after all that others have here.
AHEAD_SHARED = 0.05
WINDOW_SHARED = 64
#: For how many nodes there is always room then, while handlers are quick.
ROOM_SHARED = 32
#: Seconds that a node takes at most where many are waited for before they are written: less than a
#: transaction. With threads that compute, a handler that does nothing takes some of them.
QUICK = 0.005
#: Seconds that an engine waits for the next of several handlers that are quick, and for which their
#: outcomes are gathered at most.
BRIEF = 0.005
GATHERED = 0.05
#: The most nodes that an engine holds while others are alive: what it holds, they cannot take.
WINDOW_BESIDE = 192
#: Of the latest node in the moving average of what a node takes: it rises quickly when handlers
#: become slow, and falls slowly.
_RISE = 0.5
_FALL = 0.05


class Window:
    """How many nodes to hold: many while handlers are fast, as commits take most of the time; few
    while they are slow, to leave other engines their share.

    :param workers: how many handlers are called at a time; the window is never smaller.
    :ivar seconds: how long a node keeps a worker busy on average; 0 for one without a handler.
    :ivar is_shared: several stacks have nodes here.
    :ivar is_beside: other engines are alive.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seconds = AHEAD
        self.is_shared = False
        self.is_beside = False
        self._claimed_first = False

    def add(self, seconds: float) -> None:
        """Take a finished node into the average.

        :param seconds: that its handler took; 0 if it has none.
        """
        weight = _RISE if seconds > self.seconds else _FALL
        self.seconds += weight * (seconds - self.seconds)

    def narrow(self) -> None:
        """A handler is running for longer than :data:`AHEAD`."""
        self.seconds = max(self.seconds, AHEAD)

    @property
    def size(self) -> int:
        """How many nodes to hold."""
        ahead, most = (AHEAD_SHARED, WINDOW_SHARED) if self.is_shared else (AHEAD, WINDOW)
        if self.is_beside:
            most = min(most, WINDOW_BESIDE)
        soon = int(self.workers * ahead / max(self.seconds, 1e-6))
        return max(self.workers, min(soon, most))

    @property
    def most_written(self) -> int:
        """How many outcomes to write in one transaction."""
        return WINDOW_SHARED if self.is_shared else WRITTEN

    @property
    def is_wide(self) -> bool:
        """Whether more nodes are held than there are workers: handlers are quick."""
        return self.size > self.workers

    @property
    def is_quick(self) -> bool:
        """Whether it is worth to wait for what is held, to write it all at once."""
        return self.seconds < QUICK

    def room(self, held: int, unwritten: int = 0) -> int:
        """How many more nodes to claim.

        :param held: how many are held whose handlers have not returned.
        :param unwritten: how many have returned, and are not written.
        """
        room = self.size - held - unwritten
        if self.is_shared and held + unwritten < 2 * WINDOW:
            # what is ready may be another stack's, and not to wait for all that is to be written
            room = max(room, min(self.size, ROOM_SHARED) if self.is_wide else self.size - held)
        return max(0, min(room, CLAIMED))

    def claims_first(self, is_news: bool, room: int) -> bool:
        """Whether the next transaction only claims, as a stack that has just started is not to wait
        for what others have to be written; never two of them, so that these do not wait either.

        :param is_news: something is ready that may be another stack's.
        :param room: how many nodes it may claim.
        """
        self._claimed_first = is_news and room > 0 and not self._claimed_first
        return self._claimed_first

    def least(self) -> int:
        """From how many nodes on a transaction that only claims is worth its cost."""
        return max(1, min(CLAIMED, self.size // 4) if self.size > 4 * self.workers else 1)


class Gathering:
    """Until when a turn waits for outcomes, so that many are written at once. Times are seconds on
    any one clock.

    Quick handlers of one stack are waited for as long as one after another returns, and for
    :data:`GATHERED` at most: a transaction of many costs little more than one of few. Of several
    stacks, they are waited for briefly: one may be that of the small stack.

    :param now: when it begins.
    :param until: when the turn is to look for work if nothing returns; None: it has something to
        write.
    :param running: handlers are queued or running.
    :ivar end: until when to wait; None: take what is there.
    """

    def __init__(self, window: Window, now: float, until: float | None, *, running: bool) -> None:
        self._window = window
        self._first = now
        self._count = 0
        self._is_brief = window.is_shared and window.is_wide
        self._until = math.inf if until is None else until
        self.end = until
        if until is None and running and (self._is_brief or window.is_quick):
            self._until = self.end = now + BRIEF

    def stop(self) -> None:
        """Do not wait any longer."""
        self.end = None

    def hurry(self, at: float) -> None:
        """Wait until then at most."""
        self._until = min(self._until, at)
        if self.end is not None:
            self.end = self._until

    def add(self, now: float, held: int) -> None:
        """A handler has returned.

        :param held: how many had not when this began.
        """
        self._count += 1
        is_all = self._count >= held
        if self._window.is_quick and not self._window.is_shared:
            if self._count == 1:
                self._first = now
            self._until = now + BRIEF
            waits = self._until < self._first + GATHERED
        else:
            self._until = min(self._until, self._first + BRIEF)
            waits = self._is_brief
        self.end = self._until if waits and not is_all else None


#: How many nodes are looked at, at least, for one whose handler is ``async def``.
_AHEAD = 8


class Ahead:
    """How many nodes to look at beyond those for threads, as their handlers may be ``async def``.

    :param most: how many of these handlers run at once; 0: no type has any.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._look = most

    def room(self, held: int) -> int:
        """How many to look at.

        :param held: how many of these handlers run.
        """
        return max(0, min(self.most - held, self._look))

    def found(self, taken: int, passed: int, room: int) -> bool:
        """A claim took so many of them, and left so many for which there was no thread: then it is
        not worth to look at many more.

        :returns: whether to claim again at once: there may be more.
        """
        self._look = max(_AHEAD, 2 * taken) if passed else self.most
        return 0 < room <= taken
