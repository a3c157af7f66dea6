"""A new database on any kind of server, and what is in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, delete, func, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from benchmarks.measuring import own_database, read_url
from converge.sql.schema import engine, metadata, stack
from converge.store import Store


@contextmanager
def any_database(text: str) -> Iterator[URL]:
    """A new database, dropped at the end.

    :param text: the URL of a server, or ``sqlite://`` for a file.
    :raises SQLAlchemyError: there is no such server.
    """
    url = make_url(text)
    kind = url.get_backend_name()
    if kind == "postgresql":
        with own_database(read_url(text)) as own:
            yield own
    elif kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="converge-bench-") as folder:
            yield make_url(f"sqlite:///{Path(folder, 'bench.db')}")
    else:
        with _mariadb(url) as own:
            yield own


@contextmanager
def _mariadb(url: URL) -> Iterator[URL]:
    name = f"converge_bench_{os.getpid()}"
    admin = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        yield url.set(database=name)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")


def empty(store: Store, *, engines: bool = True) -> None:
    """Delete all rows.

    :param engines: those of engines, too: none may be running.
    """
    with store.transaction() as tx:
        for table in metadata.sorted_tables:
            if table is engine and not engines:
                continue
            if tx.dialect == "postgresql":
                tx.connection.exec_driver_sql(f"TRUNCATE {table.name}")
            else:
                tx.execute(delete(table))


def count_stacks(store: Store, status: str) -> int:
    """How many stacks have a status."""
    query = select(func.count()).where(stack.c.status == status)
    return int(store.database.read(lambda tx: tx.execute(query).scalar_one()))


def describe(store: Store) -> str:
    """The server and its version."""
    with store.database.engine.connect() as connection:
        version = connection.dialect.server_version_info or ()
    return f"{store.database.dialect} {'.'.join(map(str, version[:3]))}"
