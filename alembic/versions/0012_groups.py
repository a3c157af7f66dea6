"""Groups: their members, and the partitions that they share.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String(255)
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
}


def upgrade() -> None:
    again = commits_each_statement()
    op.create_table(
        "converge_group",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("partitions", sa.Integer(), nullable=False),
        sa.Column("key", NAME, nullable=False),
        sa.Column("proof", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", name="uniq_converge_group0name"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_table(
        "converge_member",
        sa.Column("group_id", ID, nullable=False),
        sa.Column("engine_id", ID, nullable=False),
        sa.Column("proof", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("joined_at", sa.Double(), nullable=False),
        _mark(),
        sa.PrimaryKeyConstraint("group_id", "engine_id", name="pk_converge_member"),
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_table(
        "converge_partition",
        sa.Column("group_id", ID, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("engine_id", ID, nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("taken_at", sa.Double(), nullable=True),
        sa.Column("worked_at", sa.Double(), nullable=True),
        _mark(),
        sa.PrimaryKeyConstraint("group_id", "generation", "number", name="pk_converge_partition"),
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_table(
        "converge_position",
        sa.Column("group_id", ID, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sink", NAME, nullable=False),
        sa.Column("sender", sa.String(64), nullable=False),
        sa.Column("sequence", ID, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "group_id", "generation", "number", "sink", "sender", name="pk_converge_position"
        ),
        if_not_exists=again,
        **OPTIONS,
    )


def downgrade() -> None:
    again = commits_each_statement()
    for table in ("position", "partition", "member", "group"):
        op.drop_table(f"converge_{table}", if_exists=again)


def _mark() -> sa.Column[Any]:
    return sa.Column("mark", ID, nullable=False, server_default="0")
