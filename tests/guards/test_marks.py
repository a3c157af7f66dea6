"""Guards against ids of nodes and engines that come again, after a database has forgotten its
last seconds; test_marks_of_actions.py and test_marks_of_scopes.py have the others.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

import converge
from converge.engine.core import EngineCore
from converge.errors import NotFound, StaleLock
from converge.model import NodeState
from converge.protocol import complete as completing
from converge.protocol import recover
from converge.sql import engines, schema
from converge.testing import FakeWorld, StepEngine
from tests.guards.tools import LEASE, change, state
from tests.templates import template


def test_a_completion_leaves_out_what_another_claim_has_taken(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    one = engine()
    (work,) = one.claim()
    outcome = one.call(work)
    change(store, schema.sync_point, mark=work.node.mark + 1)
    with store.transaction() as tx:
        assert completing.complete(tx, one.id, [outcome]) == [outcome]
    assert state(store, work) is NodeState.RUNNING


def test_a_completion_leaves_out_a_resource_that_another_claim_has_locked(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    one = engine()
    (work,) = one.claim()
    outcome = one.call(work)
    change(store, schema.resource, mark=work.node.mark + 1)
    with store.transaction() as tx:
        assert completing.complete(tx, one.id, [outcome]) == [outcome]
    assert state(store, work) is NodeState.RUNNING


def test_a_physical_id_is_not_recorded_for_another_claim(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    one = engine()
    (work,) = one.claim()
    context = one.core.context(work)
    assert context is not None
    context.record("mine")
    change(store, schema.resource, mark=work.node.mark + 1)
    with pytest.raises(StaleLock):
        context.record("late")
    with pytest.raises(StaleLock):
        context.step("one", int)


def test_nothing_is_claimed_under_an_id_that_is_another_engines(
    store: converge.Store, world: FakeWorld
) -> None:
    store.create_stack("s", template(a=[]))
    with store.transaction() as tx:
        id_ = engines.insert_engine(tx, "h", 1, "p", LEASE, mark=7)
    assert EngineCore(store.database, id_, world.types(), 8).turn((), 1) == []
    assert len(EngineCore(store.database, id_, world.types(), 7).turn((), 1)) == 1


def test_who_leaves_ends_nobody_else_with_its_id(store: converge.Store, world: FakeWorld) -> None:
    store.create_stack("s", template(a=[]))
    with store.transaction() as tx:
        id_ = engines.insert_engine(tx, "h", 1, "p", LEASE, mark=7)
    (work,) = EngineCore(store.database, id_, world.types(), 7).turn((), 1)
    with store.transaction() as tx:
        recover.leave(tx, id_, 8)
    assert state(store, work) is NodeState.RUNNING
    with store.transaction() as tx:
        assert engines.is_alive(tx, id_)
        recover.leave(tx, id_, 7)
    assert state(store, work) is NodeState.READY
    with store.transaction() as tx:
        assert not engines.is_alive(tx, id_)


def test_who_is_not_registered_any_more_finds_out_when_it_compares(
    store: converge.Store, world: FakeWorld
) -> None:
    with store.transaction() as tx:
        id_ = engines.insert_engine(tx, "h", 1, "p", LEASE, mark=7)
    assert EngineCore(store.database, id_, world.types(), 7).reconcile(()) == []
    with pytest.raises(StaleLock, match="no longer registered"):
        EngineCore(store.database, id_, world.types(), 8).reconcile(())


def test_what_the_rows_do_not_know_is_found_and_dropped(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[], b=[], c=[]))
    one = engine()
    first, second, third = sorted(one.claim(3), key=lambda work: work.node.node)
    one.core.outbox.put([one.call(third)])
    held = schema.sync_point.c.state == NodeState.RUNNING
    node = schema.sync_point.c.node
    with store.transaction() as tx:
        # taken anew under the same numbers, with nobody who knows of it
        other = update(schema.sync_point).where(held, node == first.node.node)
        tx.execute(other.values(mark=first.node.mark + 1))
        free = update(schema.sync_point).where(held, node != first.node.node)
        tx.execute(free.values(state=NodeState.READY, engine_id=None))
    assert one.core.reconcile([first, second]) == [first, second]
    assert state(store, first) is NodeState.READY
    assert len(one.core.outbox) == 0


class Seen(converge.ResourceType):
    def __init__(self) -> None:
        self.stacks: list[str] = []

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self.stacks.append(context.stack)

    def delete(self, context: converge.Context, physical_id: str) -> None: ...


def test_a_handler_is_not_told_what_was_known_of_another_traversal_of_that_id(
    store: converge.Store,
) -> None:
    seen = Seen()
    one = StepEngine(store, {"fake": seen})
    store.create_stack("s", template(a=[], b=[]))
    one.step()
    # the same ids, and all else is another stack's
    change(store, schema.stack, name="t")
    change(store, schema.traversal, mark=1)
    change(store, schema.sync_point, mark=1)
    one.step()
    assert seen.stacks == ["s", "t"]


@pytest.mark.parametrize("what", ["stack", "traversal"])
def test_the_handle_of_a_stack_does_not_become_another(store: converge.Store, what: str) -> None:
    stack = store.create_stack("s", template(a=[]))
    change(store, getattr(schema, what), mark=1)
    with pytest.raises(NotFound, match="is no longer in the database"):
        stack.refresh()


def test_a_token_is_not_that_of_another_traversal_with_its_id(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    one = engine()
    store.create_stack("s", template(a={"properties": {"n": 1}}))
    one.run()
    store.update_stack("s", template(a={"properties": {"n": 2}}))
    (work,) = one.claim()
    context = one.core.context(work)
    work.traversal = replace(work.traversal, mark=work.traversal.mark + 1)
    other = one.core.context(work)
    assert context is not None
    assert other is not None
    assert context.token != other.token


# -- actions of machines ------------------------------------------------------
