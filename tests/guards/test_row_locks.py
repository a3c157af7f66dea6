"""Guards of the rows: what is locked, and in which order.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import pytest
import sqlalchemy
from sqlalchemy import Select, event, select
from sqlalchemy.dialects import postgresql

import converge
from converge.crash_points import Commit
from converge.errors import StoreError
from converge.protocol import recover
from converge.protocol.work import Work
from converge.sql import (
    claimable,
    engines,
    resource_locks,
    resources,
    schema,
    stacks,
    survey,
    sync_points,
)
from converge.sql.database import Database, repeatable
from converge.sql.transaction import Transaction
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.guards.tools import LEASE, SERVERS, is_sqlite, lose
from tests.templates import template

Lock = Callable[[Transaction, Work], object]
LOCKS: dict[str, tuple[str, Lock]] = {
    "nodes": ("sync_point", lambda tx, work: sync_points.lock_nodes(tx, [work.node.key])),
    "a traversal's nodes": (
        "sync_point",
        lambda tx, work: sync_points.lock_traversal_nodes(tx, work.traversal.id, sync_points.LIVE),
    ),
    "an engine's nodes": (
        "sync_point",
        lambda tx, work: sync_points.list_engine_nodes(tx, _engine_id(tx), 10),
    ),
    "resources": ("resource", lambda tx, work: resources.lock_resources(tx, [_resource(work)])),
    "states of resources": (
        "resource",
        lambda tx, work: resource_locks.lock_states(tx, [_resource(work)]),
    ),
    "a stack's resources": (
        "resource",
        lambda tx, work: resources.list_resources(tx, work.traversal.stack_id, lock=True),
    ),
    "resources that an engine holds": (
        "resource",
        lambda tx, work: survey.lock_held(tx, work.traversal.stack_id),
    ),
    "a stack": ("stack", lambda tx, work: stacks.lock_stack(tx, "s")),
    "a stack by its id": (
        "stack",
        lambda tx, work: stacks.lock_stack_by_id(tx, work.traversal.stack_id),
    ),
}


def _engine_id(tx: Transaction) -> int:
    return engines.list_engines(tx)[0].id


def _resource(work: Work) -> int:
    assert work.node.resource_id is not None
    return work.node.resource_id


@pytest.mark.parametrize("what", LOCKS)
def test_what_is_locked_no_other_transaction_gets(
    store: converge.Store, engine: Callable[..., StepEngine], what: str
) -> None:
    store.create_stack("s", template(a=[]))
    (work,) = engine().claim()
    table, lock = LOCKS[what]
    key = next(iter(schema.metadata.tables[schema.PREFIX + table].primary_key))
    with store.transaction() as tx:
        lock(tx, work)
        if is_sqlite(store):
            # one writer at a time there, which it is from its beginning
            other = sqlalchemy.create_engine(store.database.url, connect_args={"timeout": 0})
            with other.connect() as connection, pytest.raises(Exception, match="locked"):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            other.dispose()
            return
        with store.transaction() as second:
            everything = second.execute(select(key)).all()
            left = second.execute(select(key).with_for_update(skip_locked=True)).all()
    assert len(left) < len(everything)


@SERVERS
def test_a_start_waits_for_who_writes_a_resource_that_an_engine_holds(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    (work,) = engine().claim()
    # what still makes it is superseded
    store.update_stack("s", template(a=[], b=[]))
    with store.transaction() as writer:
        resources.lock_resources(writer, [_resource(work)])
        with pytest.raises(StoreError, match=r"limit|too long"), store.transaction(limit=1) as tx:
            store.update_stack("s", template(b=[]), transaction=tx)
    with store.transaction(limit=1) as tx:
        store.update_stack("s", template(b=[]), transaction=tx)


@SERVERS
def test_nobody_waits_for_ready_nodes_or_dead_engines_that_another_one_looks_at(
    store: converge.Store, clock: FakeClock, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[], b=[]))
    asker = engine()
    dead = [engine(LEASE).id for _ in range(2)]
    clock.advance(LEASE)
    other = Database(store.database.url, clock=clock)
    with store.transaction() as tx, other.transaction() as second:
        if other.dialect == "postgresql":
            second.connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
        else:
            second.connection.exec_driver_sql("SET innodb_lock_wait_timeout = 1")
        taken = claimable.lock_ready(tx, asker.id, 1)
        left = claimable.lock_ready(second, asker.id, 10)
        assert [len(taken), len(left)] == [1, 1]
        assert engines.list_expired(tx, 10) == dead
        assert engines.lock_expired(tx, dead[0])
        assert not engines.lock_expired(second, dead[0])
        assert engines.lock_expired(second, dead[1])
        # and one that lives is locked by neither
        assert not engines.lock_expired(second, asker.id)
    other.close()


class Locked:
    """The locking statements of each transaction, in order, as PostgreSQL would be told."""

    RANKS = ("converge_stack", "converge_sync_point", "converge_resource")
    #: Of the successors of nodes: sync points after resources.
    SUCCESSORS = 3
    ORDERS = (
        "",
        # the sum says that no index is meant
        r" ORDER BY converge_sync_point.traversal_id( \+ \S+)?, converge_sync_point.node",
        r" ORDER BY converge_resource.id",
    )

    def __init__(self) -> None:
        self.transactions: list[list[tuple[str, list[int]]]] = [[]]

    def begin(self, connection: object) -> None:
        self.transactions.append([])

    def execute(
        self,
        connection: object,
        statement: object,
        many: object,
        parameters: Mapping[str, object],
        *rest: object,
    ) -> None:
        if isinstance(statement, Select):
            compiled = statement.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
            text = " ".join(str(compiled).split())
            if " FOR UPDATE" in text:
                # a list, or on PostgreSQL the text of an array
                values = (compiled.params | parameters).values()
                given = [str(one) for one in values if str(one)[0] in "[{"]
                numbers = [int(one) for one in re.findall(r"-?\d+", " ".join(given))]
                self.transactions[-1].append((text, numbers))

    def check(self) -> set[tuple[int, ...]]:
        """Every lock that is waited for is in its place; which ranks there were together."""
        found = set()
        for statements in self.transactions:
            ranks: list[int] = []
            nodes: list[int] = []
            for text, numbers in statements:
                table = text.partition(" FROM ")[2].split()[0]
                if table not in self.RANKS or "SKIP LOCKED" in text:
                    continue
                rank = self.RANKS.index(table)
                assert re.search(self.ORDERS[rank] + r"( LIMIT \S+)? FOR UPDATE", text), text
                if rank == 1 and 2 in ranks:
                    # who locks a traversal waits at the first of the nodes, and has no successor
                    assert numbers
                    assert min(numbers) > min(nodes)
                    rank = self.SUCCESSORS
                elif rank == 1:
                    nodes = numbers
                ranks.append(rank)
            assert ranks == sorted(ranks), statements
            found.add(tuple(sorted(set(ranks))))
        return found


@pytest.fixture
def locked(store: converge.Store) -> Iterator[Locked]:
    locked = Locked()
    event.listen(store.database.engine, "begin", locked.begin)
    event.listen(store.database.engine, "before_execute", locked.execute)
    yield locked
    event.remove(store.database.engine, "begin", locked.begin)
    event.remove(store.database.engine, "before_execute", locked.execute)


def test_every_transaction_locks_stack_nodes_resources_successors_each_in_order_of_keys(
    store: converge.Store,
    clock: FakeClock,
    world: FakeWorld,
    engine: Callable[..., StepEngine],
    locked: Locked,
) -> None:
    one = engine()

    def run() -> None:
        while works := one.claim(3):
            one.write(*map(one.call, works))

    store.create_stack("s", template(a=[], b=[], c=["a", "b"]))
    run()
    late = engine(LEASE)
    store.update_stack("s", template(a={"properties": {"replace": 1}}, b=[], c=["a", "b"]))
    late.claim()
    store.update_stack("s", template(a={"properties": {"replace": 2}}, b=[], c=["a", "b"]))
    run()
    lose(store, clock)
    run()
    world.fail("update c")
    wanted = template(a=[], b=[], c={"depends_on": ["a", "b"], "properties": {"x": 1}})
    store.update_stack("s", wanted, on_failure="rollback")
    run()
    store.update_stack("s", template(d=[]), timeout=1)
    clock.advance(2)
    recover.sweep(store.database)
    store.update_stack("s", template(d=[]))
    store.cancel_stack("s")
    store.delete_stack("s")
    run()
    assert store.stacks() == []
    ranks = locked.check()
    assert {(0, 1), (1, 2, 3), (0, 1, 2, 3)} <= ranks


@SERVERS
def test_what_others_commit_is_seen_by_a_transaction_that_has_read_before(
    store: converge.Store,
) -> None:
    with store.transaction() as tx:
        assert stacks.find_stack(tx, "s") is None
        store.create_stack("s", template(a=[]))
        assert stacks.find_stack(tx, "s") is not None


@SERVERS
def test_a_connection_whose_statement_was_alone_is_as_it_was(store: converge.Store) -> None:
    """It has transactions, of READ COMMITTED, whatever the server's default."""
    url, ask = store.database.url, "SELECT @@tx_isolation"
    if store.database.dialect == "postgresql":
        default = r"-c default_transaction_isolation=repeatable\ read"
        url, ask = url.update_query_dict({"options": default}), "SHOW transaction_isolation"
    database = Database(url)

    def forget(tx: Transaction) -> int:
        return engines.delete_old_engines(tx)

    def fail() -> None:
        with database.transaction() as tx:
            found = tx.connection.exec_driver_sql(ask).scalar_one()
            assert found.lower().replace("-", " ") == "read committed"
            engines.insert_engine(tx, "host", 1, "process", 1.0)
            raise ZeroDivisionError

    for _ in range(2):
        assert (
            database.transact(forget, Commit.FORGET, happened=repeatable, one_statement=True) == 0
        )
        assert database.read(engines.list_engines) == []
        with pytest.raises(ZeroDivisionError):
            fail()
    database.close()


@SERVERS
def test_the_server_ends_transactions_that_stand_still(store: converge.Store) -> None:
    """Those of a process that was stopped; a host may take its time in its own."""
    names = (
        "idle_in_transaction_session_timeout",
        "lock_timeout",
        "statement_timeout",
    )
    if store.database.dialect == "postgresql":
        query = "SELECT " + ", ".join(
            f"extract(epoch FROM current_setting('{name}')::interval)" for name in names
        )
    else:
        query = (
            "SELECT @@idle_transaction_timeout, @@innodb_lock_wait_timeout, @@max_statement_time"
        )

    def limits(tx: Transaction) -> list[float]:
        return [float(one) for one in tx.connection.exec_driver_sql(query).one()]

    # a connection that was never a host's
    database = Database(store.database.url, connections=1)
    assert database.read(limits) == [15, 2, 0]
    with database.transaction() as tx:
        assert limits(tx) == [60, 60, 60]
    with database.transaction(limit=2.5) as tx:
        assert limits(tx) == ([2.5] * 3 if tx.dialect == "postgresql" else [3, 3, 2.5])
    assert database.read(limits) == [15, 2, 0]
    database.close()


@pytest.mark.parametrize(
    "database",
    [pytest.param("mariadb", marks=[pytest.mark.database, pytest.mark.mariadb])],
    indirect=True,
)
def test_a_start_in_a_transaction_with_an_old_snapshot_plans_with_what_is_there(
    store: converge.Store, world: FakeWorld, engine: Callable[..., StepEngine]
) -> None:
    """The others refuse such a transaction."""
    one = engine()
    store.create_stack("s", template(a=[]))
    one.run()
    host = sqlalchemy.create_engine(store.database.url, isolation_level="REPEATABLE READ")
    with host.begin() as connection:
        connection.exec_driver_sql("SELECT COUNT(*) FROM converge_resource")
        store.update_stack("s", template(a=[], b=[]))
        one.run()
        store.delete_stack("s", transaction=connection)
    host.dispose()
    one.run()
    assert world.names() == []
