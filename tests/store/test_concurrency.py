"""What two connections do to one row: locks, guards, and who is told that he was second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import select, text, update

import converge
from converge.errors import StaleLock
from converge.model import SYNC_POINT_MOVES, Kind, NodeState
from converge.sql import (
    claimable,
    engines,
    node_moves,
    resource_locks,
    resources,
    schema,
    sync_points,
)
from converge.sql.transaction import Transaction
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.stores import stack_store
from tests.threads import at_once

TEMPLATE = converge.Template.parse(
    "resources: {A: {type: fake}, B: {type: fake}, C: {type: fake, depends_on: [A, B]}}"
)
OTHER = converge.Template.parse("resources: {A: {type: fake, properties: {x: 1}}}")


@pytest.fixture
def shop(store: converge.Store) -> converge.Stack:
    return store.create_stack("shop", TEMPLATE)


def test_the_condition_for_states_is_compiled_once() -> None:
    query = select(schema.sync_point.c.node).where(sync_points.is_in(NodeState.READY))
    assert query._generate_cache_key() is not None


@pytest.fixture
def asker(store: converge.Store) -> int:
    """The id of an engine that lives."""
    return StepEngine(store, {}).id


def test_there_is_nothing_to_claim_for_an_engine_whose_lease_has_ended(
    shop: converge.Stack, clock: FakeClock
) -> None:
    engine = StepEngine(stack_store(shop), FakeWorld().types(), lease=10)
    clock.advance(10)
    assert engine.claim() == []
    assert StepEngine(stack_store(shop), FakeWorld().types()).claim()
    # neither for one that others took for dead, nor for one that is unknown
    with stack_store(shop).transaction() as tx:
        engines.end_engine(tx, engine.id, engines.DEAD)
        assert claimable.lock_ready(tx, engine.id, 1) == []
        assert claimable.lock_ready(tx, engine.id + 1000, 1) == []


def is_sqlite(store: converge.Store) -> bool:
    return store.database.dialect == "sqlite"


def nodes(store: converge.Store) -> dict[str, Any]:
    """The nodes of all traversals, by the names of their resources."""
    table, resource = schema.sync_point, schema.resource
    query = select(table.c.traversal_id, table.c.node, resource.c.name).outerjoin_from(
        table, resource, resource.c.id == table.c.resource_id
    )
    with store.transaction() as tx:
        names = {(one.traversal_id, one.node): one.name or "stack" for one in tx.execute(query)}
        return {names[key]: row for key, row in sync_points.lock_nodes(tx, names).items()}


# -- who is second


def test_two_creates_at_once(store: converge.Store) -> None:
    outcomes: list[Any] = at_once(*[lambda: store.create_stack("shop", TEMPLATE)] * 4)
    conflicts = [one for one in outcomes if isinstance(one, converge.Conflict)]
    started = [one for one in outcomes if isinstance(one, converge.Stack)]
    assert (len(started), len(conflicts)) == (1, 3), outcomes
    assert "exists already" in str(conflicts[0])
    assert len(store.stacks()) == 1


def test_two_updates_at_once_that_expect_the_same(shop: converge.Stack) -> None:
    store = stack_store(shop)
    outcomes: list[Any] = at_once(
        *[lambda: store.update_stack("shop", OTHER, expected=shop.traversal)] * 3
    )
    started = [one for one in outcomes if isinstance(one, converge.Stack)]
    assert [one.superseded for one in started] == [shop.traversal]
    assert [type(one) for one in outcomes if one not in started] == [converge.Conflict] * 2


def test_two_updates_at_once_that_expect_nothing(shop: converge.Stack) -> None:
    store = stack_store(shop)
    outcomes: list[Any] = at_once(*[lambda: store.update_stack("shop", OTHER)] * 3)
    chain = sorted((one.superseded, one.traversal) for one in outcomes)
    assert chain[0][0] == shop.traversal
    assert [left for left, _ in chain[1:]] == [right for _, right in chain[:-1]]
    assert store.stack("shop").traversal == chain[-1][1]


def test_two_first_callers_at_once(store: converge.Store) -> None:
    """The second finds what the first has made: it goes on with that, or takes its place."""
    outcomes: list[Any] = at_once(*[lambda: store.converge_stack("shop", TEMPLATE)] * 4)
    assert sorted(one.outcome for one in outcomes) == ["resumed"] * 3 + ["started"]
    assert {one.traversal for one in outcomes} == {store.stack("shop").traversal}
    first: Any
    second: Any
    first, second = at_once(
        lambda: store.converge_stack("other", TEMPLATE),
        lambda: store.converge_stack("other", OTHER),
    )
    if first.outcome == "superseded":
        first, second = second, first
    assert (first.outcome, second.outcome) == ("started", "superseded")
    assert second.superseded == first.traversal
    assert store.stack("other").traversal == second.traversal
    assert len(store.stacks()) == 2


@pytest.mark.parametrize("hosted", [False, True], ids=["own", "hosted"])
@pytest.mark.parametrize("same", [True, False], ids=["the same", "another"])
def test_a_first_caller_beside_one_that_is_not_committed(
    store: converge.Store, same: bool, hosted: bool
) -> None:
    """The second waits for the first; so it does in a transaction of the host's, whose snapshot
    is from before."""
    host = sqlalchemy.create_engine(store.database.url, connect_args=_patience(store))
    created = threading.Event()
    commit = threading.Event()
    wanted = TEMPLATE if same else OTHER

    def first() -> converge.Stack:
        with store.transaction() as tx:
            stack = store.converge_stack("shop", TEMPLATE, transaction=tx)
            created.set()
            commit.wait(5)
        return stack

    def second() -> converge.Stack:
        created.wait(5)
        threading.Timer(0.2, commit.set).start()
        if not hosted:
            return store.converge_stack("shop", wanted)
        with host.begin() as connection:
            return store.converge_stack("shop", wanted, transaction=connection)

    try:
        results: list[Any] = at_once(first, second)
        one, other = results
    finally:
        host.dispose()
    assert one.outcome == "started"
    assert (other.outcome, other.superseded) == (
        ("resumed", None) if same else ("superseded", one.traversal)
    )
    assert store.stack("shop").traversal == other.traversal
    engine = StepEngine(store, FakeWorld().types())
    engine.run()
    assert store.stack("shop").status == "COMPLETE"


def test_a_create_beside_one_that_is_not_committed(store: converge.Store) -> None:
    """The second waits for the first, and is told."""
    created = threading.Event()
    commit = threading.Event()

    def first() -> None:
        with store.transaction() as tx:
            store.create_stack("shop", TEMPLATE, transaction=tx)
            created.set()
            commit.wait(5)

    def second() -> converge.Stack:
        created.wait(5)
        threading.Timer(0.2, commit.set).start()
        return store.create_stack("shop", TEMPLATE)

    outcomes = at_once(first, second)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], converge.Conflict)


def test_a_create_in_the_hosts_transaction_beside_one_that_is_not_committed(
    store: converge.Store,
) -> None:
    """So it is on a connection that converge did not make, and that stays usable."""
    host = sqlalchemy.create_engine(store.database.url, connect_args=_patience(store))
    created = threading.Event()
    commit = threading.Event()

    def first() -> None:
        with store.transaction() as tx:
            store.create_stack("shop", TEMPLATE, transaction=tx)
            created.set()
            commit.wait(5)

    def second() -> int:
        created.wait(5)
        threading.Timer(0.2, commit.set).start()
        with host.begin() as connection:
            with pytest.raises(converge.Conflict, match="exists already"):
                store.create_stack("shop", TEMPLATE, transaction=connection)
            return int(connection.execute(text("SELECT 1")).scalar_one())

    try:
        assert at_once(first, second) == [None, 1]
    finally:
        host.dispose()


def _patience(store: converge.Store) -> Mapping[str, Any]:
    return {"timeout": 10} if is_sqlite(store) else {}


def test_a_start_on_a_host_whose_snapshot_is_old(store: converge.Store) -> None:
    """A transaction that has read before, under REPEATABLE READ, plans with what is there now."""
    if is_sqlite(store):
        # an old snapshot cannot write there; a transaction that has not read is all there is
        host = sqlalchemy.create_engine(store.database.url)
    else:
        host = sqlalchemy.create_engine(store.database.url, isolation_level="REPEATABLE READ")
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    store.create_stack("shop", TEMPLATE)
    try:
        with host.connect() as connection:
            if store.database.dialect == "mysql":
                connection.execute(text("SELECT COUNT(*) FROM converge_resource"))
            engine.run()
            store.delete_stack("shop", transaction=connection)
            connection.commit()
    finally:
        host.dispose()
    engine.run()
    assert world.names() == []
    assert world.log[:2] == ["create A.0", "create B.0"]
    assert store.stacks() == []


# -- claiming


def test_two_claims_at_once_take_different_nodes(shop: converge.Stack) -> None:
    store = stack_store(shop)
    engines = [StepEngine(store, FakeWorld().types()) for _ in range(4)]
    works: list[Any] = at_once(*[lambda engine=engine: engine.claim() for engine in engines])
    claimed = [work.row.name for found in works for work in found if work.row is not None]
    assert len(claimed) == len(set(claimed))
    # a claim passes over what another one is looking at, so not everyone needs to get one
    assert set(claimed) <= {"A", "B"}
    assert claimed


def test_ready_rows_that_another_transaction_has_are_passed_over(
    shop: converge.Stack, asker: int
) -> None:
    store = stack_store(shop)
    with store.transaction() as tx:
        (first,) = claimable.lock_ready(tx, asker, 1)
        if is_sqlite(store):
            # one writer at a time there
            second = claimable.lock_ready(tx, asker, 10)
            assert [row.node for row in second] == [0, 1]
            return
        with store.transaction() as other:
            (second_row,) = claimable.lock_ready(other, asker, 10)
    assert {first.node, second_row.node} == {0, 1}


def test_ready_rows_come_traversal_by_traversal(
    asker: int, store: converge.Store, clock: FakeClock
) -> None:
    names = ["first", "second", "third"]
    for name, seconds in zip(names, (3, 1, 2), strict=True):
        clock.seconds = seconds
        store.create_stack(name, OTHER)
    by_id = {store.stack(name).traversal or 0: name for name in names}
    _, second, third = sorted(by_id)

    def ready(seconds: float, limit: int = 10, **part: int) -> list[str]:
        clock.seconds = seconds
        with store.transaction() as tx:
            rows = claimable.lock_ready(tx, asker, limit, **part)
            return [by_id[row.traversal_id] for row in rows]

    assert ready(5) == ["first", "second", "third"]
    assert ready(5, limit=2) == ["first", "second"]
    assert ready(5, after=second) == ["second", "third"]
    assert ready(5, before=third) == ["first", "second"]
    assert ready(5, after=second, before=third) == ["second"]
    assert ready(5, lane=1) == []
    # also when the clock has gone back since
    assert ready(0.5) == ["first", "second", "third"]


def test_ready_rows_of_a_traversal_come_in_the_order_in_which_they_became_ready(
    shop: converge.Stack, asker: int
) -> None:
    with stack_store(shop).transaction() as tx:
        assert [row.node for row in claimable.lock_ready(tx, asker, 2)] == [0, 1]
        node = schema.sync_point.c
        tx.execute(update(schema.sync_point).where(node.node == 0).values(ready_at=4e9))
        assert [row.node for row in claimable.lock_ready(tx, asker, 2)] == [1, 0]


def test_the_limit_of_a_claim(shop: converge.Stack, asker: int) -> None:
    with stack_store(shop).transaction() as tx:
        assert len(claimable.lock_ready(tx, asker, 1)) == 1


# -- guarded updates

#: A transaction, a node as a claim or a lock shows it, and the id of its engine.
Claimed = tuple[Transaction, Any, int]


@pytest.fixture
def claimed(shop: converge.Stack) -> Iterator[Claimed]:
    """A transaction, node A as it is after a claim, and the id of the engine that claimed it."""
    store = stack_store(shop)
    engine = StepEngine(store, FakeWorld().types())
    (work,) = engine.claim()
    with store.transaction() as tx:
        yield tx, work.node, engine.id


def put_off(node: Any) -> dict[str, Any]:
    """How a node is put off whose handler waits."""
    key = {"traversal_id": node.traversal_id, "node": node.node, "epoch": node.epoch}
    return key | {"attempts": 0, "pause": 1.0, "seconds": 0.0, "note_id": None}


def test_a_node_is_moved_by_its_engine_only(claimed: Claimed) -> None:
    tx, node, engine_id = claimed
    with pytest.raises(StaleLock):
        node_moves.end_nodes(tx, engine_id + 1, [node], NodeState.DONE)
    with pytest.raises(StaleLock):
        node_moves.requeue_node(tx, engine_id + 1, node, 0)
    with pytest.raises(StaleLock):
        node_moves.put_off_nodes(tx, engine_id + 1, [put_off(node)])
    with pytest.raises(StaleLock):
        node_moves.point_at(tx, engine_id + 1, node, 1)
    node_moves.end_nodes(tx, engine_id, [node], NodeState.DONE)
    with pytest.raises(StaleLock):
        node_moves.end_nodes(tx, engine_id, [node], NodeState.DONE)
    with pytest.raises(StaleLock):
        node_moves.put_off_nodes(tx, engine_id, [put_off(node)])


def test_a_node_is_moved_at_its_epoch_only(claimed: Claimed) -> None:
    tx, node, engine_id = claimed
    node.epoch -= 1
    with pytest.raises(StaleLock):
        node_moves.end_nodes(tx, engine_id, [node], NodeState.DONE)
    with pytest.raises(StaleLock):
        node_moves.requeue_node(tx, engine_id, node, 0)
    with pytest.raises(StaleLock):
        node_moves.put_off_nodes(tx, engine_id, [put_off(node)])
    with pytest.raises(StaleLock):
        node_moves.point_at(tx, engine_id, node, 1)


def test_a_node_is_started_and_blocked_once(shop: converge.Stack, asker: int) -> None:
    with stack_store(shop).transaction() as tx:
        (node,) = claimable.lock_ready(tx, asker, 1)
        node_moves.start_nodes(tx, 1, [node.key])
        with pytest.raises(StaleLock):
            node_moves.start_nodes(tx, 1, [node.key])
        with pytest.raises(StaleLock):
            node_moves.block_nodes(tx, [node.key])


def test_a_node_waits_for_no_more_than_it_does(shop: converge.Stack) -> None:
    store = stack_store(shop)
    node = nodes(store)["C"]
    assert (node.state, node.pending) == (NodeState.WAITING, 2)
    with store.transaction() as tx:
        with pytest.raises(StaleLock):
            node_moves.arrive(tx, {node.key: 3}, {node.key: node})
        node_moves.arrive(tx, {node.key: 2}, {node.key: node})
        with pytest.raises(StaleLock):
            node_moves.arrive(tx, {node.key: 1}, {node.key: node})


def test_a_resource_is_locked_once_and_epochs_grow(claimed: Claimed) -> None:
    tx, node, engine_id = claimed
    assert node.resource_id is not None
    row = resources.lock_resources(tx, [node.resource_id])[node.resource_id]
    assert (row.engine_id, row.epoch) == (engine_id, 1)
    lock = {
        "id": row.id,
        "epoch": row.epoch,
        "action": row.action,
        "status": row.status,
        "type": row.type,
        "requires": [],
    }
    with pytest.raises(StaleLock):
        resource_locks.take_locks(tx, engine_id, [lock])
    resource_locks.release_locks(tx, engine_id, [(row.id, row.epoch, {"reason": "x"})])
    with pytest.raises(StaleLock):
        resource_locks.release_locks(tx, engine_id, [(row.id, row.epoch, {"reason": "x"})])
    with pytest.raises(StaleLock):
        resource_locks.take_locks(tx, engine_id, [lock | {"epoch": 0}])
    resource_locks.take_locks(tx, engine_id, [lock])
    assert resources.lock_resources(tx, [row.id])[row.id].epoch == 2
    resource_locks.free_engine_locks(tx, engine_id, [row.id])
    freed = resources.lock_resources(tx, [row.id])[row.id]
    assert (freed.engine_id, freed.epoch) == (None, 3)


def test_a_resource_is_written_under_its_lock_only(claimed: Claimed) -> None:
    tx, node, engine_id = claimed
    assert node.resource_id is not None
    row = resources.lock_resources(tx, [node.resource_id])[node.resource_id]
    for engine, epoch in ((engine_id + 1, row.epoch), (engine_id, row.epoch + 1)):
        with pytest.raises(StaleLock):
            resource_locks.write_locked(tx, engine, row.id, epoch, row.mark, physical_id="x")
        with pytest.raises(StaleLock):
            resource_locks.release_locks(tx, engine, [(row.id, epoch, {"physical_id": "x"})])
    with pytest.raises(StaleLock):
        resource_locks.write_locked(tx, engine_id, row.id, row.epoch, row.mark + 1, physical_id="x")
    with pytest.raises(StaleLock):
        resource_locks.hold_lock(tx, engine_id, row.id, row.epoch, row.mark + 1)
    row.epoch += 1
    with pytest.raises(StaleLock):
        resource_locks.delete_locked(tx, engine_id, [row])
    row.epoch -= 1
    resource_locks.write_locked(tx, engine_id, row.id, row.epoch, row.mark, physical_id="y")
    assert resources.lock_resources(tx, [row.id])[row.id].physical_id == "y"
    resource_locks.delete_locked(tx, engine_id, [row])
    assert resources.lock_resources(tx, [row.id]) == {}


def test_moves_that_are_not_declared_are_refused(shop: converge.Stack) -> None:
    """Every function that moves a node refuses one that is in no state to be moved so."""
    store = stack_store(shop)
    node = nodes(store)["A"]
    assert node.kind is Kind.UPDATE

    def be(tx: Transaction, state: NodeState) -> None:
        tx.execute(
            update(schema.sync_point)
            .where(
                schema.sync_point.c.traversal_id == node.traversal_id,
                schema.sync_point.c.node == node.node,
            )
            .values(state=state, engine_id=1, epoch=0, unsettled=node.pending)
        )

    moves: dict[NodeState, Callable[[Transaction], object]] = {
        NodeState.RUNNING: lambda tx: node_moves.start_nodes(tx, 1, [node.key]),
        NodeState.BLOCKED: lambda tx: node_moves.block_nodes(tx, [node.key]),
        NodeState.FAILED: lambda tx: node_moves.end_nodes(tx, 1, [node], NodeState.FAILED),
    }
    done: dict[NodeState, Callable[[Transaction], object]] = {
        NodeState.RUNNING: lambda tx: node_moves.end_nodes(tx, 1, [node], NodeState.DONE),
        NodeState.WAITING: lambda tx: node_moves.pass_nodes(tx, NodeState.WAITING, [node.key]),
        NodeState.READY: lambda tx: node_moves.pass_nodes(tx, NodeState.READY, [node.key]),
    }
    with store.transaction() as tx:
        for source in NodeState:
            for fitting, move in done.items():
                be(tx, source)
                if fitting is source:
                    move(tx)
                else:
                    with pytest.raises(StaleLock):
                        move(tx)
        for target, move in moves.items():
            for source in NodeState:
                be(tx, source)
                if target in SYNC_POINT_MOVES[source]:
                    move(tx)
                else:
                    with pytest.raises(StaleLock):
                        move(tx)
        tx.connection.rollback()


def test_engines_that_are_no_more_are_forgotten_after_a_day(
    fresh_store: Callable[..., converge.Store],
) -> None:
    clock = FakeClock()
    store = fresh_store(clock)
    with store.transaction() as tx:
        gone = engines.insert_engine(tx, "host", 1, "?gone", 10)
        engines.end_engine(tx, gone, engines.STOPPED)
        alive = engines.insert_engine(tx, "host", 2, "?alive", 10)
    clock.advance(10 + engines.KEPT)
    with store.transaction() as tx:
        assert engines.delete_old_engines(tx) == 0
        clock.advance(1)
        assert engines.delete_old_engines(tx) == 1
        assert set(engines.get_engines(tx, [gone, alive])) == {alive}
