"""Lanes: which engines can take a node; and what engines have.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
}
LIVE = sa.text("state IN ('READY', 'RUNNING', 'BLOCKED', 'SUPERSEDED')")
NODES = "converge_sync_point"
OLD, NEW = "ix_converge_sync_point_state", "ix_converge_sync_point_lane"


def _columns() -> tuple[tuple[str, sa.Column[Any]], ...]:
    return (
        ("converge_stack", sa.Column("queue", sa.String(255), nullable=True)),
        (
            "converge_stack",
            sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        ),
        (NODES, sa.Column("lane", sa.Integer(), nullable=False, server_default="0")),
        ("converge_engine", sa.Column("types", TEXT, nullable=True)),
        ("converge_engine", sa.Column("queues", TEXT, nullable=True)),
    )


def _index(name: str, *columns: str) -> None:
    op.create_index(
        name,
        NODES,
        list(columns),
        postgresql_where=LIVE,
        sqlite_where=LIVE,
        if_not_exists=commits_each_statement(),
    )


def upgrade() -> None:
    again = commits_each_statement()
    op.create_table(
        "converge_lane",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("types", sa.String(500), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "queue", "types", "priority", name="uniq_converge_lane0queue0types0priority"
        ),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    for table, column in _columns():
        op.add_column(table, column, if_not_exists=again)
    _index(NEW, "state", "due_at", "lane", "traversal_id", "ready_at", "node")
    op.drop_index(OLD, NODES, if_exists=again)


def downgrade() -> None:
    again = commits_each_statement()
    _index(OLD, "state", "due_at", "ready_at", "traversal_id", "node")
    op.drop_index(NEW, NODES, if_exists=again)
    for table, column in reversed(_columns()):
        op.drop_column(table, column.name, if_exists=again)
    op.drop_table("converge_lane", if_exists=again)
