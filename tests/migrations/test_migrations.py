"""The schema: the same by migration and by declaration, however often and by how many upgraded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import converge
from converge.sql import migrate, schema, schema_version
from converge.testing import FakeWorld, StepEngine
from tests import forked

TEMPLATE = converge.Template.parse("resources: {A: {type: fake}, B: {type: fake, depends_on: A}}")
AT_ONCE = 12
ROW_OF_PROGRESS = {"traversal_id": 1, "engine_id": 1, "done": 0, "failed": 0, "skipped": 0}


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[sqlalchemy.Engine]:
    """A connection past converge, to an empty database."""
    engine = sqlalchemy.create_engine(empty_database_url, poolclass=sqlalchemy.NullPool)
    yield engine
    engine.dispose()


def tables(engine: sqlalchemy.Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def of_upgrades(engine: sqlalchemy.Engine) -> set[str]:
    """The tables that upgrades have for themselves: on SQLite, the write lock is the lock."""
    lock = set() if engine.dialect.name == "sqlite" else {schema.LOCK_TABLE}
    return {schema.VERSION_TABLE, *lock}


def contents(engine: sqlalchemy.Engine, but: Collection[str] = ()) -> dict[str, list[Any]]:
    """All rows of converge's tables, as the database gives them.

    :param but: columns that are left out.
    """

    def query(table: sqlalchemy.Table) -> sqlalchemy.Select[Any]:
        # by name: as the database gives them, not what types make of it
        columns: list[sqlalchemy.ColumnElement[Any]] = [
            sqlalchemy.literal_column(quoted(one.name))
            for one in table.columns
            if one.name not in but
        ]
        return sqlalchemy.select(*columns).select_from(table)

    quoted = engine.dialect.identifier_preparer.quote
    with engine.connect() as connection:
        return {
            name: sorted(map(repr, connection.execute(query(table))))
            for name, table in schema.metadata.tables.items()
        }


def migrated_by(url: str, move: Callable[[Any], None]) -> None:
    """Run one of alembic's commands on converge's migrations."""
    database = converge.sql.database.Database(url)
    try:
        with database.engine.connect() as connection:
            move(migrate._config(connection=connection))
            connection.commit()
    finally:
        database.close()


def test_upgrade_of_an_empty_database(empty_database_url: str, engine: sqlalchemy.Engine) -> None:
    migrate.upgrade(empty_database_url)
    assert tables(engine) == {*schema.metadata.tables, *of_upgrades(engine)}
    assert migrate.current(empty_database_url) == schema_version.HEAD
    with converge.connect(empty_database_url) as store:
        assert store.stacks() == []


def test_migrations_make_what_the_tables_declare(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    assert migrate.check(empty_database_url) == []


def test_check_names_what_differs(empty_database_url: str, engine: sqlalchemy.Engine) -> None:
    migrate.upgrade(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE converge_stack ADD COLUMN odd INTEGER"))
        connection.execute(text("DROP TABLE converge_event"))
    found = "\n".join(migrate.check(empty_database_url))
    assert "odd" in found
    assert "converge_event" in found


def test_the_same_indexes_leave_rows_out(
    empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    migrate.upgrade(empty_database_url)
    option = f"{engine.dialect.name}_where"
    found = {
        index["name"]
        for name in schema.metadata.tables
        for index in inspect(engine).get_indexes(name)
        if option in index.get("dialect_options", {})
    }
    expected = {
        index.name
        for table in schema.metadata.tables.values()
        for index in table.indexes
        if schema.PARTIAL in index.info
    }
    # MariaDB cannot leave rows out
    assert found == (expected if engine.dialect.name in ("sqlite", "postgresql") else set())
    assert len(expected) > 3


# -- at once


def test_twelve_upgrades_at_once_all_succeed(
    empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    processes = [forked.process(migrate.upgrade, empty_database_url) for _ in range(AT_ONCE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * AT_ONCE
    assert migrate.current(empty_database_url) == schema_version.HEAD
    with engine.connect() as connection:
        version = connection.execute(text(f"SELECT version_num FROM {schema.VERSION_TABLE}"))
        assert version.scalars().all() == [schema_version.HEAD]
    assert migrate.check(empty_database_url) == []


# -- rows in place


@pytest.fixture
def used(empty_database_url: str) -> Iterator[converge.Store]:
    """A store with a stack that is half updated."""
    store = converge.connect(empty_database_url, create_schema=True)
    engine = StepEngine(store, FakeWorld().types())
    store.create_stack("shop", TEMPLATE)
    engine.run()
    store.update_stack("shop", converge.Template.parse("resources: {A: {type: fake}}"))
    engine.step()
    yield store
    store.close()


def test_upgrade_with_rows_in_place_keeps_them(
    used: converge.Store, empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    before = contents(engine)
    assert all(before[schema.PREFIX + name] for name in ("stack", "resource", "sync_point"))
    migrate.upgrade(empty_database_url)
    assert contents(engine) == before
    StepEngine(used, FakeWorld().types()).run()
    assert used.stack("shop").status == "COMPLETE"


def fail(action: converge.machine.Action) -> None:
    raise RuntimeError


def test_a_failed_action_from_before_they_were_found_can_be_tried_again(
    used: converge.Store, empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    retry = converge.RetryPolicy(attempts=1)
    definition: dict[str, Any] = {
        "name": "lamp",
        "initial": "off",
        "states": {"off": {}},
        "transitions": [
            {"event": "press", "source": "off", "target": "off", "action": fail, "retry": retry},
            {"event": "look", "source": "off", "target": "off"},
        ],
    }
    machine = converge.Machine(used, definition)
    machine.create("k")
    machine.fire("k", "look")
    with pytest.raises(converge.ActionFailed):
        machine.fire("k", "press")
    machine.close()
    # which there were not then
    later = (
        "mark",
        "previous_template_id",
        "basis",
        "types",
        "queues",
        "format",
        "former",
        "drift",
    )
    before = contents(engine, later)
    migrated_by(empty_database_url, lambda config: command.downgrade(config, "0004"))
    with engine.connect() as connection:
        due = connection.execute(text("SELECT count(next_at) FROM converge_move")).scalar()
    assert due == 0
    migrate.upgrade(empty_database_url)
    assert contents(engine, later) == before
    assert machine.retry("k") == 1


def test_connect_with_create_schema_upgrades_once(
    used: converge.Store, empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    before = contents(engine)
    with converge.connect(empty_database_url, create_schema=True) as again:
        assert [one["name"] for one in again.stacks()] == ["shop"]
    assert contents(engine) == before


def test_down_and_up_again(
    used: converge.Store, empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    used.close()
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE host_order (id INTEGER PRIMARY KEY)"))
        connection.execute(text("INSERT INTO host_order VALUES (1)"))
    migrated_by(empty_database_url, lambda config: command.downgrade(config, "base"))
    assert tables(engine) == {"host_order", *of_upgrades(engine)}
    assert migrate.current(empty_database_url) is None
    migrate.upgrade(empty_database_url)
    assert migrate.check(empty_database_url) == []
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM host_order")).scalars().all() == [1]


# -- what cannot be used says so


@pytest.fixture
def version(empty_database_url: str, engine: sqlalchemy.Engine) -> Callable[[str | None], None]:
    """Pretend that the database is of another version."""

    def pretend(number: str | None) -> None:
        migrate.upgrade(empty_database_url)
        with engine.begin() as connection:
            connection.execute(text(f"DELETE FROM {schema.VERSION_TABLE}"))
            if number is not None:
                connection.execute(
                    text(f"INSERT INTO {schema.VERSION_TABLE} VALUES (:number)"), {"number": number}
                )

    return pretend


def test_connect_without_tables(empty_database_url: str) -> None:
    with pytest.raises(converge.SchemaError, match=r"run: converge --db \S+ db upgrade"):
        converge.connect(empty_database_url)


def test_connect_to_a_newer_schema(
    empty_database_url: str, version: Callable[[str | None], None]
) -> None:
    version("9999")
    message = r"is at version 9999, which is newer .* install a newer converge"
    for use in (
        converge.connect,
        migrate.upgrade,
        migrate.check,
        lambda url: converge.connect(url, create_schema=True),
    ):
        with pytest.raises(converge.SchemaError, match=message):
            use(empty_database_url)
    assert migrate.current(empty_database_url) == "9999"


def test_connect_to_an_older_schema(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(empty_database_url)
    found = schema_version.HEAD
    monkeypatch.setattr(schema_version, "HEAD", "9999")
    message = f"is at version {found}, this converge needs 9999; run: converge --db"
    with pytest.raises(converge.SchemaError, match=message):
        converge.connect(empty_database_url)


def test_tables_of_somebody_else_are_left_alone(
    empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE converge_stack (id INTEGER PRIMARY KEY)"))
    for use in (
        converge.connect,
        migrate.upgrade,
        lambda url: converge.connect(url, create_schema=True),
    ):
        with pytest.raises(converge.SchemaError, match=r"not converge's \(converge_stack\)"):
            use(empty_database_url)
    assert tables(engine) == {"converge_stack"}


def test_tables_without_a_version_are_not_taken_for_converges(
    empty_database_url: str, version: Callable[[str | None], None], engine: sqlalchemy.Engine
) -> None:
    version(None)
    with engine.begin() as connection:
        # an upgrade that was interrupted leaves tables, but empty ones
        connection.execute(schema.progress.insert().values(ROW_OF_PROGRESS))
    with pytest.raises(converge.SchemaError, match="use another database or schema"):
        converge.connect(empty_database_url)


def test_no_password_is_shown(empty_database_url: str) -> None:
    url = sqlalchemy.make_url(empty_database_url)
    if url.get_backend_name() == "sqlite":
        return
    with pytest.raises(converge.ConvergeError) as caught:
        converge.connect(url.set(password="sesame", database="converge_test_nothing"))
    assert "sesame" not in str(caught.value)


# -- as text, and beside a host's own migrations


@pytest.mark.parametrize(
    "url", ["sqlite:///x.db", "postgresql+psycopg://h/x", "mysql+pymysql://h/x"]
)
def test_sql_is_what_makes_the_tables(url: str) -> None:
    text = migrate.sql(url)
    for name in (*schema.metadata.tables, schema.VERSION_TABLE):
        assert f"CREATE TABLE {name} " in text
    assert schema_version.HEAD in text


def test_sql_makes_a_database_that_can_be_used(
    empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    script = migrate.sql(empty_database_url)
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            plain = statement.strip().rstrip(";")
            if plain and plain not in ("BEGIN", "COMMIT"):
                connection.exec_driver_sql(plain.replace("%", "%%"))
    assert migrate.check(empty_database_url) == []


def host_changes(engine: sqlalchemy.Engine, **options: Any) -> list[Any]:
    """What autogenerate proposes to a host that has one table of its own, still to be made."""
    metadata = sqlalchemy.MetaData()
    sqlalchemy.Table("host_order", metadata, sqlalchemy.Column("id", sqlalchemy.Integer))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))


def test_a_hosts_autogenerate_leaves_converges_tables_alone(
    empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    migrate.upgrade(empty_database_url)
    without = host_changes(engine)
    assert any("converge_stack" in str(change) for change in without)
    found = host_changes(engine, include_name=migrate.exclude_converge)
    assert [(change[0], change[1].name) for change in found] == [("add_table", "host_order")]


def test_converges_check_leaves_a_hosts_tables_alone(
    empty_database_url: str, engine: sqlalchemy.Engine
) -> None:
    migrate.upgrade(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE host_order (id INTEGER PRIMARY KEY)"))
        # alembic's own table of the host's migrations
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
    assert migrate.check(empty_database_url) == []


def test_the_filter_takes_names_of_other_things() -> None:
    assert not migrate.exclude_converge("converge_stack", "table", {})
    assert migrate.exclude_converge("convergence", "table", {})
    assert migrate.exclude_converge("orders", "table", {})
    assert migrate.exclude_converge(None, "schema", {})
    assert migrate.exclude_converge("converge_column", "column", {"table_name": "orders"})


def test_the_versions_are_those_of_the_scripts() -> None:
    scripts = ScriptDirectory.from_config(migrate._config()).walk_revisions()
    assert [script.revision for script in scripts] == [*reversed(schema_version.VERSIONS)]
