"""The tables of the core.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
BINARY = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
LIVE_STATES = "state IN ('READY', 'RUNNING', 'BLOCKED', 'SUPERSEDED')"
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
}


def upgrade() -> None:
    again = commits_each_statement()
    op.create_table(
        "converge_stack",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("live", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(2000), nullable=True),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("template_id", ID, nullable=True),
        sa.Column("completed_template_id", ID, nullable=True),
        sa.Column("traversal_id", ID, nullable=True),
        sa.Column("edges", BINARY, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", "live", name="uniq_converge_stack0name0live"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_table(
        "converge_template",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("stack_id", ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("body", TEXT, nullable=False),
        sa.Column("parameters", TEXT, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("completed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("stack_id", "version", name="uniq_converge_template0stack_id0version"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_table(
        "converge_traversal",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("stack_id", ID, nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("halted", sa.String(16), nullable=True),
        sa.Column("reason", sa.String(2000), nullable=True),
        sa.Column("from_template_id", ID, nullable=True),
        sa.Column("template_id", ID, nullable=True),
        sa.Column("from_version", sa.Integer(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("on_failure", sa.String(16), nullable=False),
        sa.Column("node_timeout", sa.Double(), nullable=True),
        sa.Column("deadline_at", sa.Double(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index(
        "ix_converge_traversal_status",
        "converge_traversal",
        ["status", "deadline_at"],
        if_not_exists=again,
    )
    op.create_index(
        "ix_converge_traversal_stack_id", "converge_traversal", ["stack_id"], if_not_exists=again
    )
    op.create_table(
        "converge_progress",
        sa.Column("traversal_id", ID, nullable=False),
        sa.Column("engine_id", ID, nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("traversal_id", "engine_id", name="pk_converge_progress"),
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_table(
        "converge_resource",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("stack_id", ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("token", sa.String(36), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(2000), nullable=True),
        sa.Column("template_id", ID, nullable=True),
        sa.Column("physical_id", sa.String(1024), nullable=True),
        sa.Column("properties", TEXT, nullable=False),
        sa.Column("attributes", TEXT, nullable=False),
        sa.Column("requires", TEXT, nullable=False),
        sa.Column("replaces", ID, nullable=True),
        sa.Column("replaced_by", ID, nullable=True),
        sa.Column("engine_id", ID, nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("blocking", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index(
        "ix_converge_resource_stack_id",
        "converge_resource",
        ["stack_id", "name"],
        if_not_exists=again,
    )
    op.create_table(
        "converge_sync_point",
        sa.Column("traversal_id", ID, nullable=False),
        sa.Column("node", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("resource_id", ID, nullable=True),
        sa.Column("keep", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("tainted", sa.Boolean(), nullable=False),
        sa.Column("ready_at", sa.Double(), nullable=True),
        sa.Column("claimed_at", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("engine_id", ID, nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("definition", TEXT, nullable=True),
        sa.Column("requires", TEXT, nullable=False),
        sa.Column("successors", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("traversal_id", "node", name="pk_converge_sync_point"),
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index(
        "ix_converge_sync_point_state",
        "converge_sync_point",
        ["state", "ready_at", "traversal_id", "node"],
        postgresql_where=sa.text(LIVE_STATES),
        sqlite_where=sa.text(LIVE_STATES),
        if_not_exists=again,
    )
    op.create_table(
        "converge_engine",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("lease", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index(
        "ix_converge_engine_state", "converge_engine", ["state", "expires_at"], if_not_exists=again
    )
    op.create_table(
        "converge_event",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("stack_id", ID, nullable=False),
        sa.Column("traversal_id", ID, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("resource", sa.String(255), nullable=True),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(2000), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    op.create_index(
        "ix_converge_event_stack_id", "converge_event", ["stack_id", "id"], if_not_exists=again
    )


def downgrade() -> None:
    for table in (
        "converge_event",
        "converge_engine",
        "converge_sync_point",
        "converge_resource",
        "converge_progress",
        "converge_traversal",
        "converge_template",
        "converge_stack",
    ):
        op.drop_table(table, if_exists=commits_each_statement())
