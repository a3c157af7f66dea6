"""The span that a traversal was started in.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TABLE = "converge_traversal"


def upgrade() -> None:
    again = commits_each_statement()
    op.add_column(TABLE, sa.Column("trace", sa.String(64), nullable=True), if_not_exists=again)


def downgrade() -> None:
    op.drop_column(TABLE, "trace", if_exists=commits_each_statement())
