"""What a prune deletes, and what stays."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

import converge
from converge import crash_points
from converge.cli import main
from converge.cli.options.database import KEEP as SAID
from converge.crash_points import Commit
from converge.protocol import prune
from converge.protocol.prune import KEEP, Pruned, Pruner
from converge.protocol.recover import Sweeper
from converge.sql import schema
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.templates import template
from tests.trouble.faults import only

DAY = 86_400.0
TABLES = (schema.stack, schema.traversal, schema.event, schema.template)


def wanted(size: object) -> converge.Template:
    return template({"a": {"type": "fake", "properties": {"size": size}}})


def work(store: converge.Store, world: FakeWorld | None = None) -> None:
    StepEngine(store, (world or FakeWorld()).types(), lease=1e6).run()


def bring(store: converge.Store, name: str, size: object) -> converge.Stack:
    stack = store.converge_stack(name, wanted(size))
    work(store)
    return stack.refresh()


def delete(store: converge.Store, name: str) -> converge.Stack:
    stack = store.delete_stack(name)
    work(store)
    return stack.refresh()


def rows(store: converge.Store, table: Any, *columns: str) -> list[Any]:
    query = select(*(table.c[name] for name in columns or ("id",))).order_by(table.c.id)
    return [tuple(row) for row in store.database.read(lambda tx: tx.execute(query).all())]


def counts(store: converge.Store) -> Pruned:
    query = [select(func.count()).select_from(table) for table in TABLES]
    found = store.database.read(lambda tx: [tx.execute(one).scalar_one() for one in query])
    return Pruned(*found)


def less(before: Pruned, after: Pruned) -> Pruned:
    return Pruned(
        before.stacks - after.stacks,
        before.traversals - after.traversals,
        before.events - after.events,
        before.templates - after.templates,
    )


def prune_all(store: converge.Store, older_than: float, keep: int = KEEP) -> Pruned:
    """Prune, and check what it says, also before it, and that a second one finds nothing."""
    before = counts(store)
    told = store.prune(older_than=older_than, keep=keep, dry_run=True)
    assert counts(store) == before
    done = store.prune(older_than=older_than, keep=keep)
    assert told == done == less(before, counts(store))
    assert not store.prune(older_than=older_than, keep=keep, dry_run=True)
    assert not store.prune(older_than=older_than, keep=keep)
    return done


def test_deleted_stacks_go_when_they_are_old_with_all_they_left(
    store: converge.Store, clock: FakeClock
) -> None:
    bring(store, "old", 1)
    gone = delete(store, "old")
    clock.advance(DAY)
    bring(store, "young", 1)
    delete(store, "young")
    bring(store, "live", 1)
    clock.advance(1)
    done = prune_all(store, DAY)
    assert (done.stacks, done.traversals) == (1, 2)
    assert done.events > 2
    assert rows(store, schema.stack, "name") == [("young",), ("live",)]
    with pytest.raises(converge.NotFound):
        store.events("old")
    with pytest.raises(converge.NotFound, match="deleted and pruned"):
        gone.refresh()
    assert [one["action"] for one in store.events("young")][-1] == "DELETE"
    # another one of that name is another stack
    assert bring(store, "old", 2).id > gone.id


def test_of_a_live_stack_the_newest_traversals_stay_however_old(
    store: converge.Store, clock: FakeClock
) -> None:
    for size in range(6):
        bring(store, "s", size)
        bring(store, "t", size)
        clock.advance(DAY)
    bring(store, "s", 6)
    before = rows(store, schema.traversal, "id", "stack_id")
    last = store.stack("s").traversal
    # those of the last two days stay by age, three by their number
    done = prune_all(store, 4.5 * DAY, keep=3)
    assert (done.traversals, done.stacks, done.templates) == (4, 0, 0)
    assert rows(store, schema.traversal, "id", "stack_id") == before[4:]
    told = {row[0] for row in rows(store, schema.event, "traversal_id")}
    assert told == {row[0] for row in before[4:]}
    prune_all(store, 0.0, keep=3)
    mine = [row[0] for row in before if row[1] == store.stack("s").id]
    assert [
        row[0]
        for row in rows(store, schema.traversal, "id", "stack_id")
        if row[1] == store.stack("s").id
    ] == mine[-3:]
    prune_all(store, 0.0, keep=0)
    assert len(rows(store, schema.traversal)) == 2
    # all goes on as before: of a rollback, too, nothing is missing
    assert store.stack("s").traversal == last
    assert store.rollback_stack("s").outcome == "started"
    work(store)
    assert (store.stack("s").status, store.stack("s").version) == ("COMPLETE", 6)
    assert store.show("s")["resources"]["a"]["properties"] == {"size": 5}


def test_by_default_as_many_stay_as_have_events(store: converge.Store, clock: FakeClock) -> None:
    for size in range(KEEP + 2):
        bring(store, "s", size)
    clock.advance(1)
    # their events went when the others ended
    assert prune_all(store, 0.0) == Pruned(traversals=2)
    assert SAID == KEEP


def test_what_a_check_hides_stays(store: converge.Store, clock: FakeClock) -> None:
    world = FakeWorld()
    for size in (1, 2):
        store.converge_stack("s", wanted(size))
        work(store, world)
    store.rollback_stack("s")
    work(store, world)
    for _ in range(3):
        store.check_stack("s")
        work(store, world)
    clock.advance(1)
    assert prune_all(store, 0.0, keep=0).traversals == 4
    # it was a rollback: the next one has nothing to do, and does not go further
    assert rows(store, schema.traversal, "action") == [("ROLLBACK",), ("CHECK",)]
    assert store.rollback_stack("s").outcome == "done"


def test_what_somebody_works_on_stays(store: converge.Store, clock: FakeClock) -> None:
    engine = StepEngine(store, FakeWorld().types(), lease=1e6)
    stack = store.create_stack("s", wanted(1))
    (work_of_old,) = engine.claim()
    for size in range(2, 5):
        store.update_stack("s", wanted(size))
    clock.advance(DAY)
    before = rows(store, schema.traversal)
    # of four, the first still has a handler, the last runs
    done = prune_all(store, 0.0, keep=0)
    assert (done.traversals, done.templates) == (2, 1)
    assert rows(store, schema.traversal) == [before[0], before[3]]
    assert rows(store, schema.template, "version") == [(1,), (3,), (4,)]
    engine.write(engine.call(work_of_old))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    clock.advance(1)
    assert prune_all(store, 0.0, keep=0) == Pruned(traversals=1, events=2)


def test_versions_that_nothing_refers_to_go_when_they_are_old(
    store: converge.Store, clock: FakeClock
) -> None:
    bring(store, "s", 0)
    for size in range(1, 4):
        store.update_stack("s", wanted(size))
    clock.advance(DAY)
    store.update_stack("s", wanted(4))
    store.update_stack("s", wanted(5))
    store.update_stack("s", wanted(6))
    # 1 completed; 6 and 7 are wanted, now and before; 5 is young
    assert prune_all(store, DAY).templates == 3
    assert rows(store, schema.template, "version") == [(1,), (5,), (6,), (7,)]
    assert store.rollback_stack("s", version=1).outcome == "superseded"
    work(store)
    assert store.stack("s").status == "COMPLETE"


def test_a_deleted_stack_that_has_something_stays(store: converge.Store, clock: FakeClock) -> None:
    for name in ("resource", "node"):
        bring(store, name, 1)
        delete(store, name)
    ids = dict(rows(store, schema.stack, "name", "id"))
    last = dict(rows(store, schema.traversal, "stack_id", "id"))[ids["node"]]
    zeros = dict.fromkeys(("pending", "attempts", "deaths", "epoch", "keep", "tainted"), 0)
    node = {**zeros, "traversal_id": last, "node": 1, "kind": "update", "state": "SUPERSEDED"}
    node |= {"requires": [], "successors": [], "engine_id": 1}
    thing = {"stack_id": ids["resource"], "name": "a", "type": "fake", "token": "", "epoch": 0}
    thing |= {"action": "CREATE", "status": "COMPLETE", "created_at": 0, "updated_at": 0}
    thing |= {"properties": {}, "attributes": {}, "requires": []}
    with store.transaction() as tx:
        tx.execute(insert(schema.resource).values(thing))
        tx.execute(insert(schema.sync_point).values(node))
    clock.advance(DAY)
    before = counts(store)
    assert not prune_all(store, 0.0, keep=0)
    assert counts(store) == before


def test_batches_are_small_and_each_leaves_what_the_next_one_finds(
    store: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "BATCH", 3)
    monkeypatch.setattr(prune, "STACKS", 2)
    for name in "pqr":
        bring(store, name, 1)
        bring(store, name, 2)
        delete(store, name)
    for size in range(5):
        bring(store, "s", size)
    clock.advance(1)
    before = counts(store)
    batches = 0
    while done := sum(_first(Pruner(store.database, 0.0, 1)), Pruned()):
        batches += 1
        assert done.events + done.traversals + done.templates <= 3
        # whatever has happened so far: no event is without its traversal
        summaries = {row[0] for row in rows(store, schema.traversal)}
        assert {row[0] for row in rows(store, schema.event, "traversal_id")} <= summaries
    assert batches > 10
    left = counts(store)
    assert (left.stacks, left.traversals) == (1, 1)
    assert not prune_all(store, 0.0, keep=1)
    assert before.stacks == 4


def _first(pruner: Pruner) -> list[Pruned]:
    """Up to the first transaction that deletes something; then it is as if it died."""
    for done in pruner._batches():
        if done:
            return [done]
    return []


@pytest.mark.parametrize("database", [only("postgresql"), only("mariadb")], indirect=True)
def test_another_prune_passes_over_what_one_has_locked(
    store: converge.Store, clock: FakeClock
) -> None:
    bring(store, "gone", 1)
    delete(store, "gone")
    for size in range(3):
        bring(store, "s", size)
    clock.advance(1)
    with store.transaction() as tx:
        tx.execute(select(schema.stack).where(schema.stack.c.live.is_(None)).with_for_update())
        ended = select(schema.traversal).order_by(schema.traversal.c.id)
        tx.execute(ended.with_for_update())
        assert not store.prune(older_than=0.0, keep=0)
    assert prune_all(store, 0.0, keep=0).stacks == 1


def test_a_sweep_prunes_a_little_at_a_time(
    store: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "BATCH", 1)
    monkeypatch.setattr(prune, "STEP", 2)
    bring(store, "old", 1)
    delete(store, "old")
    Sweeper(store.database).sweep()
    clock.advance(DAY)
    bring(store, "live", 1)
    sweeper = Sweeper(store.database, DAY)
    left = [counts(store)]
    while left[-1].stacks == 2:
        sweeper.sweep()
        left.append(counts(store))
        assert less(left[-2], left[-1]).events <= 2
        assert less(left[-2], left[-1])
    assert len(left) > 3
    assert (left[-1].traversals, store.stack("live").status) == (1, "COMPLETE")


def test_an_engine_prunes_if_it_is_told_to(
    store: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(store, "old", 1)
    delete(store, "old")
    clock.advance(1)
    pruned = threading.Event()

    def look(point: str) -> None:
        if point == Commit.PRUNE_STACKS.after:
            pruned.set()

    monkeypatch.setattr(crash_points, "hook", look)
    with converge.Engine(store, lease=3.0, prune_after=0.001):
        assert pruned.wait(60)
    assert counts(store) == Pruned()
    assert converge.Engine(store).prune_after is None
    with pytest.raises(converge.BadInput, match="prune_after must be a positive number"):
        converge.Engine(store, prune_after=0)


def test_a_prune_says_what_it_wants(store: converge.Store) -> None:
    with pytest.raises(converge.BadInput, match="older_than"):
        store.prune(older_than=-1)
    with pytest.raises(converge.BadInput, match="keep must be a whole number"):
        store.prune(older_than=1, keep=-1)
    with pytest.raises(TypeError):
        store.prune()  # type: ignore[call-arg]


def test_who_sleeps_through_the_end_of_a_stack_writes_nothing(
    store: converge.Store, clock: FakeClock
) -> None:
    sleeper = StepEngine(store, FakeWorld().types(), lease=10.0)
    store.create_stack("s", wanted(1))
    (node,) = sleeper.claim()
    outcome = sleeper.call(node)
    clock.advance(11)
    Sweeper(store.database).sweep()
    work(store)
    store.delete_stack("s")
    work(store)
    clock.advance(1)
    assert prune_all(store, 0.0).stacks == 1
    sleeper.write(outcome)
    assert counts(store) == Pruned()


# -- the command line


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with a deleted stack."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    address = f"sqlite:///{tmp_path}/shop.db"
    with converge.connect(address, create_schema=True) as store:
        bring(store, "shop", 1)
        delete(store, "shop")
    return address


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(["db", "prune", *words]) == status
    out, err = capsys.readouterr()
    assert (err != "") == (status != 0)
    return str(out or err)


def test_a_person_prunes(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--older-than", "3600", "--db", url) == "nothing to prune\n"
    what = "1 deleted stack, 2 traversals, 6 events\n"
    assert run(capsys, "--older-than", "0", "--dry-run", "--db", url) == f"would prune {what}"
    assert run(capsys, "--older-than", "0", "--keep", "2", "--db", url) == f"pruned {what}"
    assert run(capsys, "--older-than", "0", "--db", url) == "nothing to prune\n"
    assert json.loads(run(capsys, "--older-than", "0", "--json", "--db", url)) == {
        "stacks": 0,
        "traversals": 0,
        "events": 0,
        "templates": 0,
        "dry_run": False,
    }


def test_a_prune_that_names_no_age_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = run(capsys, "--keep", "0", "--db", url, status=2)
    assert "converge db prune --older-than 2592000" in message
    with converge.connect(url) as store:
        assert counts(store).stacks == 1


def test_without_a_database_there_is_nothing_to_prune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    assert run(capsys, "--older-than", "0") == "nothing to prune\n"
    assert not list(tmp_path.iterdir())
