"""Many rows at once: an error in their midst is that of any other statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from converge import Store
from converge.crash_points import Commit
from converge.errors import StoreError
from converge.sql import resources
from converge.sql.database import repeatable
from converge.sql.faults import is_refused
from converge.sql.loading import Load
from converge.sql.schema import event, resource, sync_point
from converge.sql.transaction import Transaction
from tests.templates import template

_SERVERS = [
    pytest.param(name, marks=[pytest.mark.database, getattr(pytest.mark, name)])
    for name in ("postgresql", "mariadb")
]
_LOAD = Load(event, "stack_id", "traversal_id", "at", "resource", "action", "status")


def rows(middle: Callable[[], Any] = lambda: "x") -> Iterator[tuple[Any, ...]]:
    """100 rows; one in the midst of them has another name."""
    for number in range(100):
        yield 1, 2, 3.5, middle() if number == 50 else str(number), "a", "s"


def count(store: Store) -> int:
    with store.transaction() as tx:
        return int(tx.connection.execute(text(f"SELECT count(*) FROM {event.name}")).scalar_one())


@pytest.mark.parametrize("database", _SERVERS, indirect=True)
def test_a_text_that_is_too_long_is_refused_and_not_cut(store: Store) -> None:
    """SQLite takes a text of any length."""
    with pytest.raises(StoreError) as caught, store.transaction() as tx:
        _LOAD.execute(tx, rows(lambda: "x" * 256))
    assert is_refused(caught.value)
    assert count(store) == 0


def test_a_value_that_must_not_be_missing_is_refused(store: Store) -> None:
    load = Load(event, "stack_id", "traversal_id", "at", "action", "resource", "status")
    with pytest.raises(StoreError, match="action"), store.transaction() as tx:
        load.execute(tx, rows(lambda: None))
    assert count(store) == 0


def test_an_error_of_who_gives_the_rows_stays_what_it_is(store: Store) -> None:
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), store.transaction() as tx:
        _LOAD.execute(tx, rows(fail))
    assert count(store) == 0


@pytest.mark.parametrize("database", _SERVERS, indirect=True)
def test_a_connection_that_is_lost_in_the_midst_is_made_anew(store: Store) -> None:
    lost: list[int] = []

    def load(tx: Transaction) -> None:
        def lose() -> str:
            if not lost:
                driver: Any = tx.connection.connection.dbapi_connection
                of_postgresql = tx.dialect == "postgresql"
                lost.append(driver.info.backend_pid if of_postgresql else driver.thread_id())
                end = "SELECT pg_terminate_backend({})" if of_postgresql else "KILL {}"
                with store.transaction() as other:
                    other.connection.exec_driver_sql(end.format(lost[0]))
            return "x"

        _LOAD.execute(tx, rows(lose))

    store.database.transact(load, Commit.START, happened=repeatable)
    assert lost
    assert count(store) == 100


def test_resources_that_are_inserted_at_the_same_time_have_ids_of_their_own(store: Store) -> None:
    def insert(tx: Transaction, start: int) -> list[int]:
        new = [f"r{number}" for number in range(start, start + 50)]
        return list(resources.insert_resources(tx, 1, new, ["fake"] * 50).values())

    with store.transaction() as tx:
        first = insert(tx, 0)
        if tx.dialect == "sqlite":
            second = insert(tx, 50)
        else:
            with store.transaction() as other:
                second = insert(other, 50)
    assert len({*first, *second}) == 100
    with store.transaction() as tx:
        assert [row.id for row in resources.list_resources(tx, 1)] == sorted([*first, *second])


@pytest.mark.parametrize("database", _SERVERS[:1], indirect=True)
def test_statistics_are_those_of_after_a_large_start(store: Store) -> None:
    """Not of when the server next gathers some, or an engine would go through all nodes for each
    few that it claims."""
    nodes = 1500
    store.create_stack("s", template({f"r{n}": {"type": "none"} for n in range(nodes)}))
    with store.transaction() as tx:
        for table, rows in ((sync_point, nodes + 1), (resource, nodes)):
            query = text("SELECT reltuples FROM pg_class WHERE relname = :name")
            assert tx.connection.execute(query, {"name": table.name}).scalar_one() == rows
