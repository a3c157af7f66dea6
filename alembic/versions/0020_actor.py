"""Who asked for a traversal.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

TABLE = "converge_traversal"


def upgrade() -> None:
    again = commits_each_statement()
    op.add_column(TABLE, sa.Column("actor", sa.String(255), nullable=True), if_not_exists=again)


def downgrade() -> None:
    op.drop_column(TABLE, "actor", if_exists=commits_each_statement())
