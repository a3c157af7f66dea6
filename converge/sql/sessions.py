"""What sessions of servers are set to: isolation, limits, and what they may have missed.

A pooler may give each transaction another session. Then it is each transaction that is set, and
nothing is left in a session for a later one: no setting, no prepared statement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL

from converge.errors import BadInput

#: Seconds without a statement after which the server ends a transaction.
IDLE_SECONDS = 15
#: Seconds that a statement waits for rows that another transaction has locked. Then its own
#: transaction is undone, and run again. PostgreSQL looks for a deadlock after one second, and
#: MariaDB takes whole seconds only.
LOCK_SECONDS = 2
#: Seconds that a host's transaction may be idle, and that each of its statements may take.
HOST_SECONDS = 60.0
#: What a statement of Galera waits for: to read, update, delete and insert what every node knows.
SYNC_WAIT = 7
# All that converge asks for is found by an index. But PostgreSQL keeps a plan that it made while a
# table was small, or seemed to be, and that reads all of it, when it has a million rows. And a scan
# that has no alternative seems to cost so much that it would be compiled first.
_PLANS = {"enable_seqscan": "off", "jit": "off"}
# in the info of a pooled connection: there is a pooler; the number of the transaction's session
_POOLED = "converge_pooled"
_SESSION = "converge_session"
# the execution option of a connection that says how long its transaction may take
_LIMITS = "converge_limits"
_OPTIONS = {
    "pool_mode": "PostgreSQL",
    "prepare_threshold": "PostgreSQL",
    "wsrep_sync_wait": "MariaDB",
}
_SERVERS = {"postgresql": "PostgreSQL", "mysql": "MariaDB", "mariadb": "MariaDB"}


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a URL says about its sessions; None: converge finds out.

    :ivar pool_mode: of the pooler, ``session`` or ``transaction``.
    :ivar prepare_threshold: how often psycopg executes a statement before it prepares it; -1:
        never.
    :ivar sync_wait: what Galera's statements wait for.
    """

    pool_mode: str | None = None
    prepare_threshold: int | None = None
    sync_wait: int | None = None


def take_options(url: URL) -> tuple[URL, SessionOptions]:
    """A URL without the options that are converge's, and these.

    :raises BadInput: an option has a value that it cannot have.
    """
    server = _SERVERS.get(url.get_backend_name())
    for name, of in _OPTIONS.items():
        if name in url.query and of != server:
            raise BadInput(f"{name} is an option of {of}, not of this database")
    mode = _option(url, "pool_mode")
    if mode not in (None, "session", "transaction"):
        also = "; its statements would not be one transaction" if mode == "statement" else ""
        raise BadInput(f"pool_mode can be session or transaction, not {mode!r}{also}")
    threshold = _option(url, "prepare_threshold")
    options = SessionOptions(
        pool_mode=mode,
        prepare_threshold=-1 if threshold == "none" else _number("prepare_threshold", threshold),
        sync_wait=_number("wsrep_sync_wait", _option(url, "wsrep_sync_wait"), 15),
    )
    return url.difference_update_query(_OPTIONS), options


def _option(url: URL, name: str) -> str | None:
    value = url.query.get(name)
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{name} is given {len(value)} times, not once")
    return value


def _number(name: str, value: str | None, most: int = 2**31 - 1) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()) or int(value) > most:
        also = " or none" if name == "prepare_threshold" else f" to {most}"
        raise BadInput(f"{name} must be a whole number from 0{also}, not {value!r}")
    return int(value)


def prepare_sessions(engine: Engine, options: SessionOptions) -> None:
    """Set READ COMMITTED, whatever the server's default: a transaction that waited for a row must
    see it as it is now. And set limits: a process that was stopped in a transaction must not keep
    its locks (our transactions are never idle), and no statement waits long for a host's locks."""
    if engine.dialect.name == "postgresql":
        _prepare_postgresql(engine, options)
        return

    @event.listens_for(engine, "connect")
    def connect(driver: Any, record: object) -> None:
        with driver.cursor() as cursor:
            for statement in _set_up(engine.dialect.name):
                cursor.execute(statement)
            wait = options.sync_wait
            if wait is None:
                # another node may not have got what was committed on one
                cursor.execute("SHOW VARIABLES LIKE 'wsrep_on'")
                wait = SYNC_WAIT if ("wsrep_on", "ON") in cursor.fetchall() else None
            if wait is not None:
                cursor.execute(f"SET SESSION wsrep_sync_wait = {wait}")
        driver.commit()


def _prepare_postgresql(engine: Engine, options: SessionOptions) -> None:
    @event.listens_for(engine, "connect")
    def connect(driver: Any, record: Any) -> None:
        pooled = options.pool_mode == "transaction"
        with driver.cursor() as cursor:
            if options.pool_mode is None:
                # a pooler answers for many sessions, with a number of its own
                cursor.execute("SELECT pg_backend_pid()")
                pooled = cursor.fetchone()[0] != driver.info.backend_pid
            for statement in () if pooled else _set_up("postgresql"):
                cursor.execute(statement)
        driver.commit()
        record.info[_POOLED] = pooled
        if pooled:
            from psycopg import IsolationLevel

            driver.isolation_level = IsolationLevel.READ_COMMITTED
            driver.prepare_threshold = None
        if (threshold := options.prepare_threshold) is not None:
            driver.prepare_threshold = threshold if threshold >= 0 else None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if is_pooled(connection):
            limits = connection.get_execution_options().get(_LIMITS) or _own_limits()
            row = connection.exec_driver_sql(_set_transaction(limits)).one()
            connection.info[_SESSION] = row[0]


def _set_up(dialect: str) -> tuple[str, ...]:
    """The statements that set a new session."""
    isolation = "TRANSACTION ISOLATION LEVEL READ COMMITTED"
    plans: tuple[str, ...] = ()
    if dialect == "postgresql":
        isolation = f"CHARACTERISTICS AS {isolation}"
        plans = tuple(f"SET {name} = {value}" for name, value in _PLANS.items())
    return f"SET SESSION {isolation}", _set_session(dialect, _own_limits()), *plans


def is_pooled(connection: Connection) -> bool:
    """Whether each transaction on a connection may have another session: then nothing that belongs
    to a session can be used, for example LISTEN."""
    return bool(connection.info.get(_POOLED))


def session_number(connection: Connection) -> int:
    """The number of a connection's session in the server; 0 where there is no server.

    Behind a pooler, it is that of the transaction that began last.
    """
    if is_pooled(connection):
        return int(connection.info[_SESSION])
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "postgresql":
        return int(driver.info.backend_pid)
    return 0 if connection.dialect.name == "sqlite" else int(driver.thread_id())


class Limits(NamedTuple):
    """How long a transaction may take.

    :ivar idle: seconds that it may be idle.
    :ivar lock: seconds that a statement waits for locked rows.
    :ivar statement: seconds that a statement may take; None: the server's default.
    """

    idle: float
    lock: float
    statement: float | None = None


def _own_limits() -> Limits:
    return Limits(IDLE_SECONDS, LOCK_SECONDS)


def _set_session(dialect: str, limits: Limits) -> str:
    """The statement that sets a session's limits."""
    if dialect == "postgresql":
        set_ = [f"SET {name} = {value}" for name, value in _milliseconds(limits).items()]
        if limits.statement is None:
            set_.append("SET statement_timeout = DEFAULT")
        # without parameters, one text may have several statements
        return "; ".join(set_)
    most = "DEFAULT" if limits.statement is None else f"{limits.statement:g}"
    return (
        f"SET SESSION idle_transaction_timeout = {math.ceil(limits.idle)},"
        f" innodb_lock_wait_timeout = {math.ceil(limits.lock)}, max_statement_time = {most}"
    )


def _set_transaction(limits: Limits) -> str:
    """The statement that sets one transaction on PostgreSQL, and returns the number of its
    session."""
    settings = {**_milliseconds(limits), **_PLANS}
    set_ = [f"set_config('{name}', '{value}', true)" for name, value in settings.items()]
    return f"SELECT {', '.join(['pg_backend_pid()', *set_])}"


def _milliseconds(limits: Limits) -> dict[str, int]:
    named = {
        "idle_in_transaction_session_timeout": limits.idle,
        "lock_timeout": limits.lock,
        "statement_timeout": limits.statement,
    }
    return {name: math.ceil(1000 * most) for name, most in named.items() if most is not None}


@contextmanager
def host_limits(connection: Connection, limit: float) -> Iterator[None]:
    """Give a host's transaction more time than converge's own, up to a limit: all work on the same
    stack waits for the rows that it has locked.

    :param limit: seconds that it may be idle, and that each statement may take.
    """
    dialect = connection.dialect.name
    limits = Limits(limit, limit, limit)
    if is_pooled(connection):
        connection.execution_options(**{_LIMITS: limits})
    if dialect == "sqlite" or is_pooled(connection):
        yield
        return
    driver: Any = connection.connection.dbapi_connection

    def set_limits(limits: Limits) -> None:
        with driver.cursor() as cursor:
            cursor.execute(_set_session(dialect, limits))
        driver.commit()

    set_limits(limits)
    try:
        yield
    finally:
        if not connection.invalidated and not connection.closed:
            try:
                set_limits(_own_limits())
            except Exception:
                # do not use it again with a host's limits
                connection.invalidate()
