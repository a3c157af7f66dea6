"""One engine of a simulation: what it has in hand, and what it does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from converge import ResourceType, Store
from converge.engine.core import EngineCore
from converge.model import Kind
from converge.protocol.work import HANDLED, Outcome, Result, Work
from converge.sql.sync_points import Key
from converge.testing import StepEngine, label
from tests.simulation.faults import Body

#: How many written outcomes are kept to be delivered again.
_KEPT = 8


class Actor(Body):
    """An engine, under one id after the other.

    :ivar expires: when it believes its lease to end.
    :ivar paused: it does nothing, as a stopped process does.
    :ivar deceived: the database has forgotten something, and it does not know that yet.
    :ivar todo: works whose handlers were not called yet, or have not come to their effect.
    :ivar outcomes: what is to be written.
    :ivar sent: what was written already.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.engine: StepEngine | None = None
        self.expires = 0.0
        self.paused = False
        self.deceived = False
        self.todo: list[Work] = []
        self.outcomes: list[Outcome] = []
        self.sent: list[Outcome] = []

    @property
    def core(self) -> EngineCore:
        """Its dealings with the database."""
        assert self.engine is not None
        return self.engine.core

    @property
    def id(self) -> int:
        """Its id in the database, 0 if it never had one."""
        return 0 if self.engine is None else self.engine.id

    @property
    def mark(self) -> int:
        """That of its registration."""
        return 0 if self.engine is None else self.core.mark

    def register(
        self, store: Store, types: Mapping[str, ResourceType], lease: float, now: float
    ) -> None:
        """Begin, with nothing in hand."""
        self.todo, self.outcomes, self.sent = [], [], []
        self.deceived = False
        self.engine = StepEngine(store, types, lease=lease)
        self.expires = now + lease

    def turn(self, outcomes: Sequence[Outcome], limit: int) -> list[Work]:
        """Write outcomes and claim nodes, as an engine does: in doubt, look first what it holds.

        :raises StoreError: what was not written is kept by the session.
        :raises StaleLock: the database has forgotten this engine.
        """
        core = self.core
        core.outbox.put(outcomes)
        given = {id(outcome) for outcome in outcomes}
        self.outcomes = [one for one in self.outcomes if id(one) not in given]
        if core.doubtful:
            gone = core.reconcile([*self.todo, *(one.work for one in self.outcomes)])
            self.deceived = False
            self.todo = [work for work in self.todo if work not in gone]
            self.outcomes = [one for one in self.outcomes if one.work not in gone]
        works = core.turn((), limit)
        self.sent = [*self.sent, *outcomes][-_KEPT:]
        self.todo.extend(works)
        return works

    def in_hand(self) -> set[Key]:
        """The nodes that it knows it holds."""
        waiting = [] if self.engine is None else self.core.outbox.all()
        outcomes = [*self.outcomes, *waiting]
        return {one.node.key for one in (*self.todo, *(outcome.work for outcome in outcomes))}

    def call(self, work: Work) -> Outcome:
        """Call a work's handler."""
        self.todo.remove(work)
        assert self.engine is not None
        outcome = self.engine.call(work)
        self.outcomes.append(outcome)
        return outcome

    def give_up(self, work: Work) -> Outcome:
        """Expect nothing more of a handler that was called and does not come back."""
        self.todo.remove(work)
        outcome = self.core.timed_out(work, 5.0)
        self.outcomes.append(outcome)
        return outcome

    def hand_back(self, random: Random) -> Outcome | None:
        """Leave a work to other engines: one whose handler was not called, or whose handler was
        interrupted and has perhaps done something."""
        failed = [one for one in self.outcomes if one.result in (Result.RETRY, Result.FAILED)]
        failed = [one for one in failed if one.work.decision.operation in HANDLED]
        handled = [work for work in self.todo if work.decision.operation in HANDLED]
        if failed and random.random() < 0.5:
            interrupted = random.choice(failed)
            self.outcomes.remove(interrupted)
            outcome = Outcome(interrupted.work, Result.HANDED_BACK, started=True)
        elif handled:
            work = random.choice(handled)
            self.todo.remove(work)
            outcome = Outcome(work, Result.HANDED_BACK)
        else:
            return None
        self.outcomes.append(outcome)
        return outcome


def describe(work: Work) -> str:
    """A work in few words: ``3.1 update A create``."""
    number, node = work.node.key
    if work.node.kind is Kind.STACK:
        return f"{number}.{node} stack"
    return f"{number}.{node} {label(work)} {work.decision.operation}"


def describe_outcome(outcome: Outcome) -> str:
    """An outcome in few words: ``3.1 update A create DONE``."""
    return f"{describe(outcome.work)} {outcome.result}"
