"""What a large stack on the same engine costs a small one, in turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

import converge
from converge.bus.hint import ANY, NONE
from converge.engine import tenure as tenure_module
from converge.engine.tenure import Tenure
from converge.protocol.work import Operation, Outcome, Result, Work
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.templates import several

WORKERS = 8


def turn(engine: StepEngine, works: list[Work], limit: int = WORKERS) -> list[Work]:
    """Call the handlers of these works, write what came of it, and claim again."""
    return engine.core.turn([engine.call(work) for work in works], limit)


def held_of(works: list[Work], stack: str) -> list[Work]:
    return [work for work in works if work.traversal.stack == stack]


def test_the_next_node_of_a_chain_is_claimed_in_the_turn_that_makes_it_ready(
    store: converge.Store,
) -> None:
    engine = StepEngine(store, FakeWorld().types())
    store.create_stack("large", several("fake", 200))
    # while it is alone, claims look for others more seldom
    works = engine.core.turn([], WORKERS)
    for _ in range(2):
        works = turn(engine, works)
    small = store.create_stack("small", several("fake", 4, chain=True))
    engine.core.look_round()
    works = turn(engine, works)
    turns = 0
    while small.refresh().status == "IN_PROGRESS":
        slow = held_of(works, "small")
        assert slow, f"after {turns} turns, another stack's nodes are in front"
        # meanwhile the other is alone again
        works = turn(engine, held_of(works, "large"))
        works = turn(engine, works + slow)
        turns += 1
    assert (small.status, turns) == ("COMPLETE", 5)
    assert held_of(works, "large")


def test_the_outcomes_of_whoever_has_fewest_are_written_first(store: converge.Store) -> None:
    engine = StepEngine(store, FakeWorld().types())
    store.create_stack("large", several("fake", 20))
    works = engine.core.turn([], 20)
    small = store.create_stack("small", several("fake", 1))
    engine.core.look_round()
    works += engine.core.turn([], 20)
    assert len(held_of(works, "large")) == 20
    assert len(held_of(works, "small")) == 1
    (last,) = engine.core.turn([engine.call(work) for work in works], 1, most=3)
    assert last.decision.operation is Operation.FINISH
    assert len(engine.core.outbox) == 18
    # none is written by a turn that only claims
    store.create_stack("other", several("fake", 1))
    engine.core.look_round()
    assert held_of(engine.core.turn([], 2, most=0), "other")
    assert len(engine.core.outbox) == 18
    engine.write(Outcome(last, Result.DONE))
    assert small.refresh().status == "COMPLETE"
    # without a limit, all are written
    engine.core.turn([], 0)
    assert not engine.core.outbox


def test_a_stack_shares_an_engine_for_a_moment_longer_than_its_nodes_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(tenure_module, "time", SimpleNamespace(monotonic=clock))
    tenure = Tenure(cast(Any, None), cast(Any, None))

    def come(number: int, operation: Operation = Operation.CREATE) -> Work:
        traversal, decision = SimpleNamespace(stack_id=number), SimpleNamespace(operation=operation)
        work = cast(Work, SimpleNamespace(traversal=traversal, decision=decision))
        tenure.see([work])
        tenure.add(work)
        return work

    come(1)
    come(1)
    assert not tenure.is_shared
    # what a hint about stacks may change: only if it is about another
    assert [tenure.has_all(one) for one in (NONE, frozenset({1}), frozenset({1, 2}), ANY)] == [
        True,
        True,
        False,
        False,
    ]
    other = come(2)
    assert tenure.is_shared
    # as long as a node is there
    clock.advance(60)
    assert tenure.is_shared
    tenure.see([other])
    tenure.discard(other)
    come(1)
    assert tenure.is_shared
    clock.advance(0.6)
    assert not tenure.is_shared
    # a stack whose traversal is over is not waited for
    for operation in (Operation.CREATE, Operation.FINISH):
        work = come(3, operation)
        assert tenure.is_shared
        tenure.discard(work)
    assert not tenure.is_shared
