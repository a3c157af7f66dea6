"""Engines whose database is away for longer than their lease: gone, silent, read-only or full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import create_engine, make_url, select

import converge
from converge.engine import run
from converge.errors import StoreError
from converge.sql import repeat, schema
from converge.sql.database import Database
from tests.handlers import Gate
from tests.templates import template
from tests.trouble.faults import only
from tests.trouble.handlers import Calls, Disk
from tests.trouble.proxy import Mode
from tests.trouble.troubled import Troubled
from tests.waiting import WAIT

#: Seconds of a lease that is to be lost, and of one that is not.
LEASE = 1.0
LONG = 60.0
#: One whose engine sweeps often.
OTHER = 6.0
CHAIN = converge.Template.parse(
    "resources: {a: {type: quick}, b: {type: gate, depends_on: a}, c: {type: quick, depends_on: b}}"
)


class Running:
    """An engine behind the proxy, and its handlers."""

    def __init__(self, store: converge.Store, lease: float = LEASE) -> None:
        self.store = store
        self.gate = Gate()
        self.quick = Calls()
        types = {"gate": self.gate, "quick": self.quick}
        self.engine = converge.Engine(store, types, workers=2, lease=lease, poll=0.05)

    def calm(self) -> None:
        """Take the next lease for so long that a slow machine does not lose it, too."""
        run = self.engine._run
        assert run is not None
        run._leases.seconds = LONG

    def lease_end(self, url: Any, engine_id: int | None) -> float:
        """When the database thinks that an engine's lease ends, in seconds since 1970."""
        direct = create_engine(url)
        with direct.connect() as connection:
            query = select(schema.engine.c.expires_at).where(schema.engine.c.id == engine_id)
            end = connection.execute(query).scalar_one()
        direct.dispose()
        return float(end)


@pytest.fixture
def running(
    request: pytest.FixtureRequest, troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    # an engine that is stopped while the database is away waits for so long
    monkeypatch.setattr(run, "GRACE", 0.5)
    one = Running(troubled.store, getattr(request, "param", LEASE))
    one.engine.start()
    yield one
    troubled.proxy.set(Mode.PASS)
    one.gate.go.set()
    one.engine.stop(grace=0)


def finish(running: Running, stack: converge.Stack) -> None:
    """The engine goes on by itself, and redoes nothing that was done."""
    running.gate.go.set()
    assert stack.wait(WAIT) == "COMPLETE"
    assert running.quick.calls == ["a", "c"]
    assert running.gate.done == ["b"]
    running.engine.stop()
    assert running.engine.error is None
    with running.store.database.transaction(write=False) as tx:
        for table in (schema.sync_point, schema.resource):
            assert tx.execute(select(table).where(table.c.engine_id.is_not(None))).all() == []


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG])
def test_a_database_that_is_away_in_the_middle_of_a_handler(
    troubled: Troubled, running: Running, mode: Mode
) -> None:
    stack = running.store.create_stack("s", CHAIN)
    assert running.gate.began.acquire(timeout=WAIT)
    first = running.engine.id
    with troubled.proxy.being(mode):
        assert running.gate.cancelled.wait(WAIT)
        running.calm()
    assert running.gate.cancelled_at < running.lease_end(troubled.proxy.target, first)
    assert running.gate.began.acquire(timeout=WAIT)
    assert running.engine.id != first
    finish(running, stack)
    assert running.gate.calls == ["b", "b"]


def test_another_engine_does_the_work_while_one_is_cut_off(
    troubled: Troubled, running: Running
) -> None:
    stack = running.store.create_stack("s", CHAIN)
    assert running.gate.began.acquire(timeout=WAIT)
    with troubled.proxy.being(Mode.REFUSE), converge.connect(troubled.proxy.target) as store:
        assert running.gate.cancelled.wait(WAIT)
        running.calm()
        other = Running(store, OTHER)
        other.gate.go.set()
        with other.engine:
            assert store.stack("s").wait(WAIT) == "COMPLETE"
        assert other.gate.calls == ["b"]
        assert other.quick.calls == ["c"]
    # it works again, of what it had in hand nothing more
    running.gate.go.set()
    again = running.store.create_stack("again", CHAIN)
    assert again.wait(WAIT) == "COMPLETE"
    assert stack.wait(0) == "COMPLETE"
    assert running.gate.calls == ["b", "b"]
    assert running.quick.calls == ["a", "a", "c"]
    assert running.engine.error is None


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG])
def test_a_database_that_is_away_while_there_is_nothing_to_do(
    troubled: Troubled, running: Running, mode: Mode
) -> None:
    first = running.engine.id
    run = running.engine._run
    assert run is not None
    lost = run._tenure.lease.lost
    with troubled.proxy.being(mode):
        assert lost.wait(WAIT)
        running.calm()
    stack = running.store.create_stack("s", CHAIN)
    assert running.gate.began.acquire(timeout=WAIT)
    assert running.engine.id != first
    finish(running, stack)
    assert running.gate.calls == ["b"]


@pytest.mark.parametrize("running", [LONG], indirect=True, ids=["long"])
def test_connections_that_are_cut_in_each_handler(troubled: Troubled, running: Running) -> None:
    running.quick.during = troubled.proxy.cut
    names = [f"r{number}" for number in range(15)]
    resources: dict[str, Any] = {name: {"type": "quick"} for name in names}
    for before, after in pairwise(names):
        resources[after]["depends_on"] = [before]
    stack = running.store.create_stack("s", template(resources))
    assert stack.wait(WAIT) == "COMPLETE"
    assert running.quick.calls == names


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG])
def test_an_engine_can_be_stopped_while_the_database_is_away(
    troubled: Troubled, running: Running, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat, "RETRIES", 2)
    running.store.create_stack("s", CHAIN)
    assert running.gate.began.acquire(timeout=WAIT)
    with troubled.proxy.being(mode):
        running.engine.stop(grace=0.1)
    assert running.gate.cancelled.wait(WAIT)
    assert running.engine.error is None
    # what it could not hand back is recovered after its lease
    with converge.connect(troubled.proxy.target) as store:
        other = Running(store, OTHER)
        other.gate.go.set()
        with other.engine:
            assert store.stack("s").wait(WAIT) == "COMPLETE"
        assert other.quick.calls == ["c"]


# -- a database that answers, but takes no writes


def test_a_failover_to_a_server_that_takes_no_writes_for_a_while(
    troubled: Troubled, running: Running
) -> None:
    """The connections break, and the new ones can only read; then they could write again."""
    stack = running.store.create_stack("s", CHAIN)
    assert running.gate.began.acquire(timeout=WAIT)
    troubled.read_only = True
    troubled.proxy.cut()
    # nothing can be written: neither what was done, nor that the engine lives
    assert running.gate.cancelled.wait(WAIT)
    running.calm()
    with pytest.raises(StoreError, match="read-only"):
        troubled.store.create_stack("t", CHAIN)
    troubled.read_only = False
    # nobody cuts anything now: the engine itself looks for a server that takes writes
    assert running.gate.began.acquire(timeout=WAIT)
    finish(running, stack)


FULL = [
    only("postgresql", psycopg.errors.DiskFull("could not extend file: No space left on device")),
    only("mariadb", pymysql.err.OperationalError(1021, "Disk full (/tmp/x); waiting for someone")),
    only("mariadb", pymysql.err.OperationalError(1114, "The table 't' is full"), id="table"),
]


@pytest.mark.parametrize("running", [LONG], indirect=True, ids=["long"])
@pytest.mark.parametrize(("server", "error"), FULL, indirect=["server"])
def test_a_full_disk_is_waited_out_and_nothing_is_half_written(
    troubled: Troubled, running: Running, error: Exception
) -> None:
    stack = running.store.create_stack("s", CHAIN)
    assert running.gate.began.acquire(timeout=WAIT)
    faults = troubled.faults
    # the first statement of each transaction still finds space
    faults.fail(error, at=2, times=-1)
    running.gate.go.set()
    for _ in range(3):
        assert faults.failed.acquire(timeout=WAIT)
    with pytest.raises(StoreError, match="full"):
        troubled.store.create_stack("t", CHAIN)
    assert [one["name"] for one in troubled.store.stacks()] == ["s"]
    assert stack.refresh().status == "IN_PROGRESS"
    assert running.store.progress("s")["done"] == 1
    faults.stop()
    finish(running, stack)
    assert running.gate.calls == ["b"]


@pytest.mark.parametrize("database", [only("sqlite")], indirect=True)
def test_an_engine_goes_on_when_a_full_disk_has_space_again(database_url: str) -> None:
    class Large(Calls):
        def create(self, context: converge.Context, properties: Mapping[str, Any]) -> Any:
            super().create(context, properties)
            return converge.Physical(context.name, {"text": "x" * 100_000})

    with converge.connect(database_url) as store:
        disk = Disk(store)
        running = Running(store, LONG)
        large = Large()
        running.engine.types["gate"] = large
        large.during = disk.fill
        with running.engine:
            stack = store.create_stack("s", CHAIN)
            for _ in range(3):
                assert disk.refused.acquire(timeout=WAIT)
            assert store.show("s")["progress"]["done"] == 1
            disk.full = False
            assert stack.wait(WAIT) == "COMPLETE"
        assert large.calls == ["b"]
        assert running.quick.calls == ["a", "c"]
        assert running.engine.error is None


# -- how long a silent server is waited for


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql+psycopg://h/x",
            {"connect_timeout": "10", "tcp_user_timeout": "30000", "keepalives_idle": "10"},
        ),
        ("postgresql+psycopg://h/x?connect_timeout=3", {"connect_timeout": "3"}),
        ("mysql+pymysql://h/x", {"read_timeout": "90", "write_timeout": "90"}),
        ("mariadb://h/x?read_timeout=5", {"read_timeout": "5", "charset": "utf8mb4"}),
    ],
)
def test_a_silent_server_is_not_waited_for_for_ever(url: str, expected: dict[str, str]) -> None:
    database = Database(url)
    assert expected.items() <= dict(database.engine.url.query).items()
    # messages show what was given
    assert database.url.query == make_url(url).query


def test_to_change_the_schema_may_take_as_long_as_it_takes() -> None:
    database = Database("mysql+pymysql://h/x", answer_timeout=False)
    assert "read_timeout" not in database.engine.url.query
    assert "connect_timeout" in database.engine.url.query


def test_a_server_that_accepts_and_never_answers(troubled: Troubled) -> None:
    limits = {"connect_timeout": "2"}
    if troubled.store.database.dialect == "mysql":
        limits["read_timeout"] = "1"
    with (
        troubled.proxy.being(Mode.HANG),
        pytest.raises(StoreError, match=r"timeout|timed out|cannot be reached"),
    ):
        converge.connect(troubled.proxy.url(**limits))


# -- an outage that passes through a handler
