"""The schema version of a database, and whether this converge can work with it.

Every command asks this. It does not need alembic, which takes long to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, exists, inspect, select, text

from converge.errors import SchemaError
from converge.sql.database import Database
from converge.sql.schema import LOCK_TABLE, PREFIX, VERSION_TABLE, metadata
from converge.sql.types import MARIADB

#: The versions that this converge knows, oldest first; each has a script in alembic/versions.
VERSIONS = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0012",
    "0013",
    "0014",
    "0015",
    "0016",
    "0017",
    "0018",
    "0019",
    "0020",
    "0021",
    "0022",
    "0024",
    "0025",
    "0026",
    "0027",
)
HEAD = VERSIONS[-1]
#: Databases where a statement that changes the schema commits the transaction.
COMMITS_SCHEMA_CHANGES = MARIADB


def current_version(database: Database) -> str | None:
    """The version of an open database; None if converge's tables do not exist."""
    _refuse_missing_file(database)
    with database.transaction(write=False) as tx:
        return read_state(tx.connection).version


def is_newest(database: Database) -> bool:
    """Whether an open database has the newest version."""
    with database.transaction(write=False) as tx:
        return read_state(tx.connection).is_newest


def check_schema(database: Database) -> None:
    """Check that this converge can work with a database.

    :raises SchemaError: it cannot; the message says what to run.
    """
    _refuse_missing_file(database)
    with database.transaction(write=False) as tx:
        state = read_state(tx.connection)
    refuse_foreign(database, state)
    if state.is_newest:
        return
    if state.others:
        found = (
            f"has the versions {' and '.join([*state.others, str(state.version)])} at once, as two "
            "upgrades by an older converge ran at the same time"
        )
    elif state.version is not None:
        found = f"is at version {state.version}, this converge needs {HEAD}"
    elif state.begun:
        found = "has only some of converge's tables, as its upgrade was interrupted"
    else:
        found = "does not have converge's tables"
    raise SchemaError(f"{database.shown} {found}; run: converge --db {database.shown} db upgrade")


def _refuse_missing_file(database: Database) -> None:
    """Refuse a missing file: for a mistyped name, SQLite would make an empty one."""
    name = database.url.database
    if database.dialect != "sqlite" or name is None or name.startswith("file:"):
        return
    if not Path(name).exists():
        raise SchemaError(
            f"there is no file {name!r}; to make a database of it, run: "
            f"converge --db {database.shown} db upgrade"
        )


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What is in a database.

    :ivar version: the recorded version; of several, the newest.
    :ivar tables: the tables with our prefix, without those of the version and the lock.
    :ivar begun: there is no version, and an interrupted first upgrade left these tables.
    :ivar others: further versions that are recorded, oldest first: two upgrades at the same time
        could leave them when the lock held on one node of a cluster only.
    """

    version: str | None
    tables: set[str]
    begun: bool = False
    others: tuple[str, ...] = ()

    @property
    def is_newest(self) -> bool:
        """Whether it is as this converge needs it."""
        return self.version == HEAD and not self.others


def read_state(connection: Connection) -> SchemaState:
    """Look at what is in a database."""
    tables = {name for name in inspect(connection).get_table_names() if name.startswith(PREFIX)}
    tables.discard(LOCK_TABLE)
    if VERSION_TABLE not in tables:
        return SchemaState(None, tables)
    tables.remove(VERSION_TABLE)
    query = text(f"SELECT version_num FROM {VERSION_TABLE} ORDER BY version_num")
    if rows := connection.execute(query).scalars().all():
        return SchemaState(rows[-1], tables, others=tuple(rows[:-1]))
    return SchemaState(None, tables, bool(tables) and _is_begun(connection, tables))


def _is_begun(connection: Connection, tables: set[str]) -> bool:
    """Whether an upgrade that was interrupted before it recorded its version made these tables.

    That can happen only where each statement commits. Each table is then as the upgrade made it,
    and empty, because no process works with a database that has no version.
    """
    if connection.dialect.name not in COMMITS_SCHEMA_CHANGES or tables - set(metadata.tables):
        return False
    return all(
        {one["name"] for one in inspect(connection).get_columns(name)}
        <= set(metadata.tables[name].columns.keys())
        and connection.execute(select(exists().select_from(metadata.tables[name]))).scalar_one()
        == 0
        for name in tables
    )


def refuse_foreign(database: Database, state: SchemaState) -> None:
    """Refuse tables that are not converge's, or are of a newer converge.

    :raises SchemaError: they are.
    """
    if state.version is None:
        if state.tables and not state.begun:
            raise SchemaError(
                f"{database.shown} has tables with converge's prefix that are not converge's "
                f"({', '.join(sorted(state.tables)[:3])}); use another database or schema"
            )
        return
    if state.version not in VERSIONS:
        raise SchemaError(
            f"{database.shown} is at version {state.version}, which is newer than this converge "
            f"(it knows up to {HEAD}); install a newer converge"
        )
