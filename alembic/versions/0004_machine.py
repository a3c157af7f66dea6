"""Machines: their instances and what happened to them.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
PENDING = "next_at IS NOT NULL"
DUE = "deadline_at IS NOT NULL"
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
}


def upgrade() -> None:
    again = commits_each_statement()
    op.create_table(
        "converge_instance",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("machine", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(255), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("payloads", TEXT, nullable=False),
        sa.Column("deadline_at", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("machine", "key", name="uniq_converge_instance0machine0key"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index(
        "ix_converge_instance_deadline_at",
        "converge_instance",
        ["machine", "deadline_at"],
        postgresql_where=sa.text(DUE),
        sqlite_where=sa.text(DUE),
        if_not_exists=again,
    )
    op.create_table(
        "converge_move",
        sa.Column("instance_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("machine", sa.String(255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("event", sa.String(255), nullable=False),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("payload", TEXT, nullable=False),
        sa.Column("payloads", TEXT, nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=True),
        sa.Column("engine_id", ID, nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(2000), nullable=True),
        sa.PrimaryKeyConstraint("instance_id", "number", name="pk_converge_move"),
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index(
        "ix_converge_move_next_at",
        "converge_move",
        ["machine", "next_at"],
        postgresql_where=sa.text(PENDING),
        sqlite_where=sa.text(PENDING),
        if_not_exists=again,
    )


def downgrade() -> None:
    again = commits_each_statement()
    op.drop_table("converge_move", if_exists=again)
    op.drop_table("converge_instance", if_exists=again)
