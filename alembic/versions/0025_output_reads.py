"""Which stacks read outputs of which others.

Revision ID: 0025
Revises: 0024
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
}
TABLE = "converge_output_read"


def upgrade() -> None:
    again = commits_each_statement()
    op.create_table(
        TABLE,
        sa.Column("stack_id", ID, nullable=False),
        sa.Column("source_id", ID, nullable=False),
        sa.Column("output", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("stack_id", "source_id", "output", name="pk_converge_output_read"),
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index("ix_converge_output_read_source_id", TABLE, ["source_id"], if_not_exists=again)


def downgrade() -> None:
    op.drop_table(TABLE, if_exists=commits_each_statement())
