"""Marks, against ids that come again; readiness apart from retries; what a stack was made from.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
LIVE = sa.text("state IN ('READY', 'RUNNING', 'BLOCKED', 'SUPERSEDED')")
STATE_INDEX = "ix_converge_sync_point_state"
MARKED = ("stack", "traversal", "sync_point", "resource", "engine", "scope", "move")


ADDED = (
    ("stack", "source"),
    ("stack", "previous_template_id"),
    ("resource", "traceback"),
    ("scope", "resource_id"),
    ("sync_point", "due_at"),
    ("sync_point", "cancelled"),
)
# until now, only the name of a scope said which resource it is about
NUMBERED = {
    "postgresql": "UPDATE converge_scope SET resource_id = CAST(split_part(name, ' ', 2) AS BIGINT)"
    " WHERE name ~ '^resource [0-9]{1,18} (create|(update|delete|check) [0-9]+)$'",
    "mysql": "UPDATE converge_scope SET resource_id ="
    " CAST(substring_index(substring_index(name, ' ', 2), ' ', -1) AS UNSIGNED)"
    " WHERE name REGEXP '^resource [0-9]{1,18} (create|(update|delete|check) [0-9]+)$'",
    "sqlite": "UPDATE converge_scope SET resource_id = CAST(substr(name, 10) AS INTEGER)"
    " WHERE name GLOB 'resource [0-9]* create' OR name GLOB 'resource [0-9]* update [0-9]*'"
    " OR name GLOB 'resource [0-9]* delete [0-9]*' OR name GLOB 'resource [0-9]* check [0-9]*'",
}


def _held(table: str, column: str) -> dict[str, Any]:
    """An index of the few rows that have something in a column."""
    where = sa.text(f"{column} IS NOT NULL")
    return {
        "index_name": f"ix_converge_{table}_{column}",
        "table_name": f"converge_{table}",
        "columns": [column],
        "postgresql_where": where,
        "sqlite_where": where,
    }


HELD = (_held("scope", "engine_id"), _held("scope", "resource_id"), _held("move", "engine_id"))


def upgrade() -> None:
    again = commits_each_statement()
    for table in MARKED:
        op.add_column(
            f"converge_{table}",
            sa.Column("mark", ID, nullable=False, server_default="0"),
            if_not_exists=again,
        )
    op.add_column(
        "converge_stack", sa.Column("source", sa.String(2000), nullable=True), if_not_exists=again
    )
    op.add_column(
        "converge_stack",
        sa.Column("previous_template_id", ID, nullable=True),
        if_not_exists=again,
    )
    op.add_column(
        "converge_resource", sa.Column("traceback", TEXT, nullable=True), if_not_exists=again
    )
    op.add_column(
        "converge_scope", sa.Column("resource_id", ID, nullable=True), if_not_exists=again
    )
    op.add_column(
        "converge_sync_point",
        sa.Column("due_at", sa.Double(), nullable=False, server_default="0"),
        if_not_exists=again,
    )
    op.add_column(
        "converge_sync_point",
        sa.Column("cancelled", sa.Boolean(), nullable=False, server_default=sa.false()),
        if_not_exists=again,
    )
    node = sa.table("converge_sync_point", *map(sa.column, ("state", "attempts", "due_at")))
    retried = sa.and_(
        node.c.state == sa.literal_column("'READY'"), node.c.attempts > sa.literal_column("0")
    )
    op.execute(sa.update(node).where(retried).values(due_at=sa.literal_column("ready_at")))
    op.drop_index(STATE_INDEX, "converge_sync_point", if_exists=again)
    op.create_index(
        STATE_INDEX,
        "converge_sync_point",
        ["state", "due_at", "ready_at", "traversal_id", "node"],
        postgresql_where=LIVE,
        sqlite_where=LIVE,
        if_not_exists=again,
    )
    for held in HELD:
        op.create_index(**held, if_not_exists=again)
    op.execute(NUMBERED[op.get_context().dialect.name.replace("mariadb", "mysql")])


def downgrade() -> None:
    again = commits_each_statement()
    for held in HELD:
        op.drop_index(held["index_name"], held["table_name"], if_exists=again)
    op.drop_index(STATE_INDEX, "converge_sync_point", if_exists=again)
    op.create_index(
        STATE_INDEX,
        "converge_sync_point",
        ["state", "ready_at", "traversal_id", "node"],
        postgresql_where=LIVE,
        sqlite_where=LIVE,
        if_not_exists=again,
    )
    for table, column in ADDED:
        op.drop_column(f"converge_{table}", column, if_exists=again)
    for table in MARKED:
        op.drop_column(f"converge_{table}", "mark", if_exists=again)
