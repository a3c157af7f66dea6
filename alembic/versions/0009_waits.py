"""Handlers that wait.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLE = "converge_sync_point"


def upgrade() -> None:
    again = commits_each_statement()
    op.add_column(
        TABLE, sa.Column("waiting_since", sa.Double(), nullable=True), if_not_exists=again
    )
    op.add_column(TABLE, sa.Column("note_id", ID, nullable=True), if_not_exists=again)


def downgrade() -> None:
    again = commits_each_statement()
    op.drop_column(TABLE, "note_id", if_exists=again)
    op.drop_column(TABLE, "waiting_since", if_exists=again)
