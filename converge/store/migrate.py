"""The schema's versions: upgrade under a lock, say where a database stands, keep a host's
own migrations apart from ours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, exists, inspect, select, text
from sqlalchemy.engine import URL

from converge.errors import SchemaError, StoreError
from converge.store.connecting import WRITE, parse_url
from converge.store.database import Database
from converge.store.schema import PREFIX, VERSION_TABLE, metadata
from converge.store.trouble import translated

#: Any number that no one else is likely to use; "converge" as ASCII, cut to 63 bits.
_LOCK_NUMBER = 0x636F6E7665726765 & (2**63 - 1)
_LOCK_NAME = "converge.migrate"
#: Seconds to wait for another process that upgrades the same database.
_LOCK_TIMEOUT = 300
#: Databases where statements that change the schema commit, themselves and what came before.
_PIECEMEAL = ("mysql", "mariadb")


def include_name(name: str | None, type_: str, parent_names: object) -> bool:
    """Whether alembic, comparing on converge's behalf, looks at this table."""
    if type_ != "table":
        return True
    return name in metadata.tables


def exclude_converge(name: str | None, type_: str, parent_names: Any) -> bool:
    """For a host's own ``env.py``: pass it as ``include_name`` to ``context.configure``, and
    ``alembic revision --autogenerate`` leaves converge's tables alone.

    :returns: False for converge's tables, True for everything else.
    """
    return not (type_ == "table" and name is not None and name.startswith(PREFIX))


def commits_each_statement() -> bool:
    """For a migration: whether one that is interrupted leaves what it did so far.

    It then starts again from its beginning when the upgrade is repeated, so it passes this as
    ``if_not_exists`` or ``if_exists`` to whatever it makes or drops. On the other databases an
    upgrade is one transaction, and SQLite knows no such thing for columns.
    """
    context = op.get_context()
    return context.dialect.name in _PIECEMEAL and not context.as_sql


def _config(url: URL | None = None, connection: Connection | None = None) -> Config:
    config = Config(output_buffer=io.StringIO(), stdout=io.StringIO())
    # beside this package when installed, and a link to alembic/ in a checkout
    folder = Path(__file__).resolve().parent.parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    if url is not None:
        shown = url.render_as_string(hide_password=False).replace("%", "%%")
        config.set_main_option("sqlalchemy.url", shown)
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest version that this converge knows."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def upgrade(url: str | URL) -> None:
    """Bring a database to the newest version. Any number of processes may do so at once.

    :raises SchemaError: it is newer than this converge, or not converge's.
    :raises StoreError: it cannot be reached or written.
    """
    # to change a large table takes a while
    database = Database(url, patient=True)
    try:
        upgrade_database(database)
    finally:
        database.close()


def upgrade_database(database: Database) -> None:
    """Like :func:`upgrade`, on an open database."""
    with translated(database.shown), _locked(database) as connection:
        _refuse_foreign(database, _state(connection))
        command.upgrade(_config(connection=connection), "head")
        connection.commit()


def upgrade_if_needed(database: Database) -> None:
    """Upgrade unless it is at the newest version already."""
    with database.transaction(write=False) as tx:
        state = _state(tx.connection)
    if state.version != head():
        upgrade(database.url)


def current(url: str | URL) -> str | None:
    """The version a database is at, None if it has no tables of converge's.

    :raises StoreError: it cannot be reached.
    """
    database = Database(url)
    try:
        return current_version(database)
    finally:
        database.close()


def current_version(database: Database) -> str | None:
    """Like :func:`current`, on an open database."""
    _refuse_missing_file(database)
    with database.transaction(write=False) as tx:
        return _state(tx.connection).version


def check(url: str | URL) -> list[str]:
    """What differs between a database and what this converge expects; empty if nothing does.

    :raises SchemaError: it is of another version.
    :raises StoreError: it cannot be reached.
    """
    database = Database(url)
    try:
        check_version(database)
        with database.transaction(write=False) as tx:
            options = {
                "version_table": VERSION_TABLE,
                "include_name": include_name,
                "compare_type": True,
            }
            context = MigrationContext.configure(tx.connection, opts=options)
            return [_describe(change) for change in compare_metadata(context, metadata)]
    finally:
        database.close()


def _describe(change: Any) -> str:
    first = change[0] if isinstance(change, list) else change
    return " ".join(str(part) for part in first if part is not None)


def sql(url: str | URL) -> str:
    """The SQL that brings an empty database of that kind to the newest version."""
    config = _config(url=parse_url(url))
    written = config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    return written.getvalue()


def check_version(database: Database) -> None:
    """Whether this converge can work with a database.

    :raises SchemaError: it cannot; the message says what to run.
    """
    _refuse_missing_file(database)
    with database.transaction(write=False) as tx:
        state = _state(tx.connection)
    _refuse_foreign(database, state)
    if state.version == head():
        return
    if state.version is not None:
        found = f"is at version {state.version}, this converge needs {head()}"
    elif state.begun:
        found = "has only some of converge's tables, as its upgrade was interrupted"
    else:
        found = "has no tables of converge's"
    raise SchemaError(f"{database.shown} {found}; run: converge --db {database.shown} db upgrade")


def _refuse_missing_file(database: Database) -> None:
    """SQLite would make an empty file out of a mistyped name."""
    name = database.url.database
    if database.dialect != "sqlite" or name is None or name.startswith("file:"):
        return
    if not Path(name).exists():
        raise SchemaError(
            f"there is no file {name!r}; to make a database of it, run: "
            f"converge --db {database.shown} db upgrade"
        )


@dataclass(frozen=True, slots=True)
class _State:
    """:ivar version: the recorded version.
    :ivar tables: the tables with our prefix, but for that of the version.
    :ivar begun: there is no version, but these are what an interrupted first upgrade left.
    """

    version: str | None
    tables: set[str]
    begun: bool = False


def _state(connection: Connection) -> _State:
    tables = {name for name in inspect(connection).get_table_names() if name.startswith(PREFIX)}
    if VERSION_TABLE not in tables:
        return _State(None, tables)
    tables.remove(VERSION_TABLE)
    rows = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all()
    if rows:
        return _State(rows[0], tables)
    return _State(None, tables, bool(tables) and _is_begun(connection, tables))


def _is_begun(connection: Connection, tables: set[str]) -> bool:
    """Whether an upgrade that did not come to record its version made these tables.

    It can be so only where statements are committed one by one. Each is then there as it was
    made, and empty, as nobody works with a database that has no version.
    """
    if connection.dialect.name not in _PIECEMEAL or tables - set(metadata.tables):
        return False
    return all(
        {one["name"] for one in inspect(connection).get_columns(name)}
        <= set(metadata.tables[name].columns.keys())
        and connection.execute(select(exists().select_from(metadata.tables[name]))).scalar_one()
        == 0
        for name in tables
    )


def _refuse_foreign(database: Database, state: _State) -> None:
    if state.version is None:
        if state.tables and not state.begun:
            raise SchemaError(
                f"{database.shown} has tables with converge's prefix that are not converge's "
                f"({', '.join(sorted(state.tables)[:3])}); use another database or schema"
            )
        return
    version = state.version
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if version not in known:
        raise SchemaError(
            f"{database.shown} is at version {version}, which is newer than this converge "
            f"(it knows up to {head()}); install a newer converge"
        )


@contextmanager
def _locked(database: Database) -> Iterator[Connection]:
    """A connection on which no other process upgrades."""
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            # the write lock, taken at the beginning, is the lock
            connection.execution_options(**WRITE)
            yield connection
        elif database.dialect == "postgresql":
            connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}s'"))
            connection.execute(text(f"SELECT pg_advisory_lock({_LOCK_NUMBER})"))
            connection.commit()
            try:
                yield connection
            finally:
                connection.rollback()
                connection.execute(text(f"SELECT pg_advisory_unlock({_LOCK_NUMBER})"))
                connection.execute(text("SET lock_timeout = DEFAULT"))
                connection.commit()
        else:
            name = f"{_LOCK_NAME}.{database.url.database}"[:64]
            got = connection.execute(
                text("SELECT GET_LOCK(:name, :timeout)"), {"name": name, "timeout": _LOCK_TIMEOUT}
            ).scalar_one()
            if got != 1:
                raise StoreError(
                    f"another process upgrades the database for over {_LOCK_TIMEOUT} s"
                )
            connection.commit()
            try:
                yield connection
            finally:
                connection.rollback()
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})
                connection.commit()
