"""What engines ask for all the time, and people page by page, is found by index, and costs the same
however much there is.

The databases hold 20,000 nodes that wait, in five traversals, with as many events, and the
summaries of as many traversals that are over; servers 95,000, where engines work. All statements
that are executed are explained.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import String, case, cast, func, literal, null, select

import converge
from converge.crash_points import Commit
from converge.protocol.recover import BATCH, Sweeper, release_engine
from converge.protocol.work import Outcome, Result, Work
from converge.sql import engines, resource_views, sync_points, traversals
from converge.sql.resource_views import Wanted
from converge.sql.schema import event, resource, stack, sync_point, traversal
from converge.sql.transaction import Transaction
from converge.testing import FakeWorld, StepEngine
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
from tests.templates import template

TRAVERSALS = 5
#: nodes of each traversal that wait, and that are over
WAITING = 4_000
MORE_WAITING = 19_000
DONE = 1_000
#: traversals that are over
ENDED = 20_000
EVENTS = 20_000
LONG_AGO, LATER = 1e9, 4e9
#: ids from here on: those before it are for what the test itself starts
FIRST = 1_000_000

#: nodes of one more traversal that are ready, and in hand; of these, so many are written
READY = 2_000
RUNNING = 1_000
WRITTEN = 100
CLAIMED = 8

BIG = {sync_point.name, resource.name, traversal.name, event.name}
#: rows, or pages, that a statement may look at where there is nothing to do
FEW = 150
#: resources on a page, each of which takes some rows or pages more
PAGE = 10
EACH = 20


def fill(tx: Transaction, waiting: int = WAITING) -> None:
    """Running traversals in which nothing is ready, and many that are over."""
    source, n = numbers(TRAVERSALS)
    name = literal("s").concat(cast(n, String(20)))
    times: dict[str, Any] = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    begun: dict[str, Any] = {"action": "CREATE", "status": "IN_PROGRESS"}
    current = n + FIRST + ENDED
    put(tx, stack, source, name=name, live=1, versions=1, traversal_id=current, **begun, **times)
    stack_ids = select(func.min(stack.c.id)).scalar_subquery()

    source, n = numbers(ENDED + TRAVERSALS)
    over = n < ENDED
    counts = {"total": waiting + DONE, **dict.fromkeys(("done", "failed", "skipped"), 0)}
    put(
        tx,
        traversal,
        source,
        id=n + FIRST,
        stack_id=stack_ids + n % TRAVERSALS,
        action="CREATE",
        status=case((over, "COMPLETE"), else_="RUNNING"),
        on_failure="stop",
        deadline_at=case((over, LONG_AGO), else_=LATER),
        started_at=LONG_AGO,
        **counts,
    )

    source, n = numbers(TRAVERSALS * (waiting + DONE))
    put(
        tx,
        resource,
        source,
        id=n + FIRST,
        stack_id=stack_ids + n % TRAVERSALS,
        name=literal("r").concat(cast(n, String(20))),
        **RESOURCE,
        **begun,
        **times,
    )
    node = n.op("/" if tx.dialect != "mysql" else "DIV")(TRAVERSALS)
    put(
        tx,
        sync_point,
        source,
        traversal_id=n % TRAVERSALS + FIRST + ENDED,
        node=node,
        resource_id=n + FIRST,
        state=case((node < DONE, "DONE"), else_="WAITING"),
        pending=2,
        ready_at=null(),
        **(NODE | {"successors": [1, 2, 3]}),
    )

    source, n = numbers(EVENTS)
    put(
        tx,
        event,
        source,
        id=n + FIRST,
        stack_id=stack_ids + n % TRAVERSALS,
        traversal_id=n % TRAVERSALS + FIRST + ENDED,
        at=n + LONG_AGO,
        resource="r",
        action="CREATE",
        status="COMPLETE",
    )


@pytest.fixture
def store(empty_database_url: str) -> Iterator[converge.Store]:
    with filled_store(empty_database_url, BIG, fill) as store:
        yield store


@pytest.fixture
def large_store(empty_database_url: str) -> Iterator[converge.Store]:
    """One in which 100,000 nodes are, if it is on a server."""
    waiting = WAITING if empty_database_url.startswith("sqlite") else MORE_WAITING
    with filled_store(empty_database_url, BIG, partial(fill, waiting=waiting)) as store:
        yield store


def put_off(work: Work, progress: str) -> Outcome:
    """What becomes of a work whose handler waits for an hour."""
    values = {"reason": progress}
    return Outcome(work, Result.WAIT, values, reason=progress, wait=3600, seconds=1)


def test_looking_for_work_costs_the_same_however_much_waits(large_store: converge.Store) -> None:
    database = large_store.database
    engine = StepEngine(large_store, {})
    # as they are after a large start, and as they become
    for has_statistics in (False, True):
        if has_statistics:
            analyze(database.engine)
        with Watch(database.engine) as watch:
            assert not Sweeper(database).sweep()
            assert engine.claim(8) == []
            assert engine.renew()
            database.transact(engines.delete_old_engines, Commit.FORGET)
            assert database.read(sync_points.count_live) == {}
            assert not database.read(lambda tx: sync_points.list_cancelled(tx, engine.id))
            running = range(FIRST + ENDED, FIRST + ENDED + TRAVERSALS)
            found = database.read(partial(traversals.list_cancelled, ids=running))
            assert found == ({}, set())
            assert engine.core.reconcile(()) == []
        assert len(watch.of(sync_point.name)) >= 6
        check(BIG, without_guess(watch, has_statistics), FEW)

    # what these tests look for would be found
    with Watch(database.engine) as watch, large_store.transaction() as tx:
        tx.execute(select(func.count()).where(sync_point.c.pending == 7))
    assert [one.scanned for one in watch.seen] == [{sync_point.name}]
    assert watch.seen[0].looked_at > FEW


def test_nodes_that_are_worked_on_are_found_by_index(large_store: converge.Store) -> None:
    names = [f"n{i}" for i in range(READY + RUNNING)]
    nodes: dict[str, Any] = {name: {"type": "fake"} for name in names}
    nodes["root"] = {"type": "fake", "depends_on": names}
    types = FakeWorld().types()
    large_store.create_stack("star", template(nodes))
    database = large_store.database
    sweeper = Sweeper(database)
    other = StepEngine(large_store, types)
    for has_statistics in (False, True):
        dying = StepEngine(large_store, types)
        works = dying.claim(RUNNING)
        assert len(works) == RUNNING
        if has_statistics:
            analyze(database.engine)

        with Watch(database.engine) as watch:
            assert sweeper.sweep().ready == BATCH
        # whose the running nodes are, and what is ready; of those that wait, none
        check(BIG, without_guess(watch, has_statistics), 2 * RUNNING + BATCH)

        with Watch(database.engine) as watch:
            assert len(other.claim(CLAIMED)) == CLAIMED
        check(BIG, watch.seen, FEW)

        with Watch(database.engine) as watch:
            assert dying.core.reconcile(works) == []
            assert not database.read(partial(sync_points.list_cancelled, engine_id=dying.id))
        check(BIG, watch.seen, 3 * RUNNING)

        with Watch(database.engine) as watch:
            dying.write(*(dying.call(work) for work in works[:WRITTEN]))
        # a row that is written takes some pages of indexes
        check(BIG, watch.seen, 20 * WRITTEN)

        waits = [put_off(work, "begun") for work in works[WRITTEN : 2 * WRITTEN]]
        with Watch(database.engine) as watch:
            dying.write(*waits)
        check(BIG, watch.seen, 20 * WRITTEN)

        with large_store.transaction() as tx:
            engines.expire_lease(tx, dying.id)
        with Watch(database.engine) as watch:
            assert sweeper.sweep().nodes == RUNNING - 2 * WRITTEN
        check(BIG, without_guess(watch, has_statistics), 20 * RUNNING)

        with Watch(database.engine) as watch, large_store.transaction() as tx:
            release_engine(tx, other.id)
        check(BIG, watch.seen, 20 * CLAIMED)


def test_what_is_passed_over_is_found_by_index(store: converge.Store) -> None:
    def wanted(size: int) -> converge.Template:
        nodes: dict[str, Any] = {"root": {"properties": {"size": size}}}
        for number in range(WRITTEN):
            nodes[f"a{number}"] = ["root"]
            nodes[f"b{number}"] = [f"a{number}"]
        return template(nodes)

    def run() -> None:
        while works := engine.claim(READY):
            engine.write(*(engine.call(work) for work in works))

    engine = StepEngine(store, FakeWorld().types())
    store.create_stack("fan", wanted(1))
    run()
    for size, has_statistics in ((2, False), (3, True)):
        store.update_stack("fan", wanted(size))
        (work,) = engine.claim(1)
        engine.write(engine.call(work))
        works = engine.claim(READY)
        assert len(works) == WRITTEN
        if has_statistics:
            analyze(store.database.engine)
        # nothing is to be done for them, nor for what comes after them, nor for their cleanups
        with Watch(store.database.engine) as watch:
            engine.write(*(engine.call(work) for work in works))
        assert store.progress("fan")["done"] == 2 + 4 * WRITTEN
        check(BIG, watch.seen, 20 * 4 * WRITTEN)
        run()


def test_what_is_ready_for_others_is_not_looked_at(store: converge.Store) -> None:
    world = FakeWorld()
    wanted = template({f"n{i}": {"type": "fake"} for i in range(READY)})
    # more of them before what the engine takes, and after
    store.create_stack("before", wanted, queue="far")
    store.create_stack("near", wanted, priority=1)
    store.create_stack("after", wanted, queue="far")
    engine = StepEngine(store, world.types())
    for has_statistics in (False, True):
        assert len(engine.claim(1)) == 1
        if has_statistics:
            analyze(store.database.engine)
        with Watch(store.database.engine) as watch:
            assert len(engine.claim(CLAIMED)) == CLAIMED
            assert engine.core.has_claimable()
        assert len(watch.of(sync_point.name)) >= 4
        check(BIG, watch.seen, FEW)
    other = StepEngine(store, world.types(), queues=["nobody"])
    with Watch(store.database.engine) as watch:
        assert not other.core.has_claimable()
        assert other.claim(1) == []
    check(BIG, watch.seen, FEW)


def test_why_one_of_many_waits_is_found_by_index(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # there are too few for the whole not to be read
    monkeypatch.setattr("converge.sql.outstanding.SCANNED", FEW // 10)
    analyze(store.database.engine)
    name = f"r{TRAVERSALS * (WAITING + DONE) - TRAVERSALS}"
    with Watch(store.database.engine) as watch:
        (answer,) = store.why("s0", name)
    assert answer["message"] == f"resource {name!r} waits for 2 others"
    check(BIG, watch.seen, PAGE * EACH)


def test_people_read_a_page_by_index(store: converge.Store) -> None:
    database = store.database
    # of names as texts, in the order of the database
    names = sorted(f"r{n}" for n in range(0, TRAVERSALS * (WAITING + DONE), TRAVERSALS))
    stack_id = store.stack("s0").id
    page = Wanted(stack_id, over=False)
    following = Wanted(stack_id, over=False, after=names[PAGE - 1])
    recently = datetime.fromtimestamp(LONG_AGO + EVENTS - PAGE * TRAVERSALS, UTC)
    # a server gathers statistics by itself, long before there is so much
    analyze(database.engine)
    with Watch(database.engine) as watch:
        for wanted, first in ((page, 0), (following, PAGE)):
            found = database.read(partial(resource_views.list_current, wanted=wanted, limit=PAGE))
            assert [one.name for one in found] == names[first : first + PAGE]
        some = names[:: len(names) // PAGE][:PAGE]
        assert sorted(store.statuses("s0", resources=some)) == some
        ids = [one.id for one in found]
        assert len(database.read(partial(resource_views.get_names, ids=ids))) == PAGE
        assert store.progress("s0")["running"] == 0
        assert len(store.stacks()) == TRAVERSALS
        assert len(store.events("s0", limit=PAGE)) == PAGE
        assert len(store.events("s0", since=recently, limit=PAGE)) == PAGE
    assert len(watch.of(resource.name)) >= 4
    assert len(watch.of(event.name)) == 3
    check(BIG, watch.seen, PAGE * EACH)
