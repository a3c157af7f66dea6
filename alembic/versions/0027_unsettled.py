"""Nodes that are passed over as long as nothing before them changes.

Revision ID: 0027
Revises: 0026
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column: sa.Column[Any] = sa.Column("unsettled", sa.Integer())
    op.add_column("converge_sync_point", column, if_not_exists=commits_each_statement())


def downgrade() -> None:
    op.drop_column("converge_sync_point", "unsettled", if_exists=commits_each_statement())
