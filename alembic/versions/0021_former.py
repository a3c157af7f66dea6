"""The names that a resource had before.

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement
from converge.sql.types import JsonText

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column: sa.Column[Any] = sa.Column("former", JsonText())
    op.add_column("converge_resource", column, if_not_exists=commits_each_statement())


def downgrade() -> None:
    op.drop_column("converge_resource", "former", if_exists=commits_each_statement())
