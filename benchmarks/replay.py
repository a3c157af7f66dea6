"""A limit: the row writes of the engine, with nothing else.

The statements that write rows are recorded, transaction by transaction, as the engine gives them
to the driver. Later they are sent again, with the same parameters, on one connection, to tables
with the rows of just after the start. So the server writes the same, and Python only sends.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL

from benchmarks.measuring import connect_raw, fail
from converge.sql.schema import engine as engine_table
from converge.sql.schema import metadata
from converge.sql.transaction import Transaction
from converge.store import Store

_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|WITH|MERGE)\b", re.IGNORECASE)
#: Not the leases: they are written by a clock, not by nodes.
_TABLES = [table.name for table in metadata.sorted_tables if table is not engine_table]
#: What must be the same at the end.
_STATE = """
SELECT (SELECT count(*) FROM converge_sync_point), (SELECT count(*) FROM converge_event),
    (SELECT count(*) FROM converge_resource WHERE status = 'COMPLETE' AND engine_id IS NULL),
    (SELECT string_agg(status, ' ' ORDER BY id) FROM converge_traversal)
"""

#: statement, parameters, whether these are many
Statement = tuple[str, Any, bool]


class Recording:
    """What the engine wrote from one start to the end of its traversal.

    :param name: of this recording; letters.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.transactions: list[list[Statement]] = []
        self._state: Any = None
        self._open: dict[int, list[Statement]] = {}

    @contextmanager
    def of(self, store: Store) -> Iterator[None]:
        """Record what all threads but this one commit."""
        client = threading.get_ident()
        # by connection: transactions of several threads may be open at once
        opened = self._open

        def note(
            connection: Any, cursor: object, text: str, given: Any, context: object, many: bool
        ) -> None:
            if threading.get_ident() != client and _WRITES.match(text):
                opened.setdefault(id(connection), []).append((text, given, many))

        def commit(connection: Any) -> None:
            if statements := opened.pop(id(connection), None):
                self.transactions.append(statements)

        def rollback(connection: Any) -> None:
            opened.pop(id(connection), None)

        engine = store.database.engine
        listeners: dict[str, Callable[..., None]] = {
            "before_cursor_execute": note,
            "commit": commit,
            "rollback": rollback,
        }
        for name, listener in listeners.items():
            event.listen(engine, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners.items():
                event.remove(engine, name, listener)
        with store.database.engine.connect() as connection:
            self._state = tuple(connection.exec_driver_sql(_STATE).one())

    def keep_rows(self, tx: Transaction) -> None:
        """Keep the rows as they are in the transaction of the start."""
        for table in _TABLES:
            tx.connection.exec_driver_sql(f"CREATE TABLE {self.name}_{table} AS TABLE {table}")

    def replay(self, url: URL) -> float:
        """Put the kept rows back, and write as the engine did.

        :returns: the seconds that the writing took.
        """
        with connect_raw(url) as connection:
            connection.execute(f"TRUNCATE {', '.join(_TABLES)} CASCADE".encode())
            for table in _TABLES:
                statement = f"INSERT INTO {table} SELECT * FROM {self.name}_{table}"
                connection.execute(statement.encode())
            connection.commit()
            cursor = connection.cursor()
            begin = time.perf_counter()
            for statements in self.transactions:
                for text, given, many in statements:
                    if many:
                        cursor.executemany(text.encode(), given)
                    else:
                        cursor.execute(text.encode(), given)
                connection.commit()
            taken = time.perf_counter() - begin
            state = cursor.execute(_STATE.encode()).fetchone()
        if state != self._state:
            fail(f"the writes of {self.name} led to {state}, those of the engine to {self._state}")
        return taken
