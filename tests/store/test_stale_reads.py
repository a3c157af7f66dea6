"""Who holds a row is asked of the database as it is once the row is locked.

A statement that waits, or takes its time, finds the row that it locks as it is by then, but
every other table as it was when it began: neither an engine that registered meanwhile nor a lease
that was renewed meanwhile is in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, event, text

import converge
from converge import Machine
from converge.sql import engines, moves, scopes
from converge.sql.transaction import Transaction
from tests.machine.world import World

T = TypeVar("T")

LEASE = 10.0
#: Of a lock of the server's that a statement is made to wait for.
GATE = 5_217
_SHUT = text(f"SELECT pg_advisory_lock({GATE})")
_OPEN = text(f"SELECT pg_advisory_unlock({GATE})")
#: A condition that is true when the lock is free.
_PASS = f"(SELECT count(pg_advisory_xact_lock({GATE}))) = 1"
_WAITING = {
    "postgresql": "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'",
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = database()"
    " AND command = 'Query' AND id <> connection_id() AND time_ms > 100",
}


def register(tx: Transaction) -> int:
    return engines.insert_engine(tx, "host", 1, "process", LEASE, engines.JOURNAL)


def wait_until_waiting(connection: Connection, slow: Future[Any]) -> None:
    """Wait until the server has another's statement wait for a lock."""
    end = time.monotonic() + 10
    while not connection.execute(text(_WAITING[connection.dialect.name])).all():
        connection.rollback()
        assert time.monotonic() < end, "it does not wait"
        assert not slow.done(), "it did not wait"


def call(store: converge.Store, function: Callable[[Transaction], T]) -> T:
    with store.transaction() as tx:
        return function(tx)


@contextmanager
def under_way(store: converge.Store, function: Callable[[Transaction], T]) -> Iterator[Future[T]]:
    """Call a function in a transaction, which waits in the midst of its first statement, before
    it locks anything, until this ends.

    On others than PostgreSQL it begins then only: SQLite has one writer at a time, and MariaDB
    locks a row before it looks at all of the conditions.
    """
    this = threading.current_thread()

    def hold_up(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> Any:
        if threading.current_thread() is not this:
            statement = statement.replace("WHERE ", f"WHERE {_PASS} AND ", 1)
        return statement, parameters

    if store.database.dialect != "postgresql":
        result: Future[T] = Future()
        yield result
        result.set_result(call(store, function))
        return
    with ThreadPoolExecutor(1) as pool, store.database.engine.connect() as connection:
        connection.execute(_SHUT)
        event.listen(store.database.engine, "before_cursor_execute", hold_up, retval=True)
        try:
            result = pool.submit(call, store, function)
            wait_until_waiting(connection, result)
            event.remove(store.database.engine, "before_cursor_execute", hold_up)
            yield result
        finally:
            connection.execute(_OPEN)


def test_actions_of_one_that_registered_since_the_claim_began(store: converge.Store) -> None:
    machine = Machine(store, World().definition())
    with store.transaction() as tx:
        machine.fire_many([(key, "press") for key in "abc"], create=True, transaction=tx)
    first = call(store, register)

    def claim(tx: Transaction, engine_id: int) -> set[tuple[str, int]]:
        rows = moves.claim_actions(tx, "lamp", [1], engine_id, 10, 7)
        return {(row.key, row.epoch) for row in rows}

    with under_way(store, lambda tx: claim(tx, first)) as slow:
        second = call(store, register)
        quick = call(store, lambda tx: claim(tx, second))
        assert quick
    # each of them once
    assert sorted([*quick, *slow.result(10)]) == [(key, 1) for key in "abc"]


@pytest.fixture
def jobs(store: converge.Store) -> list[int]:
    """The ids of scopes that are finished, and whose holder has ended."""
    with store.transaction() as tx:
        holder = register(tx)
        ids = [scopes.insert_scope(tx, name, holder, 7) for name in ("earlier job", "job")]
        for id_ in ids:
            scopes.release_scope(tx, id_, holder, 1, 7, finished=True)
        engines.end_engine(tx, holder, engines.STOPPED)
    return ids


def test_a_scope_of_one_that_registered_since_it_was_waited_for(
    store: converge.Store, jobs: list[int]
) -> None:
    def ask(tx: Transaction) -> int | None:
        row = scopes.lock_scope(tx, "job")
        return None if row is None else row.holder

    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as tx:
            row = scopes.lock_scope(tx, "job")
            assert row is not None
            assert row.holder is None
            slow = pool.submit(call, store, ask)
            if tx.dialect != "sqlite":
                with store.database.engine.connect() as connection:
                    wait_until_waiting(connection, slow)
            holder = register(tx)
            scopes.take_scope(tx, row, holder, 7)
        assert slow.result(10) == holder


def test_a_finished_scope_that_one_looks_at_since_those_to_prune_were_looked_for(
    store: converge.Store, jobs: list[int]
) -> None:
    def list_finished(tx: Transaction) -> list[int]:
        return scopes.list_finished(tx, None, None, 10)

    def look(tx: Transaction) -> None:
        row = scopes.lock_scope(tx, "job")
        assert row is not None
        scopes.take_scope(tx, row, register(tx), 7)

    assert call(store, list_finished) == jobs
    with under_way(store, list_finished) as slow:
        call(store, look)
    assert slow.result(10) == jobs[:1]


def test_what_somebody_holds_takes_no_place_among_what_is_looked_for(
    store: converge.Store, jobs: list[int]
) -> None:
    machine = Machine(store, World().definition())
    with store.transaction() as tx:
        machine.fire_many([(key, "press") for key in "ab"], create=True, transaction=tx)
    with store.transaction() as tx:
        (first,) = moves.claim_actions(tx, "lamp", [1], register(tx), 1, 7)
        (second,) = moves.claim_actions(tx, "lamp", [1], register(tx), 1, 7)
        assert (first.key, second.key) == ("a", "b")
        row = scopes.lock_scope(tx, "earlier job")
        assert row is not None
        scopes.take_scope(tx, row, register(tx), 7)
        assert scopes.list_finished(tx, None, None, 1) == jobs[1:]
