"""Lanes: nodes that the same engines can take, at one priority.

A node has the number of its lane, which the index of claims has, too. Most nodes are in the lane
:data:`DEFAULT`, which has no row: those of the default queue, at priority 0, whose types every
engine has, as far as engines have noticed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from converge import formats
from converge.model import DEFAULT_QUEUE
from converge.sql.batch import InsertMany, types_of
from converge.sql.schema import lane
from converge.sql.transaction import Transaction
from converge.sql.types import LANE_TYPES_LENGTH

#: The number of the lane of all that is nothing special.
DEFAULT = 0
#: A format above the first is written as one more type, of a name that none can have: so engines
#: that know of no formats leave the lane alone, too.
_FORMAT = " format "


@dataclass(frozen=True, slots=True)
class Course:
    """What the nodes of a lane have in common.

    :ivar queue: the name of the queue that their engines serve.
    :ivar types: names of resource types that their engines have, and others have not; sorted.
    :ivar priority: those of a higher one come first.
    :ivar format: that their engines understand; see :mod:`converge.formats`.
    """

    queue: str = DEFAULT_QUEUE
    types: tuple[str, ...] = ()
    priority: int = 0
    format: int = formats.FIRST

    @property
    def is_storable(self) -> bool:
        """Whether the names of its types are not too long for a row."""
        return len(_join(self)) <= LANE_TYPES_LENGTH

    def suits(
        self, types: Collection[str], queues: Collection[str], format_: int | None = None
    ) -> bool:
        """Whether an engine that has these types and serves these queues can take the nodes.

        :param format_: the highest format that it understands; None: that of this converge.
        """
        known = formats.KNOWN if format_ is None else format_
        return (
            self.format <= known
            and self.queue in queues
            and all(one in types for one in self.types)
        )


#: Lanes by number.
Lanes = dict[int, Course]

_NORMAL = Course()
_INSERT = InsertMany(
    lane,
    types_of(lane, "queue", "types", "priority"),
    lambda row, now: row,
    skip_existing=True,
)


def list_lanes(tx: Transaction) -> Lanes:
    """All lanes. There are few: of what queues, priorities and special types there ever were."""
    return {DEFAULT: _NORMAL, **_read(tx)}


def take_lanes(tx: Transaction, courses: Iterable[Course]) -> dict[Course, int]:
    """The numbers of these lanes. Those that do not exist yet are made."""
    wanted = set(courses)
    numbers = {_NORMAL: DEFAULT}
    if wanted <= numbers.keys():
        return numbers
    numbers |= {course: number for number, course in list_lanes(tx).items()}
    missing = [
        {"queue": one.queue, "types": _join(one), "priority": one.priority}
        for one in sorted(wanted - numbers.keys(), key=lambda one: (one.queue, one.types))
    ]
    if missing:
        _INSERT.execute(tx, missing)
        numbers |= {course: number for number, course in _read(tx, newest=True).items()}
    return {one: numbers[one] for one in wanted}


def _read(tx: Transaction, *, newest: bool = False) -> Lanes:
    """The lanes that have a row.

    :param newest: also those that are newer than a host's snapshot.
    """
    query = select(lane.c.id, lane.c.queue, lane.c.types, lane.c.priority)
    rows: Any = tx.execute(query.with_for_update() if newest else query).all()
    return {id_: _course(queue, types, priority) for id_, queue, types, priority in rows}


def _join(course: Course) -> str:
    own = [] if course.format == formats.FIRST else [f"{_FORMAT}{course.format}"]
    return "\n".join([*course.types, *own])


def _course(queue: str, types: str, priority: int) -> Course:
    names = types.split("\n") if types else []
    known = tuple(one for one in names if not one.startswith(_FORMAT))
    found = [int(one.removeprefix(_FORMAT)) for one in names if one.startswith(_FORMAT)]
    return Course(queue, known, priority, max(found, default=formats.FIRST))
