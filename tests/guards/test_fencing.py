"""Guards of a node's work: whose it is, and at which claim.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import update

import converge
from converge.errors import StaleLock
from converge.model import NodeState, TraversalStatus
from converge.protocol import complete as completing
from converge.protocol.replace import replace
from converge.protocol.work import Outcome, Result
from converge.sql import resource_locks, schema, traversals
from converge.sql.transaction import Transaction
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.guards.tools import LEASE, lose, state
from tests.templates import template


def test_a_completion_leaves_out_what_is_not_this_engines_or_of_an_earlier_claim(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    """Also where no resource is locked, whose epoch would tell as well."""
    store.create_stack("s", template(a=[]))
    one, other = engine(), engine()
    one.run()
    store.update_stack("s", template(a={"properties": {"x": 1}}))
    one.run(until="update a")
    (work,) = one.claim()
    assert not work.locked
    outcome = one.call(work)
    with store.transaction() as tx:
        assert completing.complete(tx, other.id, [outcome]) == [outcome]
    one.core.reconcile(())
    (again,) = one.claim()
    assert (again.node.key, again.node.epoch) == (work.node.key, work.node.epoch + 1)
    # the marks of two claims differ, too; here the epoch alone is to tell
    with store.transaction() as tx:
        tx.execute(update(schema.sync_point).values(mark=work.node.mark))
    with store.transaction() as tx:
        assert completing.complete(tx, one.id, [outcome]) == [outcome]
    assert state(store, work) is NodeState.RUNNING


def test_a_completion_leaves_out_what_lost_its_resource_and_writes_the_rest(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[], b=[]))
    one = engine()
    works = one.claim(2)
    lost, kept = (one.call(work) for work in works)
    assert works[0].row is not None
    with store.transaction() as tx:
        resource_locks.free_engine_locks(tx, one.id, [works[0].row.id])
        assert completing.complete(tx, one.id, [lost, kept]) == [lost]
    assert [state(store, work) for work in works] == [NodeState.RUNNING, NodeState.DONE]


def test_a_late_failure_does_not_halt_what_another_engine_does(
    store: converge.Store, clock: FakeClock, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    stack = store.create_stack("s", template(a=[]))
    late, other = engine(LEASE), engine()
    world.fail("create a")
    failure = late.call(*late.claim())
    assert failure.result is Result.FAILED
    lose(store, clock)
    works = other.claim()
    late.write(failure)
    assert stack.refresh().status == "IN_PROGRESS"
    other.write(*map(other.call, works))
    other.run()
    assert stack.refresh().status == "COMPLETE"


def test_a_late_replacement_is_refused_before_it_is_made(
    store: converge.Store, clock: FakeClock, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a={"properties": {"replace": 1}}))
    late, other = engine(LEASE), engine()
    other.run()
    store.update_stack("s", template(a={"properties": {"replace": 2}}))
    outcome = late.call(*late.claim())
    assert outcome.result is Result.REPLACE
    lose(store, clock)
    works = other.claim()
    with (
        store.transaction() as tx,
        pytest.raises(StaleLock, match="no longer holds the replacement of 'a'"),
    ):
        replace(tx, late.id, outcome.work)
    other.write(*map(other.call, works))
    other.run()
    assert list(store.show("s")["resources"]) == ["a"]


def test_a_late_end_is_refused(
    store: converge.Store, clock: FakeClock, engine: Callable[..., StepEngine]
) -> None:
    stack = store.create_stack("s", template(a=[]))
    late, other = engine(LEASE), engine()
    other.run(until="update a")
    outcome = late.call(*late.claim())
    lose(store, clock)
    works = other.claim()
    late.write(outcome)
    assert stack.refresh().status == "IN_PROGRESS"
    other.write(*map(other.call, works))
    assert stack.refresh().status == "COMPLETE"


def test_a_late_end_does_not_look_for_a_version_that_is_gone(
    store: converge.Store, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    """The rollback that it would start goes nowhere any more."""
    bodies = [template(a={"properties": {"size": size}}) for size in (1, 2)]
    late, other = engine(), engine()
    store.create_stack("s", bodies[0])
    store.update_stack("s", bodies[1], on_failure="rollback")
    world.fail("create a")
    late.step()
    outcome = late.call(*late.claim())
    store.delete_stack("s")
    other.run()
    late.write(outcome)
    assert store.stacks() == []


def test_a_halted_traversal_starts_nothing_that_was_ready(
    store: converge.Store, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    stack = store.create_stack("s", template(a=[], b=[], c=[]))
    one, slow, other = engine(), engine(), engine()
    world.fail("create a")
    failure = one.call(*one.claim())
    works = slow.claim()
    one.write(failure)
    assert other.claim() == []
    slow.write(*map(slow.call, works))
    other.run()
    assert stack.refresh().status == "FAILED"
    assert world.names() == ["b.0"]


def test_a_traversal_ends_once(store: converge.Store) -> None:
    old = store.create_stack("s", template(a=[])).traversal
    store.update_stack("s", template(b=[]))
    assert old is not None
    with store.transaction() as tx:
        with pytest.raises(StaleLock, match="over already"):
            traversals.end_traversal(tx, old, TraversalStatus.COMPLETE, None)
        tx.connection.rollback()


def test_the_recovery_of_a_node_that_is_to_be_skipped_leaves_anothers_lock_alone(
    store: converge.Store, clock: FakeClock, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    """A node that is skipped needs no lock, and an older traversal may have it."""
    both: dict[str, Any] = {"a": {"properties": {"x": 1}}, "b": {"depends_on": "a"}}
    stack = store.create_stack("s", template(**both))
    one, slow, dying = engine(), engine(), engine(LEASE)
    one.run()
    both["b"]["properties"] = {"x": 2}
    store.update_stack("s", template(**both))
    (held,) = slow.claim()
    both["a"]["properties"] = {"x": 3}
    world.fail("update a")
    store.update_stack("s", template(**both), on_failure="continue")
    one.run(until="update a")
    (skipped,) = dying.claim()
    assert skipped.node.resource_id == held.node.resource_id
    lose(store, clock)
    with store.transaction() as tx:
        (lock,) = resource_locks.lock_states(tx, [held.node.resource_id or 0]).values()
    assert lock.engine_id == slow.id
    slow.write(slow.call(held))
    one.run()
    assert stack.refresh().status == "FAILED"
    assert world.properties()["b.0"] == {"x": 2}


def test_a_node_that_was_not_begun_is_handed_back_as_it_was(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    one = engine()
    store.create_stack("s", template(a=[]))
    one.run()
    store.update_stack("s", template(a={"properties": {"x": 1}}))
    for _ in range(3):
        (work,) = one.claim()
        assert work.node.attempts == 1
        assert store.show("s")["resources"]["a"]["status"] == "IN_PROGRESS"
        one.write(Outcome(work, Result.HANDED_BACK))
        assert store.show("s")["resources"]["a"]["status"] == "COMPLETE"


def test_a_node_that_was_begun_is_handed_back_as_begun(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    one = engine()
    store.create_stack("s", template(a=[]))
    one.run()
    store.update_stack("s", template(a={"properties": {"x": 1}}))
    one.write(Outcome(one.claim()[0], Result.HANDED_BACK, started=True))
    assert store.show("s")["resources"]["a"]["status"] == "WAITING"
    # that was no attempt
    assert one.claim()[0].node.attempts == 1


def test_who_reconciles_keeps_what_is_in_hand(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[], b=[]))
    one = engine()
    kept, let_go = one.claim(2)
    one.core.reconcile([kept])
    assert (state(store, kept), state(store, let_go)) == (NodeState.RUNNING, NodeState.READY)


def test_who_reconciles_lets_go_of_a_later_claim_that_was_lost(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    one = engine()
    (known,) = one.claim()
    # handed back and claimed again, in a commit of which nothing was heard
    again = one.core.turn([Outcome(known, Result.HANDED_BACK)], 1)
    assert [work.node.key for work in again] == [known.node.key]
    one.core.reconcile([known])
    assert state(store, known) == NodeState.READY


def test_a_group_that_cannot_be_written_is_written_one_by_one(
    store: converge.Store, engine: Callable[..., StepEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_stack("s", template(a=[], b=[]))
    one = engine()
    outcomes = [one.call(work) for work in one.claim(2)]
    complete = completing.complete

    def hurt(
        tx: Transaction, engine_id: int, group: Sequence[Outcome], *most: int
    ) -> list[Outcome]:
        if len(group) > 1:
            raise StaleLock("a row moved between two statements")
        return complete(tx, engine_id, group, *most)

    monkeypatch.setattr("converge.engine.core.complete", hurt)
    one.write(*outcomes)
    assert {state(store, outcome.work) for outcome in outcomes} == {NodeState.DONE}
