"""What goes wrong within one operation of one engine: it dies, its connection is cut, the reply
to its commit is lost, or others go on while it stands between two transactions.

All of it happens at the crash points of :mod:`converge.crash_points`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from oslo_db import exception as oslo_exceptions

from converge.crash_points import AFTER_CALL, BEFORE_CALL
from converge.errors import StoreError


class Crash(BaseException):
    """The process of the one who acts is gone."""


class Fault(StrEnum):
    """What happens at a point."""

    #: the process dies there
    CRASH = "crash"
    #: the connection is lost before the commit: nothing of it is left
    CUT = "cut"
    #: the connection is lost after the commit: all of it is there, and nobody was told
    LOST = "lost"
    #: the database refuses the commit, and nothing of it is left
    FULL = "full"
    #: the commit went through, and an error came back that does not say so
    GARBLED = "garbled"
    #: others act before it goes on
    SWITCH = "switch"


class Body:
    """Somebody who acts, and can die: an engine, or a client that starts something."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False


class Faults:
    """The hook of the crash points.

    :param committed: called after each commit.
    :param switch: lets others act.
    :param tell: told of what happens.
    """

    def __init__(
        self,
        committed: Callable[[], None],
        switch: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        self.current: Body | None = None
        self.points: Counter[str] = Counter()
        #: how often each fault struck
        self.struck: Counter[Fault] = Counter()
        self._committed = committed
        self._switch = switch
        self._tell = tell
        self._fault: Fault | None = None
        self._countdown = 0

    def plan(self, fault: Fault, countdown: int) -> None:
        """Let a fault strike at a point that it fits, after so many others of them."""
        self._fault, self._countdown = fault, countdown

    def clear(self) -> None:
        """Forget what did not strike."""
        self._fault = None

    def __call__(self, point: str) -> None:
        """A point is reached."""
        self.points[point] += 1
        if point.endswith(".after_commit"):
            self._committed()
        body = self.current
        if body is None:
            return
        if body.dead:
            # a handler's exceptions are caught, but the dead do not go on
            raise Crash
        fault = self._fault
        if fault is None or not _fits(fault, point):
            return
        self._countdown -= 1
        if self._countdown >= 0:
            return
        self._fault = None
        self.struck[fault] += 1
        self._tell(f"    {fault} at {point}")
        self._strike(fault, body)

    def _strike(self, fault: Fault, body: Body) -> None:
        if fault is Fault.CRASH:
            body.dead = True
            raise Crash
        if fault in (Fault.CUT, Fault.LOST):
            raise oslo_exceptions.DBConnectionError(OSError("the connection is gone"))
        if fault in (Fault.FULL, Fault.GARBLED):
            raise StoreError("the database's disk is full")
        self._switch()
        self.current = body


def _fits(fault: Fault, point: str) -> bool:
    if fault is Fault.CRASH:
        return True
    if fault in (Fault.CUT, Fault.FULL):
        return point.endswith(".before_commit")
    if fault in (Fault.LOST, Fault.GARBLED):
        return point.endswith(".after_commit")
    # no transaction is open there, so another can write
    return point.endswith(".after_commit") or point in (BEFORE_CALL, AFTER_CALL)
