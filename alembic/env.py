"""How alembic runs converge's migrations: on a given connection, or as SQL text."""

from __future__ import annotations

from typing import Any

from alembic import context

from converge.sql.migrate import include_name
from converge.sql.schema import VERSION_TABLE, metadata

config = context.config
OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    "version_table": VERSION_TABLE,
    "include_name": include_name,
    "render_as_batch": True,
    "compare_type": True,
}

if context.is_offline_mode():
    context.configure(
        url=config.get_main_option("sqlalchemy.url"),
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        **OPTIONS,
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    context.configure(
        connection=config.attributes["connection"],
        # called after each migration, in the transaction that records its version
        on_version_apply=config.attributes["recorded"],
        **OPTIONS,
    )
    with context.begin_transaction():
        context.run_migrations()
