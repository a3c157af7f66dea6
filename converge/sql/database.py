"""The database: its connections, and how transactions begin, end, and are run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy import exc as sa_exceptions
from sqlalchemy.engine import URL
from sqlalchemy.pool import QueuePool

from converge import crash_points
from converge.bus.memory import MemoryBus
from converge.crash_points import Commit
from converge.errors import BadInput, CommitUnknown
from converge.hiding import hide, hide_in
from converge.sql.connections import (
    ANSWER_TIMEOUTS,
    AUTOCOMMIT,
    CONNECT_OPTIONS,
    KEPT_CONNECTIONS,
    WRITE_OPTIONS,
    autocommit,
    create_sqlite_engine,
)
from converge.sql.faults import (
    Unavailable,
    Unreachable,
    database_errors,
    explain,
    is_lost,
    is_read_only,
    is_transient,
    is_unreachable,
    translated,
)
from converge.sql.lost_sessions import LostSessions
from converge.sql.notices import send_notice
from converge.sql.pool_guard import PoolGuard
from converge.sql.repeat import repeat
from converge.sql.sessions import HOST_SECONDS, host_limits, is_pooled, session_number, take_options
from converge.sql.transaction import Transaction
from converge.sql.types import keyring_of, set_keyring
from converge.sql.urls import parse_url, show_url

if TYPE_CHECKING:
    from converge.sealing import Keyring
    from converge.sql.transaction import HostTransaction

T = TypeVar("T")

_LIMITS = {
    "postgresql": "SELECT CASE WHEN rolconnlimit >= 0 THEN rolconnlimit"
    " ELSE current_setting('max_connections')::int END"
    " FROM pg_roles WHERE rolname = current_user",
    "mysql": "SELECT CASE WHEN @@max_user_connections > 0"
    " THEN LEAST(@@max_user_connections, @@max_connections) ELSE @@max_connections END",
}
_LIMITS["mariadb"] = _LIMITS["mysql"]


class HasDatabase(Protocol):
    """What journals and machines need of a :class:`~converge.Store`."""

    database: Database


class Database:
    """One database that converge's tables live in.

    :param url: an SQLAlchemy URL of SQLite, PostgreSQL (psycopg 3) or MariaDB (PyMySQL).
    :param clock: gives the time instead of the database, in seconds since 1970; for tests.
    :param answer_timeout: give up a server that does not answer a statement; False: wait for as
        long as it takes.
    :param connections: the most connections at a time; None: no limit.
    :param kept: how many idle connections are kept for the next use.
    :raises BadInput: it is not such a URL.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        clock: Callable[[], float] | None = None,
        answer_timeout: bool = True,
        connections: int | None = None,
        kept: int = KEPT_CONNECTIONS,
    ) -> None:
        self.url = parse_url(url)
        self._clock = clock
        # whose clock it uses: see separate()
        self._main: Database | None = None
        self.connections = connections
        self.dialect = self.url.get_backend_name()
        defaults = CONNECT_OPTIONS.get(self.dialect, {})
        if not answer_timeout:
            defaults = {
                name: value for name, value in defaults.items() if name not in ANSWER_TIMEOUTS
            }
        wrong = None
        try:
            self.engine = _create_engine(
                self.url.set(query={**defaults, **self.url.query}), connections, kept
            )
        except ImportError as error:
            package = "'psycopg[binary]'" if self.dialect == "postgresql" else "PyMySQL"
            raise BadInput(
                f"the driver for {self.url.drivername} is not installed ({error}); "
                f"type: pip install {package}"
            ) from error
        except (ValueError, TypeError, sa_exceptions.ArgumentError) as error:
            wrong = hide(" ".join(str(error).split()))
        if wrong is not None:
            # raised without its cause, which may quote a secret
            raise BadInput(f"{self.shown} cannot be used: {wrong}")
        self._pool_guard = PoolGuard(self.engine)
        self._lost_sessions = LostSessions()
        # it has answered at least once
        self._reached = False
        #: Who is told of what is committed.
        self.bus = MemoryBus()

    def separate(self) -> Database:
        """The same database with its own pool, so that its connection is always free."""
        other = Database(self.url, kept=1)
        other._main = self
        other.keyring = self.keyring
        other._reached = other._pool_guard.reached = self._reached
        return other

    @property
    def clock(self) -> Callable[[], float] | None:
        """What gives the time instead of the database."""
        return self._clock if self._main is None else self._main.clock

    @clock.setter
    def clock(self, clock: Callable[[], float] | None) -> None:
        self._clock = clock

    @property
    def keyring(self) -> Keyring | None:
        """What values are encrypted with; None if they are not."""
        return keyring_of(self.engine.dialect)

    @keyring.setter
    def keyring(self, keyring: Keyring | None) -> None:
        set_keyring(self.engine.dialect, keyring)

    @cached_property
    def shown(self) -> str:
        """The URL without its secrets."""
        return show_url(self.url)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def transaction(
        self, *, write: bool = True, limit: float = HOST_SECONDS
    ) -> Iterator[Transaction]:
        """A transaction that commits at the end and rolls back on an exception. Not run again.

        :param write: on SQLite, take the write lock at the start; a reader never waits.
        :param limit: seconds that it may be idle, that each of its statements may take, and that
            a statement waits for locked rows. SQLite has no such limit.
        :raises CommitUnknown: the connection was lost during the commit.
        :raises StoreError: the database cannot be used; the message says why.
        """
        committing: int | None = None
        with translated(self.shown, self):
            try:
                with (
                    self._connect(write) as connection,
                    host_limits(connection, limit),
                    connection.begin(),
                ):
                    tx = Transaction(connection, self.clock)
                    yield tx
                    if write:
                        sent = self._send_news(tx)
                        crash_points.hit(Commit.HOST.before)
                        committing = session_number(connection)
            except Exception as error:
                if committing is not None and is_lost(error):
                    raise self._unknown(error) from error
                raise
            if write:
                crash_points.hit(Commit.HOST.after)
                if tx.news:
                    self.bus.committed(tx.news.hint, sent=sent)

    def _send_news(self, tx: Transaction) -> bool:
        """Send what a transaction is to send to other processes with its commit.

        :returns: whether it was anything.
        """
        payload = self.bus.take_payload(tx.news.hint) if tx.news else None
        if payload is not None:
            send_notice(tx, payload)
        return payload is not None

    def _send_news_of_host(self, tx: Transaction) -> None:
        """Have a host's transaction tell of what was done in it; nobody here sees its commit."""
        payload = self.bus.payload_of_host() if tx.news else None
        if payload is not None:
            send_notice(tx, payload)

    @contextmanager
    def _connect(self, write: bool, *, one_statement: bool = False) -> Iterator[Connection]:
        try:
            connection = self.engine.connect()
        except database_errors() as error:
            hide_in(error)
            if self._reached:
                raise Unavailable(f"{self.shown}: {explain(error)}") from error
            if is_unreachable(error):
                raise Unreachable(f"{self.shown}: {explain(error)}") from error
            raise
        except (TypeError, ValueError) as error:
            # the driver does not know an option, or not this value of it
            hide_in(error)
            raise BadInput(f"{self.shown} cannot be used: {error}") from error
        except NotImplementedError as error:
            # the connection was lost in SQLAlchemy's first look at a server, where SQLAlchemy
            # cannot invalidate it
            cause = error.__context__ or error
            raise Unavailable(f"{self.shown}: {explain(cause)}") from cause
        self._reached = self._pool_guard.reached = True
        with connection:
            if one_statement:
                with autocommit(connection) as connection:
                    yield connection
                return
            if write and self.dialect == "sqlite":
                connection = connection.execution_options(**WRITE_OPTIONS)
            yield connection

    def is_pooled(self) -> bool:
        """Whether a pooler may give each transaction another session. Then nothing that belongs to
        a session can be used, for example LISTEN.

        :raises StoreError: the database cannot be reached.
        """
        with translated(self.shown, self), self._connect(False) as connection:
            return is_pooled(connection)

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A connection of PostgreSQL's driver in which each statement commits by itself.

        :raises StoreError: it cannot be made, or what is done with it fails.
        """
        with translated(self.shown, self), self._connect(False, one_statement=True) as connection:
            driver: Any = connection.connection.dbapi_connection
            try:
                yield driver
            except self.engine.dialect.loaded_dbapi.Error as error:
                connection.invalidate(error)
                hide_in(error)
                raise Unavailable(f"{self.shown}: {explain(error)}") from error

    def read(self, function: Callable[[Transaction], T]) -> T:
        """Run a function that only reads, in a transaction; again if the connection was lost.

        :raises StoreError: the database cannot be used.
        """

        def once() -> T:
            with self._connect(False, one_statement=single) as connection, connection.begin():
                return function(Transaction(connection, self.clock))

        # READ COMMITTED: a statement sees the same in a transaction as outside one
        single = self.dialect == "postgresql"
        with translated(self.shown, self):
            return repeat(once, lambda error: is_transient(error) or is_lost(error))

    def transact(
        self,
        function: Callable[[Transaction], T],
        commit: Commit,
        *,
        happened: Callable[[Transaction, T], bool] | None = None,
        one_statement: bool = False,
        wait_for_locks: bool = True,
    ) -> T:
        """Run a function in a transaction. Run it again if the database undid it, as after a
        deadlock, or if the connection was lost before the commit.

        :param function: may be called several times, so its statements must be its only effect.
        :param commit: what the transaction is for; it names the crash points.
        :param happened: says whether an attempt with this result was committed. It is called if
            the connection was lost during the commit; without it that is an error.
        :param one_statement: the function executes one statement. It commits by itself where that
            saves two round trips to the server. ``happened`` must not use the result.
        :param wait_for_locks: run it again for as long as another transaction has locked its
            rows; otherwise give up after one statement has waited.
        :raises Locked: it waited for locked rows for too long.
        :raises CommitUnknown: the connection was lost during the commit.
        :raises StoreError: the database cannot be used.
        """
        # the result of an attempt whose commit may have gone through
        doubtful: list[T] = []
        session = 0
        single = one_statement and self.dialect in AUTOCOMMIT

        def once() -> T:
            nonlocal session
            if doubtful and happened is not None:
                self._await_lost_sessions()
                with self._connect(False) as connection, connection.begin():
                    if happened(Transaction(connection, self.clock), doubtful[-1]):
                        return doubtful[-1]
            doubtful.clear()
            with self._connect(True, one_statement=single) as connection, connection.begin():
                tx = Transaction(connection, self.clock)
                result = cast("T", None) if single else function(tx)
                sent = self._send_news(tx)
                crash_points.hit(commit.before)
                session = session_number(connection)
                doubtful.append(result)
                if single:
                    # the statement is its own commit
                    result = function(tx)
            crash_points.hit(commit.after)
            if tx.news:
                self.bus.committed(tx.news.hint, sent=sent)
            return result

        def is_safe(error: BaseException) -> bool:
            if is_lost(error):
                if doubtful and session:
                    self._lost_sessions.add(session)
                return not doubtful or happened is not None
            return is_transient(error)

        with translated(self.shown, self):
            try:
                return repeat(once, is_safe, wait_for_locks=wait_for_locks)
            except Exception as error:
                if doubtful and is_lost(error):
                    raise self._unknown(error) from error
                if is_read_only(error):
                    self._pool_guard.discard_older()
                raise

    @property
    def broken_connections(self) -> int:
        """How often a connection was found broken. Since then the database may be another one, or
        may have lost its last commits."""
        return self._pool_guard.broken_connections

    @property
    def connections_used(self) -> int:
        """How many connections are in use now; 0 where each is made for its use, as on SQLite."""
        pool = self.engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    def check_limit(self, needed: int, who: str) -> None:
        """Check that so many connections are allowed.

        :param who: what needs them, for the message.
        :raises BadInput: fewer are allowed.
        """
        if self.connections is not None and self.connections < needed:
            raise BadInput(
                f"{who} needs up to {needed} connections to the database, and at most "
                f"{self.connections} are allowed; give connect(connections=...) a higher number"
            )

    def read_limit(self) -> int | None:
        """How many connections the server allows this user; None if there is no server.

        :raises StoreError: it cannot be reached.
        """
        query = _LIMITS.get(self.dialect)
        if query is None:
            return None
        return self.read(lambda tx: int(tx.connection.exec_driver_sql(query).scalar_one()))

    def await_lost_sessions(self) -> None:
        """Wait until the server has ended the sessions whose connection was lost during a commit.
        Before that, a look for what was committed may come too early.

        :raises CommitUnknown: a session is still busy after some seconds.
        :raises StoreError: the server cannot be reached.
        """
        with translated(self.shown, self):
            self._await_lost_sessions()

    def _await_lost_sessions(self) -> None:
        self._lost_sessions.wait(lambda: self._connect(False), self.shown)

    def _unknown(self, error: BaseException) -> CommitUnknown:
        return CommitUnknown(
            f"{self.shown}: the connection was lost during a commit; look whether it went "
            f"through ({explain(error)})"
        )

    @contextmanager
    def join(self, transaction: HostTransaction | None) -> Iterator[Transaction]:
        """The caller's transaction, or a new one.

        :param transaction: one from :meth:`transaction`, a SQLAlchemy connection or session. Its
            owner commits it. None: a new one.
        :raises BadInput: it is none of these.
        """
        if transaction is None:
            with self.transaction() as own:
                yield own
        elif isinstance(transaction, Transaction):
            yield transaction
        elif isinstance(transaction, Connection):
            with translated(self.shown, self):
                tx = Transaction(_begun(transaction), self.clock)
                yield tx
                self._send_news_of_host(tx)
        elif hasattr(transaction, "run_sync"):
            raise BadInput(
                f"transaction is an {type(transaction).__name__}; call the method in its "
                "run_sync(): await session.run_sync(lambda plain: "
                "store.create_stack(..., transaction=plain))"
            )
        elif callable(connection := getattr(transaction, "connection", None)):
            with translated(self.shown, self):
                tx = Transaction(_begun(connection()), self.clock)
                yield tx
                self._send_news_of_host(tx)
        else:
            raise BadInput(
                "transaction must be a converge transaction, a SQLAlchemy Connection or a "
                f"Session, not {type(transaction).__name__}"
            )


def _create_engine(url: URL, connections: int | None, kept: int) -> Engine:
    url, options = take_options(url)
    if url.get_backend_name() == "sqlite":
        return create_sqlite_engine(url, connections, kept)
    # imported here: oslo.db takes as long to import as SQLAlchemy, and SQLite does not need it
    from converge.sql.servers import create_server_engine

    return create_server_engine(url, options, connections, kept)


def _begun(connection: Connection) -> Connection:
    """The host's connection, in a transaction.

    :raises BadInput: statements are not written for its driver.

    Python's sqlite3 begins no transaction before a SAVEPOINT. The release of that would commit.
    """
    if connection.dialect.driver == "asyncpg":
        raise BadInput(
            "converge cannot use a connection of asyncpg; psycopg 3 is async, too: "
            "create_async_engine('postgresql+psycopg://...')"
        )
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    return connection


def repeatable(tx: Transaction, result: object) -> bool:
    """The ``happened`` of a transaction that is safe to repeat: no need to look."""
    return False
