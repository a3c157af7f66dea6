"""Limits on what runs or starts at once, and the places that nodes hold of them.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
}
LIMIT, PLACE = "converge_limit", "converge_place"


def upgrade() -> None:
    again = commits_each_statement()
    op.create_table(
        LIMIT,
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("places", sa.Integer(), nullable=True),
        sa.Column("rate_count", sa.Integer(), nullable=True),
        sa.Column("rate_seconds", sa.Double(), nullable=True),
        sa.Column("starts", TEXT, nullable=True),
        sa.Column("open_at", sa.Double(), nullable=False, server_default="0"),
        sa.Column("version", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("kind", "name", name="uniq_converge_limit0kind0name"),
        sa.UniqueConstraint("changed", name="uniq_converge_limit0changed"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_table(
        PLACE,
        sa.Column("traversal_id", ID, nullable=False),
        sa.Column("node", sa.Integer(), nullable=False),
        sa.Column("limit_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("traversal_id", "node", "limit_id", name="pk_converge_place"),
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index("ix_converge_place_limit_id", PLACE, ["limit_id"], if_not_exists=again)


def downgrade() -> None:
    again = commits_each_statement()
    op.drop_table(PLACE, if_exists=again)
    op.drop_table(LIMIT, if_exists=again)
