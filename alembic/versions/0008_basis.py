"""What a resource was last brought to.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    again = commits_each_statement()
    op.add_column(
        "converge_resource", sa.Column("basis", sa.String(64), nullable=True), if_not_exists=again
    )
    if op.get_bind().dialect.name == "postgresql":
        # room for new versions of a row in its page: then they need no new entries in the indexes;
        # it holds for pages that are filled from now on
        op.execute("ALTER TABLE converge_resource SET (fillfactor = 50)")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE converge_resource RESET (fillfactor)")
    op.drop_column("converge_resource", "basis", if_exists=commits_each_statement())
