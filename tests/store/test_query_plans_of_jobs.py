"""What the journal and machines ask for is found by index, however much else there is.

The databases hold 20,000 scopes with their steps, most of them finished, and 20,000 instances
that wait for a timeout, each with a move whose action is over. All statements that are executed
are explained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import String, case, cast, func, literal, null, select

import converge
from converge.journal import Journal
from converge.machine import Machine, list_machines
from converge.sql.schema import instance, move, scope, step
from converge.sql.transaction import Transaction
from tests.store.plans import Watch, analyze, check, filled_store, numbers, put

MANY = 20_000
LONG_AGO, LATER = 1e9, 4e9
#: ids from here on: those before it are for what the test itself makes
FIRST = 1_000_000
BIG = {scope.name, step.name, instance.name, move.name}
#: Rows, or pages, that a statement may look at.
FEW = 100
#: Events in one call, and rows or pages that a statement may look at for each.
EVENTS = 50
EACH = 20

LAMP: dict[str, Any] = {
    "name": "lamp",
    "initial": "off",
    "states": {"off": {}, "on": {"timeout": 60.0, "on_timeout": "press"}},
    "transitions": [
        {"event": "press", "source": "off", "target": "on", "action": lambda action: None},
        {"event": "press", "source": "on", "target": "off"},
    ],
}


def fill(tx: Transaction) -> None:
    source, n = numbers(MANY)
    number = cast(n, String(20))
    times: dict[str, Any] = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    put(
        tx,
        scope,
        source,
        id=n + FIRST,
        name=literal("job ").concat(number),
        epoch=1,
        finished_at=case((n % 10 == 0, null()), else_=LATER),
        **times,
    )
    plain: dict[str, Any] = {"version": 1, "attempts": 1, "position": 0, "at": LONG_AGO}
    put(
        tx,
        step,
        source,
        scope_id=n + FIRST,
        name="a",
        number=1,
        status="DONE",
        value="null",
        **plain,
    )
    put(
        tx,
        instance,
        source,
        id=n + FIRST,
        machine="lamp",
        key=literal("key ").concat(number),
        version=1,
        state="on",
        epoch=1,
        payloads="{}",
        deadline_at=LATER,
        **times,
    )
    texts = {"event": "press", "source": "off", "target": "on", "payload": "null"}
    put(
        tx,
        move,
        source,
        instance_id=n + FIRST,
        number=1,
        machine="lamp",
        version=1,
        payloads="{}",
        token="",
        at=LONG_AGO,
        status="DONE",
        attempts=1,
        deaths=0,
        epoch=1,
        **texts,
    )


@pytest.fixture
def store(empty_database_url: str) -> Iterator[converge.Store]:
    with filled_store(empty_database_url, BIG, fill) as store:
        yield store


def test_the_journal_reads_what_it_needs(store: converge.Store) -> None:
    journal = Journal(store)
    for has_statistics in (False, True):
        if has_statistics:
            analyze(store.database.engine)
        name = f"new {has_statistics}"
        with Watch(store.database.engine) as watch:
            for version in (1, 2):
                with journal.scope(name) as one:
                    one.step("a", int)
                    one.step("b", int, version=version)
                    list(one.each("c", range(5)))
            with journal.scope("job 17") as one:
                assert one.step("a", int) is None
            assert len(journal.show(name)[1]) == 3
            assert journal.forget(name, failed=True) == 0
            assert journal.forget(name) == 3
            if has_statistics:
                assert len(journal.scopes(after="job 5", limit=5)) == 5
                assert journal.prune(age=1e8) == 0
        check(BIG, watch.seen, FEW)
    journal.close()


def test_machines_read_what_they_need(store: converge.Store) -> None:
    machine = Machine(store, LAMP)
    for has_statistics in (False, True):
        if has_statistics:
            analyze(store.database.engine)
        names = [f"new {has_statistics} {number}" for number in range(EVENTS)]
        with Watch(store.database.engine) as watch:
            assert machine.sweep() == 0
            assert machine.fire("key 17", "press").target == ("on" if has_statistics else "off")
            assert machine.get("key 18").moves == 1
            assert len(machine.history("key 18")) == 1
            if has_statistics:
                assert len(machine.instances(after="key 9", limit=5)) == 5
            assert machine.failed() == []
            assert machine.retry("key 18") == 0
            assert list_machines(store) == ["lamp"]
            machine.create(f"made {has_statistics}")
            assert machine.delete(f"made {has_statistics}") == 1
        check(BIG, watch.seen, FEW)

        with Watch(store.database.engine) as watch:
            machine.fire_many([(name, "press") for name in names], create=True)
            with store.transaction() as tx:
                machine.fire_many([(name, "press") for name in names], transaction=tx)
                machine.fire_many([(name, "press") for name in names], transaction=tx)
            assert machine.sweep() == EVENTS
        check(BIG, watch.seen, EACH * EVENTS)
    machine.close()

    # what these tests look for would be found
    with Watch(store.database.engine) as watch, store.transaction() as tx:
        tx.execute(select(func.count()).where(instance.c.payloads == "x"))
    assert [one.scanned for one in watch.seen] == [{instance.name}]
