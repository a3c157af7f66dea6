"""Numbers, clocks and ids at which an engine could go wrong."""

from __future__ import annotations

import ast
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import select, update

import converge
from converge.engine.core import EngineCore
from converge.errors import BadInput
from converge.lease import Lease, RowLeases
from converge.protocol.recover import sweep
from converge.protocol.request import Intent
from converge.protocol.work import Work
from converge.sql import engines, schema
from converge.sql.loading import read_clock
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.waiting import WAIT

INF = float("inf")
NAN = float("nan")
NO_SECONDS = [0, -1, -0.1, NAN, INF, -INF, "15", True, None, [1]]

ONE = converge.Template.parse("resources: {a: {type: fake}}")
WIDE = converge.Template.parse(
    "resources: {a: {type: fake}, b: {type: fake}, c: {type: fake}, d: {type: fake}}"
)

# -- numbers


def an_engine(**options: Any) -> converge.Engine:
    """An engine that is not started, and so needs no database."""
    return converge.Engine(cast(converge.Store, SimpleNamespace(database=None)), **options)


@pytest.mark.parametrize("seconds", [*NO_SECONDS, 0.999, 1e-300])
def test_a_lease_must_be_a_second_at_least(seconds: object) -> None:
    with pytest.raises(BadInput, match="lease must be a positive number of at least 1") as caught:
        an_engine(lease=seconds)
    assert repr(seconds) in str(caught.value)


@pytest.mark.parametrize("seconds", NO_SECONDS)
def test_a_poll_must_be_seconds(seconds: object) -> None:
    with pytest.raises(BadInput, match="poll must be a positive number of seconds"):
        an_engine(poll=seconds)


@pytest.mark.parametrize("workers", [0, -1, 1001, NAN, INF, 1.5, "4", True, None])
def test_workers_must_be_a_count(workers: object) -> None:
    with pytest.raises(BadInput, match="workers must be"):
        an_engine(workers=workers)


def test_the_least_of_all_is_taken() -> None:
    engine = an_engine(lease=1, poll=0.001, workers=1)
    assert (engine.lease, engine.poll, engine.workers) == (1.0, 0.001, 1)


@pytest.mark.parametrize("name", ["timeout", "node_timeout"])
@pytest.mark.parametrize("seconds", [one for one in NO_SECONDS if one is not None])
def test_a_timeout_must_be_seconds(name: str, seconds: Any) -> None:
    with pytest.raises(BadInput, match=f"^{name} must be a positive number of seconds"):
        Intent(**{name: seconds})


def test_no_call_takes_a_timeout_that_is_none_and_all_start_nothing_then(
    fresh_store: Callable[..., converge.Store],
) -> None:
    store = fresh_store()
    stack = store.create_stack("s", ONE)
    StepEngine(store, FakeWorld().types()).run()
    calls: list[Callable[..., converge.Stack]] = [
        lambda **times: store.create_stack("new", ONE, **times),
        lambda **times: store.update_stack("s", WIDE, **times),
        lambda **times: store.converge_stack("s", WIDE, **times),
        lambda **times: store.rollback_stack("s", **times),
        lambda **times: store.delete_stack("s", **times),
        lambda **times: store.check_stack("s", **times),
    ]
    for call in calls:
        for name in ("timeout", "node_timeout"):
            for seconds in (0, -1, NAN, INF, "5", True):
                with pytest.raises(BadInput, match=name):
                    call(**{name: seconds})
    assert [one["name"] for one in store.stacks()] == ["s"]
    assert stack.refresh().status == "COMPLETE"
    assert store.stack("s").traversal == stack.traversal


@pytest.mark.parametrize("seconds", [1e-9, 1e308])
def test_the_shortest_and_the_longest_timeout_are_stored(
    fresh_store: Callable[..., converge.Store], seconds: float
) -> None:
    store = fresh_store(FakeClock())
    stack = store.create_stack("s", ONE, timeout=seconds, node_timeout=seconds)
    StepEngine(store, FakeWorld().types()).run()
    assert stack.refresh().status == "COMPLETE"


@pytest.mark.parametrize(
    "options",
    [
        *({name: n} for name in ("attempts", "deaths") for n in (0, -1, 1.5, NAN, INF, "3", True)),
        *({name: n} for name in ("first", "most") for n in (-1, NAN, INF, "3", True)),
        {"exceptions": "ValueError"},
        {"exceptions": (ValueError, "OSError")},
        {"exceptions": (ValueError, int)},
    ],
    ids=str,
)
def test_a_retry_policy_that_could_not_be_followed_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        converge.RetryPolicy(**options)


@pytest.mark.parametrize(
    "attributes",
    [
        {"retry": None},
        {"retry": 3},
        *({"timeout": seconds} for seconds in NO_SECONDS if seconds is not None),
    ],
    ids=str,
)
def test_an_engine_refuses_a_type_that_would_stop_it(attributes: dict[str, Any]) -> None:
    kind = type("Odd", (converge.ResourceType,), attributes)
    with pytest.raises(BadInput, match=rf"odd.*{next(iter(attributes))}"):
        an_engine(types={"odd": kind()})


# -- deaths


@pytest.mark.parametrize("deaths", [1, 2, 6])
def test_a_type_says_how_many_engines_may_die_at_it(
    fresh_store: Callable[..., converge.Store], deaths: int
) -> None:
    clock = FakeClock()
    store = fresh_store(clock)
    types = FakeWorld().types(deaths=deaths)
    stack = store.create_stack("s", ONE)
    for _ in range(deaths):
        (work,) = StepEngine(store, types, lease=10).claim()
        assert work.decision.reason is None
        clock.advance(10)
        assert sweep(store.database).engines == 1
    StepEngine(store, types).run()
    assert stack.refresh().status == "FAILED"
    assert f"{deaths} engines died while working on it" in (stack.reason or "")


# -- clocks

ROOT = Path(converge.__file__).parent

#: What reads the host's wall clock.
WALL_CLOCKS = {
    *(f"time.{name}" for name in ("time", "time_ns", "localtime", "gmtime", "ctime", "asctime")),
    *("time.strftime", "time.CLOCK_REALTIME", "uuid.uuid1", "uuid.getnode"),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
}

#: Where that is right, and why.
JUSTIFIED = {
    # a time stamp of a file that only ever is compared with itself
    ("resources/file.py", "time.time_ns"),
    # the only clock that a journal in one process's memory can have
    ("journal/memory.py", "time.time"),
    # a trial of a pipeline has no database
    ("cli/pipeline.py", "time.time"),
    # when a hint was sent, for people
    ("agent/outbox.py", "time.time"),
}


def wall_clocks(source: str) -> set[str]:
    """The wall clocks that a module names, by whatever name it imported them."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {name.asname or name.name: name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            known |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return known.get(node.id, "")
        return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""

    return {dotted(node) for node in ast.walk(tree)} & WALL_CLOCKS


def test_no_host_clock_is_read() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in sorted(ROOT.rglob("*.py"))
        for name in wall_clocks(path.read_text(encoding="utf-8"))
    }
    assert found == JUSTIFIED


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import time\nprint(time.time())", "time.time"),
        ("import time as t\nclock = t.time_ns", "time.time_ns"),
        ("from time import time as now\nnow()", "time.time"),
        ("import datetime\ndatetime.datetime.now()", "datetime.datetime.now"),
        ("from datetime import datetime, UTC\ndatetime.now(UTC)", "datetime.datetime.now"),
        ("import uuid\nuuid.uuid1()", "uuid.uuid1"),
    ],
)
def test_a_host_clock_would_be_found(source: str, name: str) -> None:
    assert wall_clocks(source) == {name}


class Meeting(converge.ResourceType):
    """Its create ends when every engine has begun one.

    :param go: what it waits for.
    """

    def __init__(self, go: threading.Event) -> None:
        self.go = go
        self.began = threading.Event()
        self.calls: list[str] = []

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self.calls.append(context.name)
        self.began.set()
        assert self.go.wait(WAIT)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        pass


@pytest.fixture
def offsets(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.local]:
    """By how much the host's clock is off in this thread, and in all that it starts."""
    offset = threading.local()
    start, clock, clock_ns = threading.Thread.start, time.time, time.time_ns

    def started(thread: threading.Thread) -> None:
        run, mine = thread.run, getattr(offset, "seconds", 0)

        def with_offset() -> None:
            offset.seconds = mine
            run()

        thread.run = with_offset  # type: ignore[method-assign]
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", started)
    monkeypatch.setattr(time, "time", lambda: clock() + getattr(offset, "seconds", 0))
    monkeypatch.setattr(
        time, "time_ns", lambda: clock_ns() + getattr(offset, "seconds", 0) * 1_000_000_000
    )
    yield offset
    offset.seconds = 0


def test_hosts_whose_clocks_are_minutes_apart_work_together(
    fresh_store: Callable[..., converge.Store], offsets: threading.local
) -> None:
    store = fresh_store()
    go = threading.Event()
    kinds = {seconds: Meeting(go) for seconds in (0, 600, -600)}
    crew: list[converge.Engine] = []
    try:
        for seconds, kind in kinds.items():
            offsets.seconds = seconds
            crew.append(converge.Engine(store, {"fake": kind}, workers=1, poll=0.05))
            crew[-1].start()
        ids = [engine.id for engine in crew]
        stack = store.create_stack("s", WIDE, timeout=300)
        for kind in kinds.values():
            assert kind.began.wait(WAIT)
        for seconds in kinds:
            # neither leases nor the deadline have ended on anybody's clock
            offsets.seconds = seconds
            found = sweep(store.database)
            assert (found.engines, found.nodes, found.overdue) == (0, 0, 0)
            lasting = StepEngine(store, {}, lease=100)
            assert lasting.renew()
            assert 90 < seconds_left(store, lasting.id) <= 100
        go.set()
        assert stack.wait(WAIT) == "COMPLETE"
        assert [engine.id for engine in crew] == ids
    finally:
        go.set()
        for engine in crew:
            engine.stop()
    assert sorted(name for kind in kinds.values() for name in kind.calls) == ["a", "b", "c", "d"]


def seconds_left(store: converge.Store, engine_id: int) -> float:
    """Of a lease, on the database's clock."""
    with store.transaction() as tx:
        row = engines.get_engines(tx, [engine_id])[engine_id]
        return row.expires_at - read_clock(tx)


# -- ids


def rows_of(store: converge.Store) -> list[Any]:
    """All rows of what is converged."""
    tables = (schema.resource, schema.sync_point, schema.traversal, schema.progress, schema.event)
    with store.transaction() as tx:
        return [
            sorted((tuple(row) for row in tx.execute(select(table))), key=repr) for table in tables
        ]


def names(works: list[Work]) -> list[str]:
    return sorted(work.row.name for work in works if work.row is not None)


def test_of_two_engines_with_one_id_the_loser_writes_nothing(
    fresh_store: Callable[..., converge.Store],
) -> None:
    """As after the database was brought back from a copy: a new engine is given an id that an
    old one, which still lives, believes to be its own."""
    store = fresh_store(FakeClock())
    world = FakeWorld()
    old = StepEngine(store, world.types())
    new = EngineCore(store.database, old.id, old.types, old.core.mark)
    stack = store.create_stack("s", WIDE)
    first = old.claim(2)
    second = new.turn([], 1)
    assert (names(first), names(second)) == (["a", "b"], ["c"])
    outcomes = [old.call(work) for work in first]

    # the new one finds works under its id of which it does not know, and lets them go
    new.reconcile(second)
    before = rows_of(store)
    old.write(*outcomes)
    assert rows_of(store) == before

    # it claims them itself, so only the epoch tells the two apart
    again = new.turn([], 3)
    assert names(again) == ["a", "b", "d"]
    before = rows_of(store)
    old.write(*outcomes)
    assert rows_of(store) == before
    for work in first:
        context = old.core.context(work)
        assert context is not None
        with pytest.raises(converge.StaleLock):
            context.record("late")
    assert rows_of(store) == before

    new.turn([old.call(work) for work in [*second, *again]], 0)
    old.run()
    assert stack.refresh().status == "COMPLETE"
    assert sorted(world.log) == [f"create {name}.0" for name in "abcd"]
    events = [one for one in store.events("s") if one["resource"] is not None]
    assert sorted(one["resource"] for one in events) == ["a", "b", "c", "d"]


def test_only_who_registered_an_id_renews_its_lease(
    fresh_store: Callable[..., converge.Store],
) -> None:
    store = fresh_store(FakeClock())
    losses: list[str] = []
    leases = RowLeases(store.database, 10.0)
    lease = Lease(leases, lambda: losses.append("lost"))
    engine_id = lease.id
    lease.renew()
    assert not lease.lost.is_set()
    with store.transaction() as tx:
        mine = schema.engine.c.id == engine_id
        tx.execute(update(schema.engine).where(mine).values(mark=lease.mark + 1))
        before = engines.get_engines(tx, [engine_id])
    lease.renew()
    assert lease.lost.is_set()
    assert losses == ["lost"]
    with store.transaction() as tx:
        assert engines.get_engines(tx, [engine_id]) == before
    leases.close()
