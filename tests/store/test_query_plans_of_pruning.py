"""What is pruned of some stacks is found by index: what all others have is not read.

There are a hundred stacks, each with two hundred traversals that are over, with as many events,
twenty versions and twenty resources. Of ten others, which are deleted, there is as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import String, case, cast, func, literal, null, select

import converge
from converge.sql import pruning, templates
from converge.sql.schema import event, resource, stack, sync_point, template, traversal
from converge.sql.transaction import Transaction
from tests.store.plans import NODE, RESOURCE, Watch, analyze, check, filled_store, numbers, put

LIVE, DELETED = 100, 10
STACKS = LIVE + DELETED
#: of each stack
ENDED = 200
VERSIONS = 20
RESOURCES = 20
#: of one more traversal, which runs
NODES = 20_000
LONG_AGO = 1e9
#: ids from here on; they are in turns of one stack after the other
FIRST = 1_000

BIG = {event.name, template.name, traversal.name, resource.name, sync_point.name}


def fill(tx: Transaction) -> None:
    times: dict[str, Any] = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    over: dict[str, Any] = {"action": "CREATE", "status": "COMPLETE"}
    source, n = numbers(STACKS)
    put(
        tx,
        stack,
        source,
        id=n + FIRST,
        name=literal("s").concat(cast(n, String(20))),
        live=case((n < LIVE, 1), else_=null()),
        versions=VERSIONS,
        traversal_id=n + FIRST,
        template_id=n + FIRST,
        **over,
        **times,
    )
    source, n = numbers(STACKS * ENDED)
    of = n % STACKS + FIRST
    put(
        tx,
        traversal,
        source,
        id=n + FIRST,
        stack_id=of,
        on_failure="stop",
        started_at=LONG_AGO,
        ended_at=LONG_AGO,
        **dict.fromkeys(("total", "done", "failed", "skipped"), 0),
        **over,
    )
    put(
        tx,
        event,
        source,
        id=n + FIRST,
        stack_id=of,
        traversal_id=n + FIRST,
        at=LONG_AGO,
        resource="r",
        **over,
    )
    source, n = numbers(STACKS * VERSIONS)
    of = n % STACKS + FIRST
    version = n.op("/" if tx.dialect != "mysql" else "DIV")(STACKS)
    put(
        tx,
        template,
        source,
        id=n + FIRST,
        stack_id=of,
        version=version,
        body={},
        parameters={},
        created_at=LONG_AGO,
    )
    source, n = numbers(LIVE * RESOURCES)
    put(
        tx,
        resource,
        source,
        stack_id=n % LIVE + FIRST,
        name=literal("r").concat(cast(n, String(20))),
        **RESOURCE,
        **over,
        **times,
    )
    source, n = numbers(NODES)
    put(
        tx,
        sync_point,
        source,
        traversal_id=1,
        node=n,
        state="WAITING",
        pending=1,
        **NODE,
    )


@pytest.fixture
def store(empty_database_url: str) -> Iterator[converge.Store]:
    with filled_store(empty_database_url, BIG, fill) as store:
        yield store


def test_what_is_pruned_is_found_by_index(store: converge.Store) -> None:
    live, deleted = [FIRST + 1], [FIRST + LIVE + 1]
    both = live + deleted
    database = store.database
    analyze(database.engine)
    with Watch(database.engine) as watch, store.transaction() as tx:
        assert pruning.list_deleted(tx, both, 1.0) == deleted
        assert pruning.lock_deleted(tx, deleted) == deleted
        for table in pruning.OF_STACKS:
            there = VERSIONS if table is template else ENDED
            assert pruning.count_rows(tx, table, deleted) == there
            assert pruning.delete_rows(tx, table, deleted, there) == there
        assert pruning.delete_stacks(tx, deleted) == 1

        ended = [row[1] for row in pruning.list_ended(tx, live, 1.0, keep=100, limit=50)]
        assert len(ended) == 50
        assert pruning.lock_ended(tx, ended)
        assert pruning.count_events(tx, live[0], ended) == 50
        happened = pruning.list_events(tx, live[0], ended, 0, 100)
        assert pruning.delete_events(tx, happened) == 50
        assert pruning.delete_traversals(tx, ended) == 50

        assert pruning.list_crowded(tx, live, 1.0) == live
        assert pruning.lock_live(tx, live[0])
        used = pruning.list_used(tx, live[0])
        unused = templates.list_unused(tx, live[0], used, 0, 1.0)
        assert len(unused) == VERSIONS - 1
        templates.delete_versions(tx, unused)
        left = select(func.count()).where(event.c.stack_id == live[0])
        assert tx.execute(left).scalar_one() == ENDED - 50
    assert len(watch.seen) >= 20
    # a row that is deleted takes some pages, and one that is looked at some others
    check(BIG, watch.seen, 10 * ENDED)
