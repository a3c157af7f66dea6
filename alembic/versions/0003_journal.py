"""The journal: scopes and their steps.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
}


def upgrade() -> None:
    again = commits_each_statement()
    op.add_column(
        "converge_engine",
        sa.Column("role", sa.String(16), nullable=False, server_default="engine"),
        if_not_exists=again,
    )
    op.create_table(
        "converge_scope",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("engine_id", ID, nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", name="uniq_converge_scope0name"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index(
        "ix_converge_scope_finished_at", "converge_scope", ["finished_at"], if_not_exists=again
    )
    op.create_table(
        "converge_step",
        sa.Column("scope_id", ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("scope_id", "name", name="pk_converge_step"),
        if_not_exists=again,
        **OPTIONS,
    )


def downgrade() -> None:
    again = commits_each_statement()
    op.drop_table("converge_step", if_exists=again)
    op.drop_table("converge_scope", if_exists=again)
    op.drop_column("converge_engine", "role", if_exists=again)
