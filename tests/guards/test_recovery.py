"""Guards of recovery: what dead engines and lost wake-ups leave.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import update

import converge
from converge.engine.core import EngineCore
from converge.model import NodeState, TraversalStatus
from converge.process import process_identity
from converge.protocol import recover
from converge.sql import engines, node_moves, schema, sync_points, traversals
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.guards.tools import LEASE, lose, names, state
from tests.templates import template


@pytest.fixture
def suspects(
    store: converge.Store, clock: FakeClock, engine: Callable[..., StepEngine]
) -> StepEngine:
    """An engine, for which two nodes are ready on which engines died, and then two others."""
    store.create_stack("s", template(a=[], b=[]))
    for _ in range(2):
        assert len(engine(LEASE).claim(2)) == 2
        lose(store, clock)
    clock.advance(1)
    store.create_stack("t", template(c=[], d=[]))
    return engine()


def test_nodes_on_which_engines_died_are_in_hand_one_at_a_time(suspects: StepEngine) -> None:
    first = suspects.claim(4)
    assert names(first) == ["a", "c", "d"]
    assert suspects.claim(4) == []
    suspects.write(*map(suspects.call, first))
    assert names(suspects.claim(4)) == ["b"]


def test_nodes_that_are_put_off_do_not_keep_others_from_their_turn(suspects: StepEngine) -> None:
    assert names(suspects.claim(1)) == ["a"]
    assert names(suspects.claim(2)) == ["c", "d"]


def test_a_dead_engine_is_recovered_to_the_last_of_its_nodes(
    store: converge.Store,
    clock: FakeClock,
    engine: Callable[..., StepEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recover, "BATCH", 2)
    store.create_stack("s", template(a=[], b=[], c=[], d=[], e=[]))
    assert len(engine(LEASE).claim(5)) == 5
    clock.advance(LEASE)
    found = recover.sweep(store.database)
    assert (found.engines, found.nodes) == (1, 5)
    assert len(engine().claim(10)) == 5


def test_an_attempt_in_which_the_engine_died_is_not_a_failed_one(
    store: converge.Store, clock: FakeClock, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    stack = store.create_stack("s", template(a=[]))
    for _ in range(2):
        engine(LEASE).claim()
        lose(store, clock)
    world.fail("create a")
    engine(attempts=2, first=0).run()
    assert stack.refresh().status == "COMPLETE"


def test_a_process_of_this_host_that_is_gone_needs_no_lease_to_end(
    store: converge.Store, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    host, pid, started = process_identity().rsplit("/", 2)
    with store.transaction() as tx:
        gone = engines.insert_engine(tx, "h", int(pid), f"{host}/{pid}/{int(started) + 1}", 1e6)
    assert len(EngineCore(store.database, gone, world.types()).turn([], 1)) == 1
    assert engine().claim() == []
    assert recover.sweep(store.database).engines == 1
    assert len(engine().claim()) == 1


def test_nodes_of_an_engine_that_is_no_more_are_found(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    stray = engine()
    stray.claim()
    with store.transaction() as tx:
        engines.end_engine(tx, stray.id, engines.DEAD)
    found = recover.sweep(store.database)
    assert (found.engines, found.nodes) == (0, 1)
    # its lease may still last
    assert stray.claim() == []
    assert len(engine().claim()) == 1


def test_a_retry_that_is_due_gets_its_turn_among_what_is_no_retry(
    store: converge.Store, clock: FakeClock, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    world.fail("create a")
    one = engine(attempts=2, first=5)
    store.create_stack("s", template(a=[]))
    one.step()
    store.create_stack("t", template(b=[], c=[]))
    assert not recover.sweep(store.database)
    clock.advance(5)
    store.create_stack("u", template(d=[]))
    assert names(one.claim()) == ["b"]
    recover.sweep(store.database)
    # stacks take turns, and a is in one that is older
    assert sorted(names(one.claim(2))) == ["a", "d"]


def test_a_lost_wake_up_is_made_good_and_one_that_is_not_due_is_not(
    store: converge.Store, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a={"properties": {"x": 1}}))
    slow, other = engine(), engine()
    outcome = slow.call(*slow.claim())
    stack = store.update_stack("s", template(a={"properties": {"x": 2}}))
    assert other.claim() == []
    assert recover.sweep(store.database).unblocked == 0
    with store.transaction() as tx:
        # nobody will know that a node waits for this
        tx.execute(update(schema.resource).values(blocking=False))
    slow.write(outcome)
    assert other.claim() == []
    assert recover.sweep(store.database).unblocked == 1
    other.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.properties() == {"a.0": {"x": 2}}


def test_only_what_is_blocked_is_unblocked(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    (work,) = engine().claim()
    with store.transaction() as tx:
        assert node_moves.unblock_nodes(tx, [work.node.key]) == 0
        assert node_moves.unblock(tx, [work.node.resource_id or 0]) == 0
    assert state(store, work) is NodeState.RUNNING


def test_leftovers_go_but_for_what_somebody_works_on(
    store: converge.Store, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    first = store.create_stack("s", template(a=[], b=[]))
    one = engine()
    outcome = one.call(*one.claim())
    store.update_stack("s", template(a=[]))
    assert recover.sweep(store.database).leftovers == 0
    with store.transaction() as tx:
        (key,) = (
            row.key
            for row in sync_points.lock_traversal_nodes(tx, first.traversal or 0, list(NodeState))
        )
        assert key == outcome.work.node.key
    one.write(outcome)
    one.run()
    assert world.log == ["create a.0"]
    done = store.create_stack("t", template(a=[], b=["a"])).traversal
    with store.transaction() as tx:
        traversals.end_traversal(tx, done or 0, TraversalStatus.COMPLETE, None)
    assert recover.sweep(store.database).leftovers == 3
