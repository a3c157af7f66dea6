"""Whose turn it is: where an engine's next claim begins.

Within a lane, claims go from traversal to traversal: each takes up to as many nodes as the engine
has room for, and the next begins after the last traversal that was served. So a traversal with a
hundred thousand ready nodes gets one claim, and then the others get theirs. Among lanes, those of
the highest priority come first; every :data:`SHARE`-th claim begins with one of the others.

It is pure: what it says depends on what was claimed before, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from converge.model import DEFAULT_QUEUE
from converge.sql.lanes import DEFAULT, Course, Lanes

#: Of so many claims, one begins with a lower priority than the highest that waits.
SHARE = 8
#: While only one traversal has anything ready, so many claims look at it alone.
ALONE = 3


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
        self._after: dict[int, int] = {}
        self._alone: dict[int, int] = {}
        self._claims = 0
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
        self.lanes = sorted(mine)
        return changed

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

    def after(self, lane: int) -> int:
        """The id of the first traversal that is looked at in a lane."""
        return 0 if self._alone.get(lane) else self._after.get(lane, 0)

    def note(self, lane: int, found: Sequence[int], again: Sequence[int], *, filled: bool) -> None:
        """Take note of what a claim found in a lane.

        :param found: the traversals of its nodes, in order.
        :param again: the same for those from before where it began, if it looked there.
        :param filled: whether it found as many nodes as it was to take.
        """
        if not filled:
            self._after.pop(lane, None)
            self._alone.pop(lane, None)
            return
        if self._alone.get(lane):
            self._alone[lane] -= 1
            return
        if again and not found and again[0] == self._after[lane] - 1:
            # all the way round to the one that was served last
            self._alone[lane] = ALONE
        self._after[lane] = (again or found)[-1] + 1
