"""PostgreSQL's notifications: texts that a transaction sends with its commit to all who listen."""

from __future__ import annotations

from converge.sql.transaction import Transaction

#: All of converge's go through one channel of the database.
CHANNEL = "converge"


def send_notice(tx: Transaction, text: str) -> None:
    """Send a text when the transaction commits. Of equal ones, a transaction sends one."""
    tx.connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (CHANNEL, text))
