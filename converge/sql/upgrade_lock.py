"""The lock for upgrades: a row in a table of its own.

So it holds wherever the tables do: on every node of a Galera cluster, and where a pooler gives each
transaction another session. A lock that a server knows by a name holds on one node, or for one
session.

Where an upgrade is one transaction, that transaction locks the row, and the lock ends with it.
Where statements commit by themselves, the row says who upgrades, and until when by the database's
clock; a thread renews it, and a version is recorded only if the row still says so.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Double,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    exists,
    insert,
    inspect,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.schema import CreateTable

from converge.errors import StoreError
from converge.process import is_gone, process_identity
from converge.sql.connections import WRITE_OPTIONS
from converge.sql.database import Database
from converge.sql.faults import (
    Locked,
    database_errors,
    duplicate_errors,
    is_locked,
    is_transient,
)
from converge.sql.repeat import repeat
from converge.sql.schema import LOCK_TABLE
from converge.sql.schema_version import COMMITS_SCHEMA_CHANGES
from converge.sql.types import clock

#: Seconds to wait for another process that upgrades the same database.
PATIENCE = 300.0
#: Seconds after which the lock is free if its holder does not renew it.
LEASE = 30.0
#: Seconds between two looks whether it is free.
_PAUSE = 0.2

_lock = Table(
    LOCK_TABLE,
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(64), nullable=True),
    # as in the table of engines: on the same host, others can tell whether it has ended
    Column("process", String(255), nullable=True),
    Column("expires_at", Double, nullable=False),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)


class LostLock(Exception):
    """The holder did not renew the lock in time, and another process took it."""


class UpgradeLock:
    """The lock while it is held.

    :ivar connection: the connection to upgrade with.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def confirm(self, **words: object) -> None:
        """Commit a version that was recorded, if each is committed by itself.

        :raises LostLock: another process has the lock now; the version is not to be committed.
        """


@contextmanager
def upgrade_lock(database: Database) -> Iterator[UpgradeLock]:
    """Hold the lock: no other process upgrades meanwhile.

    :raises StoreError: another process has been upgrading for longer than PATIENCE.
    """
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            # there, it is the write lock, taken when the transaction begins
            yield UpgradeLock(connection.execution_options(**WRITE_OPTIONS))
            return
        _make_row(connection)
        if database.dialect in COMMITS_SCHEMA_CHANGES:
            lease = _Lease(connection, database.engine)
            lease.take()
            with lease.renewed():
                yield lease
        else:
            _lock_row(connection)
            yield UpgradeLock(connection)


def _make_row(connection: Connection) -> None:
    """Make the table and its row, unless they are there. Others may do so at the same time."""
    if not inspect(connection).has_table(LOCK_TABLE):
        try:
            connection.execute(CreateTable(_lock, if_not_exists=True))
            connection.commit()
        except database_errors():
            # of two at once, PostgreSQL refuses one: by a duplicate key, or as its type exists
            connection.rollback()
            if not inspect(connection).has_table(LOCK_TABLE):
                raise
    missing = select(literal(1), literal(0.0)).where(~exists(select(_lock.c.id)))
    with suppress(*duplicate_errors()):
        connection.execute(insert(_lock).from_select(["id", "expires_at"], missing))
        connection.commit()
    connection.rollback()


def _lock_row(connection: Connection) -> None:
    """Lock the row until the transaction ends. It is the transaction that upgrades, so it may wait
    for the tables as long, and Python may load the migrations in it."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE:g}s'"))
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '60s'"))
    try:
        connection.execute(update(_lock).values(process=process_identity()))
    except database_errors() as error:
        if not is_locked(error):
            raise
        raise _too_long(None) from error


class _Lease(UpgradeLock):
    """The lock as a lease in the row."""

    def __init__(self, connection: Connection, engine: Engine) -> None:
        super().__init__(connection)
        self._engine = engine
        self._holder = uuid.uuid4().hex
        self._process = process_identity()
        self._mine = _lock.c.holder == self._holder
        self._ended = threading.Event()

    def take(self) -> None:
        """Wait until the lock is free, and take it. Of those that take it at the same time, the
        first to commit has it."""
        free = or_(_lock.c.holder.is_(None), _lock.c.expires_at <= clock())
        end = time.monotonic() + PATIENCE
        while not self._write_again(self.connection, free):
            row = self.connection.execute(select(_lock.c.holder, _lock.c.process)).one()
            self.connection.rollback()
            if row.process is not None and is_gone(row.process):
                free = or_(free, _lock.c.holder == row.holder)
            elif time.monotonic() > end:
                raise _too_long(row.process)
            else:
                time.sleep(_PAUSE * random.uniform(0.5, 1.5))

    def confirm(self, **words: object) -> None:
        if not self._write(self.connection, self._mine):
            raise LostLock

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lock meanwhile, and release it at the end."""
        thread = threading.Thread(target=self._renew, name="converge-upgrade-lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            # it ends by itself if that does not succeed
            with suppress(*database_errors()):
                self.connection.rollback()
                self._write_again(self.connection, self._mine, release=True)

    def _renew(self) -> None:
        held = True
        while held and not self._ended.wait(LEASE / 3):
            # a database that cannot be reached may be back at the next try
            with suppress(*database_errors()), self._engine.connect() as connection:
                held = self._write_again(connection, self._mine)

    def _write_again(
        self, connection: Connection, which: ColumnElement[bool], release: bool = False
    ) -> bool:
        """Like :meth:`_write`, again if the database undid it: in a cluster, another node may have
        written the row at the same time."""
        return repeat(lambda: self._write(connection, which, release), is_transient)

    def _write(
        self, connection: Connection, which: ColumnElement[bool], release: bool = False
    ) -> bool:
        """Write what the row says, and commit; False if it is not as it has to be."""
        holder, process = (None, None) if release else (self._holder, self._process)
        try:
            found = connection.execute(
                update(_lock)
                .where(which)
                .values(holder=holder, process=process, expires_at=clock() + LEASE)
            )
            if found.rowcount == 1:
                connection.commit()
                return True
        except BaseException:
            connection.rollback()
            raise
        connection.rollback()
        return False


def _too_long(process: str | None) -> StoreError:
    who = "another process"
    if process is not None and process.count("/") > 1:
        who = f"process {process.split('/')[-2]} on {process.split('/')[0]}"
    return Locked(
        f"{who} has been upgrading the database for {PATIENCE:g} s; run the upgrade again later"
    )
