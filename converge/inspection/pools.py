"""Which engines that are alive could take a node, in words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from converge import formats
from converge.model import DEFAULT_QUEUE
from converge.sql import engines
from converge.sql.gauges import count_ready_in
from converge.sql.lanes import DEFAULT, Course, list_lanes
from converge.sql.transaction import Transaction


class Pools:
    """The engines that are alive, and what each can take. They are read when first asked for."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    @cached_property
    def lanes(self) -> Mapping[int, Course]:
        """The lanes that there are."""
        return list_lanes(self._tx)

    @cached_property
    def _alive(self) -> list[engines.EngineRow]:
        rows = engines.list_alive(self._tx)
        return [row for row in rows if row.role == engines.ENGINE]

    @property
    def alive(self) -> int:
        """How many engines are alive."""
        return len(self._alive)

    def course(self, lane: int) -> Course:
        """What an engine must have for a lane."""
        return self.lanes.get(lane, self.lanes[DEFAULT])

    def count(self, lane: int) -> int:
        """How many of the engines that are alive can take the nodes of a lane."""
        return sum(_suits(self.course(lane), row) for row in self._alive)

    def tell_wait(self, lane: int) -> str:
        """What a node of a lane waits for, in words."""
        course, count = self.course(lane), self.count(lane)
        what = "waits for an engine"
        others = count or course.format > formats.FIRST
        if course.queue != DEFAULT_QUEUE or (self.alive and not course.types and not others):
            what += f" of queue {course.queue!r}"
        if course.types:
            names = " and ".join(map(repr, course.types))
            what += f" with type{'s' if len(course.types) > 1 else ''} {names}"
        if course.format > formats.FIRST:
            what += f" that knows format {course.format}"
        return f"{what}; {count or 'none'} {'is' if count < 2 else 'are'} alive"


def count_stranded(tx: Transaction, limit: int) -> int:
    """How many READY nodes no engine can take that is alive, up to the limit."""
    pools = Pools(tx)
    return count_ready_in(tx, [lane for lane in pools.lanes if not pools.count(lane)], limit)


def _suits(course: Course, row: engines.EngineRow) -> bool:
    # an engine of an earlier version does not say what it has, and looks at all
    types = course.types if row.types is None else row.types
    queues = [course.queue] if row.queues is None else row.queues
    return course.suits(types, queues, row.format)
