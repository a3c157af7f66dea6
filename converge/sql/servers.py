"""Engines of PostgreSQL and MariaDB: oslo.db makes them, and its filters classify their errors.

SQLite does not need oslo.db, which takes as long to import as SQLAlchemy: import this module only
for a server.
"""

from __future__ import annotations

from oslo_db.sqlalchemy import engines
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from converge.sql.connections import pool_options
from converge.sql.sessions import SessionOptions, prepare_sessions


def create_server_engine(
    url: URL, options: SessionOptions, connections: int | None, kept: int
) -> Engine:
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
    prepare_sessions(engine, options)
    return engine
