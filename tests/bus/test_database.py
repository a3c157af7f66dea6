"""PostgreSQL's notifications as a bus: what they wake, and that they come with the commit."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

import converge
from converge import stack as stack_module
from converge.bus import shared
from converge.bus.hint import ANY, LOOK, Hint, decode
from converge.cli import main, running
from converge.sql.notices import CHANNEL
from tests.handlers import Gate, Quick
from tests.templates import template
from tests.waiting import WAIT, until

pytestmark = pytest.mark.parametrize(
    "database",
    [pytest.param("postgresql", marks=[pytest.mark.database, pytest.mark.postgresql])],
    indirect=True,
)

#: Nothing is found by polling.
NEVER = 3600.0
TYPES = {"fake": Quick()}


@pytest.fixture
def connect(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., converge.Store]]:
    """Connects another process's store."""
    monkeypatch.setattr(stack_module, "_LOOK", NEVER)
    monkeypatch.setattr(stack_module, "_LOOK_CONNECTED", NEVER)
    stores = []

    def open_store(bus: str = "database://") -> converge.Store:
        stores.append(converge.connect(database_url, bus=bus))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@contextmanager
def engine(store: converge.Store) -> Iterator[converge.Engine]:
    """An idle engine that looks only if it is told to."""
    with converge.Engine(store, TYPES, workers=2, poll=NEVER) as one:
        until(lambda: store.bus.is_connected)
        assert one.wait_idle(WAIT)
        yield one


@contextmanager
def notices(url: str) -> Iterator[Callable[[int], list[str]]]:
    """Gives the next notifications, so many."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}")

        def take(count: int) -> list[str]:
            found = connection.notifies(timeout=WAIT, stop_after=count)
            return [one.payload for one in found]

        yield take


def test_a_start_of_another_process_is_found_and_its_end_is_told(
    connect: Callable[..., converge.Store],
) -> None:
    with engine(connect()):
        stack = connect().create_stack("one", template({"a": {}, "b": ["a"]}))
        assert stack.wait(WAIT) == "COMPLETE"


def test_a_start_in_a_transaction_of_the_hosts_own_is_found(
    connect: Callable[..., converge.Store], database_url: str
) -> None:
    store = connect()
    own = sqlalchemy.create_engine(database_url)
    with engine(connect()):
        with own.begin() as connection:
            # it does not hear of this commit otherwise
            stack = store.create_stack("one", template({"a": {}}), transaction=connection)
        assert stack.wait(WAIT) == "COMPLETE"
    own.dispose()


def test_the_engine_of_the_process_itself_finds_what_its_host_commits(
    connect: Callable[..., converge.Store], database_url: str
) -> None:
    store = connect()
    own = sqlalchemy.create_engine(database_url)
    with engine(store):
        with own.begin() as connection:
            stack = store.create_stack("one", template({"a": {}}), transaction=connection)
        assert stack.wait(WAIT) == "COMPLETE"
    own.dispose()


def test_a_transaction_sends_one_notification_with_its_commit_and_none_without(
    connect: Callable[..., converge.Store], database_url: str
) -> None:
    store = connect()
    own = sqlalchemy.create_engine(database_url)
    with notices(database_url) as take:
        with own.connect() as connection, connection.begin() as transaction:
            store.create_stack("undone", template({"a": {}}), transaction=connection)
            transaction.rollback()
        with own.begin() as connection:
            for name in ("one", "two", "three"):
                store.create_stack(name, template({"a": {}}), transaction=connection)
        with store.transaction() as tx:
            ids = [
                store.create_stack(name, template({"a": {}}), transaction=tx).id
                for name in ("four", "five", "six")
            ]
        first, second = take(2)
    own.dispose()
    assert decode(first)[0] == "host"
    hint = decode(second)[1]
    assert hint.ready
    assert hint.changed == frozenset(ids)


def test_a_process_sends_some_tens_of_notifications_in_a_second_and_no_more(
    connect: Callable[..., converge.Store], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 100.0
    monkeypatch.setattr("converge.bus.shared.time.monotonic", lambda: at)
    # after 0, 50, 150 and 350 ms; an end after each 50 ms
    for hint, count in ((Hint(ANY, ANY), 4), (LOOK, 8)):
        store = connect()
        sent = []
        for _ in range(40):
            at += 0.01
            text = store.bus.take_payload(hint)
            sent.append(text is not None)
        assert sum(sent) == count
        assert sent[0]


def test_the_work_of_one_commit_is_spread_over_the_engines_that_have_free_workers(
    connect: Callable[..., converge.Store],
) -> None:
    gate = Gate()
    stores = [connect() for _ in range(2)]
    engines = [converge.Engine(store, {"fake": gate}, workers=2, poll=NEVER) for store in stores]
    client = connect()
    try:
        for one, store in zip(engines, stores, strict=True):
            one.start()
            until(lambda store=store: store.bus.is_connected)  # type: ignore[misc]
            assert one.wait_idle(WAIT)
        stack = client.create_stack("one", template({name: {} for name in "abcd"}))
        # each has two workers, and nobody polls: so both were told
        for _ in range(4):
            assert gate.began.acquire(timeout=WAIT)
        assert sorted(one["nodes"] for one in client.engines()) == [2, 2]
        gate.go.set()
        assert stack.wait(WAIT) == "COMPLETE"
    finally:
        gate.go.set()
        for one in engines:
            one.stop()


def test_events_of_another_process_are_followed(
    connect: Callable[..., converge.Store],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(running, "POLL_MOST", NEVER)
    monkeypatch.setattr(running, "POLL_CONNECTED", NEVER)
    store = connect()
    store.create_stack("one", template({"a": {}, "b": ["a"]}))
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    follows = threading.Thread(
        target=lambda: ended.put(main(["--db", database_url, "events", "one", "--follow"]))
    )
    follows.start()
    # it listens, in a session of its own
    until(lambda: _count_listeners(store) == 1)
    with converge.Engine(connect("memory://"), TYPES) as one:
        # this one tells nobody: what was done is found when something else is
        assert one.wait_idle(WAIT)
    with engine(connect()):
        store.update_stack("one", template({"a": {}, "c": ["a"]}))
        assert ended.get(timeout=WAIT) == 0
    follows.join()
    assert "CREATE" in capsys.readouterr().out


def _count_listeners(store: converge.Store) -> int:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE query = %s AND datname = current_database()"
    )
    read: Any = store.database.read(
        lambda tx: tx.connection.exec_driver_sql(query, (f"LISTEN {CHANNEL}",)).scalar_one()
    )
    return int(read)


def test_who_loses_the_session_says_so_once_and_listens_again(
    connect: Callable[..., converge.Store],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shared, "FIRST_WAIT", 0.01)
    caplog.set_level(logging.WARNING)
    store = connect()
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query = %s AND datname = current_database()"
    )
    with engine(connect()):
        store.database.read(
            lambda tx: tx.connection.exec_driver_sql(kill, (f"LISTEN {CHANNEL}",)).all()
        )
        # the other way round, it may be told before it listens again; then it looks
        stack = store.create_stack("one", template({"a": {}}))
        until(lambda: any("works again" in one.getMessage() for one in caplog.records))
        assert stack.wait(WAIT) == "COMPLETE"
    said = [one.getMessage() for one in caplog.records if "does not work" in one.getMessage()]
    assert len(said) == 1


def test_an_engine_that_is_told_nothing_finds_work_by_polling(
    connect: Callable[..., converge.Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "_LOOK", 0.01)
    with converge.Engine(connect("memory://"), TYPES, poll=0.01):
        stack = connect("memory://").create_stack("one", template({"a": {}}))
        assert stack.wait(WAIT) == "COMPLETE"
