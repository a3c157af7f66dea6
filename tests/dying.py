"""Death in this process: what a crash point raises where the process would have ended.

``tests/crash`` has that of whole processes, by SIGKILL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from converge import crash_points


class Died(BaseException):
    """As if the process ended here: no code that catches exceptions catches it."""


class Reaper:
    """Counts the crash points that are reached, and kills whoever reaches one of them.

    :param point: its name; None kills nobody.
    :param hit: at which time that it is reached.
    :param kill: how; it does not return. None: :class:`Died` is raised.
    :ivar trace: the points in their order.
    """

    def __init__(
        self,
        point: str | None = None,
        hit: int = 1,
        kill: Callable[[], None] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.trace: list[str] = []
        self.dying = False
        self.point = point
        self.hit = hit
        self.kill = kill

    def __call__(self, name: str) -> None:
        if self.dying:
            # the dead do nothing more, whatever their code would catch
            raise Died(name)
        self.counts[name] += 1
        self.trace.append(name)
        if name == self.point and self.counts[name] == self.hit:
            self.dying = True
            if self.kill is not None:
                self.kill()
            raise Died(name)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Be the hook for the length of a block."""
        before, crash_points.hook = crash_points.hook, self
        try:
            yield
        finally:
            crash_points.hook = before


def die_at(point: str, act: Callable[[], object]) -> None:
    """Do something in a process that ends at this point."""
    with Reaper(point).watching(), pytest.raises(Died):
        act()
