"""Upgrades that are killed, after any statement, and run again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy
from sqlalchemy import event, inspect, text

import converge
from converge.sql import migrate, schema, schema_version
from converge.sql.database import Database
from tests import forked
from tests.backends import Backend, MariaDB

CHANGES = ("CREATE", "ALTER", "INSERT", "UPDATE", "DELETE")
#: So many statements at least make the tables and indexes and record the version.
FEWEST = 1 + len(schema.metadata.tables) + 6 + 1


class Killed(BaseException):
    """What stands for the death of the process."""


def die() -> None:
    os._exit(9)


def killed() -> None:
    raise Killed


@contextmanager
def dying(url: str, statement: int, end: Callable[[], None]) -> Iterator[Database]:
    """A database where the process ends after so many statements that change something."""
    database = Database(url)
    seen = 0

    @event.listens_for(database.engine, "after_cursor_execute")
    def count(connection: object, cursor: object, text: str, *more: object) -> None:
        nonlocal seen
        if text.lstrip().upper().startswith(CHANGES):
            seen += 1
            if seen == statement:
                end()

    try:
        yield database
    finally:
        database.close()


def upgrade_and_die(url: str, statement: int) -> None:
    with dying(url, statement, die) as database:
        migrate.upgrade_database(database)


def tables(url: str) -> set[str]:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_an_upgrade_killed_after_each_statement_in_turn_is_completed_by_the_last(
    empty_database_url: str, database: Backend
) -> None:
    statement = 0
    # in one transaction, one death is as good as the next
    step = 1 if isinstance(database, MariaDB) else 7
    while True:
        statement += step
        with dying(empty_database_url, statement, killed) as dies:
            try:
                migrate.upgrade_database(dies)
                break
            except Killed:
                if not isinstance(database, MariaDB):
                    # one transaction: it was never there
                    assert tables(empty_database_url) <= {schema.LOCK_TABLE}
    # where each statement is committed, so are whole versions, which the later runs pass over
    assert statement > (8 if isinstance(database, MariaDB) else FEWEST)
    assert migrate.current(empty_database_url) == schema_version.HEAD
    assert migrate.check(empty_database_url) == []


@pytest.mark.parametrize("statement", [1, 8, FEWEST])
def test_an_upgrade_whose_process_is_gone_is_run_again(
    empty_database_url: str, statement: int
) -> None:
    process = forked.process(upgrade_and_die, empty_database_url, statement)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    with converge.connect(empty_database_url, create_schema=True) as store:
        assert store.stacks() == []
    assert migrate.check(empty_database_url) == []


@pytest.fixture
def half_done(empty_database_url: str) -> str:
    """Where MariaDB keeps some tables, and the others nothing."""
    with dying(empty_database_url, 12, killed) as database, pytest.raises(Killed):
        migrate.upgrade_database(database)
    return empty_database_url


def test_a_half_done_upgrade_says_what_to_run(half_done: str) -> None:
    with pytest.raises(converge.SchemaError, match=r"run: converge --db \S+ db upgrade"):
        converge.connect(half_done)


@pytest.mark.parametrize(
    "strange",
    [
        "INSERT INTO converge_stack (name, action, status, versions, created_at, updated_at) "
        "VALUES ('s', 'CREATE', 'COMPLETE', 1, 0, 0)",
        "ALTER TABLE converge_stack ADD COLUMN price INTEGER",
        "CREATE TABLE converge_order (id INTEGER)",
    ],
)
def test_tables_that_no_interrupted_upgrade_leaves_are_refused(
    empty_database_url: str, strange: str
) -> None:
    migrate.upgrade(empty_database_url)
    engine = sqlalchemy.create_engine(empty_database_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"DELETE FROM {schema.VERSION_TABLE}"))
        connection.execute(text(strange))
    for use in (converge.connect, migrate.upgrade):
        with pytest.raises(converge.SchemaError, match="are not converge's"):
            use(empty_database_url)
    engine.dispose()
