"""What nested stacks cost is the same however many others there are, as long as these are at rest.

A hundred stacks hold 5,000 nested ones that are complete; another ten of these are being made, and
a handler waits for each. All statements that are executed are explained.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ColumnElement, String, case, cast, literal, null, update

import converge
from converge.protocol.recover import Sweeper
from converge.resources import Stack
from converge.sql import nested
from converge.sql.schema import resource, stack, sync_point, traversal
from converge.sql.transaction import Transaction
from converge.testing import FakeWorld, StepEngine
from converge.wait import FOREVER_INNER
from tests.store.plans import (
    NODE,
    RESOURCE,
    Watch,
    analyze,
    check,
    filled_store,
    numbers,
    put,
    without_guess,
)

AT_REST = 5_000
MADE = 10
OUTER = 100
#: ids of what is there before the test; of stacks and resources, one number is for one another
FIRST = 1_000_000
LONG_AGO, LATER = 1e9, 4e9

BIG = {sync_point.name, resource.name, traversal.name, stack.name}
#: rows, or pages, that a statement may look at: each stack that is being made takes some
FEW = 10 * (OUTER + MADE)


def fill(tx: Transaction) -> None:
    """The nested stacks, and the one that they belong to."""
    count = AT_REST + MADE
    source, n = numbers(count + OUTER)
    id_: ColumnElement[int] = n + FIRST
    is_over = n < AT_REST
    times: dict[str, Any] = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    begun: dict[str, Any] = {
        "action": "CREATE",
        "status": case((is_over, "COMPLETE"), else_="IN_PROGRESS"),
    }
    put(
        tx,
        stack,
        source,
        id=id_,
        name=literal("s").concat(cast(id_, String(20))),
        live=1,
        versions=1,
        traversal_id=id_,
        outer_resource_id=case((n < count, id_), else_=null()),
        **begun,
        **times,
    )
    put(
        tx,
        traversal,
        source,
        id=id_,
        stack_id=id_,
        action="CREATE",
        status=case((is_over, "COMPLETE"), else_="RUNNING"),
        on_failure="stop",
        deadline_at=LATER,
        started_at=LONG_AGO,
        total=1,
        **dict.fromkeys(("done", "failed", "skipped"), 0),
    )
    source, n = numbers(count)
    outer_id = n % OUTER + FIRST + count
    put(
        tx,
        resource,
        source,
        id=n + FIRST,
        stack_id=outer_id,
        name=literal("r").concat(cast(n + FIRST, String(20))),
        **(RESOURCE | {"type": "stack"}),
        **(begun | {"status": case((n < AT_REST, "COMPLETE"), else_="IN_PROGRESS")}),
        **times,
    )
    is_over = n < AT_REST
    put(
        tx,
        sync_point,
        source,
        traversal_id=outer_id,
        node=n,
        resource_id=n + FIRST,
        state=case((is_over, "DONE"), else_="READY"),
        pending=0,
        ready_at=LONG_AGO,
        due_at=case((is_over, 0.0), else_=tx.now + FOREVER_INNER - 10),
        waiting_since=case((is_over, null()), else_=LONG_AGO),
        **NODE,
    )


@pytest.fixture
def store(empty_database_url: str) -> Iterator[converge.Store]:
    with filled_store(empty_database_url, BIG, fill) as store:
        yield store


def template(folder: Path, size: int) -> converge.Template:
    """A stack with a nested one."""
    child = f"resources: {{web: {{type: fake, properties: {{size: {size}}}}}}}"
    outer = "resources: {child: {type: ./child.yaml}, after: {type: fake, depends_on: child}}"
    (folder / "child.yaml").write_text(child)
    (folder / "outer.yaml").write_text(outer)
    return converge.Template.load(folder / "outer.yaml")


def test_those_at_rest_cost_nothing(store: converge.Store, tmp_path: Path) -> None:
    database = store.database
    engine = StepEngine(store, {**FakeWorld().types(), "stack": Stack()})
    for has_statistics in (False, True):
        if has_statistics:
            analyze(database.engine)
        with Watch(database.engine) as watch:
            # nothing is left running, and nobody is to be woken
            assert not Sweeper(database).sweep()
            for size in (1, 2):
                store.converge_stack("shop", template(tmp_path, size))
                engine.run()
                assert store.stack("shop").status == "COMPLETE"
                assert store.stack("shop/child").version == size
            store.delete_stack("shop")
            engine.run()
        assert len(watch.of("outer_resource_id")) >= 10
        check(BIG, without_guess(watch, has_statistics), FEW)

    # a page of resources names those of its own
    ids = range(FIRST, FIRST + MADE)
    with Watch(database.engine) as watch:
        found = database.read(partial(nested.get_inner_names, resource_ids=ids))
    assert found == {id_: f"s{id_}" for id_ in ids}
    check(BIG, watch.seen, FEW)


def test_those_that_are_left_running_are_found_by_index(store: converge.Store) -> None:
    with store.transaction() as tx:
        over = update(stack).where(stack.c.outer_resource_id.is_(None))
        tx.execute(over.values(status="COMPLETE"))
    for has_statistics in (False, True):
        if has_statistics:
            analyze(store.database.engine)
        with Watch(store.database.engine) as watch:
            left = store.database.read(partial(nested.list_left_running, limit=MADE))
        made = range(FIRST + AT_REST, FIRST + AT_REST + MADE)
        assert sorted(left) == list(made)
        check(BIG, watch.seen, FEW)
        with Watch(store.database.engine) as watch:
            of_it = partial(nested.list_left_running, limit=MADE, outer=made[-1] + 1)
            assert store.database.read(of_it) == [made[0]]
        check(BIG, watch.seen, FEW)
