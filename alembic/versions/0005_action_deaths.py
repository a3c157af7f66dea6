"""Actions: how many processes died that had taken one; those that FAILED can be found.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from converge.sql.migrate import commits_each_statement

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# the time of the next attempt of an action that failed for good
NEVER = 1e15


def upgrade() -> None:
    op.add_column(
        "converge_move",
        sa.Column("deaths", sa.Integer(), nullable=False, server_default="0"),
        if_not_exists=commits_each_statement(),
    )
    move = sa.table("converge_move", sa.column("status"), sa.column("next_at"))
    failed = sa.update(move).where(move.c.status == sa.literal_column("'FAILED'"))
    op.execute(failed.values(next_at=sa.literal_column(f"{NEVER:.1f}")))


def downgrade() -> None:
    move = sa.table("converge_move", sa.column("status"), sa.column("next_at"))
    failed = sa.update(move).where(move.c.status == sa.literal_column("'FAILED'"))
    op.execute(failed.values(next_at=sa.null()))
    op.drop_column("converge_move", "deaths", if_exists=commits_each_statement())
