"""An engine's work under one lease."""

from __future__ import annotations

from converge.engine.core import EngineCore
from converge.lease import Lease
from converge.protocol.decide import Work


class Tenure:
    """The works that an engine claimed under one lease. After the loss of the lease, the engine
    begins a new tenure, with no works."""

    def __init__(self, lease: Lease, core: EngineCore) -> None:
        self.lease = lease
        self.core = core
        # by identity: a node that was claimed, forgotten and claimed again has two works
        self._works: dict[int, Work] = {}

    def add(self, work: Work) -> None:
        """Add a claimed work, until it has an outcome."""
        self._works[id(work)] = work

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
        """Whether several traversals have nodes here."""
        works = self.works()
        return any(work.traversal.id != works[0].traversal.id for work in works)

    @property
    def is_over(self) -> bool:
        """Whether the lease is lost."""
        return self.lease.lost.is_set()
