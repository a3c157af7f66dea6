"""Signals to resources.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
}
TABLE = "converge_resource"


def upgrade() -> None:
    again = commits_each_statement()
    op.add_column(TABLE, sa.Column("waiting_traversal", ID, nullable=True), if_not_exists=again)
    op.add_column(
        TABLE, sa.Column("waiting_node", sa.Integer(), nullable=True), if_not_exists=again
    )
    op.create_table(
        "converge_signal",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("resource_id", ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("token", sa.String(255), nullable=False),
        sa.Column("data", TEXT, nullable=True),
        sa.Column("failure", sa.String(2000), nullable=True),
        sa.Column("taken", sa.Boolean(), nullable=False),
        sa.Column("sent_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "resource_id", "name", "token", name="uniq_converge_signal0resource_id0name0token"
        ),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )


def downgrade() -> None:
    again = commits_each_statement()
    op.drop_table("converge_signal", if_exists=again)
    op.drop_column(TABLE, "waiting_node", if_exists=again)
    op.drop_column(TABLE, "waiting_traversal", if_exists=again)
