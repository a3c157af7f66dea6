"""The key that values are encrypted with.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "converge_sealing",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("fingerprint", sa.String(16), nullable=False),
        sa.Column("chosen_at", sa.Double(), nullable=False),
        if_not_exists=commits_each_statement(),
    )


def downgrade() -> None:
    op.drop_table("converge_sealing", if_exists=commits_each_statement())
