"""The connection to the database: transactions, their retry, the clock, errors in plain words."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from oslo_db import api as oslo_api
from oslo_db import exception as oslo_exceptions
from oslo_db.sqlalchemy import engines as oslo_engines
from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    bindparam,
    event,
    literal,
    make_url,
    text,
)
from sqlalchemy import exc as sa_exceptions
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.types import Double

from converge import points
from converge.errors import BadInput, CommitUnknown, ConvergeError, StoreError
from converge.points import Commit
from converge.store.types import clock

if TYPE_CHECKING:
    from sqlalchemy.orm import Session
    from sqlalchemy.sql import Executable
    from sqlalchemy.sql.elements import ColumnElement

T = TypeVar("T")

#: How often a transaction is tried again after a deadlock or the like.
RETRIES = 10
DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb")

READ_ONLY = "the database is read-only"

# How long to wait for a server that is gone without a word, unless the URL says otherwise:
# the drivers' defaults are minutes, hours, or for ever. PostgreSQL's kernel probes a silent
# server; a server that answers the probes may take its time (tcp_user_timeout is in ms).
# PyMySQL can only limit the wait for an answer, which must be longer than that for a lock
# (50 s by default), and is no limit for changes of the schema.
_CONNECTION: dict[str, dict[str, str]] = {
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
_CONNECTION["mariadb"] = _CONNECTION["mysql"]
_ANSWER = ("read_timeout", "write_timeout")

# those of the sessions that still do something; an idle one does not know yet that it is alone
_SESSIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid IN :ids",
    "mysql": "SELECT id FROM information_schema.processlist"
    " WHERE command <> 'Sleep' AND id IN :ids",
}
_SESSIONS["mariadb"] = _SESSIONS["mysql"]
_SETTLE_SECONDS = 10.0

_WRITE = "converge_write"
_SQLITE_BUSY_SECONDS = 30.0
# after so long without a statement the server ends a transaction
_IDLE_SECONDS = 15
# lock timeout and serialization failure; oslo.db does not map them
_POSTGRESQL_AGAIN = {"55P03", "40001", "40P01"}
_MARIADB_AGAIN = {1205, 1213, 1020}


class _Away(StoreError):
    """A database that answered before does not let anybody in; it is taken to come back."""


class Transaction:
    """An open transaction: what every function of the store takes first.

    :ivar connection: the SQLAlchemy connection, for the host's own statements.
    :ivar dialect: the name of its SQLAlchemy dialect.
    """

    def __init__(self, connection: Connection, clock: Callable[[], float] | None) -> None:
        self.connection = connection
        self.dialect = connection.dialect.name
        self._clock = clock

    def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        """Execute one statement."""
        return cast("CursorResult[Any]", self.connection.execute(statement, parameters))

    @property
    def now(self) -> ColumnElement[float]:
        """The time, in seconds since 1970, as an SQL expression."""
        if self._clock is not None:
            return literal(self._clock(), Double())
        return cast("ColumnElement[float]", clock())


class Database:
    """One database that converge's tables live in.

    :param url: an SQLAlchemy URL of SQLite, PostgreSQL (psycopg 3) or MariaDB (PyMySQL).
    :param clock: what tells the time instead of the database, in seconds since 1970; for tests.
    :param patient: wait for the answer to a statement for as long as it takes.
    :raises BadInput: not such a URL.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        clock: Callable[[], float] | None = None,
        patient: bool = False,
    ) -> None:
        self.url = parse_url(url)
        self.clock = clock
        self.dialect = self.url.get_backend_name()
        defaults = _CONNECTION.get(self.dialect, {})
        if patient:
            defaults = {name: value for name, value in defaults.items() if name not in _ANSWER}
        try:
            self.engine: Engine = oslo_engines.create_engine(
                self.url.set(query={**defaults, **self.url.query}),
                max_retries=0,
                thread_checkin=False,
                connection_recycle_time=-1,
                # strict: what does not fit is an error, never cut
                mysql_sql_mode="TRADITIONAL",
            )
        except ImportError as error:
            extra = "postgresql" if self.dialect == "postgresql" else "mariadb"
            raise BadInput(
                f"the driver for {self.url.drivername} is not installed ({error}); "
                f"install converge[{extra}]"
            ) from error
        if self.dialect == "sqlite":
            _prepare_sqlite(self.engine)
        else:
            _prepare_server(self.engine, self.dialect)
        # the server's sessions whose connection was lost during a commit
        self._unsettled: set[int] = set()
        self._anchor: Connection | None = None
        # whether it ever answered
        self._reached = False

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close all connections."""
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None
        self.engine.dispose()

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Transaction]:
        """A transaction that commits at the end and rolls back on an exception. Not retried.

        :param write: on SQLite, take the write lock at the start; a reader never waits.
        :raises CommitUnknown: the connection was lost during the commit.
        :raises StoreError: the database cannot be used, in plain words.
        """
        committing: int | None = None
        with translated(self.shown):
            try:
                with (
                    self._connect(write) as connection,
                    _allowed_to_idle(connection),
                    connection.begin(),
                ):
                    yield Transaction(connection, self.clock)
                    if write:
                        points.hit(Commit.HOST.before)
                        committing = self._session(connection)
            except Exception as error:
                if committing is not None and is_lost(error):
                    raise self._unknown(error) from error
                raise
            if write:
                points.hit(Commit.HOST.after)

    @contextmanager
    def _connect(self, write: bool) -> Iterator[Connection]:
        if self.dialect == "sqlite" and self._anchor is None:
            # closing the last connection would checkpoint the WAL after every transaction
            self._anchor = self.engine.connect()
        try:
            connection = self.engine.connect()
        except (oslo_exceptions.DBError, sa_exceptions.SQLAlchemyError) as error:
            if self._reached:
                raise _Away(f"{self.shown}: {explain(error)}") from error
            raise
        self._reached = True
        with connection:
            yield connection.execution_options(**{_WRITE: write})

    def read(self, function: Callable[[Transaction], T]) -> T:
        """Run a function that only reads, in a transaction; again when the connection was lost.

        :raises StoreError: the database cannot be used.
        """

        def once() -> T:
            with self._connect(False) as connection, connection.begin():
                return function(Transaction(connection, self.clock))

        with translated(self.shown):
            return _again(once, lambda error: is_transient(error) or is_lost(error))

    def transact(
        self,
        function: Callable[[Transaction], T],
        commit: Commit,
        *,
        happened: Callable[[Transaction, T], bool] | None = None,
    ) -> T:
        """Run a function in a transaction, again when a deadlock or the like undid it, or when
        the connection was lost before the commit.

        :param function: may be called several times, so it must have no effect but its
            statements.
        :param commit: what the transaction is for: its crash points.
        :param happened: looks whether an attempt with this result was committed. It is asked
            when the connection was lost during the commit; without it that is an error.
        :raises CommitUnknown: the connection was lost during the commit.
        :raises StoreError: the database cannot be used.
        """
        # the results of attempts of whose commit nothing was heard
        doubtful: list[T] = []
        session = 0

        def once() -> T:
            nonlocal session
            if doubtful and happened is not None:
                self._settle()
                with self._connect(False) as connection, connection.begin():
                    if happened(Transaction(connection, self.clock), doubtful[-1]):
                        return doubtful[-1]
            doubtful.clear()
            with self._connect(True) as connection, connection.begin():
                result = function(Transaction(connection, self.clock))
                points.hit(commit.before)
                session = self._session(connection)
                doubtful.append(result)
            points.hit(commit.after)
            return result

        def is_safe(error: BaseException) -> bool:
            if is_lost(error):
                if doubtful and session:
                    self._unsettled.add(session)
                return not doubtful or happened is not None
            return is_transient(error)

        with translated(self.shown):
            try:
                return _again(once, is_safe)
            except Exception as error:
                if doubtful and is_lost(error):
                    raise self._unknown(error) from error
                if is_read_only(error):
                    # after a failover, new connections may lead to the new primary
                    self.engine.dispose()
                raise

    def settle(self) -> None:
        """Wait until the server is done with what it was doing for connections that were lost
        during a commit. Before that, a look for what was committed may come too early.

        :raises CommitUnknown: it is still at it after some seconds.
        :raises StoreError: it cannot be reached.
        """
        with translated(self.shown):
            self._settle()

    def _settle(self) -> None:
        end = time.monotonic() + _SETTLE_SECONDS
        while lost := list(self._unsettled):
            with self._connect(False) as connection, connection.begin():
                found = connection.execute(
                    text(_SESSIONS[self.dialect]).bindparams(bindparam("ids", expanding=True)),
                    {"ids": lost},
                )
                busy = set(found.scalars())
            self._unsettled.difference_update(set(lost) - busy)
            if not busy:
                return
            if time.monotonic() > end:
                # it is asked once: after a failover the numbers may be those of others
                self._unsettled.difference_update(lost)
                raise CommitUnknown(f"{self.shown}: the server is still busy with a lost commit")
            time.sleep(0.05)

    def _session(self, connection: Connection) -> int:
        """The number of a connection's session in the server; 0 where there is no server."""
        driver: Any = connection.connection.dbapi_connection
        if self.dialect == "postgresql":
            return int(driver.info.backend_pid)
        return 0 if self.dialect == "sqlite" else int(driver.thread_id())

    def _unknown(self, error: BaseException) -> CommitUnknown:
        return CommitUnknown(
            f"{self.shown}: the connection was lost during a commit; look whether it went "
            f"through ({explain(error)})"
        )

    @contextmanager
    def join(self, transaction: Transaction | Connection | Session | None) -> Iterator[Transaction]:
        """The caller's transaction, or one of our own.

        :param transaction: what :meth:`transaction` gave, a SQLAlchemy connection, or a
            session; its owner commits it.
        :raises BadInput: it is something else.
        """
        if transaction is None:
            with self.transaction() as own:
                yield own
        elif isinstance(transaction, Transaction):
            yield transaction
        elif isinstance(transaction, Connection):
            with translated(self.shown):
                yield Transaction(_begun(transaction), self.clock)
        elif callable(connection := getattr(transaction, "connection", None)):
            with translated(self.shown):
                yield Transaction(_begun(connection()), self.clock)
        else:
            raise BadInput(
                "transaction must be a converge transaction, a SQLAlchemy Connection or a "
                f"Session, not {type(transaction).__name__}"
            )


def _begun(connection: Connection) -> Connection:
    """The host's connection, in a transaction for sure.

    Python's sqlite3 begins none before a SAVEPOINT, whose release would then commit.
    """
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.dbapi_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    return connection


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


def _prepare_sqlite(engine: Engine) -> None:
    """WAL, so that readers never wait; writers take the lock when they begin, since an upgrade
    from read to write fails at once however long the busy timeout is."""

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

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def begin(
        connection: Connection,
        cursor: object,
        statement: str,
        parameters: object,
        context: object,
        executemany: bool,
    ) -> tuple[str, object]:
        if statement == "BEGIN" and connection.get_execution_options().get(_WRITE):
            statement = "BEGIN IMMEDIATE"
        return statement, parameters

    @event.listens_for(engine, "handle_error")
    def interrupt(context: ExceptionContext) -> None:
        # a Ctrl-C must come out as such: SQLAlchemy would give the connection up, which leaves
        # no socket in disorder here, and oslo.db would fail when it then rolls back
        if not isinstance(context.original_exception, Exception):
            context.is_disconnect = False


def _prepare_server(engine: Engine, dialect: str) -> None:
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
def _allowed_to_idle(connection: Connection) -> Iterator[None]:
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


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may well succeed when it is run again."""
    if isinstance(error, oslo_exceptions.DBDeadlock):
        return True
    original = _driver_error(error)
    state = getattr(original, "sqlstate", None)
    if state in _POSTGRESQL_AGAIN:
        return True
    if isinstance(original, sqlite3.OperationalError):
        return "database is locked" in str(original)
    code = original.args[0] if original is not None and original.args else None
    return isinstance(code, int) and code in _MARIADB_AGAIN


def repeatable(tx: Transaction, result: object) -> bool:
    """For :meth:`Database.transact`: to do it twice is no harm, so there is nothing to look for."""
    return False


def is_lost(error: BaseException) -> bool:
    """Whether the connection to a database that had answered is gone."""
    if isinstance(error, oslo_exceptions.DBConnectionError):
        return True
    inner = getattr(error, "inner_exception", None) or error
    return isinstance(error, _Away) or bool(getattr(inner, "connection_invalidated", False))


def is_read_only(error: BaseException) -> bool:
    """Whether the database does not take writes at all, as after a failover."""
    return explain(error).startswith(READ_ONLY)


def is_refused(error: StoreError) -> bool:
    """Whether the database works, but does not take a value: trying again is of no use."""
    return isinstance(
        error.__cause__,
        oslo_exceptions.DBDataError | oslo_exceptions.DBConstraintError | sa_exceptions.DataError,
    ) or isinstance(getattr(error.__cause__, "inner_exception", None), sa_exceptions.DataError)


def _again(once: Callable[[], T], is_safe: Callable[[BaseException], bool]) -> T:
    """Call a function until it succeeds, at most RETRIES times more, for about 5 s in all."""
    left = RETRIES

    def goes_on(error: BaseException) -> bool:
        # counted here, as oslo.db would log a traceback where it gives up
        nonlocal left
        left -= 1
        return left >= 0 and is_safe(error)

    return cast(
        "T",
        oslo_api.wrap_db_retry(
            retry_interval=0.01 + random.random() * 0.02,
            max_retries=RETRIES + 1,
            inc_retry_interval=True,
            max_retry_interval=1,
            retry_on_deadlock=False,
            exception_checker=goes_on,
        )(once)(),
    )


def _driver_error(error: BaseException | None) -> BaseException | None:
    """The database driver's own exception under those of SQLAlchemy and oslo.db."""
    while error is not None:
        inner = getattr(error, "orig", None) or getattr(error, "inner_exception", None)
        if inner is None:
            return error
        error = inner
    return None


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn errors of the database layer into :class:`StoreError` that say what to do.

    Duplicate keys are left alone: they are answers, not trouble.
    """
    try:
        yield
    except (ConvergeError, oslo_exceptions.DBDuplicateEntry):
        raise
    except (oslo_exceptions.DBError, sa_exceptions.SQLAlchemyError) as error:
        if isinstance(error, sa_exceptions.StatementError) and not isinstance(
            error, sa_exceptions.DBAPIError
        ):
            raise
        raise StoreError(f"{where}: {explain(error)}") from error


def explain(error: BaseException) -> str:
    """What a database error means to the person who reads it, in one line."""
    original = _driver_error(error) or error
    text = " ".join(str(original).split())
    low = text.lower()
    hints = (
        (("readonly", "read-only", "read only"), READ_ONLY),
        (("is full", "no space left", "disk full"), "the database's disk is full"),
        (("not a database", "malformed"), "this is not an SQLite database"),
        (("unable to open database file",), "the database file cannot be opened"),
        (
            ("connection refused", "could not connect", "can't connect", "connection failed"),
            "the database server cannot be reached",
        ),
        (("password authentication", "access denied"), "the database refused the user"),
        (("unknown database", "does not exist", "no such table"), "something is missing"),
        (("database is locked",), "the database was locked by another process for too long"),
    )
    for words, meaning in hints:
        if any(word in low for word in words):
            return f"{meaning} ({text[:300]})"
    return text[:500] or type(original).__name__
