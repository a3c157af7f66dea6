"""An engine's work under one lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from converge.bus.hint import Stacks
from converge.engine.core import EngineCore
from converge.lease import Lease
from converge.protocol.work import Operation, Work

#: For so many seconds after the last node of a stack was here, it counts as one of those that share
#: this engine: of a chain, only one node at a time is here, or none. Not if the node was the end of
#: its traversal.
_LINGERS = 0.5


class Tenure:
    """The works that an engine claimed under one lease. After the loss of the lease, the engine
    begins a new tenure, with no works."""

    def __init__(self, lease: Lease, core: EngineCore) -> None:
        self.lease = lease
        self.core = core
        # by identity: a node that was claimed, forgotten and claimed again has two works
        self._works: dict[int, Work] = {}
        # when a node of each stack came or went last, on the monotonic clock
        self._seen: dict[int, float] = {}
        self._lock = threading.Lock()
        self._async: set[int] = set()

    def add(self, work: Work, *, is_async: bool = False) -> None:
        """Add a claimed work, until it has an outcome.

        :param is_async: it needs no thread.
        """
        self._works[id(work)] = work
        if is_async:
            self._async.add(id(work))

    def see(self, works: Iterable[Work]) -> None:
        """These works come or go now."""
        now = time.monotonic()
        # a later one of the same stack counts
        found = {
            work.traversal.stack_id: work.decision.operation is Operation.FINISH for work in works
        }
        with self._lock:
            for stack_id, is_end in found.items():
                if is_end:
                    self._seen.pop(stack_id, None)
                else:
                    self._seen[stack_id] = now

    def see_stacks(self, ids: Iterable[int]) -> None:
        """Nodes of these stacks are passed over now."""
        now = time.monotonic()
        with self._lock:
            self._seen.update(dict.fromkeys(ids, now))

    def discard(self, work: Work) -> None:
        """Remove a work: it has an outcome, or this engine does not hold it."""
        self._works.pop(id(work), None)
        self._async.discard(id(work))

    def works(self) -> list[Work]:
        """The works that have no outcome yet."""
        return list(self._works.values())

    @property
    def count(self) -> int:
        """How many claimed nodes have no outcome yet, without those of :attr:`async_count`."""
        return len(self._works) - len(self._async)

    @property
    def async_count(self) -> int:
        """How many claimed nodes have no outcome yet whose handlers are ``async def``."""
        return len(self._async)

    @property
    def is_shared(self) -> bool:
        """Whether several stacks have nodes here, or had a moment ago."""
        since = time.monotonic() - _LINGERS
        with self._lock:
            self._seen = {id_: at for id_, at in self._seen.items() if at > since}
            if len(self._seen) > 1:
                return True
        works = self.works()
        return any(work.traversal.stack_id != works[0].traversal.stack_id for work in works)

    def has_all(self, stacks: Stacks) -> bool:
        """Whether this engine has worked on all of these stacks a moment ago."""
        with self._lock:
            return isinstance(stacks, frozenset) and stacks <= self._seen.keys()

    @property
    def is_over(self) -> bool:
        """Whether the lease is lost."""
        return self.lease.lost.is_set()
