"""Engines that lose their connection at a commit, on one side of it or the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge.crash_points import Commit
from converge.lease import Lease, RowLeases
from converge.protocol.recover import sweep
from converge.sql import engines as engine_rows
from converge.sql import schema
from converge.testing import FakeClock, FakeType, FakeWorld, StepEngine
from tests.templates import template
from tests.trouble.proxy import Loss
from tests.trouble.troubled import Troubled
from tests.waiting import WAIT

LOSSES = [pytest.param(loss, id=loss.value) for loss in (Loss.COMMIT, Loss.REPLY)]


class Recorded(FakeType):
    """Stores its physical id in the middle of its create."""

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> converge.Physical:
        made = super().create(context, properties)
        context.record(made.id)
        return made


def types(world: FakeWorld) -> dict[str, converge.ResourceType]:
    known = world.types()
    return {**known, "recorded": Recorded(world, known["fake"].retry)}


def wanted(replace: str, failing: bool = False) -> converge.Template:
    resources: dict[str, Any] = {
        "a": {"type": "recorded"},
        "b": {"type": "fake", "properties": {"replace": replace}, "depends_on": "a"},
        "c": {"type": "fake", "properties": {"failing": failing}, "depends_on": "b"},
    }
    return template(resources)


def story(store: converge.Store, world: FakeWorld) -> None:
    """A stack is created, one of its resources replaced, an update fails, and all goes."""
    with converge.Engine(store, types(world), workers=2, poll=0.02) as engine:
        stack = store.create_stack("s", wanted("1"))
        assert stack.wait(WAIT) == "COMPLETE"
        assert store.update_stack("s", wanted("2")).wait(WAIT) == "COMPLETE"
        world.fail("update c")
        assert store.update_stack("s", wanted("2", failing=True)).wait(WAIT) == "FAILED"
    assert engine.error is None


def state(store: converge.Store, world: FakeWorld) -> dict[str, Any]:
    """All that a run leaves, but for ids, times and tokens."""
    plain = ("name", "action", "status", "reason", "physical_id", "properties", "attributes")
    with store.database.transaction(write=False) as tx:
        resources = tx.execute(select(*(schema.resource.c[name] for name in plain)))
        summary = ("action", "status", "total", "done", "failed", "skipped", "reason")
        traversals = tx.execute(
            select(*(schema.traversal.c[name] for name in summary)).order_by(schema.traversal.c.id)
        )
        what = ("resource", "action", "status")
        events = tx.execute(select(*(schema.event.c[name] for name in what)))
        held = [
            tx.execute(select(table).where(table.c.engine_id.is_not(None))).all()
            for table in (schema.sync_point, schema.resource)
        ]
        return {
            "world": world.log,
            "resources": sorted(map(repr, resources)),
            "traversals": list(map(repr, traversals)),
            "events": sorted(map(repr, events)),
            "held": held,
        }


@pytest.fixture(scope="module")
def untroubled(_databases: Any) -> dict[str, Any]:
    """What the story leaves when nothing goes wrong."""
    with converge.connect(_databases["sqlite"].migrated()) as store:
        world = FakeWorld()
        story(store, world)
        return state(store, world)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "commit",
    [
        Commit.REGISTER,
        Commit.FORGET,
        Commit.CLAIM,
        Commit.COMPLETE,
        Commit.RECORD,
        Commit.REPLACE,
        Commit.FAIL,
        Commit.FINISH,
        Commit.LEAVE,
    ],
)
def test_an_engine_goes_on_and_what_it_leaves_is_the_same(
    troubled: Troubled, untroubled: dict[str, Any], commit: Commit, loss: Loss
) -> None:
    troubled.lose_every_other(commit, loss)
    world = FakeWorld()
    story(troubled.store, world)
    assert state(troubled.store, world) == untroubled
    with troubled.store.database.transaction(write=False) as tx:
        known = engine_rows.list_engines(tx, (engine_rows.ALIVE, engine_rows.STOPPED))
    # one that registered without its knowledge holds nothing; its lease runs out
    assert [row.state for row in known[-1:]] == [engine_rows.STOPPED]


def test_what_a_lost_commit_of_several_outcomes_claimed_is_not_held_for_ever(
    troubled: Troubled,
) -> None:
    names = [f"{letter}{number}" for letter in "ab" for number in range(4)]
    resources = {name: {"type": "fake"} for name in names}
    for number in range(4):
        resources[f"b{number}"]["depends_on"] = f"a{number}"
    engine = StepEngine(troubled.store, FakeWorld().types())
    troubled.store.create_stack("s", template(resources))
    outcomes = [engine.call(work) for work in engine.claim(4)]
    troubled.lose(Commit.COMPLETE, Loss.REPLY)
    works = []
    try:
        works = engine.core.turn(outcomes, 4)
    except converge.StoreError:
        # as the threaded engine does
        works = engine.core.turn(outcomes, 0)
    if engine.core.doubtful:
        engine.core.reconcile(works)
    engine.write(*(engine.call(work) for work in works))
    engine.run()
    assert troubled.store.stack("s").status == "COMPLETE"


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lease_is_renewed_though_the_reply_is_lost(troubled: Troubled, loss: Loss) -> None:
    lost: list[None] = []
    troubled.store.database.clock = clock = FakeClock()
    leases = RowLeases(troubled.store.database, 10.0)
    lease = Lease(leases, lambda: lost.append(None))
    engine_id = lease.id
    clock.advance(5)
    troubled.lose(Commit.RENEW, loss)
    lease.renew()
    with troubled.store.database.transaction(write=False) as tx:
        row = engine_rows.get_engines(tx, [engine_id])[engine_id]
    assert row.expires_at == clock() + 10
    assert lost == []
    leases.close()


# -- recovery


def dead_engine(store: converge.Store, clock: FakeClock) -> None:
    engine = StepEngine(store, types(FakeWorld()), lease=10)
    store.create_stack("s", wanted("1"))
    assert len(engine.claim(4)) == 1
    clock.advance(11)


def overdue(store: converge.Store, clock: FakeClock) -> None:
    store.create_stack("s", wanted("1"), timeout=10)
    clock.advance(11)


def stray(store: converge.Store, clock: FakeClock) -> None:
    dead_engine(store, clock)
    with store.transaction() as tx:
        tx.execute(schema.engine.update().values(state=engine_rows.DEAD))


def superseded(store: converge.Store, clock: FakeClock) -> None:
    """A node that waits for a lock which nobody holds any more, and the leftover of its holder."""
    engine = StepEngine(store, types(FakeWorld()), lease=1e6)
    store.create_stack("s", wanted("1"))
    engine.claim()
    store.update_stack("s", wanted("2"))
    engine.claim()
    with store.transaction() as tx:
        tx.execute(schema.resource.update().values(engine_id=None))


RECOVERIES: dict[Commit, Callable[[converge.Store, FakeClock], None]] = {
    Commit.RECOVER: dead_engine,
    Commit.RELEASE: stray,
    Commit.OVERDUE: overdue,
    Commit.UNBLOCK: superseded,
    Commit.SWEEP: superseded,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("commit", RECOVERIES)
def test_a_sweep_that_lost_its_connection_goes_on(
    troubled: Troubled, commit: Commit, loss: Loss
) -> None:
    troubled.store.database.clock = clock = FakeClock()
    RECOVERIES[commit](troubled.store, clock)
    troubled.lose(commit, loss)
    sweep(troubled.store.database)
    assert not sweep(troubled.store.database)
    engine = StepEngine(troubled.store, types(FakeWorld()))
    engine.run()
    ended = "FAILED" if commit is Commit.OVERDUE else "COMPLETE"
    assert troubled.store.stack("s").status == ended
