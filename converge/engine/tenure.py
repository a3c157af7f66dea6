"""An engine's work under one lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from converge.engine.core import EngineCore
from converge.lease import Lease
from converge.protocol.decide import Work

#: For so many seconds after the last node of a traversal was here, it counts as one of those that
#: share this engine: of a chain, only one node at a time is here, or none.
_LINGERS = 0.5


class Tenure:
    """The works that an engine claimed under one lease. After the loss of the lease, the engine
    begins a new tenure, with no works."""

    def __init__(self, lease: Lease, core: EngineCore) -> None:
        self.lease = lease
        self.core = core
        # by identity: a node that was claimed, forgotten and claimed again has two works
        self._works: dict[int, Work] = {}
        # when a node of each traversal came or went last, on the monotonic clock
        self._seen: dict[int, float] = {}
        self._lock = threading.Lock()

    def add(self, work: Work) -> None:
        """Add a claimed work, until it has an outcome."""
        self._works[id(work)] = work

    def see(self, works: Iterable[Work]) -> None:
        """These works come or go now."""
        ids = {work.traversal.id for work in works}
        now = time.monotonic()
        with self._lock:
            self._seen.update(dict.fromkeys(ids, now))

    def discard(self, work: Work) -> None:
        """Remove a work: it has an outcome, or this engine does not hold it."""
        self._works.pop(id(work), None)

    def works(self) -> list[Work]:
        """The works that have no outcome yet."""
        return list(self._works.values())

    @property
    def count(self) -> int:
        """How many claimed nodes have no outcome yet."""
        return len(self._works)

    @property
    def is_shared(self) -> bool:
        """Whether several traversals have nodes here, or had a moment ago."""
        since = time.monotonic() - _LINGERS
        with self._lock:
            self._seen = {id_: at for id_, at in self._seen.items() if at > since}
            if len(self._seen) > 1:
                return True
        works = self.works()
        return any(work.traversal.id != works[0].traversal.id for work in works)

    @property
    def is_over(self) -> bool:
        """Whether the lease is lost."""
        return self.lease.lost.is_set()
