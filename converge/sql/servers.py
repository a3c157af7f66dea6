"""Engines of PostgreSQL and MariaDB: oslo.db makes them, and its filters classify their errors.

SQLite does not need oslo.db, which takes as long to import as SQLAlchemy: import this module only
for a server.
"""

from __future__ import annotations

from typing import Any

from oslo_db.sqlalchemy import engines
from sqlalchemy import Engine, event
from sqlalchemy.engine import URL

from converge.sql.connections import IDLE_SECONDS, LOCK_SECONDS, pool_options, session_limits


def create_server_engine(url: URL, connections: int | None, kept: int) -> Engine:
    """An engine of a server; see :func:`~converge.sql.connections.pool_options`."""
    pool = pool_options(connections, kept)
    engine: Engine = engines.create_engine(
        url,
        max_retries=0,
        thread_checkin=False,
        connection_recycle_time=-1,
        # strict: a value that does not fit is an error; it is never cut
        mysql_sql_mode="TRADITIONAL",
        max_pool_size=pool["pool_size"],
        max_overflow=pool["max_overflow"],
    )
    _prepare(engine, url.get_backend_name())
    return engine


def _prepare(engine: Engine, dialect: str) -> None:
    """Set READ COMMITTED, whatever the server's default: a transaction that waited for a row must
    see it as it is now. And set limits: a process that was stopped in a transaction must not keep
    its locks (our transactions are never idle), and no statement waits long for a host's locks.

    All that converge asks for is found by an index. But PostgreSQL keeps a plan that it made while
    a table was small, or seemed to be, and that reads all of it, when it has a million rows."""
    isolation = "TRANSACTION ISOLATION LEVEL READ COMMITTED"
    if dialect == "postgresql":
        isolation = f"CHARACTERISTICS AS {isolation}"
    statements = [
        f"SET SESSION {isolation}",
        session_limits(dialect, idle=IDLE_SECONDS, lock=LOCK_SECONDS),
    ]
    if dialect == "postgresql":
        # a scan that has no alternative seems to cost so much that it would be compiled first
        statements.append("SET enable_seqscan = off; SET jit = off")

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.commit()
