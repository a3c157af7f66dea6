"""An engine's time under one lease."""

from __future__ import annotations

from converge.engine.core import EngineCore
from converge.lease import Lease
from converge.protocol.decide import Work


class Tenure:
    """What an engine has under one lease. After its loss there is another, with nothing of it."""

    def __init__(self, lease: Lease, core: EngineCore) -> None:
        self.lease = lease
        self.core = core
        # by identity: of a node that was claimed, forgotten, and claimed again there are two
        self._hand: dict[int, Work] = {}

    def take(self, work: Work) -> None:
        """It is in hand, until it has an outcome."""
        self._hand[id(work)] = work

    def put_down(self, work: Work) -> None:
        """It is not in hand any more."""
        self._hand.pop(id(work), None)

    def in_hand(self) -> list[Work]:
        """The works that have no outcome yet."""
        return list(self._hand.values())

    @property
    def is_over(self) -> bool:
        """Whether the lease is lost."""
        return self.lease.lost.is_set()
