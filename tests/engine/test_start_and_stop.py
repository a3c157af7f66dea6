"""The life of an engine: it starts, stops, and dies; each run is one by itself."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

import converge
from converge.awaiting import Doing
from converge.engine import run
from converge.engine.core import EngineCore
from converge.engine.loop import Loop
from converge.engine.workers import Job, Workers
from converge.errors import BadInput, ConvergeError, StoreError
from converge.sql.database import Database
from converge.testing import FakeWorld
from tests.handlers import Quick
from tests.waiting import WAIT, until

ONE = converge.Template.parse("resources: {a: {type: quick}}")


@pytest.fixture
def engine(store: converge.Store) -> converge.Engine:
    return converge.Engine(store, {"quick": Quick()}, workers=2, poll=0.05)


def dies(*arguments: object) -> Any:
    raise ZeroDivisionError("a mistake in the engine")


def test_who_waits_for_an_engine_that_dies_is_told(
    store: converge.Store, engine: converge.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.start()
    monkeypatch.setattr(EngineCore, "turn", dies)
    # while it dies, and when it is dead
    for _ in range(2):
        with pytest.raises(ConvergeError, match="the engine stopped because of an error") as raised:
            engine.wait_idle(WAIT)
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
    engine.stop()
    monkeypatch.undo()
    with engine:
        assert store.create_stack("s", ONE).wait(WAIT) == "COMPLETE"


def test_who_waits_for_an_engine_that_is_stopped_is_told(engine: converge.Engine) -> None:
    with pytest.raises(ConvergeError, match="this engine has not been started"):
        engine.wait_idle(WAIT)
    engine.start()
    engine.stop()
    assert engine.wait_idle(WAIT) is False


def test_a_start_that_fails_is_as_if_it_had_not_been(
    store: converge.Store, engine: converge.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.stop()
    for _ in range(2):
        with engine:
            engine.wait_idle(WAIT)

        def refuse(*arguments: object, **more: object) -> Any:
            raise StoreError("the database is away")

        with monkeypatch.context() as patch:
            patch.setattr(Database, "transact", refuse)
            with pytest.raises(StoreError):
                engine.start()
        engine.stop()
    with engine:
        assert store.create_stack("s", ONE).wait(WAIT) == "COMPLETE"
        with pytest.raises(ConvergeError, match="already running"):
            engine.start()


def test_a_run_that_the_database_held_up_does_not_mix_with_the_next(
    store: converge.Store, engine: converge.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "GRACE", 0.05)
    held, go = threading.Event(), threading.Event()
    turn = EngineCore.turn

    def hangs(core: EngineCore, *asked: Any) -> Any:
        held.set()
        assert go.wait(WAIT)
        return turn(core, *asked)

    with monkeypatch.context() as patch:
        patch.setattr(EngineCore, "turn", hangs)
        engine.start()
        first = engine.id
        assert held.wait(WAIT)
        engine.stop(grace=0)
    threads = [one for one in threading.enumerate() if one.name == "converge-turn"]
    with engine:
        assert engine.id != first
        go.set()
        for one in threads:
            one.join(WAIT)
        assert store.create_stack("s", ONE).wait(WAIT) == "COMPLETE"
        turning = [one for one in threading.enumerate() if one.name == "converge-turn"]
        assert len(turning) == 1


def test_two_who_stop_it_at_once_leave_nothing_to_its_next_run(
    store: converge.Store, engine: converge.Engine
) -> None:
    for number in range(3):
        engine.start()
        assert store.create_stack(f"s{number}", ONE).wait(WAIT) == "COMPLETE"
        stops = [threading.Thread(target=engine.stop) for _ in range(4)]
        for one in stops:
            one.start()
        for one in stops:
            one.join(WAIT)
    until(lambda: not [t for t in threading.enumerate() if t.name == "converge-worker"])


def test_an_end_that_was_said_twice_ends_each_thread_once() -> None:
    done: list[Job] = []

    def work(job: Job) -> Doing[None]:
        done.append(job)
        yield from ()

    workers = Workers(3, work, Loop(1))
    for number in range(3):
        workers.add(_job(number))
    workers.close()
    workers.close()
    until(lambda: not [t for t in threading.enumerate() if t.name == "converge-worker"])
    assert len(done) == 3
    # what comes later is not begun, and the marks of the end are not taken for works
    late = _job(4)
    workers.add(late)
    assert workers.take_queued() == [late]
    assert len(done) == 3


def _job(number: int) -> Job:
    work = SimpleNamespace(traversal=SimpleNamespace(id=1), number=number)
    return Job(work, None, None)  # type: ignore[arg-type]


def test_a_sweep_that_fails_is_not_the_last(
    store: converge.Store, engine: converge.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.lease = 1.0
    sweeps = threading.Semaphore(0)

    def sweep(sweeper: object) -> Any:
        sweeps.release()
        raise ZeroDivisionError("a mistake in the sweep")

    engine.start()
    monkeypatch.setattr("converge.protocol.recover.Sweeper.sweep", sweep)
    try:
        for _ in range(3):
            assert sweeps.acquire(timeout=WAIT)
        assert engine.error is None
    finally:
        engine.stop()


def test_too_few_connections_are_said_at_the_start(
    store: converge.Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = store.database.url
    with converge.connect(url, connections=5) as few:
        message = (
            "an engine with 8 workers needs up to 12 connections to the database, and at most 5"
        )
        with pytest.raises(BadInput, match=message):
            converge.Engine(few).start()
        with converge.Engine(few, {"quick": Quick()}, workers=1):
            assert few.create_stack("s", ONE).wait(WAIT) == "COMPLETE"
    with pytest.raises(BadInput, match="connections must be a whole number from 1"):
        converge.connect(url, connections=0)
    limit = store.database.read_limit()
    if store.database.dialect == "sqlite":
        assert limit is None
        return
    assert limit is not None
    assert limit > 10
    monkeypatch.setattr(Database, "read_limit", lambda database: 10)
    with converge.Engine(store, workers=8):
        pass
    assert "the server allows 10 connections, and this engine may need 12" in caplog.text


def test_the_lease_does_not_queue_behind_the_work(store: converge.Store) -> None:
    """However many connections the handlers and the host have."""
    hands = [store.database.transaction(write=False) for _ in range(25)]
    for one in hands:
        one.__enter__()
    try:
        with converge.Engine(store, FakeWorld().types(), lease=1.0, poll=0.05) as engine:
            first = engine.id
            run = engine._run
            assert run is not None
            for _ in range(3):
                run._tenure.lease.renew()
            assert engine.id == first
    finally:
        for one in hands:
            one.__exit__(None, None, None)


# -- what a newer traversal does not want
