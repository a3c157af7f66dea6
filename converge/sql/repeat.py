"""Running a transaction again that failed for a reason that passes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from converge.sql.faults import is_locked, is_transient

T = TypeVar("T")

#: How often a transaction is run again after a deadlock or the like.
RETRIES = 10
#: Seconds for which a transaction is run again that others keep from its rows: they hold locks, or
#: were first to commit, as on the nodes of a Galera cluster.
LOCK_PATIENCE = 60.0


def repeat(
    once: Callable[[], T],
    is_safe: Callable[[BaseException], bool],
    *,
    wait_for_locks: bool = True,
) -> T:
    """Call a function until it succeeds, with at most RETRIES more calls, in about 5 s.

    :param is_safe: whether it may be called again after this error.
    :param wait_for_locks: while others keep it from its rows, call it again, any number of times,
        for LOCK_PATIENCE seconds; otherwise not again after it waited for locked rows.
    """
    left = RETRIES
    end = time.monotonic() + LOCK_PATIENCE
    wait = 0.02
    while True:
        try:
            return once()
        except Exception as error:
            left -= 1
            more = left >= 0
            if wait_for_locks and is_transient(error):
                more = more or time.monotonic() < end
            elif is_locked(error):
                more = False
            if not (more and is_safe(error)):
                raise
        # random, so that two transactions do not collide again
        _pause(wait * random.uniform(0.5, 1.5))
        wait = min(2 * wait, 1.0)


# tests replace it, so as not to wait
_pause = time.sleep
