"""A program that writes what machines write, without them: the raw limit of ``machine.py``.

Its tables have the same columns and indexes, in a schema of their own. It does not look up what an
event does, as it knows; its statements are made once.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.engine import URL

from converge.sql import schema

NAME = "order"
#: Seconds until the timeout of an instance that is paid.
TIMEOUT = 86_400.0
#: Of all instances and rows.
NUMBERS = itertools.count()
#: The schema of the tables of the program without machines.
PLAIN = "plain"
TABLES = MetaData()
#: The program's own table.
ROWS = Table(
    "report",
    TABLES,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("key", String(255), nullable=False),
)
INSTANCE = schema.instance.to_metadata(TABLES, schema=PLAIN)
MOVE = schema.move.to_metadata(TABLES, schema=PLAIN)

CREATE_MANY = f"""
    INSERT INTO {INSTANCE} (machine, key, version, state, epoch, payloads, created_at, updated_at)
    SELECT %(machine)s, key, 1, 'new', 0, '{{}}', %(now)s, %(now)s
    FROM json_array_elements_text(CAST(%(rows)s AS json)) AS key
"""
LOCK_MANY = f"""
    SELECT id, key, epoch, state, payloads FROM {INSTANCE}
    WHERE machine = %(machine)s AND key = ANY(%(keys)s) ORDER BY key FOR UPDATE
"""
UPDATE_MANY = f"""
    UPDATE {INSTANCE} AS old
    SET state = new.target, payloads = new.payloads, epoch = new.number,
        deadline_at = %(deadline)s, updated_at = %(now)s
    FROM json_to_recordset(CAST(%(rows)s AS json))
        AS new (id bigint, number integer, target text, payloads text)
    WHERE old.id = new.id AND old.epoch = new.number - 1
"""
INSERT_MANY = f"""
    INSERT INTO {MOVE} (instance_id, number, machine, version, event, source, target, payload,
        payloads, token, at, status, attempts, epoch)
    SELECT id, number, %(machine)s, 1, event, source, target, payload, '{{}}', %(token)s, %(now)s,
        'NONE', 0, 0
    FROM json_to_recordset(CAST(%(rows)s AS json))
        AS new (id bigint, number integer, event text, source text, target text, payload text)
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """An event, and where it leads.

    :ivar timeout: of the new state, in seconds.
    :ivar action: whether one is to be called.
    """

    event: str
    source: str
    target: str
    timeout: float | None = None
    action: bool = False


PAY = Kind("pay", "new", "paid", TIMEOUT)
REMIND = Kind("remind", "paid", "late")
SHIP = Kind("ship", "paid", "shipped", action=True)
REPORT = Kind("report", "paid", "shipped", action=True)


class Plain:
    """The program without machines.

    :param url: of the benchmark's database.
    """

    def __init__(self, url: URL) -> None:
        self.engine = sqlalchemy.create_engine(url)
        with self.engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {PLAIN}")
            TABLES.create_all(connection)
        self._insert_row = insert(ROWS)
        self._insert_move = insert(MOVE)
        self._lock = (
            select(INSTANCE.c.id, INSTANCE.c.epoch, INSTANCE.c.payloads)
            .where(INSTANCE.c.machine == NAME, INSTANCE.c.key == bindparam("its_key"))
            .with_for_update()
        )
        self._update = (
            update(INSTANCE)
            .where(INSTANCE.c.id == bindparam("its_id"))
            .where(INSTANCE.c.epoch == bindparam("its_epoch"))
        )
        self._end_move = (
            update(MOVE)
            .where(
                MOVE.c.instance_id == bindparam("its_id"), MOVE.c.number == bindparam("its_number")
            )
            .values(status="DONE", attempts=MOVE.c.attempts + 1, next_at=None, engine_id=None)
        )

    def close(self) -> None:
        """Disconnect."""
        self.engine.dispose()

    def move(self, key: str, kind: Kind, given: Any) -> tuple[int, int]:
        """One event and its commit.

        :returns: the key of the move.
        """
        text = json.dumps(given)
        with self.engine.begin() as connection:
            row = connection.execute(self._lock, {"its_key": key}).one()
            now, number = time.time(), row.epoch + 1
            payloads = json.dumps(json.loads(row.payloads) | {kind.event: given})
            changed = {
                "its_id": row.id,
                "its_epoch": row.epoch,
                "epoch": number,
                "state": kind.target,
                "payloads": payloads,
                "deadline_at": None if kind.timeout is None else now + kind.timeout,
                "updated_at": now,
            }
            assert connection.execute(self._update, changed).rowcount == 1
            made = {
                "instance_id": row.id,
                "number": number,
                "machine": NAME,
                "version": 1,
                "event": kind.event,
                "source": kind.source,
                "target": kind.target,
                "payload": text,
                "payloads": payloads if kind.action else "{}",
                "token": "0" * 32,
                "at": now,
                "status": "PENDING" if kind.action else "NONE",
                "attempts": 0,
                "next_at": now if kind.action else None,
                "engine_id": 1 if kind.action else None,
                "epoch": int(kind.action),
            }
            connection.execute(self._insert_move, made)
        return row.id, number

    def move_twice(self, key: str, kind: Kind, given: Any) -> None:
        """Two events, each with its commit."""
        self.move(key, kind, given)
        self.move(key, kind, given)

    def move_and_end(self, key: str, kind: Kind, given: Any) -> None:
        """An event, and a second transaction in which its move is updated."""
        instance_id, number = self.move(key, kind, given)
        with self.engine.begin() as connection:
            connection.execute(self._end_move, {"its_id": instance_id, "its_number": number})

    def move_and_report(self, key: str, kind: Kind, given: Any) -> None:
        """The same, and in the second transaction a row is inserted, too."""
        instance_id, number = self.move(key, kind, given)
        with self.engine.begin() as connection:
            self.insert_row(connection, key)
            connection.execute(self._end_move, {"its_id": instance_id, "its_number": number})

    def insert_row(self, connection: Connection, key: str) -> None:
        """The program's own effect."""
        connection.execute(self._insert_row, {"id": next(NUMBERS), "key": key})

    def create_many(self, keys: Sequence[str]) -> None:
        """Instances, and their commit."""
        values = {"machine": NAME, "now": time.time(), "rows": json.dumps(keys)}
        with self.engine.begin() as connection:
            connection.exec_driver_sql(CREATE_MANY, values)

    def move_many(self, kind: Kind, events: Sequence[tuple[str, Any]]) -> None:
        """An event at each of these instances, and one commit."""
        given = dict(events)
        now = time.time()
        common = {
            "machine": NAME,
            "now": now,
            "deadline": None if kind.timeout is None else now + kind.timeout,
            "token": "0" * 32,
        }
        with self.engine.begin() as connection:
            rows = [
                {
                    "id": row.id,
                    "number": row.epoch + 1,
                    "event": kind.event,
                    "source": row.state,
                    "target": kind.target,
                    "payload": json.dumps(given[row.key]),
                    "payloads": json.dumps(json.loads(row.payloads) | {kind.event: given[row.key]}),
                }
                for row in connection.exec_driver_sql(LOCK_MANY, {**common, "keys": list(given)})
            ]
            common["rows"] = json.dumps(rows)
            found = connection.exec_driver_sql(UPDATE_MANY, common).rowcount
            assert found == len(events)
            connection.exec_driver_sql(INSERT_MANY, common)
