"""Guards of an engine whose handlers do not end by themselves.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

import converge
from converge.testing import StepEngine
from tests.guards.tools import SOON
from tests.templates import template
from tests.waiting import WAIT


class Slow(converge.ResourceType):
    """Waits to be told to stop, but not for ever; then it obeys, or does not."""

    def __init__(self, *, obeys: bool = True) -> None:
        self.began = threading.Event()
        self.go = threading.Event()
        self.told: bool | None = None
        if obeys:
            self.go.set()

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self.began.set()
        self.told = context.cancelled.wait(SOON)
        assert self.go.wait(WAIT)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        pass


@contextmanager
def running(store: converge.Store, slow: Slow) -> Iterator[None]:
    """An engine, stopped at once at the end."""
    engine = converge.Engine(store, {"fake": slow}, poll=0.05)
    engine.start()
    try:
        yield
    finally:
        slow.go.set()
        engine.stop(grace=0)


def test_a_handler_is_told_of_a_cancel(real: converge.Store) -> None:
    slow = Slow()
    stack = real.create_stack("s", template(a=[]))
    with running(real, slow):
        assert slow.began.wait(WAIT)
        stack.cancel()
        assert stack.wait(WAIT) == "CANCELLED"
    assert slow.told


def test_a_handler_is_told_that_its_time_is_over(real: converge.Store) -> None:
    slow = Slow()
    stack = real.create_stack("s", template(a=[]), node_timeout=0.1)
    with running(real, slow):
        stack.wait(WAIT)
    assert slow.told


def test_a_handler_that_does_not_obey_is_not_waited_for(
    real: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.engine.run.GRACE", 0.1)
    slow = Slow(obeys=False)
    stack = real.create_stack("s", template(a=[]), node_timeout=0.1)
    with running(real, slow):
        assert stack.wait(2 * SOON) == "FAILED"
    assert slow.told


def test_a_handler_that_exits_has_failed(real: converge.Store) -> None:
    class Exits(Slow):
        def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
            raise SystemExit("bye")

    stack = real.create_stack("s", template(a=[]))
    StepEngine(real, {"fake": Exits()}).run()
    assert stack.refresh().status == "FAILED"
