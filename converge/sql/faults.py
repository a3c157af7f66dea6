"""What an error of the database means: whether to try again, and what to tell a person."""

from __future__ import annotations

import logging
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from sqlalchemy import exc as sa_exceptions

from converge.errors import ConvergeError, StaleLock, StoreError
from converge.hiding import hide, hide_in

READ_ONLY = "the database is read-only"
_POSTGRESQL_LOCK = "55P03"
_MARIADB_LOCK = 1205
# serialization failure and deadlock; oslo.db does not map the first
_POSTGRESQL_AGAIN = {"40001", "40P01"}
# 1467 is a deadlock, too: two inserts of many rows wait for the counter of the table's ids
_MARIADB_AGAIN = {1213, 1020, 1467}
_SQLITE_DUPLICATE = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}

#: The exceptions of oslo.db that are used here.
OsloName = Literal[
    "DBConnectionError",
    "DBConstraintError",
    "DBDataError",
    "DBDeadlock",
    "DBDuplicateEntry",
    "DBError",
]


class _Hiding(logging.Filter):
    """Keeps secrets out of the log of oslo.db, which sees errors first."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            hide_in(record.exc_info[1])
        record.msg, record.args = hide(record.getMessage()), ()
        return True


for _name in ("exc_filters", "engines"):
    logging.getLogger(f"oslo_db.sqlalchemy.{_name}").addFilter(_Hiding())


def oslo_errors(*names: OsloName) -> tuple[type[Exception], ...]:
    """Exceptions of oslo.db, for isinstance() and except. None if oslo.db is not imported: then it
    raised nothing. SQLite does not need it, and it takes as long to import as SQLAlchemy."""
    module = sys.modules.get("oslo_db.exception")
    # another thread may be importing it: then it has not all of them yet
    return tuple(getattr(module, name) for name in names if hasattr(module, name))


def database_errors() -> tuple[type[Exception], ...]:
    """All that the database layer raises, for ``except``."""
    return (*oslo_errors("DBError"), sa_exceptions.SQLAlchemyError)


def duplicate_errors() -> tuple[type[Exception], ...]:
    """What an INSERT raises if the key exists already, for ``except``."""
    # SQLite and a host's own engine do not have oslo.db's filters
    return (*oslo_errors("DBDuplicateEntry"), sa_exceptions.IntegrityError)


def _is_duplicate(error: BaseException) -> bool:
    code = getattr(_driver_error(error), "sqlite_errorcode", None)
    return isinstance(error, oslo_errors("DBDuplicateEntry")) or code in _SQLITE_DUPLICATE


def _mariadb_number(original: BaseException | None) -> object:
    """The number of MariaDB's error."""
    return original.args[0] if original is not None and original.args else None


class Unreachable(StoreError):
    """A database cannot be reached now: it is down, or not up yet."""


class Unavailable(Unreachable):
    """A database that answered before cannot be reached now; it is expected to come back."""


class Locked(StoreError):
    """Another transaction has locked the rows, for longer than we wait."""


def is_locked(error: BaseException) -> bool:
    """Whether a statement gave up waiting for what another transaction has locked."""
    original = _driver_error(error)
    if isinstance(original, sqlite3.OperationalError):
        return "is locked" in str(original)
    state = getattr(original, "sqlstate", None)
    return state == _POSTGRESQL_LOCK or _mariadb_number(original) == _MARIADB_LOCK


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction can succeed when it is run again."""
    if isinstance(error, oslo_errors("DBDeadlock")):
        return True
    original = _driver_error(error)
    state = getattr(original, "sqlstate", None)
    if state in _POSTGRESQL_AGAIN:
        return True
    if is_locked(error):
        return True
    code = _mariadb_number(original)
    return isinstance(code, int) and code in _MARIADB_AGAIN


# what a server says when it refuses a connection, and what it says only for a while
_REFUSALS = ("FATAL:", "no password supplied", "access denied", "unknown database")
_PASSING = ("starting up", "shutting down", "recovery", "not yet accepting", "too many")


def is_unreachable(error: BaseException) -> bool:
    """Whether an error of connecting passes: the server is down, or not ready. An unknown user or
    database does not pass."""
    original = _driver_error(error) or error
    if isinstance(original, sqlite3.Error) or isinstance(error, sa_exceptions.ArgumentError):
        return False
    text = str(original).lower()
    if any(word in text for word in _PASSING):
        return True
    return not any(word.lower() in text for word in _REFUSALS)


def is_lost(error: BaseException) -> bool:
    """Whether the connection to a database was lost after it had answered."""
    if isinstance(error, oslo_errors("DBConnectionError")):
        return True
    inner = getattr(error, "inner_exception", None) or error
    return isinstance(error, Unavailable) or bool(getattr(inner, "connection_invalidated", False))


def is_read_only(error: BaseException) -> bool:
    """Whether the database takes no writes at all, for example after a failover."""
    return explain(error).startswith(READ_ONLY)


def is_refused(error: StoreError) -> bool:
    """Whether the database works, but refuses a value: a retry would fail, too."""
    return isinstance(
        error.__cause__,
        (*oslo_errors("DBDataError", "DBConstraintError"), sa_exceptions.DataError),
    ) or isinstance(getattr(error.__cause__, "inner_exception", None), sa_exceptions.DataError)


def _driver_error(error: BaseException | None) -> BaseException | None:
    """The driver's own exception, inside those of SQLAlchemy and oslo.db."""
    while error is not None:
        inner = getattr(error, "orig", None) or getattr(error, "inner_exception", None)
        if inner is None:
            return error
        error = inner
    return None


@contextmanager
def translated(where: str, origin: object = None) -> Iterator[None]:
    """Turn errors of the database layer into a :class:`StoreError` that says what to do.

    Duplicate keys are raised as they are: they are an answer, not a failure.

    :param origin: the database; the error names it if the database is at fault. It is not at fault
        if it only refuses a value.
    """
    try:
        yield
    except (StoreError, StaleLock) as error:
        if error.origin is None:
            error.origin = origin
        raise
    except ConvergeError:
        raise
    except database_errors() as error:
        if _is_duplicate(error):
            raise
        if isinstance(error, sa_exceptions.StatementError) and not isinstance(
            error, sa_exceptions.DBAPIError
        ):
            raise
        hide_in(error)
        raised = (Locked if is_locked(error) else StoreError)(f"{where}: {explain(error)}")
        raised.__cause__ = error
        if not is_refused(raised):
            raised.origin = origin
        raise raised from error


def explain(error: BaseException) -> str:
    """What a database error means, for a person, in one line."""
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
        (("lock timeout", "lock wait timeout"), "another transaction holds the rows for too long"),
        (
            ("idle-in-transaction timeout", "statement timeout", "max_statement_time exceeded"),
            "the transaction took longer than its limit",
        ),
    )
    for words, meaning in hints:
        if any(word in low for word in words):
            return f"{meaning} ({hide(text)[:300]})"
    return hide(text)[:500] or type(original).__name__
