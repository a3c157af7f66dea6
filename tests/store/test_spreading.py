"""Nothing in the tables keeps stacks from being spread: over databases, or over parts of tables."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest
from sqlalchemy import text

import converge
from converge import Store
from converge.sql.schema import metadata
from converge.testing import FakeWorld, StepEngine
from tests.backends import Backend
from tests.templates import template
from tests.trouble.faults import only

#: What each table of stacks can be parted by: rows of one stack have few values of it.
PARTED = {
    "converge_output_read": "stack_id",
    "converge_template": "stack_id",
    "converge_traversal": "stack_id",
    "converge_resource": "stack_id",
    "converge_event": "stack_id",
    "converge_sync_point": "traversal_id",
    "converge_progress": "traversal_id",
    "converge_place": "traversal_id",
    "converge_signal": "resource_id",
}
#: The row of a stack, which says where its others are.
STACK = {"converge_stack"}
#: What belongs to no stack.
OTHERS = {
    "converge_engine",
    "converge_lane",
    "converge_limit",
    "converge_scope",
    "converge_step",
    "converge_instance",
    "converge_move",
    "converge_sealing",
    "converge_notification",
    "converge_trait",
    "converge_sample",
    "converge_delivery",
    "converge_step_state",
    "converge_dead_letter",
    "converge_group",
    "converge_member",
    "converge_partition",
    "converge_position",
}
PARTS = 3


def wanted(size: int, *names: str) -> converge.Template:
    bodies = {name: {"properties": {"size": size}} for name in names}
    return template({**bodies, "last": {"depends_on": list(names)}})


def end(engine: StepEngine) -> None:
    while works := engine.claim(100):
        engine.write(*(engine.call(work) for work in works))


def test_stacks_are_spread_over_databases_by_whoever_knows_their_names(tmp_path: Path) -> None:
    stores = [
        converge.connect(f"sqlite:///{tmp_path}/{number}.db", create_schema=True)
        for number in range(2)
    ]
    world = FakeWorld()
    names = [f"stack-{number}" for number in range(6)]

    def store_of(name: str) -> Store:
        return stores[crc32(name.encode()) % len(stores)]

    for name in names:
        store_of(name).create_stack(name, wanted(1, "a", "b"))
    for store in stores:
        # the ids in one database are those in the other, too
        end(StepEngine(store, world.types()))
    assert {store_of(name) for name in names} == set(stores)
    assert all(store_of(name).stack(name).status == "COMPLETE" for name in names)
    assert len(world.things) == 3 * len(names)
    for store in stores:
        store.close()


def part(store: Store, table: str, column: str) -> None:
    """Make a table of PostgreSQL one of several parts. As for extensions that spread tables over
    servers, each of its unique keys must have the column."""
    key = [one.name for one in metadata.tables[table].primary_key.columns]
    with store.transaction() as tx:
        execute = tx.connection.exec_driver_sql
        execute(f"ALTER TABLE {table} RENAME TO whole")
        execute(
            f"CREATE TABLE {table} (LIKE whole INCLUDING DEFAULTS) PARTITION BY HASH ({column})"
        )
        keys = ", ".join(dict.fromkeys([column, *key]))
        execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({keys})")
        if key == ["id"]:
            query = text("SELECT pg_get_serial_sequence('whole', 'id')")
            sequence = tx.connection.execute(query).scalar_one()
            execute(f"ALTER SEQUENCE {sequence} OWNED BY {table}.id")
        execute("DROP TABLE whole")
        for number in range(PARTS):
            execute(
                f"CREATE TABLE {table}_{number} PARTITION OF {table}"
                f" FOR VALUES WITH (MODULUS {PARTS}, REMAINDER {number})"
            )


def test_each_table_is_of_stacks_or_of_none() -> None:
    assert {*PARTED, *STACK, *OTHERS} == set(metadata.tables)
    assert not [table.name for table in metadata.sorted_tables if table.foreign_keys]


@pytest.mark.parametrize("database", [only("postgresql")], indirect=True)
def test_tables_work_that_are_parted_by_their_stacks(database: Backend) -> None:
    url = database.empty()
    try:
        with converge.connect(url, create_schema=True) as store:
            for table, column in PARTED.items():
                part(store, table, column)
            world = FakeWorld()
            engine = StepEngine(store, world.types())
            for number in range(4):
                store.create_stack(f"s{number}", wanted(1, "a", "b"))
            end(engine)
            for number in range(4):
                store.update_stack(f"s{number}", wanted(2, "a", "c"))
            end(engine)
            store.rollback_stack("s0", version=1)
            store.check_stack("s1")
            end(engine)
            stacks = [store.stack(f"s{number}") for number in range(4)]
            assert [(stack.action, stack.status) for stack in stacks] == [
                ("ROLLBACK", "COMPLETE"),
                ("CHECK", "COMPLETE"),
                ("UPDATE", "COMPLETE"),
                ("UPDATE", "COMPLETE"),
            ]
            for number in range(4):
                store.delete_stack(f"s{number}")
            end(engine)
            assert not world.things
    finally:
        database.discard(url)
