"""The lock for upgrades, and what upgrades left that ran without it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy
from alembic import command
from sqlalchemy import event, text

import converge
from converge.sql import migrate, schema, schema_version, upgrade_lock
from converge.sql.database import Database
from converge.sql.faults import Locked

#: A process on another host, of which nobody here can tell whether it still runs.
ELSEWHERE = "farhost/6b1f4a1e/pid:[4026531836]/77/1234"
#: Where each statement commits, so that no transaction can hold the lock.
leased = pytest.mark.parametrize(
    "database",
    [pytest.param("mariadb", marks=[pytest.mark.database, pytest.mark.mariadb])],
    indirect=True,
)


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[sqlalchemy.Engine]:
    """A connection past converge, to an empty database."""
    engine = sqlalchemy.create_engine(empty_database_url, poolclass=sqlalchemy.NullPool)
    yield engine
    engine.dispose()


def versions(engine: sqlalchemy.Engine) -> list[str]:
    with engine.connect() as connection:
        query = text(f"SELECT version_num FROM {schema.VERSION_TABLE} ORDER BY version_num")
        return list(connection.execute(query).scalars())


# -- the lock


def hold(engine: sqlalchemy.Engine, seconds: float) -> None:
    """Have a process elsewhere hold the lock for so many seconds from now."""
    with engine.connect() as connection:
        upgrade_lock._make_row(connection)
        connection.execute(
            text(
                f"UPDATE {schema.LOCK_TABLE} SET holder = 'another', process = :process,"
                " expires_at = UNIX_TIMESTAMP(NOW(6)) + :seconds"
            ),
            {"process": ELSEWHERE, "seconds": seconds},
        )
        connection.commit()


@leased
def test_an_upgrade_waits_for_one_on_another_host(
    empty_database_url: str, engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(engine, 1000)
    monkeypatch.setattr(upgrade_lock, "PATIENCE", 0)
    with pytest.raises(Locked, match="process 77 on farhost has been upgrading"):
        migrate.upgrade(empty_database_url)
    assert migrate.current(empty_database_url) is None


@leased
def test_the_lock_of_a_host_that_is_gone_ends_with_its_lease(
    empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    hold(engine, -1)
    migrate.upgrade(empty_database_url)
    assert versions(engine) == [schema_version.HEAD]


@leased
def test_the_lock_is_renewed_and_then_free(
    empty_database_url: str, engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade_lock, "LEASE", 0.01)
    query = text(f"SELECT holder, expires_at FROM {schema.LOCK_TABLE}")
    database = Database(empty_database_url)
    try:
        with upgrade_lock.upgrade_lock(database), engine.connect() as connection:
            holder, first = connection.execute(query).one()
            assert holder is not None
            expires_at = first
            while expires_at == first:
                connection.rollback()
                expires_at = connection.execute(query).one().expires_at
        with engine.connect() as connection:
            assert connection.execute(query).one().holder is None
    finally:
        database.close()


@leased
def test_who_lost_the_lock_records_no_version(
    empty_database_url: str, engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(empty_database_url)
    monkeypatch.setattr(upgrade_lock, "PATIENCE", 0)

    @event.listens_for(database.engine, "after_cursor_execute")
    def lose(connection: object, cursor: object, statement: str, *more: object) -> None:
        if statement.startswith(f"INSERT INTO {schema.VERSION_TABLE}"):
            hold(engine, 1000)

    try:
        with pytest.raises(Locked, match="process 77 on farhost"):
            migrate.upgrade_database(database)
    finally:
        database.close()
    assert versions(engine) == []
    hold(engine, -1)
    migrate.upgrade(empty_database_url)
    assert versions(engine) == [schema_version.HEAD]
    assert migrate.check(empty_database_url) == []


# -- two versions


@pytest.fixture
def doubled(empty_database_url: str, engine: sqlalchemy.Engine) -> str:
    """A database that two upgrades at the same time left with two versions."""
    migrate.upgrade(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {schema.VERSION_TABLE} VALUES ('0002')"))
    return empty_database_url


def test_two_versions_are_explained_and_the_upgrade_mends_them(
    doubled: str, engine: sqlalchemy.Engine
) -> None:
    message = (
        rf"has the versions 0002 and {schema_version.HEAD} at once, as two upgrades .* ran at the "
        r"same time; run: converge --db \S+ db upgrade"
    )
    with pytest.raises(converge.SchemaError, match=message):
        converge.connect(doubled)
    migrate.upgrade(doubled)
    assert versions(engine) == [schema_version.HEAD]
    assert migrate.check(doubled) == []
    converge.connect(doubled).close()


def test_two_versions_stay_if_the_tables_are_not_those_of_the_newest(
    doubled: str, engine: sqlalchemy.Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE converge_event"))
    with pytest.raises(
        converge.SchemaError, match=r"its tables are not .* converge_event.* backup"
    ):
        migrate.upgrade(doubled)
    assert versions(engine) == ["0002", schema_version.HEAD]


def test_of_two_old_versions_the_upgrade_goes_on_from_the_newer(
    empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    with Database(empty_database_url).engine.connect() as connection:
        command.upgrade(migrate._config(connection=connection), "0004")
        connection.execute(text(f"INSERT INTO {schema.VERSION_TABLE} VALUES ('0001')"))
        connection.commit()
    migrate.upgrade(empty_database_url)
    assert versions(engine) == [schema_version.HEAD]
    assert migrate.check(empty_database_url) == []
