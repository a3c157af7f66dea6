"""What a check found of a resource that is not as it was made.

Revision ID: 0022
Revises: 0021
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement
from converge.sql.types import SealedJson

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column: sa.Column[Any] = sa.Column("drift", SealedJson())
    op.add_column("converge_resource", column, if_not_exists=commits_each_statement())


def downgrade() -> None:
    op.drop_column("converge_resource", "drift", if_exists=commits_each_statement())
