"""Transactions that the database undoes: run again from their start, or reported."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import event, make_url, select, text, update

import converge
from converge.crash_points import Commit
from converge.errors import StoreError
from converge.sql import repeat, schema
from converge.sql.transaction import Transaction
from tests.trouble.faults import Faults, only
from tests.waiting import WAIT

STACK = {"live": 1, "action": "CREATE", "status": "COMPLETE", "created_at": 0, "updated_at": 0}


@pytest.fixture
def store(fresh_store: Callable[..., converge.Store]) -> converge.Store:
    """A store with two stacks, of which nothing is there but their rows."""
    store = fresh_store()
    with store.transaction() as tx:
        add_stack(tx, "a")
        add_stack(tx, "b")
    return store


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two retries, so that their end comes soon."""
    monkeypatch.setattr(repeat, "RETRIES", 2)
    monkeypatch.setattr(repeat, "LOCK_PATIENCE", 0.0)


def add_stack(tx: Transaction, name: str) -> None:
    tx.execute(schema.stack.insert().values(name=name, versions=0, **STACK))


def touch(tx: Transaction, name: str) -> None:
    """Lock a stack's row, and count that."""
    table = schema.stack
    tx.execute(update(table).where(table.c.name == name).values(versions=table.c.versions + 1))


def versions(store: converge.Store) -> dict[str, int]:
    with store.database.transaction(write=False) as tx:
        query = select(schema.stack.c.name, schema.stack.c.versions)
        return {row.name: row.versions for row in tx.execute(query)}


# -- made by two transactions


@pytest.mark.parametrize("database", [only("postgresql"), only("mariadb")], indirect=True)
def test_of_two_transactions_that_deadlock_one_is_run_again_from_its_start(
    store: converge.Store,
) -> None:
    both_hold = threading.Barrier(2)
    ended = {"a": threading.Event(), "b": threading.Event()}
    runs: list[str] = []

    def cross(first: str, second: str) -> None:
        def function(tx: Transaction) -> None:
            runs.append(first)
            if runs.count(first) > 1:
                # not before the other one wakes up: it could meet that one again
                assert ended[second].wait(WAIT)
            touch(tx, first)
            if runs.count(first) == 1:
                both_hold.wait(WAIT)
            touch(tx, second)

        store.database.transact(function, Commit.CLAIM)
        ended[first].set()

    threads = [threading.Thread(target=cross, args=pair) for pair in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(runs) in (["a", "a", "b"], ["a", "b", "b"])
    assert versions(store) == {"a": 2, "b": 2}


@pytest.mark.parametrize("database", [only("postgresql")], indirect=True)
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_cannot_be_serialized_is_run_again_from_its_start(
    store: converge.Store, level: str
) -> None:
    seen: list[int] = []

    def function(tx: Transaction) -> None:
        tx.execute(text(f"SET TRANSACTION ISOLATION LEVEL {level}"))
        query = select(schema.stack.c.versions).where(schema.stack.c.name == "a")
        seen.append(tx.execute(query).scalar_one())
        if len(seen) == 1:
            # somebody else is faster
            with store.transaction() as other:
                touch(other, "a")
        touch(tx, "a")

    store.database.transact(function, Commit.CLAIM)
    assert seen == [0, 1]
    assert versions(store) == {"a": 2, "b": 0}


IMPATIENT = {
    "postgresql": {"options": "-c lock_timeout=20"},
    "mysql": {"init_command": "SET innodb_lock_wait_timeout = 0"},
    "sqlite": {},
}
LOCKED = r"lock timeout|Lock wait timeout|locked by another process"


@pytest.fixture
def impatient(store: converge.Store) -> Iterator[converge.Store]:
    """Another store on the same database, that hardly waits for a lock."""

    def hurry(connection: Any, record: object) -> None:
        connection.execute("PRAGMA busy_timeout = 20")

    url = make_url(store.database.url)
    with converge.connect(url.update_query_dict(IMPATIENT[url.get_backend_name()])) as other:
        if url.get_backend_name() == "sqlite":
            other.close()
            event.listen(other.database.engine, "connect", hurry)
        yield other


def insert_and_touch(tx: Transaction) -> None:
    add_stack(tx, "new")
    touch(tx, "a")


def test_a_transaction_that_waited_too_long_for_a_lock_is_run_again_from_its_start(
    store: converge.Store, impatient: converge.Store
) -> None:
    attempts = 0
    held = store.transaction()
    touch(held.__enter__(), "a")

    @event.listens_for(impatient.database.engine, "engine_connect")
    def begin(connection: object) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            held.__exit__(None, None, None)

    impatient.database.transact(insert_and_touch, Commit.CLAIM)
    assert attempts == 3
    assert versions(store) == {"a": 2, "b": 0, "new": 0}


def test_when_all_retries_are_used_up_it_says_what_was_wrong_and_leaves_nothing(
    store: converge.Store, impatient: converge.Store, few: None
) -> None:
    with store.transaction() as tx:
        touch(tx, "a")
        with pytest.raises(StoreError, match=LOCKED):
            impatient.database.transact(insert_and_touch, Commit.CLAIM)
    assert versions(store) == {"a": 1, "b": 0}
    # and can be used again
    impatient.database.transact(insert_and_touch, Commit.CLAIM)
    assert versions(store) == {"a": 2, "b": 0, "new": 0}


# -- said by the driver

UNDONE: list[tuple[str, Exception]] = [
    ("postgresql", psycopg.errors.DeadlockDetected("deadlock detected")),
    ("postgresql", psycopg.errors.SerializationFailure("could not serialize access")),
    ("postgresql", psycopg.errors.LockNotAvailable("could not obtain lock on row")),
    ("mariadb", pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock")),
    ("mariadb", pymysql.err.OperationalError(1205, "Lock wait timeout exceeded")),
    ("mariadb", pymysql.err.OperationalError(1020, "Record has changed since last read")),
    ("mariadb", pymysql.err.OperationalError(1467, "Failed to read auto-increment value")),
]
EACH_UNDONE = pytest.mark.parametrize(
    ("database", "error"),
    [
        only(name, error, id=f"{name}-{type(error).__name__} {error.args[0]}"[:40])
        for name, error in UNDONE
    ],
    indirect=["database"],
)
ONE = converge.Template.parse("resources: {a: {type: none}}")


@EACH_UNDONE
@pytest.mark.parametrize("statement", [1, 3, "COMMIT"])
def test_a_start_that_was_undone_is_run_again_from_its_start(
    store: converge.Store, error: Exception, statement: int | str
) -> None:
    with Faults(store.database.engine) as faults:
        faults.fail(error, at=statement, times=2)
        stack = store.create_stack("new", ONE)
    assert faults.raised == 2
    assert stack.outcome == "started"
    with store.database.transaction(write=False) as tx:
        assert len(tx.execute(select(schema.traversal)).all()) == 1
        assert len(tx.execute(select(schema.resource)).all()) == 1


@EACH_UNDONE
def test_a_start_that_is_undone_each_time_is_reported(
    store: converge.Store, error: Exception, few: None
) -> None:
    with Faults(store.database.engine) as faults:
        faults.fail(error, at=3, times=3)
        with pytest.raises(StoreError, match=str(error.args[-1])):
            store.create_stack("new", ONE)
    assert faults.raised == 3
    assert versions(store) == {"a": 0, "b": 0}


def test_in_a_hosts_transaction_nothing_is_run_again(store: converge.Store) -> None:
    """It is the host who knows what else has to be."""
    errors: dict[str, Exception] = dict(reversed(UNDONE))
    name = {"mysql": "mariadb"}.get(store.database.dialect, store.database.dialect)
    error = errors.get(name) or sqlite3.OperationalError("database is locked")
    runs = 0

    def host() -> None:
        nonlocal runs
        with store.transaction() as tx:
            runs += 1
            store.create_stack("new", ONE, transaction=tx)

    with Faults(store.database.engine) as faults:
        faults.fail(error, at=3)
        with pytest.raises(StoreError, match="lock"):
            host()
    assert runs == 1
    assert versions(store) == {"a": 0, "b": 0}


def test_a_ctrl_c_in_a_statement_comes_out_as_such_and_leaves_nothing(
    store: converge.Store,
) -> None:
    with Faults(store.database.engine) as faults:
        faults.fail(KeyboardInterrupt(), at=3)
        with pytest.raises(KeyboardInterrupt):
            store.create_stack("new", ONE)
    assert versions(store) == {"a": 0, "b": 0}
    assert store.create_stack("new", ONE).outcome == "started"
