"""URLs and new connections: what each database needs before converge speaks to it."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy import exc as sa_exceptions
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.pool import QueuePool

from converge.errors import BadInput
from converge.hiding import learn, learn_options, show_options, show_place

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
IDLE_SECONDS = 15
#: Seconds that a statement waits for rows that another transaction has locked: then its own is
#: undone, and run again. PostgreSQL looks for a deadlock after one second, and MariaDB knows
#: whole seconds only.
LOCK_SECONDS = 2
#: Seconds that a host's transaction may stand still, and that each of its statements may take.
HOST_SECONDS = 60.0
#: Connections that are kept for the next who wants one; there can be any number at a time.
KEPT = 32


_ENCODE = "in a user, a password or an option, write % @ / : ? and & as %25 %40 %2F %3A %3F and %26"


def parse_url(url: str | URL) -> URL:
    """Read a database URL.

    :raises BadInput: it is none, or of a database that converge does not run on.
    """
    if isinstance(url, str):
        _check_login(url)
    parsed = None
    # it is not the cause of what is raised: it may quote a password
    with suppress(sa_exceptions.ArgumentError, ValueError):
        parsed = make_url(url)
    if parsed is None:
        raise BadInput(
            f"{show_place(url)} is not a database URL; one looks like sqlite:///converge.db or "
            f"postgresql+psycopg://user@host/name ({_ENCODE}; a port is a number)"
        )
    backend = parsed.get_backend_name()
    seen = (parsed.username, parsed.host, parsed.database, backend)
    learn([parsed.password], seen)
    learn_options(_options(parsed), seen)
    if backend not in DIALECTS:
        raise BadInput(
            f"converge does not run on {backend!r}; use sqlite, postgresql+psycopg or mysql+pymysql"
        )
    _check_parts(parsed, backend)
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


def _options(url: URL) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, values in url.query.items()
        for value in ((values,) if isinstance(values, str) else values)
    ]


def _check_parts(url: URL, backend: str) -> None:
    """Whether a password is where it is looked for.

    :raises BadInput: it is not, and would be shown as another part.
    """
    if backend == "sqlite":
        if url.host or url.username or url.password or url.port:
            raise BadInput(
                "a URL of SQLite has a file only: sqlite:///relative.db or sqlite:////absolute.db"
            )
        return
    if "@" in (url.host or "") or "@" in (url.database or ""):
        raise _torn(url.drivername + "://")


def _check_login(url: str) -> None:
    """Whether there is one way only to read a text as a URL.

    :raises BadInput: a part of a password may be taken for the host, say.
    """
    scheme, _, rest = url.partition("://")
    login = rest.rpartition("@")[0]
    if not scheme.startswith("sqlite") and not set(login).isdisjoint("@/?"):
        raise _torn(url)


def _torn(url: str) -> BadInput:
    return BadInput(
        f"{show_place(url)} cannot be read as a database URL: it has more than one @, or a / or ? "
        f"before it; {_ENCODE}"
    )


def show_url(url: URL) -> str:
    """A URL for people: without what is secret in it, or may be."""
    shown = url.set(query={}).render_as_string(hide_password=True)
    return shown + show_options(_options(url))


def pool_options(connections: int | None, kept: int = KEPT) -> dict[str, int]:
    """How large the pool is.

    :param connections: at most so many at a time; None: as many as are asked for.
    :param kept: how many are kept then.
    """
    if connections is None:
        return {"pool_size": kept, "max_overflow": -1}
    return {"pool_size": connections, "max_overflow": 0}


def create_sqlite_engine(url: URL, connections: int | None, kept: int) -> Engine:
    """An engine of SQLite.

    It is made without oslo.db, of whose work little is left to do here. It keeps its
    connections, as those of servers do: oslo.db would open one for each transaction, which takes
    longer than a short one; and when the last one is closed, SQLite moves its log into the
    database.

    WAL, so that readers never wait; writers take the lock when they begin, since an upgrade
    from read to write fails at once however long the busy timeout is.
    """
    engine = create_engine(url, poolclass=QueuePool, **pool_options(connections, kept))

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, record: Any) -> None:
        record.info["pid"] = os.getpid()
        # transactions begin where we begin them
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
        # a connection must not be used by a process that was forked from its own
        if record.info["pid"] != os.getpid():
            raise sa_exceptions.DisconnectionError

    @event.listens_for(engine, "handle_error", retval=True)
    def explain(context: ExceptionContext) -> BaseException | None:
        original = context.original_exception
        if not isinstance(original, Exception):
            # a Ctrl-C must come out as such: SQLAlchemy would give the connection up, which
            # leaves no socket in disorder here
            context.is_disconnect = False
        elif not isinstance(context.sqlalchemy_exception, sa_exceptions.DBAPIError):
            # what Python's sqlite3 refuses before SQLite sees it, as a number beyond 64 bits
            refused = isinstance(original, ValueError | TypeError | OverflowError)
            kind = sa_exceptions.DataError if refused else sa_exceptions.DBAPIError
            return kind(context.statement, context.parameters, original)
        return None

    return engine


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


def session_limits(
    dialect: str, *, idle: float, lock: float, statement: float | None = None
) -> str:
    """The statement that sets a session's limits.

    :param idle: seconds that a transaction may stand still.
    :param lock: seconds that a statement waits for locked rows.
    :param statement: seconds that a statement may take; None: what the server's operator says.
    """
    if dialect == "postgresql":
        limits = {"idle_in_transaction_session_timeout": idle, "lock_timeout": lock}
        texts = [f"SET {name} = {math.ceil(seconds * 1000)}" for name, seconds in limits.items()]
        most = "DEFAULT" if statement is None else math.ceil(statement * 1000)
        # one text without parameters may have several statements
        return "; ".join([*texts, f"SET statement_timeout = {most}"])
    most = "DEFAULT" if statement is None else f"{statement:g}"
    return (
        f"SET SESSION idle_transaction_timeout = {math.ceil(idle)},"
        f" innodb_lock_wait_timeout = {math.ceil(lock)}, max_statement_time = {most}"
    )


@contextmanager
def limits_of_a_host(connection: Connection, limit: float) -> Iterator[None]:
    """What a host does in its transaction takes its own time, up to a limit: for its rows wait
    all who work on the same stack.

    :param limit: seconds that it may stand still, and that each statement may take.
    """
    dialect = connection.dialect.name
    if dialect == "sqlite":
        yield
        return
    driver: Any = connection.connection.dbapi_connection

    def set_limits(**limits: float) -> None:
        with driver.cursor() as cursor:
            cursor.execute(session_limits(dialect, **limits))
        driver.commit()

    set_limits(idle=limit, lock=limit, statement=limit)
    try:
        yield
    finally:
        if not connection.invalidated and not connection.closed:
            try:
                set_limits(idle=IDLE_SECONDS, lock=LOCK_SECONDS)
            except Exception:
                # it goes on with these limits no further than this
                connection.invalidate()


# A connection that was used within so many seconds is taken to be alive: to ask costs as much as
# a short statement does, and a transaction whose connection is lost is run again anyway.
_FRESH = 1.0


class Trust:
    """Whether a pooled connection is good for another use.

    One that was idle is asked whether it is alive, as oslo.db has the pool do with each. One that
    was made before :meth:`lose` is given up; and on SQLite, one to a file that is not the one
    of that name any more.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: The database was there: SQLite must not make an empty one, if its file is removed.
        self.reached = False
        #: How often a connection was found broken: the server may have been another one since.
        self.breaks = 0
        self._since = 0.0
        self._path = sqlite_path(engine.url)
        # a URI may say that there must be a file
        self._makes = engine.dialect.name == "sqlite" and "mode" not in engine.url.query
        pool: Any = engine.pool
        pool._pre_ping = False
        event.listen(engine, "do_connect", self._connecting)
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "invalidate", self._broken)
        event.listen(engine, "checkin", self._returned)
        event.listen(engine, "checkout", self._taken)

    def lose(self) -> None:
        """Take no connection again that was made before now: after a failover, new ones may lead
        to the new primary."""
        # not dispose(): who waits for a connection of a pool that is disposed waits on
        self._since = time.monotonic()

    def _connecting(self, dialect: object, record: object, words: Any, named: object) -> None:
        if self.reached and self._path is not None and self._identify_file() is None:
            raise sqlite3.OperationalError("unable to open database file: it was removed")
        if self._makes:
            _make_private(words[0])

    def _connected(self, connection: Any, record: Any) -> None:
        record.info["made"] = time.monotonic()
        record.info["file"] = self._identify_file()

    def _broken(self, *arguments: object) -> None:
        self.breaks += 1

    def _returned(self, connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    def _taken(self, connection: Any, record: Any, proxy: object) -> None:
        if record.info["made"] <= self._since or record.info["file"] != self._identify_file():
            raise sa_exceptions.DisconnectionError
        used = record.info.get("used")
        if self._path is not None or used is None or time.monotonic() - used < _FRESH:
            return
        try:
            alive = self._engine.dialect.do_ping(connection)
        except Exception:
            alive = False
        if not alive:
            # the others of the pool are as old
            raise sa_exceptions.InvalidatePoolError

    def _identify_file(self) -> object:
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


_making = threading.Lock()


def _make_private(name: str) -> None:
    """Make the file of an SQLite database, if there is none, so that only its owner reads and
    writes it: there are secrets in it. SQLite gives the files beside it the same mode."""
    if name.startswith("file:"):
        name = unquote(urlsplit(name).path)
    # a link may lead to where nothing is yet
    path = os.path.realpath(name)
    # who closes a file gives up all locks of this process on it, those of SQLite included
    with _making, suppress(OSError):
        # whatever is in the way, SQLite says so
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def sqlite_path(url: URL) -> str | None:
    """The file of an SQLite database; None if it is another database, or has a URI for a name."""
    name = url.database
    if url.get_backend_name() != "sqlite" or name is None or name.startswith("file:"):
        return None
    return name
