"""Room: how many handlers of each kind an engine can still call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from converge.protocol.settings import is_external
from converge.protocol.work import HANDLED, Operation, Work
from converge.resources.resource_type import METHODS, ResourceType, is_async

_METHODS = {
    Operation.UPDATE: "update",
    Operation.DELETE: "delete",
    Operation.CHECK: "check",
    Operation.READ: "read",
}


def is_async_work(work: Work, types: Mapping[str, ResourceType]) -> bool:
    """Whether the handler that a work needs is ``async def``."""
    operation = work.decision.operation
    if operation not in HANDLED or work.type_name not in types:
        return False
    method = _METHODS.get(operation, "create")
    if operation is Operation.CHECK and work.row is not None and is_external(work.row.settings):
        method = "read"
    return is_async(types[work.type_name], method)


def has_async(types: Mapping[str, ResourceType]) -> bool:
    """Whether any of these types has a handler that is ``async def``."""
    return any(is_async(one, method) for one in types.values() for method in METHODS)


class Room:
    """What one claim may take.

    :ivar threads: how many works for threads.
    :ivar loop: how many whose handlers are ``async def``.
    :ivar passed: how many works the last claim saw and left, as there are no threads for them.
    """

    def __init__(self, threads: int, loop: int, types: Mapping[str, ResourceType]) -> None:
        self.threads = threads
        self.loop = loop
        self.passed = 0
        self._types = types

    @property
    def total(self) -> int:
        """How many nodes to look at."""
        return self.threads + self.loop

    def fit(self, works: Sequence[Work]) -> list[Work]:
        """Those for which there is room, in their order; the others stay READY."""
        threads, loop, self.passed = self.threads, self.loop, 0
        fitting = []
        for work in works:
            if work.decision.operation not in HANDLED:
                fitting.append(work)
            elif is_async_work(work, self._types):
                if loop > 0:
                    fitting.append(work)
                loop -= 1
            elif threads > 0:
                fitting.append(work)
                threads -= 1
            else:
                self.passed += 1
        return fitting
