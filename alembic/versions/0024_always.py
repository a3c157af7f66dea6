"""Nodes that run whether others failed or not.

Revision ID: 0024
Revises: 0022
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0024"
down_revision = "0022"
branch_labels = None
depends_on = None

_NEW = (("converge_sync_point", "always"), ("converge_traversal", "goes_on"))


def upgrade() -> None:
    for table, name in _NEW:
        column: sa.Column[Any] = sa.Column(
            name, sa.Boolean(), nullable=False, server_default=sa.false()
        )
        op.add_column(table, column, if_not_exists=commits_each_statement())


def downgrade() -> None:
    for table, name in _NEW:
        op.drop_column(table, name, if_exists=commits_each_statement())
