"""URLs and new connections: what each database needs before converge speaks to it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy import exc as sa_exceptions
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.pool import QueuePool

from converge.errors import BadInput

DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb")
# How long to wait for a server that is gone without a word, unless the URL says otherwise:
# the drivers' defaults are minutes, hours, or for ever. PostgreSQL's kernel probes a silent
# server; a server that answers the probes may take its time (tcp_user_timeout is in ms).
# PyMySQL can only limit the wait for an answer, which must be longer than that for a lock
# (50 s by default), and is no limit for changes of the schema.
CONNECTION: dict[str, dict[str, str]] = {
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
CONNECTION["mariadb"] = CONNECTION["mysql"]
ANSWER = ("read_timeout", "write_timeout")
# the execution option of SQLite's connections that says how a transaction begins
_BEGIN = "converge_begin"
#: Options of a connection to SQLite that will write.
WRITE: Mapping[str, Any] = {_BEGIN: "BEGIN IMMEDIATE"}
#: Where a statement can be a transaction by itself. On MariaDB, the server would have to be told,
#: which takes as long as a COMMIT.
ALONE = ("postgresql", "sqlite")
_SQLITE_BUSY_SECONDS = 30.0
# after so long without a statement the server ends a transaction
_IDLE_SECONDS = 15


def parse_url(url: str | URL) -> URL:
    """Read a database URL.

    :raises BadInput: it is none, or of a database that converge does not run on.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except sa_exceptions.ArgumentError as error:
        raise BadInput(
            f"{url!r} is not a database URL; one looks like sqlite:///converge.db or "
            "postgresql+psycopg://user@host/name"
        ) from error
    if backend not in DIALECTS:
        raise BadInput(
            f"converge does not run on {backend!r}; use sqlite, postgresql+psycopg or mysql+pymysql"
        )
    drivers = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
    drivers["mariadb"] = "mariadb+pymysql"
    if parsed.drivername in drivers:
        parsed = parsed.set(drivername=drivers[parsed.drivername])
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise BadInput(
            "an SQLite database in memory cannot be shared by engines; "
            "name a file: sqlite:///converge.db"
        )
    return parsed


def create_sqlite_engine(url: URL, **options: Any) -> tuple[Engine, Engine]:
    """An engine of SQLite, as oslo.db wants it: twice.

    It keeps its connections, as those of servers do: oslo.db would open one for each
    transaction, which takes longer than a short one; and when the last one is closed, SQLite
    moves its log into the database.

    WAL, so that readers never wait; writers take the lock when they begin, since an upgrade
    from read to write fails at once however long the busy timeout is.
    """
    # as many as there are threads: each waits for the writers before it by itself
    pool = {"poolclass": QueuePool, "max_overflow": -1, "pool_pre_ping": False}
    engine = create_engine(url, **{**options, **pool})

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, record: object) -> None:
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
        # the mark of oslo.db, which comes after this, and would begin one itself
        connection.info["in_transaction"] = True

    @event.listens_for(engine, "handle_error")
    def interrupt(context: ExceptionContext) -> None:
        # a Ctrl-C must come out as such: SQLAlchemy would give the connection up, which leaves
        # no socket in disorder here, and oslo.db would fail when it then rolls back
        if not isinstance(context.original_exception, Exception):
            context.is_disconnect = False

    return engine, engine


def prepare_server(engine: Engine, dialect: str) -> None:
    """READ COMMITTED, whatever the server's default: what a waiter waited for must be seen. And
    a transaction of a process that was stopped in its middle must not keep its locks: ours never
    idle."""
    statements = (
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'",
        )
        if dialect == "postgresql"
        else (
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            f"SET SESSION idle_transaction_timeout = {_IDLE_SECONDS}",
        )
    )

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.commit()


@contextmanager
def statements_alone(connection: Connection) -> Iterator[Connection]:
    """Each statement on a connection is a transaction by itself.

    PostgreSQL's driver is told, not SQLAlchemy, which would give the connection back with the
    server's default isolation level in place of ours.
    """
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
                # it is lost; the next one would commit each statement
                connection.invalidate()


@contextmanager
def allowed_to_idle(connection: Connection) -> Iterator[None]:
    """What a host does in its transaction takes its own time."""
    dialect = connection.dialect.name
    if dialect == "sqlite":
        yield
        return
    name = "idle_in_transaction_session" if dialect == "postgresql" else "idle_transaction"
    driver: Any = connection.connection.dbapi_connection

    def set_limit(seconds: int) -> None:
        with driver.cursor() as cursor:
            unit = 1000 if dialect == "postgresql" else 1
            cursor.execute(f"SET SESSION {name}_timeout = {seconds * unit}")
        driver.commit()

    set_limit(0)
    try:
        yield
    finally:
        if not connection.invalidated and not connection.closed:
            try:
                set_limit(_IDLE_SECONDS)
            except Exception:
                # it goes on without the limit no further than this
                connection.invalidate()


# A connection that was used within so many seconds is taken to be alive: to ask costs as much as
# a short statement does, and a transaction whose connection is lost is run again anyway.
_FRESH = 1.0


def ping_the_idle(engine: Engine) -> None:
    """Ask whether a pooled connection is alive before it is used, as oslo.db has the pool do, but
    only where it was idle."""
    pool: Any = engine.pool
    pool._pre_ping = False

    @event.listens_for(engine, "checkin")
    def checkin(connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: object) -> None:
        used = record.info.get("used")
        if used is None or time.monotonic() - used < _FRESH:
            return
        try:
            alive = engine.dialect.do_ping(connection)
        except Exception:
            alive = False
        if not alive:
            # the others of the pool are as old
            raise sa_exceptions.InvalidatePoolError
