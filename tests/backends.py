"""The databases that the tests run on: which answer, and a fresh one for whoever asks; Redis,
which can keep journals; and RabbitMQ, which can be a bus.

A server is found at its conventional local address, or where ``CONVERGE_TEST_POSTGRESQL`` or
``CONVERGE_TEST_MARIADB`` says: the SQLAlchemy URL of somebody who may create databases. What
is there already is left alone; the tests make databases named ``converge_test_…`` and drop
them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy
from sqlalchemy.engine import URL, Engine, make_url

VERSION_TABLE = "converge_alembic_version"
REQUIRE = "CONVERGE_TEST_REQUIRE"


class UnavailableError(Exception):
    """A backend cannot be used; the message says why, in one line."""


class Backend(ABC):
    """One kind of database. Made per test process; :meth:`close` drops what it made."""

    name: ClassVar[str]
    #: What a person has to provide, for a message.
    needs: ClassVar[str]

    @abstractmethod
    def probe(self) -> str:
        """The version of what answers.

        :raises UnavailableError: nothing does, or it cannot be used.
        """

    @abstractmethod
    def empty(self) -> str:
        """The URL of a new database with nothing in it."""

    @abstractmethod
    def migrated(self) -> str:
        """The URL of a database with converge's schema and no rows.

        Servers have one such database per process, so the one before is emptied for it.
        """

    @abstractmethod
    def discard(self, url: str) -> None:
        """Drop what :meth:`empty` made."""

    @abstractmethod
    def close(self) -> None:
        """Drop all that was made."""


class Sqlite(Backend):
    """Files in a folder of the test session; a migrated one is copied, not migrated again."""

    name = "sqlite"
    needs = "nothing: it is part of Python"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template: Path | None = None

    def probe(self) -> str:
        """SQLite is always there."""
        return sqlite3.sqlite_version

    def empty(self) -> str:
        """A name of a file that does not exist yet."""
        return f"sqlite:///{self._file()}"

    def migrated(self) -> str:
        """A copy of a file that is migrated once."""
        if self._template is None:
            template = self._file()
            _upgrade(f"sqlite:///{template}")
            # what is still in the write-ahead log would not be in the copy
            connection = sqlite3.connect(template)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            self._template = template
        path = self._file()
        shutil.copyfile(self._template, path)
        return f"sqlite:///{path}"

    def discard(self, url: str) -> None:
        """Nothing to do: the folder is removed at the end."""

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{secrets.token_hex(4)}.db"


class Server(Backend):
    """What PostgreSQL and MariaDB have in common."""

    default: ClassVar[str]
    variable: ClassVar[str]
    driver: ClassVar[str]
    dialect: ClassVar[str]
    oldest: ClassVar[tuple[int, ...]]

    def __init__(self) -> None:
        self._text = os.environ.get(self.variable) or self.default
        self._admin: Engine | None = None
        self._made: list[str] = []
        self._migrated: tuple[str, Engine] | None = None

    def probe(self) -> str:
        """Connect, and create and drop a database."""
        if not self._text.startswith(f"{self.dialect}+{self.driver}://"):
            # the text is not shown: there may be a password in it
            raise UnavailableError(
                f"{self.variable} must be a URL that starts with {self.dialect}+{self.driver}://"
            )
        try:
            shown = self._admin_url.render_as_string()
            with self._connect() as connection:
                version = self._version(connection)
            self._drop(self._create())
        except sqlalchemy.exc.ArgumentError as error:
            raise UnavailableError(f"{self.variable}: {error}") from None
        except ImportError:
            raise UnavailableError(f"its driver {self.driver} is not installed") from None
        except sqlalchemy.exc.SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise UnavailableError(f"{shown}: {reason} (set {self.variable} for another)") from None
        if version < self.oldest:
            found, oldest = (".".join(map(str, numbers)) for numbers in (version, self.oldest))
            raise UnavailableError(f"it is version {found}; converge needs {oldest} or newer")
        return ".".join(map(str, version))

    def empty(self) -> str:
        """A new database."""
        return self._url(self._create())

    def migrated(self) -> str:
        """The process's own database, emptied."""
        if self._migrated is None:
            url = self.empty()
            _upgrade(url)
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
            self._migrated = (url, engine)
        else:
            url, engine = self._migrated
            with engine.begin() as connection:
                self._clear(connection)
        return url

    def discard(self, url: str) -> None:
        """Drop one database, also when something is still connected to it."""
        database = make_url(url).database
        assert database in self._made, f"not one of the tests' own databases: {database}"
        self._drop(database)

    def close(self) -> None:
        """Drop the databases."""
        for database in self._made.copy():
            self._drop(database)
        self._migrated = None
        if self._admin is not None:
            self._admin.dispose()

    @property
    def _admin_url(self) -> URL:
        return make_url(self._text)

    def _connect(self) -> sqlalchemy.Connection:
        if self._admin is None:
            self._admin = sqlalchemy.create_engine(
                self._admin_url,
                isolation_level="AUTOCOMMIT",
                poolclass=sqlalchemy.NullPool,
                connect_args={"connect_timeout": 5},
            )
        return self._admin.connect()

    def _url(self, database: str) -> str:
        url = self._admin_url.set(database=database)
        return url.render_as_string(hide_password=False)

    def _create(self) -> str:
        database = f"converge_test_{os.getpid()}_{secrets.token_hex(4)}"
        with self._connect() as connection:
            connection.exec_driver_sql(self._create_statement(database))
            self._made.append(database)
            self._after_create(connection, database)
        return database

    def _drop(self, database: str) -> None:
        with self._connect() as connection:
            self._drop_statements(connection, database)
        self._made.remove(database)

    def _clear(self, connection: sqlalchemy.Connection) -> None:
        """Delete all rows of converge's tables, and drop tables that a test made beside them."""
        tables = set(sqlalchemy.inspect(connection).get_table_names())
        ours = {name for name in tables if name.startswith("converge_")}
        self._delete(connection, sorted(ours - {VERSION_TABLE}))
        quote = connection.dialect.identifier_preparer.quote
        for name in sorted(tables - ours):
            connection.exec_driver_sql(f"DROP TABLE {quote(name)}")

    @abstractmethod
    def _version(self, connection: sqlalchemy.Connection) -> tuple[int, ...]: ...

    @abstractmethod
    def _create_statement(self, database: str) -> str: ...

    def _after_create(self, connection: sqlalchemy.Connection, database: str) -> None:
        """Settings of a new database."""

    @abstractmethod
    def _drop_statements(self, connection: sqlalchemy.Connection, database: str) -> None: ...

    @abstractmethod
    def _delete(self, connection: sqlalchemy.Connection, tables: list[str]) -> None: ...


class PostgreSQL(Server):
    """A database per process, on a server with any settings."""

    name = "postgresql"
    default = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
    variable = "CONVERGE_TEST_POSTGRESQL"
    needs = f"a server at {default}, or {variable}=URL of one where databases may be created"
    driver = "psycopg"
    dialect = "postgresql"
    oldest = (13,)

    def _version(self, connection: sqlalchemy.Connection) -> tuple[int, ...]:
        number = connection.exec_driver_sql("SHOW server_version_num").scalar_one()
        return divmod(int(str(number)), 10_000)

    def _create_statement(self, database: str) -> str:
        return f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'"

    def _after_create(self, connection: sqlalchemy.Connection, database: str) -> None:
        # no test pulls the plug, so commits need not wait for the disk
        connection.exec_driver_sql(f"ALTER DATABASE {database} SET synchronous_commit = off")

    def _drop_statements(self, connection: sqlalchemy.Connection, database: str) -> None:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def _delete(self, connection: sqlalchemy.Connection, tables: list[str]) -> None:
        # an engine left over by a test must not stop the ones after it in silence
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
        # One statement, because foreign keys are checked at its end, so the order of the tables
        # does not matter; much faster than TRUNCATE, which makes new files.
        parts = ", ".join(f"d{n} AS (DELETE FROM {name})" for n, name in enumerate(tables))
        if parts:
            connection.exec_driver_sql(f"WITH {parts} SELECT 1")


class MariaDB(Server):
    """A database per process, on a server with any settings."""

    name = "mariadb"
    # a connection that could speak TLS reads all certificates of the machine first, which takes
    # longer than most tests do
    default = "mysql+pymysql://root@127.0.0.1:3306/?charset=utf8mb4&ssl_disabled=true"
    variable = "CONVERGE_TEST_MARIADB"
    needs = f"a server at {default}, or {variable}=URL of one where databases may be created"
    driver = "pymysql"
    dialect = "mysql"
    oldest = (10, 6)

    def _version(self, connection: sqlalchemy.Connection) -> tuple[int, ...]:
        text = str(connection.exec_driver_sql("SELECT VERSION()").scalar_one())
        if "mariadb" not in text.lower():
            raise UnavailableError(f"the server there is not MariaDB but {text}")
        return tuple(int(number) for number in text.split("-")[0].split("."))

    def _create_statement(self, database: str) -> str:
        # A collation that ignores case, as is usual there: where case matters, converge's own
        # columns have to say so.
        return f"CREATE DATABASE {database} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"

    def _drop_statements(self, connection: sqlalchemy.Connection, database: str) -> None:
        # DROP waits for the transactions of connections that a test forgot
        others = connection.exec_driver_sql(
            "SELECT id FROM information_schema.processlist WHERE db = %s", (database,)
        ).scalars()
        for other in others.all():
            connection.exec_driver_sql(f"KILL SOFT CONNECTION {int(other)}")
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {database}")

    def _delete(self, connection: sqlalchemy.Connection, tables: list[str]) -> None:
        # an engine left over by a test must not stop the ones after it in silence
        connection.exec_driver_sql("SET innodb_lock_wait_timeout = 10, lock_wait_timeout = 10")
        connection.exec_driver_sql("SET foreign_key_checks = 0")
        for name in tables:
            connection.exec_driver_sql(f"DELETE FROM {name}")


class Redis(Backend):
    """A prefix of keys per test, on a server with any settings; other keys are left alone."""

    name = "redis"
    default = "redis://127.0.0.1:6379/0"
    variable = "CONVERGE_TEST_REDIS"
    needs = f"a server at {default}, or {variable}=URL of one; and the package redis"

    def __init__(self) -> None:
        self._text = os.environ.get(self.variable) or self.default
        self._prefixes: list[str] = []

    def probe(self) -> str:
        """Ask for its version."""
        if not self._text.startswith(("redis://", "rediss://")) or "?" in self._text:
            # the text is not shown: there may be a password in it
            raise UnavailableError(
                f"{self.variable} must be a URL that starts with redis:// and has no options"
            )
        try:
            import redis

            with self._client() as client:
                return str(client.info("server")["redis_version"])
        except ImportError:
            raise UnavailableError("its client, the package redis, is not installed") from None
        except (redis.RedisError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UnavailableError(f"{reason} (set {self.variable} for another)") from None

    def empty(self) -> str:
        """The URL of a journal with nothing in it."""
        self._prefixes.append(f"converge_test_{os.getpid()}_{secrets.token_hex(4)}")
        return f"{self._text}?prefix={self._prefixes[-1]}"

    def migrated(self) -> str:
        """The same: there is no schema."""
        return self.empty()

    def discard(self, url: str) -> None:
        """Delete the keys of one prefix."""
        prefix = url.rpartition("=")[2]
        self._prefixes.remove(prefix)
        with self._client() as client:
            for key in client.scan_iter(match=f"{{{prefix}}}:*", count=1000):
                client.delete(key)

    def close(self) -> None:
        """Delete all that was made."""
        for prefix in self._prefixes.copy():
            self.discard(f"?prefix={prefix}")

    def _client(self) -> Any:
        import redis

        return redis.Redis.from_url(self._text, socket_connect_timeout=5)


class RabbitMQ(Backend):
    """A topic per test, on a server with any settings; other queues are left alone."""

    name = "rabbitmq"
    default = "rabbit://guest:guest@127.0.0.1:5672/"
    variable = "CONVERGE_TEST_RABBITMQ"
    needs = f"a server at {default}, or {variable}=URL of one"

    def __init__(self) -> None:
        self._text = os.environ.get(self.variable) or self.default
        self._topics: list[str] = []

    def probe(self) -> str:
        """Ask for its version."""
        if not self._text.startswith("rabbit://") or "?" in self._text:
            # the text is not shown: there may be a password in it
            raise UnavailableError(
                f"{self.variable} must be a URL that starts with rabbit:// and has no options"
            )
        try:
            with self.connect() as connection:
                properties = connection.connection.server_properties
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise UnavailableError(f"{reason} (set {self.variable} for another)") from None
        return str(properties["version"])

    def empty(self) -> str:
        """The URL of a bus that nobody else uses."""
        self._topics.append(f"converge_test_{os.getpid()}_{secrets.token_hex(4)}")
        return f"{self._text}?topic={self._topics[-1]}"

    def migrated(self) -> str:
        """The same: there is no schema."""
        return self.empty()

    def discard(self, url: str) -> None:
        """Delete the queues of one topic that oslo.messaging leaves."""
        topic = url.rpartition("=")[2]
        self._topics.remove(topic)
        with self.connect() as connection:
            channel = connection.channel()
            for queue in (topic, f"{topic}.any"):
                channel.queue_delete(queue)

    def close(self) -> None:
        """Delete all that was made."""
        for topic in self._topics.copy():
            self.discard(f"?topic={topic}")

    def connect(self) -> Any:
        """A plain connection, as anybody may have one who has a password."""
        from kombu.connection import Connection

        # kombu's name for it
        make: Any = Connection
        connection = make(self._text.replace("rabbit://", "amqp://", 1))
        connection.ensure_connection(max_retries=1, timeout=5)
        return connection


#: The databases, on each of which every test of one runs.
NAMES = (Sqlite.name, PostgreSQL.name, MariaDB.name)
#: What only keeps journals or carries hints, and servers of the tests' own.
OTHERS = (
    Redis.name,
    RabbitMQ.name,
    "own-postgresql",
    "own-mariadb",
    "own-pgbouncer",
    "own-galera",
    "own-rabbitmq",
)


def backends(folder: Path) -> dict[str, Backend]:
    """All backends by name.

    :param folder: where SQLite's files go; made when needed.
    """
    from tests.brokers import OwnRabbitMQ
    from tests.galera import OwnGalera
    from tests.servers import OwnMariaDB, OwnPgbouncer, OwnPostgreSQL

    own = (OwnPostgreSQL(), OwnMariaDB(), OwnPgbouncer(), OwnGalera(), OwnRabbitMQ())
    others = (Sqlite(folder), PostgreSQL(), MariaDB(), Redis(), RabbitMQ())
    return {one.name: one for one in (*others, *own)}


def survey(known: Mapping[str, Backend]) -> dict[str, tuple[str | None, str]]:
    """Ask every backend: name → (version, or None if it cannot be used; why it cannot)."""
    found: dict[str, tuple[str | None, str]] = {}
    for name, backend in known.items():
        try:
            found[name] = (backend.probe(), "")
        except UnavailableError as error:
            found[name] = (None, str(error))
    return found


def required() -> list[str]:
    """The backends that ``CONVERGE_TEST_REQUIRE`` names, separated by commas.

    :raises ValueError: it names one that does not exist.
    """
    names = [name.strip() for name in os.environ.get(REQUIRE, "").split(",") if name.strip()]
    known = (*NAMES, *OTHERS)
    for name in names:
        if name not in known:
            raise ValueError(f"{REQUIRE} names {name!r}; there are {', '.join(known)}")
    return names


def _upgrade(url: str) -> None:
    # only tests that use a database need the store
    from converge.sql import migrate

    migrate.upgrade(url)
