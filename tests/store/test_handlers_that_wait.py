"""Handlers that wait: what they know when they are called again, for how long they may wait, and
what is written meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge.errors import BadInput
from converge.inspection import why
from converge.protocol.recover import sweep
from converge.sql import schema
from converge.testing import FakeClock, StepEngine
from tests.templates import template


class Server(converge.ResourceType):
    """Is built in steps; ready when somebody says so."""

    retry = converge.RetryPolicy(attempts=2, first=5)

    def __init__(self) -> None:
        self.ready = False
        self.orders = 0
        self.told: list[tuple[float, float | None, int, str | None]] = []
        self.progress: Callable[[], Any] = lambda: converge.Wait(10, "BUILDING")

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> Any:
        self.told.append((context.waited, context.timeout, context.attempt, context.physical_id))
        name = context.step("order", self._order)
        context.record(name)
        if not self.ready:
            raise self.progress()
        return converge.Physical(name)

    def update(self, context: converge.Context, *_: Any) -> Any:
        return None if self.ready else self.progress()

    def check(self, context: converge.Context, *_: Any) -> Any:
        return None if self.ready else self.progress()

    def delete(self, context: converge.Context, physical_id: str) -> Any:
        return None if self.ready else self.progress()

    def _order(self) -> str:
        self.orders += 1
        return f"server-{self.orders}"


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def engine(store: converge.Store, clock: FakeClock, server: Server) -> StepEngine:
    return StepEngine(store, {"server": server}, clock=clock)


def one(**settings: Any) -> converge.Template:
    return template(a=settings, type="server")


# -- what a handler knows


def test_the_next_call_goes_on_with_what_was_recorded(
    store: converge.Store, engine: StepEngine, server: Server, clock: FakeClock
) -> None:
    stack = store.create_stack("s", one())
    engine.run()
    assert engine.run() == []
    clock.advance(10)
    # whichever engine is there when the time has come
    other = StepEngine(store, {"server": server}, clock=clock)
    other.run()
    server.ready = True
    clock.advance(10)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    waited, timeouts, attempts, ids = zip(*server.told, strict=True)
    assert [round(seconds) for seconds in waited] == [0, 10, 20]
    assert (set(timeouts), attempts, server.orders) == ({None}, (1, 1, 1), 1)
    assert ids == (None, "server-1", "server-1")


@pytest.mark.parametrize("verb", ["update", "check", "delete"])
def test_any_handler_can_wait_and_can_return_it(
    store: converge.Store, engine: StepEngine, server: Server, clock: FakeClock, verb: str
) -> None:
    server.ready = True
    store.create_stack("s", one(properties={"x": 1}))
    engine.run()
    server.ready = False
    if verb == "update":
        stack = store.update_stack("s", one(properties={"x": 2}))
    else:
        stack = store.check_stack("s") if verb == "check" else store.delete_stack("s")
    engine.run()
    (waiting,) = store.waiting("s")
    assert (waiting["resource"], waiting["progress"]) == ("a", "BUILDING")
    assert waiting["kind"] == ("cleanup" if verb == "delete" else "update")
    server.ready = True
    clock.advance(10)
    engine.run()
    assert stack.refresh().status == "COMPLETE"


def test_a_check_that_is_stopped_while_it_waits_leaves_the_resource_healthy(
    store: converge.Store, engine: StepEngine, server: Server
) -> None:
    server.ready = True
    store.create_stack("s", one())
    engine.run()
    server.ready = False
    store.check_stack("s")
    (work,) = engine.claim()
    outcome = engine.call(work)
    store.cancel_stack("s")
    engine.write(outcome)
    engine.run()
    assert store.show("s")["resources"]["a"]["status"] == "COMPLETE"


def test_a_wait_in_a_step_is_not_a_failure_of_the_step(
    store: converge.Store, engine: StepEngine, server: Server, clock: FakeClock
) -> None:
    def order() -> str:
        if not server.ready:
            raise converge.Wait(10, "no capacity")
        return "server-1"

    server._order = order  # type: ignore[method-assign]
    server.create = lambda context, properties: context.step(  # type: ignore[method-assign]
        "order", order, retry=converge.RetryPolicy(attempts=1)
    )
    stack = store.create_stack("s", one())
    engine.run()
    assert store.waiting("s")[0]["progress"] == "no capacity"
    server.ready = True
    clock.advance(10)
    engine.run()
    assert stack.refresh().status == "COMPLETE"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "Wait: seconds must be a positive number of seconds, not 0"),
        ((float("inf"),), "Wait: seconds must be"),
        (("5",), "Wait: seconds must be"),
        ((5, 40), "Wait: progress must be a text, not 40"),
    ],
)
def test_a_wait_that_makes_no_sense_is_refused_where_it_is_made(arguments: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        converge.Wait(*arguments)


# -- for how long


def test_a_timeout_is_for_all_calls_of_an_attempt(
    store: converge.Store, engine: StepEngine, server: Server, clock: FakeClock
) -> None:
    stack = store.create_stack("s", one(timeout=25))
    for _ in range(3):
        engine.run()
        clock.advance(10)
    # not after 30 s: the last call comes when the time is over
    assert [round(told[0]) for told in server.told] == [0, 10, 20]
    engine.run()
    assert [round(told[0]) for told in server.told] == [0, 10, 20, 30]
    assert [round(told[1] or 0) for told in server.told] == [25, 15, 5, 0]
    (event,) = [one for one in store.events("s") if one["status"] == "RETRY"]
    words = "attempt 1 of 2, again in 5 s: create waited for longer than 25 s: BUILDING"
    assert event["reason"] == words
    # a new attempt has its own time
    server.ready = True
    clock.advance(5)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert (server.told[-1][0], server.told[-1][1], server.told[-1][2]) == (0, 25, 2)


def test_the_last_call_comes_when_the_time_is_over(
    store: converge.Store, engine: StepEngine, server: Server
) -> None:
    server.progress = lambda: converge.Wait(3600)
    store.create_stack("s", one(timeout=25))
    engine.run()
    assert store.waiting("s")[0]["again_in_seconds"] == pytest.approx(25, abs=0.1)


def test_a_deadline_is_for_all_attempts_with_their_waits(
    store: converge.Store, engine: StepEngine, server: Server, clock: FakeClock
) -> None:
    stack = store.create_stack("s", one(timeout=25, deadline=40))
    for _ in range(10):
        engine.run()
        clock.advance(5)
    assert stack.refresh().status == "FAILED"
    assert (
        stack.reason == "resource 'a': create waited for longer than its deadline of 40 s: BUILDING"
    )


def test_a_traversals_limit_for_a_node_is_for_its_waits_too(
    store: converge.Store, engine: StepEngine, server: Server, clock: FakeClock
) -> None:
    server.retry = converge.RetryPolicy()  # type: ignore[misc]
    stack = store.create_stack("s", one(), node_timeout=15)
    for _ in range(3):
        engine.run()
        clock.advance(10)
    assert stack.refresh().status == "FAILED"
    assert stack.reason == "resource 'a': create waited for longer than 15 s: BUILDING"


def test_a_handler_that_hangs_after_waits_took_all_of_its_time(
    store: converge.Store, engine: StepEngine, clock: FakeClock
) -> None:
    store.create_stack("s", one(timeout=25))
    engine.run()
    clock.advance(10)
    (work,) = engine.claim()
    context = engine.core.context(work)
    assert context is not None
    assert context.timeout is not None
    assert engine.core.timed_out(work, context.timeout).reason == "create took longer than 25 s"


# -- who dies


def test_deaths_before_a_wait_do_not_count_after_it(
    store: converge.Store, server: Server, clock: FakeClock
) -> None:
    """A handler that came back is not what kills engines, however many end in a week of waits."""
    stack = store.create_stack("s", one())
    types = {"server": server}
    for _ in range(7):
        StepEngine(store, types, lease=10).claim()
        clock.advance(10)
        sweep(store.database)
        StepEngine(store, types, lease=10).run()
        clock.advance(10)
    server.ready = True
    StepEngine(store, types).run()
    assert stack.refresh().status == "COMPLETE"
    # the number of the attempt is still that of the first call
    assert {told[2] for told in server.told} == {1, 2}


def test_nobody_holds_what_waits(
    store: converge.Store, engine: StepEngine, server: Server, clock: FakeClock
) -> None:
    store.create_stack("s", one())
    engine.run()
    with store.transaction() as tx:
        for table in (schema.sync_point, schema.resource):
            assert set(tx.execute(select(table.c.engine_id)).scalars()) == {None}
    assert store.running("s") == []
    assert not sweep(store.database)


# -- what is written


def test_progress_is_masked(store: converge.Store, engine: StepEngine, server: Server) -> None:
    server.progress = lambda: converge.Wait(10, "login with s3cret-word")
    whole = converge.Template.parse(
        "parameters: {p: {type: string, hidden: true}}\n"
        "resources: {a: {type: server, properties: {x: {get_param: p}}}}"
    )
    store.create_stack("s", whole, parameters={"p": "s3cret-word"})
    engine.run()
    (event,) = [one for one in store.events("s") if one["status"] == "WAITING"]
    assert event["reason"] == store.waiting("s")[0]["progress"] == "login with ***"


def test_a_long_progress_is_cut(store: converge.Store, engine: StepEngine, server: Server) -> None:
    server.progress = lambda: converge.Wait(10, "x" * 10_000)
    store.create_stack("s", one())
    engine.run()
    assert store.waiting("s")[0]["progress"].startswith("xxx")


def test_what_waits_is_said_to_wait_and_is_not_stuck(
    store: converge.Store, engine: StepEngine, clock: FakeClock
) -> None:
    store.create_stack("s", template(a={"type": "server"}, b={"type": "server", "depends_on": "a"}))
    engine.run()
    clock.advance(4)
    (answer,) = store.why("s", "a")
    assert answer["message"] == "resource 'a' waits: BUILDING (for 4 s; looked at again in 6 s)"
    assert (round(answer["waiting_seconds"]), answer["reason"]) == (4, "BUILDING")
    (answer,) = store.why("s", "b")
    assert answer["message"].endswith(
        "waits for 'a'; resource 'a' waits: BUILDING (for 4 s; looked at again in 6 s)"
    )
    assert store.database.read(why.stuck) == []
