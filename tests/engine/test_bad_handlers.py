"""Handlers that behave as no handler should, on real databases: what becomes of their nodes, and
that the engine goes on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge import crash_points
from converge.errors import StaleLock, with_article
from converge.sql import migrate, schema
from converge.testing import FakeClock, StepEngine

WAIT = 60.0

Handler = Callable[[converge.Context, dict[str, Any]], Any]


class Does(converge.ResourceType):
    """Its create is a function."""

    def __init__(self, create: Handler, **retry: Any) -> None:
        self._create = create
        self.retry = converge.RetryPolicy(**retry)  # type: ignore[misc]

    def create(self, context: converge.Context, properties: Any) -> Any:
        return self._create(context, properties)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        pass


def template(*types: str, **properties: Any) -> converge.Template:
    """A resource of each type, called like it."""
    entries = {type_: {"type": type_, "properties": properties} for type_ in types}
    return converge.Template.from_dict({"resources": entries})


@pytest.fixture
def store(fresh_store: Callable[..., converge.Store]) -> converge.Store:
    return fresh_store()


def good(context: converge.Context, properties: dict[str, Any]) -> str:
    return "good"


def run_all(
    store: converge.Store, handlers: Mapping[str, Handler]
) -> Mapping[str, Mapping[str, Any]]:
    """Create a resource with each handler and a good one, in one worker; what became of them."""
    types = {name: Does(handler) for name, handler in {**handlers, "good": good}.items()}
    engine = converge.Engine(store, types, workers=1, poll=0.05)
    engine.start()
    try:
        stack = store.create_stack("s", template(*types), on_failure="continue")
        stack.wait(WAIT)
        # the same worker still works
        assert store.create_stack("after", template("good")).wait(WAIT) == "COMPLETE"
    finally:
        engine.stop(grace=0)
    assert engine.error is None
    shown: Mapping[str, Mapping[str, Any]] = store.show("s")["resources"]
    assert shown["good"]["status"] == "COMPLETE"
    return shown


# -- what they raise


class Own(BaseException):
    """Nobody's error."""


class Unspeakable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise SystemExit("no words")


class Wordless(Exception):
    """Its text is none."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


RAISED: dict[str, tuple[BaseException, str]] = {
    "exit": (SystemExit("bye"), "SystemExit: bye (test_bad_handlers.py:"),
    "exit code": (SystemExit(3), "SystemExit: 3 ("),
    "interrupt": (KeyboardInterrupt(), "KeyboardInterrupt ("),
    "generator exit": (GeneratorExit(), "GeneratorExit ("),
    "cancelled": (asyncio.CancelledError(), "CancelledError ("),
    "own": (Own("mine"), "Own: mine ("),
    "group": (BaseExceptionGroup("all", [SystemExit(), ValueError()]), "): SystemExit; ValueError"),
    "stop iteration": (StopIteration(), "StopIteration ("),
    "memory": (MemoryError(), "MemoryError ("),
    "recursion": (RecursionError("too deep"), "RecursionError: too deep ("),
    "stale": (StaleLock("not a real one"), "not a real one"),
    "unspeakable": (Unspeakable(), "Unspeakable: <its message cannot be read> ("),
    "wordless": (Wordless(), "Wordless: <its message cannot be read> ("),
    "unprintable": (ValueError("a\x00b\ud800c"), "ValueError: a\\0b?c ("),
    "long": (ValueError("x" * 100_000), "[...]"),
}


def test_whatever_a_handler_raises_its_resource_fails_and_the_worker_goes_on(
    store: converge.Store,
) -> None:
    def raises(error: BaseException) -> Handler:
        def create(context: converge.Context, properties: dict[str, Any]) -> None:
            raise error

        return create

    shown = run_all(store, {name: raises(error) for name, (error, _) in RAISED.items()})
    for name, (_, words) in RAISED.items():
        assert (name, shown[name]["status"]) == (name, "FAILED")
        assert words in shown[name]["reason"]


# -- what they return


def deep(levels: int) -> list[Any]:
    outer: list[Any] = []
    for _ in range(levels):
        outer = [outer]
    return outer


LOOP: list[Any] = []
LOOP.append(LOOP)


class Id(str):
    """A string that is no good as one."""

    def __len__(self) -> int:
        raise KeyboardInterrupt


RETURNED: dict[str, tuple[object, str]] = {
    "object": (object(), "must return converge.Physical, a physical id, or None, not object"),
    "bytes": (b"x", "not bytes"),
    "number": (5, "not int"),
    "true": (True, "not bool"),
    "mapping": ({"id": "x"}, "not dict"),
    "generator": ((one for one in "x"), "create returned a generator, which nobody runs"),
    "long id": ("x" * 1025, "a physical id must have 1 to 1024 characters, not 1025"),
    "empty id": ("", "a physical id must have 1 to 1024 characters, not 0"),
    "NUL id": ("a\x00b", "a physical id must not have NUL"),
    "surrogate id": ("a\ud800", "a physical id must not have NUL or surrogate"),
    "odd id": (Id("x"), "KeyboardInterrupt"),
    "number as id": (converge.Physical(5), "a physical id must be a string, not int"),  # type: ignore[arg-type]
    "list": (converge.Physical("x", [1]), "attributes must be a mapping, not list"),  # type: ignore[arg-type]
    "object inside": (converge.Physical("x", {"a": object()}), "attributes cannot be stored"),
    "bytes inside": (converge.Physical("x", {"a": b"x"}), "attributes cannot be stored"),
    "set inside": (converge.Physical("x", {"a": {1}}), "attributes cannot be stored"),
    "NaN inside": (converge.Physical("x", {"a": float("nan")}), "attributes cannot be stored"),
    "infinity inside": (converge.Physical("x", {"a": -float("inf")}), "attributes cannot be"),
    "loop": (converge.Physical("x", {"a": LOOP}), "attributes cannot be stored"),
    "depth": (converge.Physical("x", {"a": deep(100_000)}), "attributes cannot be stored"),
    "huge number": (converge.Physical("x", {"a": 10**5000}), "attributes cannot be stored"),
    "mixed keys": (converge.Physical("x", {1: 1, "a": 2}), "attributes cannot be stored"),  # type: ignore[dict-item]
    "tuple as key": (converge.Physical("x", {(1, 2): 1}), "attributes cannot be stored"),  # type: ignore[dict-item]
    "5 MiB": (
        converge.Physical("x", {"a": "x" * 5 * 2**20}),
        "the attributes have 5242888 characters as JSON; at most 4194304",
    ),
}


def test_what_cannot_be_stored_fails_its_resource_and_says_what_it_is(
    store: converge.Store,
) -> None:
    handlers: dict[str, Handler] = {
        name: lambda context, properties, made=made: made  # type: ignore[misc]
        for name, (made, _) in RETURNED.items()
    }
    shown = run_all(store, handlers)
    for name, (_, words) in RETURNED.items():
        assert (name, shown[name]["status"]) == (name, "FAILED")
        assert words in shown[name]["reason"]
        assert (name, shown[name]["physical_id"]) == (name, None)


async def never() -> None:
    raise AssertionError("nobody runs it")


async def never_more() -> AsyncIterator[int]:
    yield 1


def unfinished(kind: str) -> Any:
    """What is not over when it is returned; made late, since an odd one would be warned of."""
    makers: dict[str, Callable[[], Any]] = {
        "coroutine": never,
        "async_generator": never_more,
        "generator": lambda: (one for one in "x"),
        "Future": Future,
    }
    return makers[kind]()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["create", "update", "delete", "check", "find"])
@pytest.mark.parametrize("kind", ["coroutine", "async_generator", "generator", "Future"])
def test_a_handler_that_returns_what_is_not_over_has_failed(
    method: str, kind: str, tmp_path: Path
) -> None:
    migrate.upgrade(url := f"sqlite:///{tmp_path}/a.db")
    store = converge.connect(url)
    bad = False

    class Late(converge.ResourceType):
        def answer(self, called: str) -> Any:
            return unfinished(kind) if called == method and bad else None

        def create(self, context: converge.Context, properties: Any) -> Any:
            if method == "find":
                raise RuntimeError("nobody knows what was made")
            return self.answer("create")

        def update(self, *given: object) -> Any:
            return self.answer("update")

        def delete(self, context: converge.Context, physical_id: str) -> Any:
            return self.answer("delete")

        def check(self, *given: object) -> Any:
            return self.answer("check")

        def find(self, context: converge.Context) -> Any:
            return self.answer("find")

    engine = StepEngine(store, {"late": Late()})
    bad = method == "create"
    stack = store.create_stack("s", template("late"))
    engine.run()
    bad = True
    if method == "update":
        store.update_stack("s", template("late", size=2))
    elif method == "check":
        store.check_stack("s")
    elif method in ("delete", "find"):
        store.delete_stack("s")
    engine.run()
    shown = store.show("s")
    assert shown["status"] == "FAILED"
    assert (
        f"{method} returned {with_article(kind)}, which nobody runs to its end" in shown["reason"]
    )
    assert stack.name == "s"


STORED: dict[str, dict[str, Any]] = {
    "surrogate": {"a": "\ud800"},
    "NUL": {"a": "x\x00y", "\x00": 1},
    "depth": {"a": deep(400)},
    "large number": {"a": 10**400, "b": -0.0, "c": 5e-324},
    "4 MiB": {"a": "x" * (4 * 2**20 - 8)},
    "many": {str(number): None for number in range(10_000)},
    "empty": {},
}


def test_what_can_be_stored_comes_back_as_it_was(store: converge.Store) -> None:
    handlers: dict[str, Handler] = {
        name: lambda context, properties, made=made: converge.Physical("x", made)  # type: ignore[misc]
        for name, made in STORED.items()
    }
    shown = run_all(store, handlers)
    for name, attributes in STORED.items():
        assert (name, shown[name]["status"]) == (name, "COMPLETE")
        assert shown[name]["attributes"] == attributes


def test_a_result_that_changes_after_the_return_harms_nobody_else(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread that was left behind, or because two calls return the same dictionary."""
    shared: dict[str, Any] = {"a": {}}

    def hook(name: str) -> None:
        if name == crash_points.AFTER_CALL:
            shared["a"]["b"] = object()

    monkeypatch.setattr(crash_points, "hook", hook)
    shown = run_all(store, {"shares": lambda context, properties: converge.Physical("x", shared)})
    assert shown["shares"]["status"] in ("COMPLETE", "FAILED")
    assert shown["shares"]["attributes"] in ({}, {"a": {}})


def test_properties_that_a_handler_changes_are_not_what_it_was_asked_for(
    store: converge.Store,
) -> None:
    calls: list[dict[str, Any]] = []

    def create(context: converge.Context, properties: dict[str, Any]) -> str:
        calls.append({**properties})
        properties["list"].append(1)
        properties["more"] = 1
        return "x"

    engine = StepEngine(store, {"odd": Does(create), "good": Does(good)})
    store.create_stack("s", template("odd", list=[]))
    engine.run()
    assert store.show("s")["resources"]["odd"]["properties"] == {"list": []}
    # nothing of it has changed, so it is not replaced
    store.update_stack("s", template("odd", "good", list=[]))
    engine.run()
    assert len(calls) == 1


# -- how long they take


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
    with converge.Engine(store, types, workers=1, lease=1.0, poll=0.05):
        stack = store.create_stack("s", template("deaf"))
        assert deaf.began.acquire(timeout=WAIT)
        stack.cancel()
        assert stack.wait(WAIT) == "CANCELLED"
        shown = store.show("s")["resources"]["deaf"]
        assert shown["status"] == "FAILED"
        assert "create did not stop within 0.1 s of being cancelled" in shown["reason"]
        # another worker has taken the place of the one that hangs
        assert store.create_stack("after", template("good")).wait(WAIT) == "COMPLETE"
        deaf.go.set()
        assert deaf.ended.acquire(timeout=WAIT)
        assert store.create_stack("again", template("good")).wait(WAIT) == "COMPLETE"
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
            stack = store.create_stack("s", template("deaf"), node_timeout=0.1)
            assert stack.wait(WAIT) == "FAILED"
            assert "create timed out after 0.1 s" in (stack.reason or "")
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
    stack = store.create_stack("s", template("leaves"))

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
    store.create_stack("s", template("leaves"))
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


def test_a_handler_may_fork_a_process_that_ends(store: converge.Store) -> None:
    """The child has the engine's connections too, and must not be heard on them."""

    def create(context: converge.Context, properties: dict[str, Any]) -> str:
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        context.record("early")
        return "forked"

    engine = StepEngine(store, {"forks": Does(create), "good": Does(good)})
    stack = store.create_stack("s", template("forks", "good"))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert store.show("s")["resources"]["forks"]["physical_id"] == "forked"
