"""Column types and SQL expressions that mean the same on all three databases."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from sqlalchemy import BigInteger, Dialect, Double, Integer, LargeBinary, String, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from converge.canonical import dump, load
from converge.model import NAME_LENGTH
from converge.sealing import PREFIX as SEALED
from converge.sealing import Keyring, missing_key

REASON_LENGTH = 2000
PHYSICAL_ID_LENGTH = 1024
SOURCE_LENGTH = 2000
#: With a name of a queue, a key of MariaDB's, which has 3,072 bytes at most.
LANE_TYPES_LENGTH = 500
#: The names of the dialect of MariaDB.
MARIADB = ("mysql", "mariadb")


def dialect_module(dialect: str) -> Any:
    """SQLAlchemy's module of a dialect, with the types and statements that only it has.

    It is imported only if that dialect is used: with its drivers, it takes as long to import as all
    of converge that a reading command needs.
    """
    return import_module(f"sqlalchemy.dialects.{'mysql' if dialect in MARIADB else dialect}")


class LongText(TypeDecorator[Any]):
    """A text of any length; MariaDB's TEXT ends at 64 KiB."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in MARIADB:
            return dialect.type_descriptor(dialect_module(dialect.name).LONGTEXT())
        return super().load_dialect_impl(dialect)


class LongBinary(TypeDecorator[bytes]):
    """Bytes of any number; MariaDB's BLOB ends at 64 KiB."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in MARIADB:
            return dialect.type_descriptor(dialect_module(dialect.name).LONGBLOB())
        return super().load_dialect_impl(dialect)


def keyring_of(dialect: Dialect) -> Keyring | None:
    """The keys of the database that a dialect is of."""
    found: Keyring | None = getattr(dialect, "converge_keyring", None)
    return found


def set_keyring(dialect: Dialect, keyring: Keyring | None) -> None:
    """Give a database's dialect its keys: types of columns are given nothing else of it."""
    dialect.converge_keyring = keyring  # type: ignore[attr-defined]


def unseal(dialect: Dialect, stored: str) -> str:
    """A text as it was before it was encrypted.

    :raises SecretKeyError: the process lacks the key.
    """
    if not stored.startswith(SEALED):
        return stored
    keyring = keyring_of(dialect)
    if keyring is None:
        raise missing_key()
    return keyring.unseal(stored)


class Sealing:
    """The type of a column that is encrypted where there is a key."""

    @staticmethod
    def seal(keyring: Keyring, text: str) -> str:
        """A text as it is stored."""
        return keyring.seal(text)


class SealedText(Sealing, LongText):
    """A text of any length that may be secret. In SQL it is not to be compared."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        keyring = keyring_of(dialect)
        return value if value is None or keyring is None else self.seal(keyring, value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else unseal(dialect, value)


class Blind(Sealing, TypeDecorator[str]):
    """Digests of what may be secret. They are read as they are stored: see ``Keyring.blind``."""

    impl = String
    cache_ok = True

    @staticmethod
    def seal(keyring: Keyring, text: str) -> str:
        return keyring.blind(text)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        keyring = keyring_of(dialect)
        return value if value is None or keyring is None else self.seal(keyring, value)


class JsonText(LongText):
    """JSON stored as canonical ASCII text, so that rows compare as texts, and each database can
    store NUL and every other character."""

    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else dump(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        # not process_result_value, which takes two calls more: an engine reads seven for each node
        return _load_or_none


def _load_or_none(value: str | None) -> Any:
    return None if value is None else load(value)


class SealedJson(Sealing, JsonText):
    """JSON that may be secret. In SQL it is not to be compared."""

    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        keyring = keyring_of(dialect)
        text = dump(value)
        return text if keyring is None else self.seal(keyring, text)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        def read(value: str | None) -> Any:
            if value is None:
                return None
            # JSON does not begin with this letter
            return load(unseal(dialect, value) if value[0] == SEALED[0] else value)

        return read


ID = BigInteger().with_variant(Integer(), "sqlite")
NAME = String(NAME_LENGTH)


class clock(FunctionElement[float]):  # noqa: N801 - reads as a SQL function
    """The database's clock at the start of the statement: seconds since 1970 UTC."""

    type = Double()
    inherit_cache = True


@compiles(clock)
def _sqlite_clock(element: clock, compiler: SQLCompiler, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) AS DOUBLE PRECISION)"


@compiles(clock, *MARIADB)
def _mariadb_clock(element: clock, compiler: SQLCompiler, **kw: Any) -> str:
    # unix_timestamp(now(6)) would be ambiguous in the hour that summer time repeats
    return "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6)"


def fit_text(value: object, length: int = REASON_LENGTH) -> str:
    """A text for a person, made to fit its column. A text that is too long is cut in the middle.
    Characters that some database refuses (NUL, lone surrogates) are replaced."""
    clean = str(value).replace("\x00", "\\0").encode("utf-8", "replace").decode("utf-8")
    if len(clean) <= length:
        return clean
    mark = " [...] "
    head = (length - len(mark)) // 2
    return clean[:head] + mark + clean[len(clean) - (length - len(mark) - head) :]
