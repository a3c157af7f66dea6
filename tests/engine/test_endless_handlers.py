"""Handlers that never return, and their threads, which outlive them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge.errors import StaleLock
from converge.sql import schema
from converge.testing import FakeClock, StepEngine
from tests.handlers import Does, good
from tests.templates import one_of_each
from tests.waiting import WAIT


class Deaf:
    """A handler that does not come back until it is let, whatever it is told."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go = threading.Event()
        self.ended = threading.Semaphore(0)
        self.calls = 0

    def __call__(self, context: converge.Context, properties: dict[str, Any]) -> str:
        self.calls += 1
        self.began.release()
        assert self.go.wait(WAIT)
        self.ended.release()
        return "late"


def test_a_handler_that_never_returns_is_given_up_after_a_cancel(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without a timeout of its own; and its late return changes nothing."""
    monkeypatch.setattr("converge.engine.run.GRACE", 0.1)
    deaf = Deaf()
    types = {"deaf": Does(deaf, attempts=3), "good": Does(good)}
    with converge.Engine(store, types, workers=1, lease=3.0, poll=0.05):
        stack = store.create_stack("s", one_of_each("deaf"))
        assert deaf.began.acquire(timeout=WAIT)
        stack.cancel()
        assert stack.wait(WAIT) == "CANCELLED"
        shown = store.show("s")["resources"]["deaf"]
        assert shown["status"] == "FAILED"
        assert "create did not stop within 0.1 s of being cancelled" in shown["reason"]
        # another worker has taken the place of the one that hangs
        assert store.create_stack("after", one_of_each("good")).wait(WAIT) == "COMPLETE"
        deaf.go.set()
        assert deaf.ended.acquire(timeout=WAIT)
        assert store.create_stack("again", one_of_each("good")).wait(WAIT) == "COMPLETE"
        assert store.show("s")["resources"]["deaf"] == shown
        # what it was at is known to be unfinished, so it is deleted like any other
        assert store.delete_stack("s").wait(WAIT) == "COMPLETE"
    assert deaf.calls == 1


def test_a_handler_that_never_returns_is_given_up_at_each_attempt(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.engine.run.GRACE", 0.1)
    deaf = Deaf()
    types = {"deaf": Does(deaf, attempts=2, first=0.0)}
    try:
        with converge.Engine(store, types, workers=1, poll=0.05):
            stack = store.create_stack("s", one_of_each("deaf"), node_timeout=0.1)
            assert stack.wait(WAIT) == "FAILED"
            assert "create took longer than 0.1 s" in (stack.reason or "")
            assert deaf.calls == 2
    finally:
        deaf.go.set()


# -- what they leave behind


def rows_of(store: converge.Store) -> list[Any]:
    tables = (schema.resource, schema.sync_point, schema.traversal, schema.event)
    with store.transaction() as tx:
        return [
            sorted((tuple(row) for row in tx.execute(select(table))), key=repr) for table in tables
        ]


class Leaves:
    """A handler that leaves a thread behind, which records something when it is let."""

    def __init__(self) -> None:
        self.contexts: list[converge.Context] = []
        self.go: list[threading.Event] = []
        self.results: list[Future[None]] = []
        self.fails = 0

    def __call__(self, context: converge.Context, properties: dict[str, Any]) -> str:
        go = threading.Event()
        result: Future[None] = Future()

        def late() -> None:
            assert go.wait(WAIT)
            try:
                context.record("late")
            except BaseException as error:
                result.set_exception(error)
            else:
                result.set_result(None)

        threading.Thread(target=late, daemon=True).start()
        self.go.append(go)
        self.results.append(result)
        self.fails -= 1
        if self.fails >= 0:
            raise RuntimeError("try again")
        return "x"

    def let(self, number: int) -> BaseException | None:
        """Let one of the threads record now; what came of it."""
        self.go[number].set()
        return self.results[number].exception(timeout=WAIT)


def test_a_thread_that_outlives_its_handler_cannot_record(
    fresh_store: Callable[..., converge.Store],
) -> None:
    clock = FakeClock()
    store = fresh_store(clock)
    leaves = Leaves()
    leaves.fails = 2
    types = {"leaves": Does(leaves, attempts=3, first=1.0)}
    engine, other = (StepEngine(store, types, clock=clock) for _ in range(2))
    stack = store.create_stack("s", one_of_each("leaves"))

    assert engine.step() == "update leaves"
    before = rows_of(store)
    # its node waits for the next attempt
    assert isinstance(leaves.let(0), StaleLock)
    assert rows_of(store) == before

    clock.advance(10)
    assert engine.step() == "update leaves"
    clock.advance(10)
    (work,) = other.claim()
    outcome = other.call(work)
    before = rows_of(store)
    # another engine has it
    assert isinstance(leaves.let(1), StaleLock)
    assert rows_of(store) == before

    # in time, that is
    assert leaves.let(2) is None
    assert rows_of(store) != before
    other.write(outcome)
    other.run()
    assert stack.refresh().status == "COMPLETE"
    assert store.show("s")["resources"]["leaves"]["physical_id"] == "x"


def test_a_thread_that_outlives_its_attempt_cannot_record_in_the_next_of_the_same_engine(
    fresh_store: Callable[..., converge.Store],
) -> None:
    """Nor once all is over."""
    clock = FakeClock()
    store = fresh_store(clock)
    leaves = Leaves()
    leaves.fails = 1
    engine = StepEngine(store, {"leaves": Does(leaves, attempts=2, first=1.0)}, clock=clock)
    store.create_stack("s", one_of_each("leaves"))
    engine.step()
    clock.advance(10)
    (work,) = engine.claim()
    outcome = engine.call(work)
    before = rows_of(store)
    assert isinstance(leaves.let(0), StaleLock)
    assert rows_of(store) == before
    engine.write(outcome)
    engine.run()
    before = rows_of(store)
    assert isinstance(leaves.let(1), StaleLock)
    assert rows_of(store) == before
