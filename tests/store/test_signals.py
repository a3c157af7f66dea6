"""Signals: sent early or late, also in the host's transaction, and each delivered once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import func, select

import converge
from converge.errors import BadInput, NotFound
from converge.protocol.recover import sweep
from converge.resources import Signal
from converge.sql import schema
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.templates import template


class Approved(converge.ResourceType):
    """Goes on when two people have said so."""

    retry = converge.RetryPolicy(attempts=2, first=5)

    def __init__(self) -> None:
        self.calls = 0
        self.got: list[Any] = []

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self.calls += 1
        first = context.wait_signal("boss", timeout=properties.get("timeout"))
        self.got = [first, context.wait_signal("clerk")]
        if properties.get("fails"):
            raise RuntimeError("no")

    def delete(self, context: converge.Context, physical_id: str) -> None:
        """Nothing was made."""


@pytest.fixture
def approved() -> Approved:
    return Approved()


@pytest.fixture
def engine(store: converge.Store, clock: FakeClock, approved: Approved) -> StepEngine:
    types = {"approved": approved, "signal": Signal(), **FakeWorld().types()}
    return StepEngine(store, types, clock=clock)


def one(type_: str = "signal", **properties: Any) -> converge.Template:
    return template(a={"type": type_, "properties": properties})


# -- what waits


def test_a_signal_calls_who_waits_for_it(
    store: converge.Store, engine: StepEngine, clock: FakeClock
) -> None:
    stack = store.create_stack("s", one())
    assert engine.run() == ["update a"]
    (waiting,) = store.waiting("s")
    assert waiting["progress"] == "waits for signal 'signal'"
    assert waiting["again_in_seconds"] is None
    (answer,) = store.why("s")
    words = "resource 'a' waits: waits for signal 'signal' (for 0 s; until a signal comes)"
    assert answer["message"] == words
    clock.advance(3000)
    assert engine.run() == []
    assert store.signal("s", "a", {"ip": "10.0.0.7"}) is True
    assert engine.run() == ["update a", "stack"]
    assert stack.refresh().status == "COMPLETE"
    shown = store.show("s")["resources"]["a"]["attributes"]
    assert shown == {"data": {"ip": "10.0.0.7"}, "signals": [{"ip": "10.0.0.7"}]}
    statuses = [(one["status"], one["reason"]) for one in store.events("s") if one["resource"]]
    assert statuses == [
        ("WAITING", "waits for signal 'signal'"),
        ("SIGNAL", "'signal'"),
        ("COMPLETE", None),
    ]


def test_an_early_signal_is_kept(store: converge.Store, engine: StepEngine) -> None:
    stack = store.create_stack("s", one())
    store.signal("s", "a", 1)
    assert engine.run() == ["update a", "stack"]
    assert stack.refresh().status == "COMPLETE"


def test_a_signal_that_comes_while_the_handler_looks_is_not_lost(
    store: converge.Store, engine: StepEngine
) -> None:
    store.create_stack("s", one())
    (work,) = engine.claim()
    outcome = engine.call(work)
    store.signal("s", "a", 1)
    engine.write(outcome)
    assert engine.run() == ["update a", "stack"]


def test_so_many_signals_must_come(store: converge.Store, engine: StepEngine) -> None:
    stack = store.create_stack("s", one(count=3))
    engine.run()
    store.signal("s", "a", "x")
    store.signal("s", "a", "y")
    engine.run()
    assert store.waiting("s")[0]["progress"] == "2 of 3 signals 'signal' have come"
    store.signal("s", "a", "z")
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert store.show("s")["resources"]["a"]["attributes"]["signals"] == ["x", "y", "z"]


def test_a_signal_is_for_those_of_its_name(
    store: converge.Store, engine: StepEngine, approved: Approved
) -> None:
    stack = store.create_stack("s", one("approved"))
    engine.run()
    store.signal("s", "a", "early", signal="clerk")
    engine.run()
    assert stack.refresh().status == "IN_PROGRESS"
    store.signal("s", "a", None, signal="boss")
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert approved.got == [None, "early"]


def test_what_was_delivered_is_there_again_after_a_death(
    store: converge.Store, engine: StepEngine, clock: FakeClock, approved: Approved
) -> None:
    store.create_stack("s", one("approved"))
    store.signal("s", "a", "first", signal="boss")
    store.signal("s", "a", "second", signal="boss")
    dying = StepEngine(store, engine.types, lease=10)
    (work,) = dying.claim()
    dying.call(work)
    clock.advance(10)
    sweep(store.database)
    engine.run()
    store.signal("s", "a", "ok", signal="clerk")
    engine.run()
    assert approved.got == ["first", "ok"]


def test_a_replacement_waits_for_signals_of_its_own(
    store: converge.Store, engine: StepEngine
) -> None:
    store.create_stack("s", one())
    engine.run()
    store.signal("s", "a", 1)
    store.signal("s", "a", "too many")
    engine.run()
    stack = store.update_stack("s", one(count=2))
    engine.run()
    assert store.waiting("s")[0]["progress"] == "0 of 2 signals 'signal' have come"
    for number in range(2):
        store.signal("s", "a", number)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert store.show("s")["resources"]["a"]["attributes"]["signals"] == [0, 1]


# -- failures, timeouts


def test_a_failure_fails_and_the_next_attempt_waits_for_another_signal(
    store: converge.Store, engine: StepEngine
) -> None:
    stack = store.create_stack("s", one())
    engine.run()
    store.signal("s", "a", failure="disk full")
    engine.run()
    assert stack.refresh().reason == "resource 'a': signal 'signal': disk full"
    store.update_stack("s", one())
    assert engine.run() == ["update a"]
    store.signal("s", "a", "done")
    engine.run()
    assert stack.refresh().status == "COMPLETE"


def test_a_failure_that_was_received_by_one_that_died_still_fails(
    store: converge.Store, engine: StepEngine, clock: FakeClock
) -> None:
    stack = store.create_stack("s", one())
    store.signal("s", "a", failure="disk full")
    dying = StepEngine(store, engine.types, lease=10)
    dying.call(*dying.claim())
    clock.advance(10)
    sweep(store.database)
    engine.run()
    assert stack.refresh().reason == "resource 'a': signal 'signal': disk full"


def test_a_signal_has_its_time(store: converge.Store, engine: StepEngine, clock: FakeClock) -> None:
    store.create_stack("s", one("approved", timeout=60))
    engine.run()
    assert store.waiting("s")[0]["again_in_seconds"] == pytest.approx(60, abs=0.1)
    clock.advance(60)
    engine.run()
    (event,) = [one for one in store.events("s") if one["status"] == "RETRY"]
    assert event["reason"].endswith("no signal 'boss' came within 60 s")


def test_the_timeout_of_the_resource_is_one_of_its_signals(
    store: converge.Store, engine: StepEngine, clock: FakeClock
) -> None:
    stack = store.create_stack("s", template(a={"type": "signal", "timeout": 60}))
    engine.run()
    clock.advance(61)
    engine.run()
    words = "create waited for longer than 60 s: waits for signal 'signal'"
    assert stack.refresh().reason == f"resource 'a': {words}"


# -- who sends


def test_it_is_sent_in_the_transaction_of_the_host(
    store: converge.Store, engine: StepEngine
) -> None:
    store.create_stack("s", one())
    engine.run()
    with store.transaction() as tx:
        store.signal("s", "a", transaction=tx)
        tx.connection.rollback()
    assert engine.run() == []
    with store.transaction() as tx:
        store.signal("s", "a", transaction=tx)
    assert engine.run() == ["update a", "stack"]


def test_a_move_of_a_machine_can_signal(store: converge.Store, engine: StepEngine) -> None:
    order = {
        "name": "order",
        "initial": "new",
        "states": {"new": {}, "paid": {"terminal": True}},
        "transitions": [{"event": "pay", "source": "new", "target": "paid"}],
    }
    machine = converge.Machine(store, order)
    machine.create("17")
    store.create_stack("s", one())
    engine.run()
    with store.transaction() as tx:
        machine.fire("17", "pay", transaction=tx)
        store.signal("s", "a", "order 17 is paid", transaction=tx)
    assert engine.run() == ["update a", "stack"]


def test_one_sent_again_with_its_id_is_one(store: converge.Store, engine: StepEngine) -> None:
    store.create_stack("s", one(count=2))
    assert store.signal("s", "a", id="node-1")
    engine.run()
    # also after it was delivered
    assert not store.signal("s", "a", id="node-1")
    assert engine.run() == []
    assert store.signal("s", "a", id="node-2")
    assert engine.run() == ["update a", "stack"]


def test_signals_go_with_their_resource(store: converge.Store, engine: StepEngine) -> None:
    store.create_stack("s", template(a={"type": "signal"}, b={"type": "fake"}))
    store.signal("s", "a")
    store.signal("s", "b")
    engine.run()
    store.delete_stack("s")
    engine.run()
    with store.transaction() as tx:
        assert tx.execute(select(func.count()).select_from(schema.signal)).scalar_one() == 0


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (("t", "a"), {}, NotFound, "there is no stack 't'"),
        (("s", "aa"), {}, NotFound, "stack 's' has no resource 'aa'; did you mean 'a'"),
        (("s", "a", object()), {}, BadInput, "the signal's data cannot be stored as JSON"),
        (("s", "a", "x" * 1024 * 1024), {}, BadInput, "at most 1048576 can be stored"),
        (("s", "a"), {"signal": "a/b"}, BadInput, "no '/'"),
        (("s", "a"), {"signal": ""}, BadInput, "the name of a signal must not be empty"),
        (("s", "a"), {"failure": ""}, BadInput, "failure must be a text that says why, not ''"),
        (("s", "a"), {"id": ""}, BadInput, "must not be empty"),
    ],
)
def test_a_signal_that_cannot_be_sent_is_refused(
    store: converge.Store, arguments: Any, options: Any, error: Any, words: str
) -> None:
    store.create_stack("s", one())
    with pytest.raises(error, match=words):
        store.signal(*arguments, **options)
