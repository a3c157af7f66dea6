"""The schema's versions: upgrade under a lock, say where a database stands, keep a host's
own migrations apart from ours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

from converge.errors import StoreError
from converge.sql.connections import WRITE_OPTIONS
from converge.sql.database import Database
from converge.sql.faults import translated
from converge.sql.schema import PREFIX, VERSION_TABLE, metadata
from converge.sql.schema_version import (
    PIECEMEAL,
    check_schema,
    current_version,
    read_state,
    refuse_foreign,
)
from converge.sql.urls import parse_url

#: Any number that no one else is likely to use; "converge" as ASCII, cut to 63 bits.
_LOCK_NUMBER = 0x636F6E7665726765 & (2**63 - 1)
_LOCK_NAME = "converge.migrate"
#: Seconds to wait for another process that upgrades the same database.
_LOCK_TIMEOUT = 300


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
    return context.dialect.name in PIECEMEAL and not context.as_sql


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


def upgrade(url: str | URL) -> None:
    """Bring a database to the newest version. Any number of processes may do so at once.

    :raises SchemaError: it is newer than this converge, or not converge's.
    :raises StoreError: it cannot be reached or written.
    """
    # to change a large table takes a while
    database = Database(url, answer_timeout=False)
    try:
        upgrade_database(database)
    finally:
        database.close()


def upgrade_database(database: Database) -> None:
    """Like :func:`upgrade`, on an open database."""
    with translated(database.shown), _locked(database) as connection:
        refuse_foreign(database, read_state(connection))
        command.upgrade(_config(connection=connection), "head")
        connection.commit()


def current(url: str | URL) -> str | None:
    """The version a database is at, None if it has no tables of converge's.

    :raises StoreError: it cannot be reached.
    """
    database = Database(url)
    try:
        return current_version(database)
    finally:
        database.close()


def check(url: str | URL) -> list[str]:
    """What differs between a database and what this converge expects; empty if nothing does.

    :raises SchemaError: it is of another version.
    :raises StoreError: it cannot be reached.
    """
    database = Database(url)
    try:
        check_schema(database)
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


@contextmanager
def _locked(database: Database) -> Iterator[Connection]:
    """A connection on which no other process upgrades."""
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            # the write lock, taken at the beginning, is the lock
            connection.execution_options(**WRITE_OPTIONS)
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
