"""Whose turn it is: where an engine's next claim begins.

Within a lane, claims go from traversal to traversal: a claim that one traversal could fill gives
half of its places to those that come after it, if they have anything ready, and the next one begins
after the last that was served. So a traversal with a hundred thousand ready nodes does not hold up
others. Among lanes, those of the highest priority come first; every :data:`SHARE`-th claim begins
with one of the others.

It is pure: what it says depends on what was claimed before, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from converge.bus.hint import Lanes as Named
from converge.model import DEFAULT_QUEUE
from converge.sql.lanes import DEFAULT, Course, Lanes

#: Of so many claims, one begins with a lower priority than the highest that waits.
SHARE = 8
#: Of so many claims that find many nodes, and have room for more, one looks for retries, too; one
#: that finds few always does, as handlers may be slow then, and the next claim is not soon.
RETRIES = 4
FEW = 8
#: While only one traversal has anything ready, so many claims look at it alone.
ALONE = 3


class Node(Protocol):
    """What is ready."""

    traversal_id: int


T = TypeVar("T", bound=Node)


class Ready(Protocol[T]):
    """The nodes of a lane that are ready."""

    def take(self, limit: int, *, after: int = 0, before: int | None = None) -> list[T]:
        """The first of those of traversals from one id on, and before another, by traversal."""

    def find_others(self, traversal_id: int) -> tuple[bool, bool]:
        """Whether there are some of traversals before this one, and after it."""


class Rota:
    """The order in which one engine serves lanes and their traversals.

    :param types: the names of its resource types.
    :param queues: the names of the queues that it serves.
    :ivar lanes: the numbers of the lanes that it can take, in order.
    """

    def __init__(
        self, types: Collection[str] = (), queues: Collection[str] = (DEFAULT_QUEUE,)
    ) -> None:
        self._types = types
        self._queues = queues
        self._courses: Lanes = {}
        self._after: dict[tuple[int, int], int] = {}
        self._alone: dict[tuple[int, int], int] = {}
        self._claims = 0
        self._unfilled = 0
        self._known: Collection[int] = ()
        self.lanes: Sequence[int] = ()
        self.learn({DEFAULT: Course()})

    def learn(self, lanes: Lanes) -> bool:
        """Take note of the lanes that there are.

        :returns: whether there are others than before that it can take.
        """
        mine = {
            number: course
            for number, course in lanes.items()
            if course.suits(self._types, self._queues)
        }
        changed = mine != self._courses
        self._courses = mine
        self._known = frozenset(lanes)
        self.lanes = sorted(mine)
        return changed

    @property
    def lanes_with_rows(self) -> int:
        """How many of the lanes that it has heard of have a row."""
        return len(self._known) - 1

    def may_take(self, lanes: Named) -> bool:
        """Whether it can take nodes of some of these lanes, as far as it knows: those that it has
        not heard of yet, it may. Safe while another thread uses it."""
        if not isinstance(lanes, frozenset):
            return True
        mine, known = self.lanes, self._known
        return any(lane in mine or lane not in known for lane in lanes)

    def course(self, lane: int) -> Course:
        """What the nodes of a lane that it can take have in common."""
        return self._courses[lane]

    def order(self, busy: Collection[int]) -> list[int]:
        """The lanes of one claim, in the order in which they are looked into.

        :param busy: those in which something is ready.
        """
        if len(busy) < 2:
            return list(busy)
        self._claims += 1
        classes: dict[int, list[int]] = {}
        for lane in sorted(busy):
            classes.setdefault(self._courses[lane].priority, []).append(lane)
        ranks = sorted(classes, reverse=True)
        if len(ranks) > 1 and self._claims % SHARE == 0:
            # one of the lower ones, in turn
            lower = 1 + self._claims // SHARE % (len(ranks) - 1)
            ranks.insert(0, ranks.pop(lower))
        found: list[int] = []
        for rank in ranks:
            lanes = classes[rank]
            first = self._claims % len(lanes)
            found += lanes[first:] + lanes[:first]
        return found

    def rank(self, busy: Collection[int]) -> list[int]:
        """These lanes, those of the highest priority first."""
        return sorted(busy, key=lambda lane: (-self._courses[lane].priority, lane))

    def pick(self, lane: int, limit: int, ready: Ready[T], limit_id: int = 0) -> list[T]:
        """The next nodes of a lane; of several traversals, if more than one has some.

        :param limit: so many at most.
        :param ready: what is ready there.
        :param limit_id: the limit that they wait for, which has turns of its own.
        """
        key = (lane, limit_id)
        alone = self._alone.get(key, 0)
        first = 0 if alone else self._after.get(key, 0)
        nodes = ready.take(limit, after=first)
        is_round = first > 0 and not nodes
        if first and len(nodes) < limit:
            nodes += ready.take(limit - len(nodes), before=first)
        if len(nodes) < limit:
            # that is all there is
            self._after.pop(key, None)
            self._alone.pop(key, None)
            return nodes
        one = nodes[0].traversal_id
        is_one = one == nodes[-1].traversal_id
        # all the way round to the one that was served last
        is_alone = is_round and is_one and one == first - 1
        if limit > 1 and is_one and not is_alone and not alone:
            below, above = ready.find_others(one)
            is_alone = not (below or above)
            half = limit // 2
            others = ready.take(half, after=one + 1) if above else []
            if below and len(others) < half:
                others += ready.take(half - len(others), before=one)
            nodes = nodes[: limit - len(others)] + others
        self._after[key] = nodes[-1].traversal_id + 1
        self._alone[key] = ALONE if is_alone else max(0, alone - 1)
        return nodes

    def is_turn_of_retries(self, found: int) -> bool:
        """Whether a claim that has room left is to look for retries, too. There are few, mostly
        none, and the look is not free.

        :param found: how many other nodes it has.
        """
        self._unfilled += 1
        if found >= FEW and self._unfilled < RETRIES:
            return False
        self._unfilled = 0
        return True

    def look_round(self) -> None:
        """Something new may be ready: the next claims look for it."""
        self._alone.clear()
