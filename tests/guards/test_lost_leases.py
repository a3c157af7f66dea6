"""Guards of an engine that loses its lease in the middle of its work.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

import converge
from converge.engine.core import EngineCore
from converge.engine.run import Run
from converge.engine.tenure import Tenure
from converge.errors import StoreError
from converge.protocol import recover
from converge.protocol.work import Outcome, Work
from converge.sql import engines
from tests.guards.tools import SOON
from tests.templates import template
from tests.waiting import WAIT

NAMES = ("a", "b", "c", "d")


class Counted(converge.ResourceType):
    """Counts its calls. It waits in the first one until it is told to stop, and let go."""

    def __init__(self, *, waits: bool) -> None:
        self.calls: Counter[str] = Counter()
        self.began = threading.Event()
        self.go = threading.Event()
        self.told = threading.Event()
        self._waits = waits

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self.calls[context.name] += 1
        first, self._waits = self._waits, False
        self.began.set()
        if first:
            assert context.cancelled.wait(WAIT)
            self.told.set()
            assert self.go.wait(WAIT)
            raise RuntimeError("told to stop")

    def delete(self, context: converge.Context, physical_id: str) -> None:
        pass


def start(store: converge.Store) -> converge.Stack:
    return store.create_stack("s", template({name: [] for name in NAMES}))


class Quick(Run):
    """Takes all nodes at once, as if handlers had been quick."""

    def begin(self) -> None:
        self._window.seconds = 1e-4
        super().begin()


def lose_lease(engine: converge.Engine) -> None:
    assert engine._run is not None
    engine._run._tenure.lease.lose()


class Losing:
    """An engine with one worker, which takes all nodes at once; it is to lose its lease."""

    def __init__(
        self, store: converge.Store, counted: Counted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.store = store
        self.counted = counted
        self.ids: list[int] = []
        self.engine = converge.Engine(store, {"fake": counted}, workers=1, poll=0.05)
        monkeypatch.setattr("converge.engine.engine.Run", Quick)
        begin = Run._begin_tenure

        def begin_again(run: Run) -> Tenure:
            tenure = begin(run)
            self.ids.append(tenure.lease.id)
            if len(self.ids) > 1:
                # from here on there is a lease again
                self.counted.go.set()
            return tenure

        monkeypatch.setattr(Run, "_begin_tenure", begin_again)

    def end(self, stack: converge.Stack) -> None:
        """When it has a new id, let the old lease end in the database, too; wait for the rest."""
        assert self.counted.go.wait(WAIT)
        with self.store.transaction() as tx:
            engines.expire_lease(tx, self.ids[0])
        assert recover.sweep(self.store.database).engines == 1
        self.engine.wake()
        assert stack.wait(2 * SOON) == "COMPLETE"
        assert len(self.ids) == 2
        # the one that was called under the old id, unless that could be written yet
        twice = self.counted.calls - Counter(NAMES)
        assert self.counted.calls == Counter(NAMES) + twice
        assert twice.total() <= 1


def test_what_an_engine_runs_is_told_when_the_lease_is_lost_and_what_waits_is_dropped(
    real: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = start(real)
    counted = Counted(waits=True)
    losing = Losing(real, counted, monkeypatch)
    with losing.engine:
        assert counted.began.wait(WAIT)
        lose_lease(losing.engine)
        losing.end(stack)
    assert counted.told.wait(WAIT)


def test_what_an_engine_runs_is_told_also_if_it_begins_anew_before_that(
    real: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = start(real)
    counted = Counted(waits=True)
    losing = Losing(real, counted, monkeypatch)
    with losing.engine as engine:
        assert counted.began.wait(WAIT)
        assert engine._run is not None
        lease = engine._run._tenure.lease
        on_loss = lease._on_loss

        def late() -> None:
            assert counted.go.wait(WAIT)
            on_loss()

        monkeypatch.setattr(lease, "_on_loss", late)
        lease.lose()
        losing.end(stack)
    assert counted.told.wait(WAIT)


def test_a_worker_looks_at_the_time_before_it_begins(
    real: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause it may be the first thread that goes on."""
    stack = start(real)
    paused = 0.0
    monkeypatch.setattr("converge.lease.lease.now", lambda: time.monotonic() + paused)
    tenures: Counter[int] = Counter()

    class Pauses(Counted):
        def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
            nonlocal paused
            super().create(context, properties)
            tenures[len(losing.ids)] += 1
            paused = 1000.0

    losing = Losing(real, Pauses(waits=False), monkeypatch)
    with losing.engine:
        losing.end(stack)
    assert tenures[1] == 1


def test_an_engine_that_lost_its_lease_goes_on_under_a_new_id(real: converge.Store) -> None:
    with converge.Engine(real, {"fake": Counted(waits=False)}, poll=0.05) as engine:
        before = engine.id
        lose_lease(engine)
        assert start(real).wait(WAIT) == "COMPLETE"
        assert engine.id != before


def test_an_engine_that_stops_leaves_nothing_to_its_lease(real: converge.Store) -> None:
    start(real)
    counted = Counted(waits=True)
    counted.go.set()
    engine = converge.Engine(real, {"fake": counted}, workers=1)
    engine.start()
    assert counted.began.wait(WAIT)
    engine.stop(grace=0)
    assert counted.told.wait(WAIT)
    with real.transaction() as tx:
        assert engines.list_engines(tx) == []
        assert [one.state for one in engines.list_engines(tx, [engines.STOPPED])] == ["STOPPED"]
    assert {one["status"] for one in real.show("s")["resources"].values()} == {"WAITING"}
    assert real.running("s") == []


# -- what handlers are told, and what is not waited for


def test_an_engine_that_may_hold_what_it_does_not_know_looks(
    real: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Work] = []

    class Deafened(EngineCore):
        """The reply to the first commit that claimed something is lost."""

        def turn(self, outcomes: Sequence[Outcome], *limits: Any) -> list[Work]:
            works = super().turn(outcomes, *limits)
            if works and not lost:
                lost.extend(works)
                self.doubtful = True
                raise StoreError("the connection was lost")
            return works

    monkeypatch.setattr("converge.engine.run.EngineCore", Deafened)
    counted = Counted(waits=False)
    engine = converge.Engine(real, {"fake": counted}, poll=0.05)
    stack = start(real)
    engine.start()
    try:
        assert stack.wait(2 * SOON) == "COMPLETE"
    finally:
        engine.stop(grace=0)
    assert counted.calls == Counter(NAMES)
    assert lost
