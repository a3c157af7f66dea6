"""Migrations: upgrade a database under a lock, check its tables, and keep a host's own migrations
apart from ours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

from converge.errors import SchemaError
from converge.sql.database import Database
from converge.sql.faults import is_transient, translated
from converge.sql.repeat import repeat
from converge.sql.schema import PREFIX, VERSION_TABLE, metadata
from converge.sql.schema_version import (
    COMMITS_SCHEMA_CHANGES,
    HEAD,
    SchemaState,
    check_schema,
    current_version,
    read_state,
    refuse_foreign,
)
from converge.sql.upgrade_lock import LostLock, upgrade_lock
from converge.sql.urls import parse_url


def include_name(name: str | None, type_: str, parent_names: object) -> bool:
    """Whether alembic looks at this table when it compares converge's tables."""
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
    """For a migration: whether each of its statements commits by itself.

    An interrupted migration then leaves what it did so far, and the next upgrade runs it from its
    beginning. So it passes this as ``if_not_exists`` or ``if_exists`` to all that it makes or
    drops. On the other databases an upgrade is one transaction, and SQLite does not have these
    options for columns.
    """
    context = op.get_context()
    return context.dialect.name in COMMITS_SCHEMA_CHANGES and not context.as_sql


def _config(
    url: URL | None = None, connection: Connection | None = None, recorded: Any = None
) -> Config:
    config = Config(output_buffer=io.StringIO(), stdout=io.StringIO())
    # a folder beside this package when installed; in a checkout, a link to alembic/
    folder = Path(__file__).resolve().parent.parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    if url is not None:
        shown = url.render_as_string(hide_password=False).replace("%", "%%")
        config.set_main_option("sqlalchemy.url", shown)
    config.attributes["connection"] = connection
    config.attributes["recorded"] = recorded
    return config


def upgrade(url: str | URL) -> None:
    """Upgrade a database to the newest version. Any number of processes may do so at once.

    :raises SchemaError: it is newer than this converge, or not converge's.
    :raises StoreError: it cannot be reached or written.
    """
    # a change of a large table takes long
    database = Database(url, answer_timeout=False)
    try:
        upgrade_database(database)
    finally:
        database.close()


def upgrade_database(database: Database) -> None:
    """Like :func:`upgrade`, on an open database."""

    def is_safe(error: BaseException) -> bool:
        return isinstance(error, LostLock) or is_transient(error)

    with translated(database.shown):
        repeat(lambda: _upgrade(database), is_safe, wait_for_locks=False)


def _upgrade(database: Database) -> None:
    with database.engine.connect() as connection:
        state = read_state(connection)
    refuse_foreign(database, state)
    if state.is_newest:
        return
    with upgrade_lock(database) as lock:
        state = read_state(lock.connection)
        refuse_foreign(database, state)
        if state.others:
            _keep_newest(lock.connection, state)
        config = _config(connection=lock.connection, recorded=lock.confirm)
        command.upgrade(config, "head")
        if state.others and (differences := _differences(lock.connection)):
            raise SchemaError(
                f"{database.shown} has the versions {', '.join(state.others)} and {state.version} "
                f"at once, and its tables are not those of {HEAD}: {'; '.join(differences)}; bring "
                "back a backup from before its last upgrade"
            )
        lock.connection.commit()


def _keep_newest(connection: Connection, state: SchemaState) -> None:
    """Forget all versions but the newest. Two upgrades at the same time did the same, and no
    migration undoes what a newer one did."""
    old = text(f"DELETE FROM {VERSION_TABLE} WHERE version_num <> :version")
    connection.execute(old, {"version": state.version})


def current(url: str | URL) -> str | None:
    """The version of a database; None if converge's tables do not exist.

    :raises StoreError: it cannot be reached.
    """
    database = Database(url)
    try:
        return current_version(database)
    finally:
        database.close()


def check(url: str | URL) -> list[str]:
    """The differences between a database and what this converge expects; empty if there are none.

    :raises SchemaError: it has another version.
    :raises StoreError: it cannot be reached.
    """
    database = Database(url)
    try:
        check_schema(database)
        with database.transaction(write=False) as tx:
            return _differences(tx.connection)
    finally:
        database.close()


def _differences(connection: Connection) -> list[str]:
    options = {
        "version_table": VERSION_TABLE,
        "include_name": include_name,
        "compare_type": True,
    }
    context = MigrationContext.configure(connection, opts=options)
    return [_describe(change) for change in compare_metadata(context, metadata)]


def _describe(change: Any) -> str:
    first = change[0] if isinstance(change, list) else change
    return " ".join(str(part) for part in first if part is not None)


def sql(url: str | URL) -> str:
    """The SQL that upgrades an empty database of that kind to the newest version."""
    config = _config(url=parse_url(url))
    written = config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    return written.getvalue()
