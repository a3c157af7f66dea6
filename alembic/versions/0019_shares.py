"""An index of the deliveries of a partition.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

NAME = "ix_converge_delivery_share"
SHARED = sa.text("share != 0")


def upgrade() -> None:
    op.create_index(
        NAME,
        "converge_delivery",
        ["share", "id"],
        postgresql_where=SHARED,
        sqlite_where=SHARED,
        if_not_exists=commits_each_statement(),
    )


def downgrade() -> None:
    op.drop_index(NAME, "converge_delivery", if_exists=commits_each_statement())
