"""Work that is done a little at a time, round after round, by whoever comes by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from converge.sql.faults import Locked

T = TypeVar("T")


class Rounds(Generic[T]):
    """Rounds through all that there is, with a pause after each.

    :param begin: begins a round; it gives what was done after each transaction.
    :param most: how many transactions a step has at most.
    :param pause: seconds between the end of a round and the next one.
    """

    def __init__(self, begin: Callable[[], Iterator[T]], most: int, pause: float) -> None:
        self._begin = begin
        self._most = most
        self._pause = pause
        self._round: Iterator[T] | None = None
        #: When the next round begins, on the monotonic clock.
        self.due = 0.0

    def step(self) -> list[T]:
        """Do a little, if it is time: each call goes on where the one before ended.

        :returns: what was done; nothing if another transaction has locked the rows.
        :raises StoreError: the database cannot be used.
        """
        if self._round is None:
            if time.monotonic() < self.due:
                return []
            self._round = self._begin()
        # the round after an error begins anew
        going, self._round = self._round, None
        try:
            done = list(islice(going, self._most))
        except Locked:
            return []
        if len(done) == self._most:
            self._round = going
        else:
            self.due = time.monotonic() + self._pause
        return done
