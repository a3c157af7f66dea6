"""The database: transactions, their retry, the clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    bindparam,
    literal,
    text,
)
from sqlalchemy import exc as sa_exceptions
from sqlalchemy.engine import URL
from sqlalchemy.types import Double

from converge import crash_points
from converge.crash_points import Commit
from converge.errors import BadInput, CommitUnknown
from converge.hiding import hide, hide_in
from converge.sql.connections import (
    ALONE,
    ANSWER,
    CONNECTION,
    HOST_SECONDS,
    KEPT,
    WRITE,
    Trust,
    create_sqlite_engine,
    limits_of_a_host,
    parse_url,
    show_url,
    statements_alone,
)
from converge.sql.faults import (
    Away,
    Unreachable,
    database_errors,
    explain,
    is_locked,
    is_lost,
    is_read_only,
    is_transient,
    is_unreachable,
    translated,
)
from converge.sql.types import clock

if TYPE_CHECKING:
    from sqlalchemy.orm import Session
    from sqlalchemy.sql import Executable
    from sqlalchemy.sql.elements import ColumnElement

T = TypeVar("T")

#: How often a transaction is tried again after a deadlock or the like.
RETRIES = 10
#: Seconds for which one is tried again that waits for rows that another one has locked.
PATIENCE = 60.0


# those of the sessions that still do something, but for the one that asks; an idle one does not
# know yet that it is alone
_SESSIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity"
    " WHERE state = 'active' AND pid IN :ids AND pid <> pg_backend_pid()",
    "mysql": "SELECT id FROM information_schema.processlist"
    " WHERE command <> 'Sleep' AND id IN :ids AND id <> CONNECTION_ID()",
}
_SESSIONS["mariadb"] = _SESSIONS["mysql"]
_LIMITS = {
    "postgresql": "SELECT CASE WHEN rolconnlimit >= 0 THEN rolconnlimit"
    " ELSE current_setting('max_connections')::int END"
    " FROM pg_roles WHERE rolname = current_user",
    "mysql": "SELECT CASE WHEN @@max_user_connections > 0"
    " THEN LEAST(@@max_user_connections, @@max_connections) ELSE @@max_connections END",
}
_LIMITS["mariadb"] = _LIMITS["mysql"]
_SETTLE_SECONDS = 10.0
# made once: every statement that records a step has it
_NOW = cast("ColumnElement[float]", clock())


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
    def told(self) -> float | None:
        """The time, in seconds since 1970, if somebody else than the database tells it."""
        return None if self._clock is None else self._clock()

    @property
    def now(self) -> ColumnElement[float]:
        """The time, in seconds since 1970, as an SQL expression."""
        told = self.told
        return _NOW if told is None else literal(told, Double())


if TYPE_CHECKING:
    #: What a host may hand over to have something happen in its own transaction.
    HostTransaction = Transaction | Connection | Session


class HasDatabase(Protocol):
    """What journals and machines ask of a :class:`~converge.Store`."""

    database: Database


class Database:
    """One database that converge's tables live in.

    :param url: an SQLAlchemy URL of SQLite, PostgreSQL (psycopg 3) or MariaDB (PyMySQL).
    :param clock: what tells the time instead of the database, in seconds since 1970; for tests.
    :param patient: wait for the answer to a statement for as long as it takes.
    :param connections: at most so many at a time; None: as many as are asked for.
    :param kept: how many of these are kept for the next who asks.
    :raises BadInput: not such a URL.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        clock: Callable[[], float] | None = None,
        patient: bool = False,
        connections: int | None = None,
        kept: int = KEPT,
    ) -> None:
        self.url = parse_url(url)
        self._clock = clock
        self._main: Database | None = None
        self.connections = connections
        self.dialect = self.url.get_backend_name()
        defaults = CONNECTION.get(self.dialect, {})
        if patient:
            defaults = {name: value for name, value in defaults.items() if name not in ANSWER}
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
            # without the cause, which may quote a secret
            raise BadInput(f"{self.shown} cannot be used: {wrong}")
        self._trust = Trust(self.engine)
        # the server's sessions whose connection was lost during a commit
        self._unsettled: set[int] = set()
        # whether it ever answered
        self._reached = False

    def separate(self) -> Database:
        """The same database over a connection of its own, which waits for no other."""
        other = Database(self.url, kept=1)
        other._main = self
        other._reached = other._trust.reached = self._reached
        return other

    @property
    def clock(self) -> Callable[[], float] | None:
        """What tells the time instead of the database."""
        return self._clock if self._main is None else self._main.clock

    @clock.setter
    def clock(self, clock: Callable[[], float] | None) -> None:
        self._clock = clock

    @cached_property
    def shown(self) -> str:
        """The URL without what is secret in it."""
        return show_url(self.url)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def transaction(
        self, *, write: bool = True, limit: float = HOST_SECONDS
    ) -> Iterator[Transaction]:
        """A transaction that commits at the end and rolls back on an exception. Not retried.

        :param write: on SQLite, take the write lock at the start; a reader never waits.
        :param limit: seconds for which it may stand still, for each of its statements, and for
            which these wait for locked rows; SQLite knows no such limit.
        :raises CommitUnknown: the connection was lost during the commit.
        :raises StoreError: the database cannot be used, in plain words.
        """
        committing: int | None = None
        with translated(self.shown, self):
            try:
                with (
                    self._connect(write) as connection,
                    limits_of_a_host(connection, limit),
                    connection.begin(),
                ):
                    yield Transaction(connection, self.clock)
                    if write:
                        crash_points.hit(Commit.HOST.before)
                        committing = self._session(connection)
            except Exception as error:
                if committing is not None and is_lost(error):
                    raise self._unknown(error) from error
                raise
            if write:
                crash_points.hit(Commit.HOST.after)

    @contextmanager
    def _connect(self, write: bool, *, alone: bool = False) -> Iterator[Connection]:
        try:
            connection = self.engine.connect()
        except database_errors() as error:
            hide_in(error)
            if self._reached:
                raise Away(f"{self.shown}: {explain(error)}") from error
            if is_unreachable(error):
                raise Unreachable(f"{self.shown}: {explain(error)}") from error
            raise
        except (TypeError, ValueError) as error:
            # an option that its driver does not know, or not so
            hide_in(error)
            raise BadInput(f"{self.shown} cannot be used: {error}") from error
        except NotImplementedError as error:
            # lost in SQLAlchemy's first look at a server, on a connection it cannot invalidate
            cause = error.__context__ or error
            raise Away(f"{self.shown}: {explain(cause)}") from cause
        self._reached = self._trust.reached = True
        with connection:
            if alone:
                with statements_alone(connection) as connection:
                    yield connection
                return
            if write and self.dialect == "sqlite":
                connection = connection.execution_options(**WRITE)
            yield connection

    def read(self, function: Callable[[Transaction], T]) -> T:
        """Run a function that only reads, in a transaction; again when the connection was lost.

        :raises StoreError: the database cannot be used.
        """

        def once() -> T:
            with self._connect(False, alone=alone) as connection, connection.begin():
                return function(Transaction(connection, self.clock))

        # there a statement sees the same within a transaction as by itself, of READ COMMITTED
        alone = self.dialect == "postgresql"
        with translated(self.shown, self):
            return _again(once, lambda error: is_transient(error) or is_lost(error), PATIENCE)

    def transact(
        self,
        function: Callable[[Transaction], T],
        commit: Commit,
        *,
        happened: Callable[[Transaction, T], bool] | None = None,
        alone: bool = False,
        patient: bool = True,
    ) -> T:
        """Run a function in a transaction, again when a deadlock or the like undid it, or when
        the connection was lost before the commit.

        :param function: may be called several times, so it must have no effect but its
            statements.
        :param commit: what the transaction is for: its crash points.
        :param happened: looks whether an attempt with this result was committed. It is asked
            when the connection was lost during the commit; without it that is an error.
        :param alone: the function executes one statement, which is a transaction by itself where
            that saves two ways to the server and back. ``happened`` must not need its result.
        :param patient: wait for rows that another transaction has locked; otherwise it is
            undone after a second.
        :raises Locked: it waited for locked rows for too long.
        :raises CommitUnknown: the connection was lost during the commit.
        :raises StoreError: the database cannot be used.
        """
        # the results of attempts of whose commit nothing was heard
        doubtful: list[T] = []
        session = 0
        alone = alone and self.dialect in ALONE

        def once() -> T:
            nonlocal session
            if doubtful and happened is not None:
                self._settle()
                with self._connect(False) as connection, connection.begin():
                    if happened(Transaction(connection, self.clock), doubtful[-1]):
                        return doubtful[-1]
            doubtful.clear()
            with self._connect(True, alone=alone) as connection, connection.begin():
                tx = Transaction(connection, self.clock)
                result = cast("T", None) if alone else function(tx)
                crash_points.hit(commit.before)
                session = self._session(connection)
                doubtful.append(result)
                if alone:
                    # its commit begins and ends with it
                    result = function(tx)
            crash_points.hit(commit.after)
            return result

        def is_safe(error: BaseException) -> bool:
            if is_lost(error):
                if doubtful and session:
                    self._unsettled.add(session)
                return not doubtful or happened is not None
            return is_transient(error)

        with translated(self.shown, self):
            try:
                return _again(once, is_safe, PATIENCE if patient else None)
            except Exception as error:
                if doubtful and is_lost(error):
                    raise self._unknown(error) from error
                if is_read_only(error):
                    self._trust.lose()
                raise

    @property
    def breaks(self) -> int:
        """How often a connection was found broken. After that the database may be another one, or
        may have forgotten what it was told last."""
        return self._trust.breaks

    def check_limit(self, needed: int, who: str) -> None:
        """Whether so many connections can be had.

        :param who: needs them, for the message.
        :raises BadInput: no more than fewer are allowed here.
        """
        if self.connections is not None and self.connections < needed:
            raise BadInput(
                f"{who} needs up to {needed} connections to the database, and at most "
                f"{self.connections} are allowed; give connect(connections=...) a higher number"
            )

    def read_limit(self) -> int | None:
        """How many connections the server lets this user have, None if there is no server.

        :raises StoreError: it cannot be reached.
        """
        query = _LIMITS.get(self.dialect)
        if query is None:
            return None
        return self.read(lambda tx: int(tx.connection.exec_driver_sql(query).scalar_one()))

    def settle(self) -> None:
        """Wait until the server is done with what it was doing for connections that were lost
        during a commit. Before that, a look for what was committed may come too early.

        :raises CommitUnknown: it is still at it after some seconds.
        :raises StoreError: it cannot be reached.
        """
        with translated(self.shown, self):
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
    def join(self, transaction: HostTransaction | None) -> Iterator[Transaction]:
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
            with translated(self.shown, self):
                yield Transaction(_begun(transaction), self.clock)
        elif callable(connection := getattr(transaction, "connection", None)):
            with translated(self.shown, self):
                yield Transaction(_begun(connection()), self.clock)
        else:
            raise BadInput(
                "transaction must be a converge transaction, a SQLAlchemy Connection or a "
                f"Session, not {type(transaction).__name__}"
            )


def _create_engine(url: URL, connections: int | None, kept: int) -> Engine:
    if url.get_backend_name() == "sqlite":
        return create_sqlite_engine(url, connections, kept)
    # imported here: oslo.db takes as long to import as SQLAlchemy, and SQLite does without
    from converge.sql.servers import create_server_engine

    return create_server_engine(url, connections, kept)


def _begun(connection: Connection) -> Connection:
    """The host's connection, in a transaction for sure.

    Python's sqlite3 begins none before a SAVEPOINT, whose release would then commit.
    """
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.dbapi_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    return connection


def repeatable(tx: Transaction, result: object) -> bool:
    """For :meth:`Database.transact`: to do it twice is no harm, so there is nothing to look for."""
    return False


def _again(
    once: Callable[[], T],
    is_safe: Callable[[BaseException], bool],
    patience: float | None = None,
) -> T:
    """Call a function until it succeeds, at most RETRIES times more, for about 5 s in all.

    :param patience: seconds for which it may also wait for locked rows, as often as it likes;
        None: it does not wait for them again.
    """
    left = RETRIES
    end = time.monotonic() + (patience or 0.0)
    wait = 0.02
    while True:
        try:
            return once()
        except Exception as error:
            left -= 1
            more = left >= 0
            if is_locked(error):
                more = patience is not None and (more or time.monotonic() < end)
            if not (more and is_safe(error)):
                raise
        # those who were in each other's way must not meet again
        _pause(wait * random.uniform(0.5, 1.5))
        wait = min(2 * wait, 1.0)


# replaced by tests that do not wait
_pause = time.sleep
