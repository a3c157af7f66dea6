"""Handlers that are ``async def``: thousands at once on one event loop, beside few threads."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import converge
from converge import crash_points
from converge.awaiting import Doing
from converge.crash_points import Commit
from converge.engine.loop import STILL, Loop
from converge.testing import StepEngine
from tests.handlers import Gate
from tests.templates import several
from tests.waiting import WAIT, until

Store = Callable[..., converge.Store]


def shown(store: converge.Store) -> Mapping[str, Any]:
    return store.show("s")["resources"]  # type: ignore[no-any-return]


class AsyncGate(converge.ResourceType):
    """Handlers that wait on the loop until a test lets them go on.

    :param expected: how many must have begun for ``full`` to be set.
    """

    def __init__(self, expected: int = 1) -> None:
        self.began = threading.Semaphore(0)
        self.full = threading.Event()
        self.calls: list[str] = []
        self.told: list[str | None] = []
        self.threads: set[int] = set()
        self._expected = expected
        self._now = 0
        self.most = 0
        self._gate: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.timeout = None  # type: ignore[misc]

    async def create(self, context: converge.AsyncContext, properties: Any) -> str:
        if self._gate is None:
            self._gate, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self.calls.append(context.name)
        self.threads.add(threading.get_ident())
        self._now += 1
        self.most = max(self.most, self._now)
        self.began.release()
        if len(self.calls) >= self._expected:
            self.full.set()
        try:
            await self._gate.wait()
        except asyncio.CancelledError:
            self.told.append(context.cancel_reason)
            raise
        finally:
            self._now -= 1
        return f"{context.stack}/{context.name}"

    async def delete(self, context: converge.AsyncContext, physical_id: str) -> None:
        """Nothing was made."""

    def go(self) -> None:
        assert self._gate is not None
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._gate.set)


def test_two_thousand_run_at_once_with_a_handful_of_threads(fresh_store: Store) -> None:
    store = fresh_store()
    count = 2000
    gate = AsyncGate(count)
    stack = store.create_stack("s", several("gate", count))
    with converge.Engine(store, {"gate": gate}, workers=1, async_workers=count):
        assert gate.full.wait(WAIT)
        threads = threading.active_count()
        gate.go()
        assert stack.wait(timeout=WAIT) == "COMPLETE"
    assert (gate.most, len(gate.threads)) == (count, 1)
    assert threads < 20
    assert len(gate.calls) == count


def test_no_more_than_the_limit_run_at_once(fresh_store: Store) -> None:
    store = fresh_store()
    gate = AsyncGate(3)
    stack = store.create_stack("s", several("gate", 20))
    with converge.Engine(store, {"gate": gate}, async_workers=3):
        assert gate.full.wait(WAIT)
        gate.go()
        assert stack.wait(timeout=WAIT) == "COMPLETE"
    assert gate.most == 3


def test_a_loop_lets_the_others_wait() -> None:
    """Whatever it is given."""
    loop = Loop(1)
    over = threading.Semaphore(0)
    second = threading.Event()
    seen: list[bool] = []

    async def first_waits() -> None:
        # in vain: what must not happen takes its time
        seen.append(await asyncio.to_thread(second.wait, 0.2))

    async def second_begins() -> None:
        second.set()

    def doing(function: Callable[[], Any]) -> Doing[None]:
        yield function()

    for function in (first_waits, second_begins):
        loop.start(doing(function), over.release)
    assert all(over.acquire(timeout=WAIT) for _ in range(2))
    loop.close()
    assert seen == [False]
    assert second.is_set()


def test_it_is_told_which_handler_holds_up_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(2)
    began, go, over = (threading.Semaphore(0) for _ in range(3))

    def doing(function: Callable[[], Any]) -> Doing[None]:
        yield function()

    async def waits() -> None:
        began.release()
        while not go.acquire(blocking=False):
            await asyncio.sleep(0.001)

    async def blocks() -> None:
        began.release()
        assert go.acquire(timeout=WAIT)

    async def blocks_in_a_task() -> None:
        await asyncio.gather(blocks(), asyncio.sleep(0))

    def answered() -> bool:
        return loop._asked is None

    def told(function: Callable[[], Any]) -> list[str]:
        """What the log says of one, by looks at these times."""
        loop.start(doing(function), over.release, f"create of {function.__name__}")
        assert began.acquire(timeout=WAIT)
        caplog.clear()
        for at in (0.0, STILL, STILL + 1, STILL + 2):
            loop.look(at)
            if function is waits:
                until(answered)
        go.release()
        assert over.acquire(timeout=WAIT)
        until(answered)
        return [record.getMessage() for record in caplog.records]

    assert told(waits) == []
    for function in (blocks, blocks_in_a_task):
        (line,) = told(function)
        assert line.startswith(
            f"create of {function.__name__} holds up the event loop, for 6 s by now (test_async.py:"
        )
        assert " in blocks)" in line
    loop.close()
    loop.look(0.0)
    assert answered()


def test_an_engine_looks_whether_its_loop_goes_on(
    fresh_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.engine.loop.STILL", 0.1)
    told = threading.Event()
    lines: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())
            told.set()

    class Blocks(converge.ResourceType):
        async def create(self, context: converge.AsyncContext, properties: Any) -> str:
            assert told.wait(WAIT)
            return "made"

        async def delete(self, context: converge.AsyncContext, physical_id: str) -> None: ...

    store = fresh_store()
    stack = store.create_stack("s", several("blocks", 1))
    listening = Listening()
    logger = logging.getLogger("converge.engine.loop")
    logger.addHandler(listening)
    try:
        with converge.Engine(store, {"blocks": Blocks()}):
            assert stack.wait(timeout=WAIT) == "COMPLETE"
    finally:
        logger.removeHandler(listening)
    (line,) = lines
    assert line.startswith("stack 's': create of resource 'r0' holds up the event loop")


@pytest.mark.parametrize("commit", [Commit.RECORD, Commit.STEP])
@pytest.mark.parametrize("side", ["before", "after"])
def test_one_is_cancelled_while_a_commit_is_under_way(
    fresh_store: Store, monkeypatch: pytest.MonkeyPatch, commit: Commit, side: str
) -> None:
    """It sees that when the commit is done, and what was done is not done again."""
    store = fresh_store()
    reached, go = threading.Event(), threading.Event()
    point = getattr(commit, side)

    def hook(name: str) -> None:
        if name == point and not reached.is_set():
            reached.set()
            assert go.wait(WAIT)

    class Made(converge.ResourceType):
        def __init__(self) -> None:
            self.did: list[str] = []

        async def create(self, context: converge.AsyncContext, properties: Any) -> str:
            try:
                await context.record("the id")
                await context.step("first", self.first)
            except asyncio.CancelledError:
                self.did.append(f"cancelled with {context.physical_id}")
                raise
            return "the id"

        async def first(self) -> None:
            self.did.append("first")

        async def delete(self, context: converge.AsyncContext, physical_id: str) -> None: ...

        async def find(self, context: converge.AsyncContext) -> None: ...

    made = Made()
    stack = store.create_stack("s", several("made", 1))
    monkeypatch.setattr(crash_points, "hook", hook)
    with converge.Engine(store, {"made": made}) as engine:
        assert reached.wait(WAIT)
        assert engine._run is not None
        (job,) = engine._run._workers.all()
        job.cancel(time.monotonic(), "it is to end")
        go.set()
        assert stack.wait(timeout=WAIT) == "FAILED"
        assert made.did[-1] == "cancelled with the id"
        stack = store.update_stack("s", several("made", 1))
        assert stack.wait(timeout=WAIT) == "COMPLETE"
    assert made.did.count("first") == 1


def test_they_do_not_wait_for_those_in_threads_nor_these_for_them(fresh_store: Store) -> None:
    store = fresh_store()
    gate, plain = AsyncGate(5), Gate()
    stacks = [
        store.create_stack("plain", several("plain", 50)),
        store.create_stack("async", several("gate", 5)),
    ]
    with converge.Engine(store, {"gate": gate, "plain": plain}, workers=2):
        # all threads are busy
        assert plain.began.acquire(timeout=WAIT)
        assert plain.began.acquire(timeout=WAIT)
        assert gate.full.wait(WAIT)
        assert plain.most <= 2
        plain.go.set()
        assert stacks[0].wait(timeout=WAIT) == "COMPLETE"
        gate.go()
        assert stacks[1].wait(timeout=WAIT) == "COMPLETE"


def test_a_time_limit_cancels(fresh_store: Store) -> None:
    store = fresh_store()
    gate = AsyncGate()
    gate.timeout = 0.2  # type: ignore[misc]
    stack = store.create_stack("s", several("gate", 1))
    with converge.Engine(store, {"gate": gate}):
        assert stack.wait(timeout=WAIT) == "FAILED"
    assert gate.told == ["it took longer than 0.2 s"]
    assert "it took longer than 0.2 s" in str(stack.reason)


def test_a_cancelled_stack_cancels(fresh_store: Store) -> None:
    store = fresh_store()
    gate = AsyncGate()
    stack = store.create_stack("s", several("gate", 1))
    with converge.Engine(store, {"gate": gate}):
        assert gate.began.acquire(timeout=WAIT)
        stack.cancel()
        assert stack.wait(timeout=WAIT) == "CANCELLED"
    assert len(gate.told) == 1
    assert gate.told[0] is not None


def test_one_that_ignores_being_cancelled_is_given_up(
    fresh_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.engine.run.GRACE", 0.2)

    class Deaf(AsyncGate):
        async def create(self, context: converge.AsyncContext, properties: Any) -> str:
            while True:
                try:
                    return await super().create(context, properties)
                except asyncio.CancelledError:
                    pass

    store = fresh_store()
    deaf = Deaf()
    deaf.timeout = 0.2  # type: ignore[misc]
    stack = store.create_stack("s", several("deaf", 1))
    with converge.Engine(store, {"deaf": deaf}):
        assert stack.wait(timeout=WAIT) == "FAILED"
    assert "took longer" in str(stack.reason)


def test_a_stop_waits_for_them(fresh_store: Store) -> None:
    store = fresh_store()
    gate = AsyncGate(3)
    stack = store.create_stack("s", several("gate", 3))
    engine = converge.Engine(store, {"gate": gate})
    engine.start()
    assert gate.full.wait(WAIT)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    gate.go()
    stopping.join(WAIT)
    assert not stopping.is_alive()
    with converge.Engine(store, {"gate": gate}):
        assert stack.wait(timeout=WAIT) == "COMPLETE"
    assert (len(gate.calls), gate.told) == (3, [])


def test_a_stop_at_once_hands_them_back(fresh_store: Store) -> None:
    store = fresh_store()
    gate = AsyncGate(3)
    stack = store.create_stack("s", several("gate", 3))
    engine = converge.Engine(store, {"gate": gate})
    engine.start()
    assert gate.full.wait(WAIT)
    engine.stop(grace=0)
    assert gate.told == ["the engine is stopping"] * 3
    again = AsyncGate(3)
    with converge.Engine(store, {"gate": again}):
        assert again.full.wait(WAIT)
        again.go()
        assert stack.wait(timeout=WAIT) == "COMPLETE"


class Steps(converge.ResourceType):
    """Uses all that an async context has."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.fail = True

    async def create(self, context: converge.AsyncContext, properties: Mapping[str, Any]) -> Any:
        first = await context.step("first", self.later, "one")
        second = await context.step("second", self.plain, first)
        async for item in context.each("items", ["a", "b"]):
            self.did.append(item.value)
        async with context.journal.scope("nested") as nested:
            third = await nested.step("third", self.later, "three")
        await context.record("the id")
        if self.fail:
            self.fail = False
            raise converge.Wait(0.01, "once more")
        said = await context.wait_signal()
        return converge.Physical(
            context.physical_id, {"all": [first, second, third, said], "at": context.waited}
        )

    async def delete(self, context: converge.AsyncContext, physical_id: str) -> None:
        self.did.append(f"delete {physical_id}")

    async def later(self, word: str) -> str:
        await asyncio.sleep(0)
        self.did.append(word)
        return word

    def plain(self, word: str, idempotency_key: str) -> str:
        self.did.append(f"{word} in a thread: {len(idempotency_key)}")
        return "two"


@pytest.mark.parametrize("stepped", [False, True])
def test_steps_records_waits_and_signals(fresh_store: Store, stepped: bool) -> None:
    store = fresh_store()
    steps = Steps()
    stack = store.create_stack("s", several("steps", 1))
    store.signal("s", "r0", "go")
    if stepped:
        engine = StepEngine(store, {"steps": steps})
        while stack.refresh().status == "IN_PROGRESS":
            engine.run()
    else:
        with converge.Engine(store, {"steps": steps}, poll=0.05):
            stack.wait(timeout=WAIT)
    assert (stack.status, stack.reason) == ("COMPLETE", None)
    found = shown(store)["r0"]
    assert found["physical_id"] == "the id"
    assert found["attributes"]["all"] == ["one", "two", "three", "go"]
    assert steps.did == ["one", "one in a thread: 36", "a", "b", "three"]


def test_what_they_raise_fails_the_resource_and_the_loop_goes_on(fresh_store: Store) -> None:
    class Bad(converge.ResourceType):
        async def create(self, context: converge.AsyncContext, properties: Any) -> Any:
            await asyncio.sleep(0)
            what = {
                "r0": SystemExit("bye"),
                "r1": KeyboardInterrupt(),
                "r2": ValueError("wrong"),
                "r3": asyncio.CancelledError(),
            }.get(context.name)
            if what is not None:
                raise what

        async def delete(self, context: converge.AsyncContext, physical_id: str) -> None: ...

    store = fresh_store()
    stack = store.create_stack("s", several("bad", 6), on_failure="continue")
    with converge.Engine(store, {"bad": Bad()}):
        assert stack.wait(timeout=WAIT) == "FAILED"
    found = shown(store)
    assert "SystemExit: bye (test_async.py:" in found["r0"]["reason"]
    assert "KeyboardInterrupt (test_async.py:" in found["r1"]["reason"]
    assert "ValueError: wrong (test_async.py:" in found["r2"]["reason"]
    assert "CancelledError (test_async.py:" in found["r3"]["reason"]
    assert [found[name]["status"] for name in ("r4", "r5")] == ["COMPLETE"] * 2


def test_steps_beside_each_other_need_scopes_of_their_own(fresh_store: Store) -> None:
    class Beside(converge.ResourceType):
        async def create(self, context: converge.AsyncContext, properties: Any) -> Any:
            async def one(name: str) -> str:
                async with context.journal.scope(name) as scope:
                    return await scope.step("do", asyncio.sleep, 0, name)

            names = await asyncio.gather(one("a"), one("b"))
            with pytest.raises(converge.BadInput, match="nested scope"):
                await asyncio.gather(
                    context.step("x", asyncio.sleep, 0), context.step("y", asyncio.sleep, 0)
                )
            return converge.Physical("id", {"names": names})

        async def delete(self, context: converge.AsyncContext, physical_id: str) -> None: ...

    store = fresh_store()
    stack = store.create_stack("s", several("beside", 1))
    with converge.Engine(store, {"beside": Beside()}):
        stack.wait(timeout=WAIT)
    assert (stack.status, stack.reason) == ("COMPLETE", None)
    assert shown(store)["r0"]["attributes"] == {"names": ["a", "b"]}


def test_a_span_is_around_each(fresh_store: Store) -> None:
    """Its context is that of the handler, in whatever thread it goes on."""
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    assert "opentelemetry.trace" in sys.modules
    seen: list[Any] = []
    tracer = sdk.TracerProvider().get_tracer("t")

    class Traced(converge.ResourceType):
        async def create(self, context: converge.AsyncContext, properties: Any) -> Any:
            with tracer.start_as_current_span("inner"):
                await asyncio.sleep(0)
                seen.append(trace.get_current_span().name)

        async def delete(self, context: converge.AsyncContext, physical_id: str) -> None: ...

    store = fresh_store()
    stack = store.create_stack("s", several("traced", 3))
    with converge.Engine(store, {"traced": Traced()}):
        assert stack.wait(timeout=WAIT) == "COMPLETE"
    assert seen == ["inner"] * 3


def test_a_caller_on_a_loop_waits_for_many_stacks(fresh_store: Store) -> None:
    store = fresh_store()
    gate = AsyncGate(20)
    stacks = [store.create_stack(f"s{number}", several("gate", 1)) for number in range(20)]

    async def main() -> list[str]:
        with pytest.raises(TimeoutError):
            await stacks[0].wait_async(timeout=0.01)
        waiting = [asyncio.create_task(stack.wait_async(WAIT)) for stack in stacks]
        assert await asyncio.to_thread(gate.full.wait, WAIT)
        gate.go()
        return await asyncio.gather(*waiting)

    with converge.Engine(store, {"gate": gate}):
        assert asyncio.run(main()) == ["COMPLETE"] * 20
