"""The format of what the rows of a stack say, and the highest one that an engine understands.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TABLES = ("converge_stack", "converge_engine")


def upgrade() -> None:
    again = commits_each_statement()
    for table in TABLES:
        column = sa.Column("format", sa.Integer(), nullable=False, server_default="1")
        op.add_column(table, column, if_not_exists=again)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_column(table, "format", if_exists=commits_each_statement())
