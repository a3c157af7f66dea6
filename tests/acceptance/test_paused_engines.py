"""Engines that are stopped for longer than their lease, and come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select

import converge
from converge import crash_points
from converge.crash_points import Commit
from converge.sql import schema
from tests.acceptance.fleet import LIMIT, ON_SERVERS, Fleet, Process, wait_for
from tests.acceptance.witness import HANDLER, Log, Orders, types
from tests.templates import template

#: Seconds. The tests wait for its end, but a busy machine must be able to renew it.
LEASE = 5.0


@dataclass(frozen=True)
class Case:
    """What an engine is doing when it is stopped.

    :ivar place: where.
    :ivar before: the properties of its resource as they were, None if there was none.
    :ivar now: as they are to be, None for a delete of the stack.
    :ivar cancel: when the traversal is cancelled: "before" or "after" the stop.
    :ivar begun: whether its handler had been called.
    :ivar is_stale: whether its handler writes something once it goes on, which is refused.
    """

    place: str
    before: dict[str, Any] | None = None
    now: dict[str, Any] | None = field(default_factory=dict)
    type: str = "effect"
    cancel: str | None = None
    begun: bool = True
    is_stale: bool = False


DEAF = {"deaf": True}
REPLACED: dict[str, Any] = {"before": {"replace": 1}, "now": {"replace": 2}}
RETRIED: dict[str, Any] = {"type": "retried", "now": {"failures": 1}}
CASES = {
    "a create": Case(HANDLER, now=DEAF, is_stale=True),
    "a create that has ended": Case(crash_points.AFTER_CALL),
    "a claim": Case(Commit.CLAIM.after, begun=False),
    "an update": Case(HANDLER, before={}, now=DEAF, is_stale=True),
    "a delete": Case(HANDLER, before=DEAF, now=None, is_stale=True),
    "a replacement to be asked for": Case(HANDLER, **REPLACED),
    "a replacement that was asked for": Case(crash_points.AFTER_CALL, **REPLACED),
    "a replacement to be made": Case(Commit.REPLACE.after, **REPLACED),
    "a failure to come": Case(HANDLER, **RETRIED),
    "a failure": Case(crash_points.AFTER_CALL, **RETRIED),
    "a cancelled create": Case(HANDLER, now=DEAF, cancel="after", is_stale=True),
    "a create that obeyed": Case(crash_points.AFTER_CALL, now={"waits": 1}, cancel="before"),
    # the last, as its node is free for the next engine
    "a retry that is written": Case(Commit.COMPLETE.after, **RETRIED),
}


#: On SQLite, which is always there, all of them; on servers those that differ in what is written.
FEWER = (
    "a create",
    "a claim",
    "an update",
    "a delete",
    "a replacement to be made",
    "a cancelled create",
    "a retry that is written",
)


def start(store: converge.Store, name: str, case: Case) -> None:
    if case.now is None:
        store.delete_stack(name)
    else:
        store.converge_stack(name, template(it={"type": case.type, "properties": case.now}))


def end(store: converge.Store, name: str) -> str:
    """How the stack has ended, or an empty string."""
    [one] = rows(store, name)["stack"]
    return "" if one.status == "IN_PROGRESS" else str(one.status)


def rows(store: converge.Store, name: str) -> dict[str, list[Any]]:
    """All that the database has of a stack."""
    with store.transaction() as tx:
        stack = tx.execute(select(schema.stack).where(schema.stack.c.name == name)).one()
        found = {"stack": [stack]}
        walks = select(schema.traversal.c.id).where(schema.traversal.c.stack_id == stack.id)
        for table in schema.metadata.sorted_tables:
            if "stack_id" in table.c:
                own = table.c.stack_id == stack.id
            elif "traversal_id" in table.c and table is not schema.stack:
                own = table.c.traversal_id.in_(walks)
            else:
                continue
            query = select(table).where(own).order_by(*table.primary_key.columns)
            found[table.name] = list(tx.execute(query).all())
        return found


def engines_of(store: converge.Store, process: Process) -> dict[int, str]:
    """The engines that a process has been, by id, with their states."""
    with store.transaction() as tx:
        query = select(schema.engine.c.id, schema.engine.c.state)
        found = tx.execute(query.where(schema.engine.c.pid == process.pid)).all()
    return {row.id: row.state for row in found}


def has_new_id(store: converge.Store, process: Process) -> bool:
    return len(engines_of(store, process)) > 1


def expired(store: converge.Store) -> int:
    """How many engines' leases have ended, whether anybody noticed or not."""
    with store.transaction() as tx:
        query = select(schema.engine.c.id).where(schema.engine.c.expires_at < tx.now)
        return len(tx.execute(query).all())


def stop_at_their_places(
    store: converge.Store, fleet: Fleet, cases: Mapping[str, Case]
) -> dict[str, Process]:
    """An engine for each case, stopped where it holds its node."""
    paused: dict[str, Process] = {}
    for name, case in cases.items():
        start(store, name, case)
        paused[name] = fleet.start(place=case.place, workers=1)
        if case.cancel == "before":
            paused[name].wait("begin")
            store.cancel_stack(name)
        paused[name].wait("at")
    for process in paused.values():
        process.freeze()
    for name, case in cases.items():
        if case.cancel == "after":
            store.cancel_stack(name)
    return paused


def test_an_engine_that_comes_back_after_its_lease_is_refused_and_works_on_under_a_new_id(
    database_url: str, tmp_path: Path
) -> None:
    is_all = database_url.startswith("sqlite")
    cases = CASES if is_all else {name: CASES[name] for name in FEWER}
    with (
        converge.connect(database_url) as store,
        Fleet(Orders(database_url, tmp_path, LEASE)) as fleet,
    ):
        with converge.Engine(store, types=types(Log(tmp_path / "before")), workers=1) as engine:
            for name, case in cases.items():
                if case.before is not None:
                    store.create_stack(
                        name, template(it={"type": case.type, "properties": case.before})
                    )
            assert engine.wait_idle(LIMIT)
        paused = stop_at_their_places(store, fleet, cases)

        # another does all of it
        other = fleet.start(workers=8)
        for name, case in cases.items():
            status = wait_for(partial(end, store, name), f"the end: {name}")
            assert status == ("CANCELLED" if case.cancel else "COMPLETE"), name
        assert other.end() == 0
        before = {name: rows(store, name) for name in cases}

        for name, case in cases.items():
            process = paused[name]
            [old] = engines_of(store, process)
            process.go_on()
            wait_for(partial(has_new_id, store, process), f"a new id: {name}")
            assert f"engine {old} lost its lease" in process.log, name
            if case.is_stale:
                wait_for(partial(process.said, "stale"), f"a refused write: {name}")

            # it works as before, all alone
            again = store.create_stack(
                f"{name}, again", template(it={"type": CASES["a claim"].type, "properties": {}})
            )
            assert wait_for(partial(end, store, again.name), again.name) == "COMPLETE"
            assert process.end() == 0, process.log
            new = max(engines_of(store, process))
            assert engines_of(store, process) == {old: "DEAD", new: "STOPPED"}

            assert rows(store, name) == before[name], name
            # what the other completed was not begun again
            assert len(process.said("begin")) == int(case.begun) + 1, name
            assert len(process.said("stale")) == int(case.is_stale), name


def test_what_an_engine_cancelled_because_of_its_lease_has_not_failed(
    database_url: str, tmp_path: Path
) -> None:
    case = Case(HANDLER)
    with (
        converge.connect(database_url) as store,
        Fleet(Orders(database_url, tmp_path, 2.0)) as fleet,
    ):
        # nobody else can take it over meanwhile
        one = {"type": "effect", "properties": {"waits": 1}}
        many = {f"n{number}": one for number in range(8)}
        store.create_stack("s", template(many))
        process = fleet.start(place=case.place, workers=8)
        process.wait("at")
        wait_for(lambda: len(process.said("begin")) == 8, "all of them begun")
        process.freeze()
        wait_for(lambda: expired(store) == 1, "the end of the lease")
        process.go_on()
        # it recovers itself
        assert wait_for(partial(end, store, "s"), "the end") == "COMPLETE"
        attempts = Counter(line.attempt for line in process.said("begin"))
        assert (attempts[1], attempts[2]) == (8, 8)
        assert process.end() == 0


@ON_SERVERS
def test_a_transaction_that_a_stopped_engine_left_open_keeps_nobody_from_working(
    database_url: str, tmp_path: Path
) -> None:
    works = {
        # it has locked its own row, which others would look at to see that it is dead
        Commit.RENEW.before: {"waits": 1},
        # it has locked its node and the one after it
        Commit.COMPLETE.before: {},
    }
    with (
        converge.connect(database_url) as store,
        Fleet(Orders(database_url, tmp_path, LEASE)) as fleet,
    ):
        paused = []
        for place, properties in works.items():
            store.create_stack(
                place, template(it={"type": Case(place).type, "properties": properties})
            )
            paused.append(fleet.start(place=place, workers=1))
            paused[-1].wait("begin")
            paused[-1].wait("at")
            paused[-1].freeze()
        # its lease is long enough for a busy machine, and shorter than the server's patience
        other = fleet.start(lease=9.0)
        for place in works:
            wait_for(partial(end, store, place), f"the end without it: {place}")
        assert other.said("lost") == []
        assert other.end() == 0
        before = [rows(store, place) for place in works]
        for process in paused:
            process.go_on()
            assert process.end() == 0, process.log
        assert [rows(store, place) for place in works] == before
