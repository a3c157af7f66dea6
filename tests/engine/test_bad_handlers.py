"""Handlers that behave as no handler should, on real databases: what becomes of their nodes, and
that the engine goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import converge
from converge import crash_points
from converge.errors import StaleLock, with_article
from converge.sql import migrate
from converge.testing import StepEngine
from tests.handlers import Does, Handler, good
from tests.templates import one_of_each
from tests.waiting import WAIT


def run_all(
    store: converge.Store, handlers: Mapping[str, Handler]
) -> Mapping[str, Mapping[str, Any]]:
    """Create a resource with each handler and a good one, in one worker; what became of them."""
    types = {name: Does(handler) for name, handler in {**handlers, "good": good}.items()}
    engine = converge.Engine(store, types, workers=1, poll=0.05)
    engine.start()
    try:
        stack = store.create_stack("s", one_of_each(*types), on_failure="continue")
        stack.wait(WAIT)
        # the same worker still works
        assert store.create_stack("after", one_of_each("good")).wait(WAIT) == "COMPLETE"
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
    "generator": ((one for one in "x"), "create returned a generator, which converge"),
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
    stack = store.create_stack("s", one_of_each("late"))
    engine.run()
    bad = True
    if method == "update":
        store.update_stack("s", one_of_each("late", size=2))
    elif method == "check":
        store.check_stack("s")
    elif method in ("delete", "find"):
        store.delete_stack("s")
    engine.run()
    shown = store.show("s")
    assert shown["status"] == "FAILED"
    assert (
        f"{method} returned {with_article(kind)}, which converge does not await" in shown["reason"]
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
    store.create_stack("s", one_of_each("odd", list=[]))
    engine.run()
    assert store.show("s")["resources"]["odd"]["properties"] == {"list": []}
    # nothing of it has changed, so it is not replaced
    store.update_stack("s", one_of_each("odd", "good", list=[]))
    engine.run()
    assert len(calls) == 1


# -- how long they take


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
    stack = store.create_stack("s", one_of_each("forks", "good"))
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert store.show("s")["resources"]["forks"]["physical_id"] == "forked"
