"""What a traversal was asked for by name.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

TABLE = "converge_traversal"
TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    again = commits_each_statement()
    op.add_column(TABLE, sa.Column("asked", TEXT, nullable=True), if_not_exists=again)


def downgrade() -> None:
    op.drop_column(TABLE, "asked", if_exists=commits_each_statement())
