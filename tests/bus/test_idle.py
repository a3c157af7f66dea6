"""What idle engines ask of the database: little, and in a large fleet each of them less."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import event

import converge
from converge.bus.hint import LOOK
from converge.process import process_identity
from converge.protocol.recover import MOST_SHARE, SWEEPERS, Sweeper
from converge.sql import engines
from tests.handlers import Does, Gate, Quick
from tests.templates import template
from tests.waiting import WAIT, until


def test_an_idle_engine_reads_and_locks_nothing(store: converge.Store) -> None:
    seen: list[str] = []
    polled = threading.Semaphore(0)

    def note(_: object, cursor: object, statement: str, *rest: Any) -> None:
        seen.append(statement)
        if "count(" in statement:
            polled.release()

    store.database.clock = None
    with converge.Engine(store, {"fake": Quick()}, poll=0.01) as engine:
        assert engine.wait_idle(WAIT)
        event.listen(store.database.engine, "before_cursor_execute", note)
        try:
            # a look for work may still be under way
            assert all(polled.acquire(timeout=WAIT) for _ in range(2))
            seen.clear()
            assert all(polled.acquire(timeout=WAIT) for _ in range(5))
            statements = list(seen)
        finally:
            event.remove(store.database.engine, "before_cursor_execute", note)
        assert not [one for one in statements if "FOR UPDATE" in one or "IMMEDIATE" in one]
        # nor does it miss what nobody tells it
        store.create_stack("one", template({"a": {}}))
        assert store.stack("one").wait(WAIT) == "COMPLETE"


def test_an_engine_without_a_free_worker_does_nothing_about_a_hint(store: converge.Store) -> None:
    seen: list[str] = []

    def note(_: object, cursor: object, statement: str, *rest: Any) -> None:
        seen.append(statement)

    gate = Gate()
    store.database.clock = None
    with converge.Engine(store, {"fake": gate}, workers=1, poll=3600) as engine:
        stack = store.create_stack("one", template({"a": {}, "b": {}}))
        assert gate.began.acquire(timeout=WAIT)
        assert engine._run is not None
        until(engine._run._finished.empty)
        event.listen(store.database.engine, "before_cursor_execute", note)
        for _ in range(50):
            store.bus.tell_here(LOOK)
            until(engine._run._finished.empty)
        event.remove(store.database.engine, "before_cursor_execute", note)
        gate.go.set()
        assert stack.wait(WAIT) == "COMPLETE"
    # what others see to goes on
    assert not [one for one in seen if "FOR UPDATE" in one or "IMMEDIATE" in one]


def test_an_engine_does_nothing_about_a_hint_for_others(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    turned = threading.Semaphore(0)
    store.database.clock = None
    # so that the engine knows of the lane
    store.create_stack("known", template({"a": {}}), queue="far")
    with converge.Engine(store, {"fake": Quick()}, poll=3600) as engine:
        run = engine._run
        assert run is not None
        core, looks = run._tenure.core, run._looks
        turn, look = core.turn, looks.heard

        def counted_turn(*arguments: Any) -> Any:
            turned.release()
            return turn(*arguments)

        def counted_look(now: float) -> float:
            heard.append(now)
            return look(now)

        def await_turn() -> int:
            """How many hints there were up to now."""
            while turned.acquire(blocking=False):
                pass
            run.wake()
            # whatever came before it, is taken with it or before
            assert turned.acquire(timeout=WAIT)
            return len(heard)

        store.create_stack("mine", template({"a": {}}))
        assert store.stack("mine").wait(WAIT) == "COMPLETE"
        monkeypatch.setattr(core, "turn", counted_turn)
        monkeypatch.setattr(looks, "heard", counted_look)
        await_turn()
        before = await_turn()
        for number in range(5):
            store.create_stack(f"other{number}", template({"a": {}}), queue="far")
        await_turn()
        assert await_turn() == before
        store.create_stack("mine too", template({"a": {}}))
        assert store.stack("mine too").wait(WAIT) == "COMPLETE"
        assert await_turn() > before


def test_nor_when_something_is_to_be_tried_again_meanwhile(store: converge.Store) -> None:
    def fail_once(context: converge.Context, properties: Any) -> None:
        if context.attempt == 1:
            failed.set()
            raise RuntimeError("not yet")

    seen: list[str] = []

    def note(_: object, cursor: object, statement: str, *rest: Any) -> None:
        seen.append(statement)

    gate, failed = Gate(), threading.Event()
    store.database.clock = None
    types = {"fake": gate, "flaky": Does(fail_once, attempts=2, first=0.05)}
    with converge.Engine(store, types, workers=1, poll=3600) as engine:
        stack = store.create_stack("one", template({"a": {"type": "flaky"}, "b": {"type": "fake"}}))
        assert failed.wait(WAIT)
        # the only worker is busy from here on
        assert gate.began.acquire(timeout=WAIT)
        assert engine._run is not None
        looks = engine._run._looks
        event.listen(store.database.engine, "before_cursor_execute", note)
        # its time has come, and is past
        until(lambda: not looks._planned)
        event.remove(store.database.engine, "before_cursor_execute", note)
        gate.go.set()
        assert stack.wait(WAIT) == "COMPLETE"
    # a sweep counts, too, and may come
    assert len([one for one in seen if "count(" in one]) <= 1


@pytest.mark.parametrize(
    ("alive", "share"), [(1, 1.0), (SWEEPERS, 1.0), (2 * SWEEPERS, 2.0), (100, MOST_SHARE)]
)
def test_in_a_large_fleet_each_engine_sweeps_more_seldom(
    store: converge.Store, alive: int, share: float
) -> None:
    sweeper = Sweeper(store.database)
    assert sweeper.share == 1.0
    with store.transaction() as tx:
        for number in range(alive):
            engines.insert_engine(tx, "here", number, process_identity(), 15.0)
    sweeper.sweep()
    assert sweeper.share == share
