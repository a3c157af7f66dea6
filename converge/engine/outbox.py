"""Outcomes that are not written to the database yet.

They stay here until they are written or refused, so an outage loses none. The outcomes of a stack
whose rows are locked, such as by a host that started it in a transaction and leaves that open, wait
until the rows are free; all others are written meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from converge.protocol.work import Outcome
from converge.sql.sync_points import Key

#: Seconds between two looks whether a stack's rows are free.
LOOK = 0.25


class Outbox:
    """The outcomes of one engine that are not written yet, in the order in which they came."""

    def __init__(self) -> None:
        self._outcomes: dict[int, Outcome] = {}
        # the stacks whose rows are locked
        self._locked: set[int] = set()
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._outcomes)

    def put(self, outcomes: Iterable[Outcome]) -> None:
        """Add outcomes. Safe to repeat: one that is here already keeps its place."""
        for outcome in outcomes:
            self._outcomes.setdefault(id(outcome), outcome)

    def remove(self, outcomes: Iterable[Outcome]) -> None:
        """Remove outcomes that are written or refused."""
        for outcome in outcomes:
            self._outcomes.pop(id(outcome), None)

    def keep(self, keys: Iterable[Key]) -> None:
        """Drop the outcomes of all other nodes."""
        kept = set(keys)
        self.remove([one for one in self._outcomes.values() if one.work.node.key not in kept])

    def all(self) -> list[Outcome]:
        """All outcomes."""
        return list(self._outcomes.values())

    def free(self) -> list[Outcome]:
        """The outcomes whose stack is not known to be locked."""
        if not self._locked:
            return self.all()
        return [one for one in self._outcomes.values() if stack_of(one) not in self._locked]

    # -- stacks that are locked

    def hold(self, stack_ids: Iterable[int]) -> None:
        """Note that the rows of these stacks are locked."""
        self._locked.update(stack_ids)
        self._look_at = time.monotonic() + LOOK

    def stacks_to_check(self) -> list[int]:
        """The locked stacks, if it is time to look whether they are free."""
        if not self._locked or time.monotonic() < self._look_at:
            return []
        # a stack without outcomes needs no look
        self._locked &= {stack_of(one) for one in self._outcomes.values()}
        self._look_at = time.monotonic() + LOOK
        return sorted(self._locked)

    def release(self, stack_ids: Iterable[int]) -> None:
        """Note that the rows of these stacks are free again."""
        self._locked.difference_update(stack_ids)


def first_of(outcomes: Sequence[Outcome], most: int | None) -> Sequence[Outcome]:
    """So many of these outcomes at most; None: all. Those of the stacks that have the fewest come
    first, so that none waits for all that another has here."""
    if most is None or len(outcomes) <= most:
        return outcomes
    counts = Counter(map(stack_of, outcomes))
    return sorted(outcomes, key=lambda one: counts[stack_of(one)])[:most]


def stack_of(outcome: Outcome) -> int:
    """The id of the stack that an outcome is about."""
    return outcome.work.traversal.stack_id
