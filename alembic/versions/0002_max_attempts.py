"""Retries of a node: after how many attempts it is given up.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "converge_sync_point",
        sa.Column("max_attempts", sa.Integer(), nullable=True),
        if_not_exists=commits_each_statement(),
    )


def downgrade() -> None:
    op.drop_column("converge_sync_point", "max_attempts", if_exists=commits_each_statement())
