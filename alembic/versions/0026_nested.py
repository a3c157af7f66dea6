"""Which stack belongs to a resource of another one.

Revision ID: 0026
Revises: 0025
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLE, COLUMN = "converge_stack", "outer_resource_id"
INDEX = f"ix_{TABLE}_{COLUMN}"


def upgrade() -> None:
    again = commits_each_statement()
    op.add_column(TABLE, sa.Column(COLUMN, ID, nullable=True), if_not_exists=again)
    where = sa.text(f"{COLUMN} IS NOT NULL")
    op.create_index(
        INDEX, TABLE, [COLUMN], postgresql_where=where, sqlite_where=where, if_not_exists=again
    )


def downgrade() -> None:
    again = commits_each_statement()
    op.drop_index(INDEX, TABLE, if_exists=again)
    op.drop_column(TABLE, COLUMN, if_exists=again)
