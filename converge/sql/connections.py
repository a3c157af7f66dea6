"""New connections: what each database needs before converge uses it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy import exc as sa_exceptions
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.pool import QueuePool

from converge.sql.sessions import is_pooled

# How long to wait for a server that has vanished, unless the URL says otherwise: the drivers'
# defaults are minutes, hours, or for ever. For PostgreSQL the kernel probes a silent server; a
# server that answers the probes may take its time (tcp_user_timeout is in ms). PyMySQL can only
# limit the wait for an answer. That must be longer than the wait for a lock (50 s by default), and
# it is switched off for changes of the schema.
CONNECT_OPTIONS: dict[str, dict[str, str]] = {
    "postgresql": {
        "connect_timeout": "10",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
    },
    "mysql": {
        "charset": "utf8mb4",
        "connect_timeout": "10",
        "read_timeout": "90",
        "write_timeout": "90",
    },
}
CONNECT_OPTIONS["mariadb"] = CONNECT_OPTIONS["mysql"]
ANSWER_TIMEOUTS = {"read_timeout", "write_timeout"}
# the execution option of a connection to SQLite that says how a transaction begins
_BEGIN = "converge_begin"
#: Options of a connection to SQLite that will write.
WRITE_OPTIONS: Mapping[str, Any] = {_BEGIN: "BEGIN IMMEDIATE"}
#: Databases where one statement commits by itself. MariaDB needs another statement to turn that on,
#: which takes as long as a COMMIT.
AUTOCOMMIT = ("postgresql", "sqlite")
_SQLITE_BUSY_SECONDS = 30.0
#: Idle connections that are kept; any number can be open at a time.
KEPT_CONNECTIONS = 32


def pool_options(connections: int | None, kept: int = KEPT_CONNECTIONS) -> dict[str, int]:
    """How large the pool is.

    :param connections: the most at a time; None: no limit.
    :param kept: how many idle connections are kept if there is no limit.
    """
    if connections is None:
        return {"pool_size": kept, "max_overflow": -1}
    return {"pool_size": connections, "max_overflow": 0}


def create_sqlite_engine(url: URL, connections: int | None, kept: int) -> Engine:
    """An engine of SQLite.

    It is made without oslo.db, which has little to do here. It keeps its connections, as the
    engines of servers do. oslo.db would open one for each transaction: that takes longer than a
    short transaction, and closing the last connection makes SQLite move its log into the database.

    WAL, so that readers never wait. A writer takes the lock when it begins: an upgrade from read
    to write fails at once, whatever the busy timeout.
    """
    engine = create_engine(url, poolclass=QueuePool, **pool_options(connections, kept))

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, record: Any) -> None:
        record.info["pid"] = os.getpid()
        # the driver begins no transactions; begin_transaction() below does
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {int(_SQLITE_BUSY_SECONDS * 1000)}")
        try:
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            if mode != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # a read-only database can still be read
            if "readonly" not in str(error):
                raise
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        if begin := connection.get_execution_options().get(_BEGIN, "BEGIN"):
            connection.exec_driver_sql(begin)

    @event.listens_for(engine, "checkout")
    def take(connection: sqlite3.Connection, record: Any, proxy: object) -> None:
        # a forked process must not use a connection of its parent
        if record.info["pid"] != os.getpid():
            raise sa_exceptions.DisconnectionError

    @event.listens_for(engine, "handle_error", retval=True)
    def explain(context: ExceptionContext) -> BaseException | None:
        original = context.original_exception
        if not isinstance(original, Exception):
            # a Ctrl-C does no harm to a connection without a socket: do not let SQLAlchemy
            # invalidate it
            context.is_disconnect = False
        elif not isinstance(context.sqlalchemy_exception, sa_exceptions.DBAPIError):
            # Python's sqlite3 refuses it before SQLite sees it, for example a number beyond 64 bits
            refused = isinstance(original, ValueError | TypeError | OverflowError)
            kind = sa_exceptions.DataError if refused else sa_exceptions.DBAPIError
            return kind(context.statement, context.parameters, original)
        return None

    return engine


@contextmanager
def autocommit(connection: Connection) -> Iterator[Connection]:
    """Make each statement on a connection commit by itself.

    This is set in PostgreSQL's driver. SQLAlchemy would return the connection to the pool with the
    server's default isolation level instead of ours. Behind a pooler, a statement has a transaction
    all the same: it is the transaction that has the isolation level and the limits.
    """
    if is_pooled(connection):
        yield connection
        return
    if connection.dialect.name == "sqlite":
        yield connection.execution_options(**{_BEGIN: ""})
        return
    driver: Any = connection.connection.dbapi_connection
    driver.autocommit = True
    try:
        yield connection
    finally:
        if not connection.invalidated and not connection.closed:
            try:
                driver.autocommit = False
            except Exception:
                # if it could be used again, it would commit each statement
                connection.invalidate()
