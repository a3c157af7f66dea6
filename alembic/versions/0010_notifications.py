"""Notifications: what was received, its way through sinks, and what could not be handled.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from converge.sql.migrate import commits_each_statement

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
NAME = sa.String(255)
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
}
NEW = ("dead_letter", "step_state", "delivery", "sample", "trait", "notification")


def upgrade() -> None:
    again = commits_each_statement()
    _received(again)
    _ways(again)
    op.create_table(
        "converge_dead_letter",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("message", sa.String(2000), nullable=False),
        sa.Column("raw", TEXT, nullable=False),
        sa.Column("headers", TEXT, nullable=False),
        sa.Column("origin", NAME, nullable=True),
        sa.Column("event_type", NAME, nullable=True),
        sa.Column("sink", NAME, nullable=True),
        sa.Column("step", NAME, nullable=True),
        sa.Column("delivery_id", ID, nullable=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.Column("retry_at", sa.Double(), nullable=True),
        sa.Column("token", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest", name="uniq_converge_dead_letter0digest"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    _index_of_some("dead_letter", "retry_at", again)


def _received(again: bool) -> None:
    op.create_table(
        "converge_notification",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("message_id", NAME, nullable=False),
        sa.Column("event_type", NAME, nullable=False),
        sa.Column("publisher_id", NAME, nullable=False),
        sa.Column("priority", NAME, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("recorded_at", sa.Double(), nullable=False),
        sa.Column("is_event", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("message_id", name="uniq_converge_notification0message_id"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    _index("notification", "event_type", ["event_type", "at"], again)
    _index("notification", "at", ["at"], again)
    op.create_table(
        "converge_trait",
        sa.Column("notification_id", ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("type", sa.String(8), nullable=False),
        sa.Column("text", NAME, nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("notification_id", "name", name="pk_converge_trait"),
        if_not_exists=again,
        **OPTIONS,
    )
    _index("trait", "name", ["name", "text"], again)
    op.create_table(
        "converge_sample",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("sample_id", sa.String(36), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("unit", NAME, nullable=False),
        sa.Column("volume", sa.Double(), nullable=False),
        sa.Column("resource_id", NAME, nullable=True),
        sa.Column("user_id", NAME, nullable=True),
        sa.Column("project_id", NAME, nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("metadata", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sample_id", name="uniq_converge_sample0sample_id"),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    _index("sample", "name", ["name", "at"], again)


def _ways(again: bool) -> None:
    op.create_table(
        "converge_delivery",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("origin", NAME, nullable=False),
        sa.Column("sink", NAME, nullable=False),
        sa.Column("share", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("step", NAME, nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=True),
        sa.Column("items", TEXT, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "origin", "sink", "share", name="uniq_converge_delivery0origin0sink0share"
        ),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    _index_of_some("delivery", "next_at", again)
    op.create_table(
        "converge_step_state",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("sink", NAME, nullable=False),
        sa.Column("step", NAME, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("share", sa.Integer(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("deadline_at", sa.Double(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("mark", ID, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "sink", "step", "digest", name="uniq_converge_step_state0sink0step0digest"
        ),
        sqlite_autoincrement=True,
        if_not_exists=again,
        **OPTIONS,
    )
    _index_of_some("step_state", "deadline_at", again)


def _index(table: str, name: str, columns: list[str], again: bool) -> None:
    op.create_index(
        f"ix_converge_{table}_{name}", f"converge_{table}", columns, if_not_exists=again
    )


def _index_of_some(table: str, column: str, again: bool) -> None:
    where = sa.text(f"{column} IS NOT NULL")
    op.create_index(
        f"ix_converge_{table}_{column}",
        f"converge_{table}",
        [column],
        postgresql_where=where,
        sqlite_where=where,
        if_not_exists=again,
    )


def downgrade() -> None:
    again = commits_each_statement()
    for name in NEW:
        op.drop_table(f"converge_{name}", if_exists=again)
