"""Rows by the hundred thousand.

A start inserts one row for each node and each new resource. What :mod:`converge.sql.batch` does for
some thousand rows at a time, from a JSON text, takes PostgreSQL three times as long as COPY;
``doc/decisions.rst`` has the measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, Table, func, select
from sqlalchemy import exc as sa_exceptions

from converge.sealing import Keyring
from converge.sql.batch import CHUNK, InsertMany, types_of
from converge.sql.compiled import Compiled
from converge.sql.transaction import Transaction
from converge.sql.types import JsonText, LongText, Sealing

#: From how many new rows on PostgreSQL's statistics are brought up to date at once. Its own ANALYZE
#: comes within a minute; until then, statements whose plans were made for a small table would read
#: all rows of a large stack.
_MANY = 1000
_READ_CLOCK: Compiled[Select[Any]] = Compiled(lambda now, dialect: select(now.label("now")))


def read_clock(tx: Transaction) -> float:
    """The time, in seconds since 1970: for rows in which nothing is computed."""
    return float(_READ_CLOCK.execute(tx, {}).scalar_one())


def take_ids(tx: Transaction, table: Table, count: int) -> list[int]:
    """Ids for new rows, given to no other transaction. Only PostgreSQL gives them without rows."""
    # in a subquery; otherwise the server would look for the sequence for each id
    sequence = select(func.pg_get_serial_sequence(table.name, "id")).scalar_subquery()
    # one row with an array, as each row of a result costs more than an id
    query = select(func.array_agg(func.nextval(sequence)))
    ids: list[int] = tx.execute(query.select_from(func.generate_series(1, count))).scalar_one()
    return ids


class Load:
    """An INSERT of any number of rows, in which nothing is computed or returned.

    :param columns: the names of the columns, in the order of each row's values. JSON is given as
        text.
    """

    def __init__(self, table: Table, *columns: str) -> None:
        self._columns = columns
        types = {
            name: LongText() if isinstance(type_, JsonText) else type_
            for name, type_ in types_of(table, *columns).items()
        }
        self._sealed = [
            index for index, name in enumerate(columns) if isinstance(table.c[name].type, Sealing)
        ]
        self._insert = InsertMany(table, types, lambda row, now: row)
        self._copy = f"COPY {table.name} ({', '.join(columns)}) FROM STDIN"
        # not to wait for another start, or for the server's own ANALYZE
        self._analyze = f"ANALYZE (SKIP_LOCKED) {table.name}"

    def execute(self, tx: Transaction, rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows. They are taken one after the other, as the database takes them."""
        keyring = tx.keyring
        if self._sealed and keyring is not None:
            rows = (self._seal(keyring, row) for row in rows)
        # COPY goes around SQLAlchemy, and its async connections cannot do that
        if tx.dialect == "postgresql" and is_plain_psycopg(tx.connection):
            with _cursor(tx, self._copy) as cursor, cursor.copy(self._copy) as copy:
                count = 0
                for row in rows:
                    copy.write_row(row)
                    count += 1
            if count >= _MANY:
                tx.connection.exec_driver_sql(self._analyze)
            return
        names = self._columns
        left = iter(rows)
        while part := [dict(zip(names, row, strict=True)) for row in islice(left, CHUNK)]:
            self._insert.execute(tx, part)

    def _seal(self, keyring: Keyring, row: Sequence[Any]) -> Sequence[Any]:
        sealed = list(row)
        for index in self._sealed:
            if sealed[index] is not None:
                sealed[index] = keyring.seal(sealed[index])
        return sealed


def is_plain_psycopg(connection: Connection) -> bool:
    """Whether the driver of a connection is psycopg 3, without an event loop. A host may bring
    another one."""
    return connection.dialect.driver == "psycopg" and not connection.dialect.is_async


@contextmanager
def _cursor(tx: Transaction, statement: str) -> Iterator[Any]:
    """A cursor of the driver's own, whose errors are those that SQLAlchemy would raise."""
    connection = tx.connection
    dialect: Any = connection.dialect
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        try:
            yield cursor
        except dialect.loaded_dbapi.Error as error:
            lost = dialect.is_disconnect(error, driver, cursor)
            if lost:
                connection.invalidate(error)
            raise sa_exceptions.DBAPIError.instance(
                statement,
                None,
                error,
                dialect.loaded_dbapi.Error,
                connection_invalidated=lost,
                dialect=dialect,
            ) from error
