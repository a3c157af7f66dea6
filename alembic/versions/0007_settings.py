"""What a template says of a resource besides its properties; the folder of a template.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    again = commits_each_statement()
    op.add_column(
        "converge_resource", sa.Column("settings", TEXT, nullable=True), if_not_exists=again
    )
    op.add_column(
        "converge_template",
        sa.Column("directory", sa.String(2000), nullable=True),
        if_not_exists=again,
    )


def downgrade() -> None:
    again = commits_each_statement()
    op.drop_column("converge_template", "directory", if_exists=again)
    op.drop_column("converge_resource", "settings", if_exists=again)
