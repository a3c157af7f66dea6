"""Connections that are lost at a commit, on one side of it or the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy
from sqlalchemy import event, func, select

import converge
from converge import Journal, Machine, RetryPolicy
from converge.crash_points import Commit
from converge.errors import CommitUnknown, StepFailed
from converge.machine import Action, Move
from converge.sql import repeat, schema
from converge.stack import Stack
from converge.testing import FakeWorld, StepEngine
from tests.trouble.faults import only
from tests.trouble.proxy import Loss
from tests.trouble.troubled import Troubled, local_port

LOSSES = [pytest.param(loss, id=loss.value) for loss in (Loss.COMMIT, Loss.REPLY)]
ONE = converge.Template.parse("resources: {a: {type: fake}}")
TWO = converge.Template.parse("resources: {a: {type: fake}, b: {type: fake, depends_on: a}}")

Call = Callable[[converge.Store], Stack]
CALLS: dict[str, tuple[Call, str]] = {
    "create": (lambda store: store.create_stack("new", ONE), "started"),
    "update": (lambda store: store.update_stack("old", TWO), "started"),
    "update of a running one": (lambda store: store.update_stack("busy", TWO), "superseded"),
    "converge to create": (lambda store: store.converge_stack("new", ONE), "started"),
    "converge to update": (lambda store: store.converge_stack("old", TWO), "started"),
    "converge what is on its way": (lambda store: store.converge_stack("busy", ONE), "resumed"),
    "rollback": (lambda store: store.rollback_stack("old", version="empty"), "started"),
    "delete": (lambda store: store.delete_stack("old"), "started"),
    "check": (lambda store: store.check_stack("old"), "started"),
    "cancel": (lambda store: store.cancel_stack("busy"), "started"),
}


def traversals(store: converge.Store) -> list[int]:
    with store.database.transaction(write=False) as tx:
        return list(tx.execute(select(schema.traversal.c.id)).scalars())


def locked(store: converge.Store) -> int:
    """How many nodes and resources are held."""
    with store.database.transaction(write=False) as tx:
        return sum(
            tx.execute(select(func.count()).where(table.c.engine_id.is_not(None))).scalar_one()
            for table in (schema.sync_point, schema.resource)
        )


def old_and_busy(store: converge.Store, world: FakeWorld) -> StepEngine:
    engine = StepEngine(store, world.types())
    store.create_stack("old", ONE)
    engine.run()
    store.create_stack("busy", ONE)
    return engine


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_starts_something_does_it_once_and_says_so(
    troubled: Troubled, name: str, loss: Loss
) -> None:
    call, outcome = CALLS[name]
    engine = old_and_busy(troubled.store, FakeWorld())
    before = traversals(troubled.store)
    commit = Commit.CANCEL if name == "cancel" else Commit.START
    troubled.lose(commit, loss)
    troubled.hits.clear()
    stack = call(troubled.store)
    # what is there was not done again
    there = loss is Loss.REPLY or outcome == "resumed"
    assert troubled.count(commit) == ((1, 0) if there else (2, 1))
    assert stack.outcome == outcome
    new = [one for one in traversals(troubled.store) if one not in before]
    expected = [] if outcome == "resumed" or name == "cancel" else [stack.traversal]
    assert new == expected
    assert troubled.store.stack(stack.name).traversal == stack.traversal
    engine.run()
    assert stack.wait(0) == ("CANCELLED" if name == "cancel" else "COMPLETE")
    assert locked(troubled.store) == 0


def test_a_call_whose_every_commit_is_lost_says_that_it_cannot_know(
    troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat, "RETRIES", 3)
    troubled.lose(Commit.START, *[Loss.COMMIT] * 20)
    with pytest.raises(CommitUnknown, match="lost during a commit"):
        troubled.store.create_stack("new", ONE)
    assert troubled.store.stacks() == []


def test_lost_before_then_after_the_commit(troubled: Troubled) -> None:
    troubled.lose(Commit.START, Loss.COMMIT, Loss.COMMIT, Loss.REPLY)
    stack = troubled.store.create_stack("new", ONE)
    assert troubled.count(Commit.START) == (3, 0)
    assert traversals(troubled.store) == [stack.traversal]


SLOW_COMMIT = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON {}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()
"""


@pytest.fixture
def slow_commits(troubled: Troubled) -> Iterator[Callable[[sqlalchemy.Table], None]]:
    """Once called, commits that change a table wait in the server, until the store has begun
    two more transactions."""
    admin = sqlalchemy.create_engine(troubled.proxy.target, isolation_level="AUTOCOMMIT")
    engine = troubled.store.database.engine
    begun = 0

    def begin(connection: object) -> None:
        nonlocal begun
        begun += 1
        # one is the attempt itself, and then somebody looks
        if begun == 3:
            holding.exec_driver_sql("SELECT pg_advisory_unlock(1)")

    def slow(table: sqlalchemy.Table) -> None:
        holding.exec_driver_sql(SLOW_COMMIT.format(table.name))
        holding.exec_driver_sql("SELECT pg_advisory_lock(1)")
        event.listen(engine, "begin", begin)

    with admin.connect() as holding:
        yield slow
        event.remove(engine, "begin", begin)
        assert begun >= 3
        holding.exec_driver_sql("DROP FUNCTION slow CASCADE")
    admin.dispose()


@pytest.mark.parametrize("server", [only("postgresql")], indirect=True)
@pytest.mark.parametrize("name", [name for name in CALLS if "on its way" not in name])
def test_a_commit_that_the_server_is_still_at_is_waited_for(
    troubled: Troubled, slow_commits: Callable[[sqlalchemy.Table], None], name: str
) -> None:
    call, outcome = CALLS[name]
    old_and_busy(troubled.store, FakeWorld())
    before = traversals(troubled.store)
    slow_commits(schema.stack)
    commit = Commit.CANCEL if name == "cancel" else Commit.START
    troubled.lose(commit, Loss.WAIT)
    stack = call(troubled.store)
    assert stack.outcome == outcome
    new = [one for one in traversals(troubled.store) if one not in before]
    assert new == ([] if name == "cancel" else [stack.traversal])


@pytest.mark.parametrize("server", [only("postgresql")], indirect=True)
def test_what_a_claim_that_the_server_is_still_at_gets_is_not_held_for_ever(
    troubled: Troubled, slow_commits: Callable[[sqlalchemy.Table], None]
) -> None:
    engine = StepEngine(troubled.store, FakeWorld().types())
    stack = troubled.store.create_stack("new", ONE)
    slow_commits(schema.sync_point)
    troubled.lose(Commit.CLAIM, Loss.WAIT)
    with pytest.raises(CommitUnknown):
        engine.claim()
    engine.core.reconcile(())
    engine.run()
    assert stack.wait(0) == "COMPLETE"
    assert locked(troubled.store) == 0


# -- the journal


@pytest.mark.parametrize("loss", LOSSES)
def test_steps_and_items_are_recorded_once_whichever_side_of_their_commits_is_lost(
    troubled: Troubled, loss: Loss
) -> None:
    done: list[object] = []

    def do(what: str) -> str:
        done.append(what)
        return what.upper()

    for commit in (Commit.TAKE, Commit.STEP, Commit.ITEM, Commit.SCOPE_RELEASE):
        troubled.lose_every_other(commit, loss)
    with Journal(troubled.store) as journal:
        for _ in range(2):
            with journal.scope("job") as scope:
                for name in "abc":
                    assert scope.step(name, do, name) == name.upper()
                for item in scope.each("items", [1, 2, 3]):
                    done.append(item.value)
        info, records = journal.show("job")
        assert info.owner is None
        assert info.finished is not None
    assert done == ["a", "b", "c", 1, 2, 3]
    assert [(one.name, one.attempts, one.position) for one in records] == [
        ("a", 1, 0),
        ("b", 1, 0),
        ("c", 1, 0),
        ("items", 1, 3),
    ]


@pytest.mark.parametrize("server", [only("postgresql")], indirect=True)
def test_a_step_that_the_server_is_still_recording_is_waited_for(
    troubled: Troubled, slow_commits: Callable[[sqlalchemy.Table], None]
) -> None:
    done: list[str] = []

    def do() -> None:
        done.append("a")

    with Journal(troubled.store) as journal, journal.scope("job") as scope:
        slow_commits(schema.step)
        troubled.lose(Commit.STEP, Loss.WAIT)
        scope.step("a", do)
        assert troubled.count(Commit.STEP) == (1, 0)
    assert done == ["a"]


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_forgotten_is_counted_whichever_side_of_its_commit_is_lost(
    troubled: Troubled, loss: Loss
) -> None:
    def fail() -> None:
        raise RuntimeError

    troubled.lose_every_other(Commit.PRUNE, loss)
    with Journal(troubled.store) as journal:
        for name in "abc":
            with journal.scope(name) as scope:
                scope.step("1", int)
        with pytest.raises(StepFailed), journal.scope("failed") as scope:
            scope.step("1", fail, retry=RetryPolicy(attempts=1))
        assert journal.forget("failed", failed=True) == 1
        assert journal.forget("a") == 1
        assert journal.prune(age=0) == 2
        assert [one.name for one in journal.scopes()] == ["failed"]


# -- machines


@pytest.mark.parametrize("loss", LOSSES)
def test_events_and_actions_happen_once_whichever_side_of_their_commits_is_lost(
    troubled: Troubled, loss: Loss
) -> None:
    calls: list[str] = []

    def act(action: Action) -> None:
        calls.append(f"{action.key} {action.event}")
        action.step("once", calls.append, f"{action.key} step")

    lamp = {
        "name": "lamp",
        "initial": "off",
        "states": {
            "off": {},
            "on": {"timeout": 0.001, "on_timeout": "dim"},
            "dim": {"terminal": True},
        },
        "transitions": [
            {"event": "press", "source": "off", "target": "on", "action": act},
            {"event": "dim", "source": "on", "target": "dim", "action": act},
        ],
    }
    for commit in (Commit.FIRE, Commit.TIMEOUT, Commit.ACTION_CLAIM, Commit.ACTION):
        troubled.lose_every_other(commit, loss)
    machine = Machine(troubled.store, lamp)
    assert machine.fire("a", "press", create=True).action == "DONE"
    moves = machine.fire_many([("b", "press"), ("c", "press")], create=True)
    assert [one.action for one in moves if isinstance(one, Move)] == ["DONE", "DONE"]
    while any(one.state == "on" for one in machine.instances()):
        machine.sweep()
    assert [one.event for one in machine.history("a")] == ["press", "dim"]
    assert {one.action for key in "abc" for one in machine.history(key)} == {"DONE"}
    assert Counter(calls) == {
        f"{key} {what}": 2 if what == "step" else 1
        for key in "abc"
        for what in ("press", "dim", "step")
    }
    troubled.lose_every_other(Commit.INSTANCE, loss)
    assert machine.prune(0) == 3
    machine.close()


# -- a host's transaction


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_commit_of_a_host_is_reported_and_not_run_again(
    troubled: Troubled, loss: Loss
) -> None:
    troubled.lose(Commit.HOST, loss)
    runs = 0

    def host() -> None:
        nonlocal runs
        with troubled.store.transaction() as tx:
            runs += 1
            troubled.store.create_stack("new", ONE, transaction=tx)

    with pytest.raises(CommitUnknown, match="lost during a commit"):
        host()
    assert runs == 1
    assert troubled.count(Commit.HOST) == (1, 0)
    assert len(troubled.store.stacks()) == (1 if loss is Loss.REPLY else 0)


def test_a_connection_lost_in_a_hosts_transaction_is_reported_and_not_run_again(
    troubled: Troubled,
) -> None:
    runs = 0

    def host() -> None:
        nonlocal runs
        with troubled.store.transaction() as tx:
            runs += 1
            troubled.store.create_stack("new", ONE, transaction=tx)
            troubled.proxy.cut()
            troubled.store.create_stack("newer", ONE, transaction=tx)

    with pytest.raises(converge.StoreError) as caught:
        host()
    # here it is known that nothing was committed
    assert not isinstance(caught.value, CommitUnknown)
    assert runs == 1
    assert troubled.store.stacks() == []


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_commit_on_a_hosts_own_connection_is_the_hosts(
    troubled: Troubled, loss: Loss
) -> None:
    engine = sqlalchemy.create_engine(troubled.proxy.url())

    def host() -> None:
        with engine.begin() as connection:
            troubled.store.create_stack("new", ONE, transaction=connection)
            troubled.proxy.lose(local_port(connection.connection.dbapi_connection), loss)

    with pytest.raises(sqlalchemy.exc.OperationalError):
        host()
    engine.dispose()
    assert len(traversals(troubled.store)) == (1 if loss is Loss.REPLY else 0)
    assert troubled.count(Commit.START) == (0, 0)
