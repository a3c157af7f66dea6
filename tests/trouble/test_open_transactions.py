"""A host that starts a stack in a transaction of its own, and leaves that open: what belongs to
this stack waits, all else goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import converge
from converge.crash_points import Commit
from converge.errors import StoreError
from converge.model import NodeState
from converge.protocol import recover
from converge.sql import sessions
from converge.sql.database import Database
from converge.testing import FakeWorld, StepEngine
from tests.guards.tools import SERVERS, names, state
from tests.handlers import Gate, Quick
from tests.templates import template
from tests.waiting import WAIT


@pytest.fixture
def store(fresh_store: Callable[..., converge.Store]) -> converge.Store:
    return fresh_store()


@pytest.fixture
def quick(store: converge.Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[converge.Store]:
    """The same database, whose sessions wait for locked rows as short as they can."""
    monkeypatch.setattr(sessions, "LOCK_SECONDS", 1)
    with converge.connect(store.database.url) as quick:
        yield quick


@SERVERS
def test_an_open_transaction_holds_up_its_own_stack_only(
    store: converge.Store, quick: converge.Store
) -> None:
    gate = Gate()
    engine = converge.Engine(quick, {"fake": gate, "quick": Quick()}, workers=4, poll=0.05)
    with engine:
        held = store.create_stack("held", template(a=[], b=["a"]))
        assert gate.began.acquire(timeout=WAIT)
        with store.transaction() as host:
            store.update_stack("held", template(a=[], b=["a"], c=[]), transaction=host)
            # what its handler came to cannot be written
            gate.go.set()
            for number in range(3):
                chain = {f"r{n}": {"type": "quick"} for n in range(20)}
                other = store.create_stack(f"other{number}", template(chain))
                assert other.wait(WAIT) == "COMPLETE"
            assert len(engine._run._tenure.core.outbox) == 1  # type: ignore[union-attr]
        assert held.wait(WAIT) == "COMPLETE"
        assert (held.action, held.version) == ("UPDATE", 2)
    assert engine.error is None


@SERVERS
def test_each_thing_that_an_engine_writes_waits_by_itself(quick: converge.Store) -> None:
    """A group with other stacks in it, a failure that halts, a replacement, and the end."""
    world = FakeWorld()
    one = StepEngine(quick, world.types())
    fixed = converge.Template.parse("resources: {a: {type: fixed, properties: {n: 1}}}")
    stacks = {
        "group": template(a=[]),
        "failure": template(a=[]),
        "replacement": fixed,
        "end": template(a=[]),
        "free": template(a=[], b=["a"]),
    }
    for name, wanted in stacks.items():
        quick.create_stack(name, wanted)
    one.run()
    two = {name: template(a={"properties": {"n": 2}}) for name in stacks}
    two["replacement"] = converge.Template.parse(
        "resources: {a: {type: fixed, properties: {n: 2}}}"
    )
    second = {"depends_on": ["a"], "properties": {"n": 2}}
    two["free"] = template(a={"properties": {"n": 2}}, b=second)
    for name, wanted in two.items():
        quick.update_stack(name, wanted)
    works = {work.traversal.stack: work for work in one.claim(5)}
    assert works.keys() == stacks.keys()
    outcomes = {name: one.call(works[name]) for name in ("group", "replacement", "free")}
    one.write(one.call(works["end"]))
    (end,) = one.claim(1)
    outcomes["end"] = one.call(end)
    world.fail("update a")
    outcomes["failure"] = one.call(works["failure"])

    with quick.transaction() as host:
        for name in stacks:
            if name != "free":
                quick.update_stack(name, stacks[name], transaction=host)
        assert one.core.turn(list(outcomes.values()), 0) == []
        assert {outcome.work.traversal.stack for outcome in one.core.outbox.all()} == {
            name for name in stacks if name != "free"
        }
        assert state(quick, works["free"]) is NodeState.DONE
        # and nothing waits for them a second time
        assert names(one.core.turn((), 1)) == ["b"]
    one.core.outbox._look_at = 0.0
    one.core.turn((), 0)
    assert len(one.core.outbox) == 0
    one.core.reconcile(())
    one.run()
    assert {name: quick.stack(name).status for name in stacks} == dict.fromkeys(stacks, "COMPLETE")


@SERVERS
def test_a_sweep_goes_on_with_the_next_where_something_is_locked(
    store: converge.Store, quick: converge.Store
) -> None:
    gone = template(a=[])
    for name in ("held", "other"):
        store.create_stack(name, gone, timeout=0.001)
    with store.transaction() as host:
        store.update_stack("held", template(b=[]), transaction=host)
        assert recover.sweep(quick.database).overdue == 1
    assert store.stack("other").status == "FAILED"
    assert store.stack("held").status == "IN_PROGRESS"


@SERVERS
def test_a_transaction_that_stands_still_is_ended_by_the_server(store: converge.Store) -> None:
    store.create_stack("s", template(a=[]))
    ended = threading.Event()

    def stand_still() -> None:
        with store.transaction(limit=1.0) as host:
            store.update_stack("s", template(b=[]), transaction=host)
            # who wants the rows gets them when the limit is over
            store.update_stack("s", template(c=[]))
            ended.set()

    with pytest.raises(StoreError):
        stand_still()
    assert ended.is_set()
    assert store.stack("s").version == 2


def test_a_limit_must_be_seconds(store: converge.Store) -> None:
    wrong = pytest.raises(converge.BadInput, match="limit must be a positive number")
    with wrong, store.transaction(limit=0):
        pass


@SERVERS
def test_who_starts_something_waits_for_the_rows_for_a_while(
    store: converge.Store, quick: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_stack("s", template(a=[]))
    tries = threading.Semaphore(0)
    transact = Database.transact

    def counted(database: Database, function: Any, commit: Commit, **more: Any) -> Any:
        def once(tx: Any) -> Any:
            tries.release()
            return function(tx)

        return transact(database, once, commit, **more)

    monkeypatch.setattr(Database, "transact", counted)
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(quick.update_stack("s", template(c=[])))
    )
    with store.transaction() as host:
        store.update_stack("s", template(b=[]), transaction=host)
        thread.start()
        # longer than the server lets a statement wait
        for _ in range(3):
            assert tries.acquire(timeout=WAIT)
    thread.join(WAIT)
    assert [stack.version for stack in results] == [3]
