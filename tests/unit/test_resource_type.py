"""What the author of a resource type writes, and is handed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.engine.core import EngineCore
from converge.errors import BadInput
from converge.resources import load_types
from converge.resources.resource_type import (
    METHODS,
    ResourceType,
    check_over,
    check_real,
    check_types,
    is_async,
    supports,
)
from converge.sql import migrate
from converge.synchronous import ASYNC
from converge.testing import StepEngine


@pytest.mark.parametrize(
    ("attempts", "first", "most", "waits"),
    [
        (1, 1.0, 60.0, [None]),
        (3, 1.0, 60.0, [1, 2, None]),
        (6, 2.0, 10.0, [2, 4, 8, 10, 10, None]),
        (3, 0.0, 60.0, [0, 0, None]),
        (3, 5.0, 0.0, [0, 0, None]),
        (3, 0.25, 60.0, [0.25, 0.5, None]),
        (3, 100.0, 60.0, [60, 60, None]),
    ],
)
def test_waits_double_up_to_the_longest(
    attempts: int, first: float, most: float, waits: list[float | None]
) -> None:
    policy = converge.RetryPolicy(attempts=attempts, first=first, most=most)
    found = [policy.wait(attempt, ValueError()) for attempt in range(1, attempts + 1)]
    assert found == pytest.approx(waits)


def test_many_attempts_do_not_overflow() -> None:
    policy = converge.RetryPolicy(attempts=10_000)
    assert policy.wait(5_000, ValueError()) == 60
    assert policy.wait(10_000, ValueError()) is None
    assert policy.wait(10_001, ValueError()) is None


def test_only_some_exceptions_are_worth_it() -> None:
    policy = converge.RetryPolicy(attempts=5, exceptions=(ConnectionError, TimeoutError))
    assert policy.wait(1, ConnectionResetError()) == 1
    assert policy.wait(1, TimeoutError()) == 1
    assert policy.wait(1, ValueError()) is None


def test_an_exit_is_not_retried_by_default() -> None:
    assert converge.RetryPolicy(attempts=5).wait(1, SystemExit()) is None


@pytest.mark.parametrize(
    "numbers", [{"attempts": 0}, {"attempts": -1}, {"first": -0.1}, {"most": -1}]
)
def test_bad_numbers_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=f"RetryPolicy.{next(iter(numbers))}"):
        converge.RetryPolicy(**numbers)  # type: ignore[arg-type]


def test_the_default_is_one_attempt() -> None:
    assert converge.ResourceType.retry == converge.RetryPolicy()
    assert converge.RetryPolicy().attempts == 1


class Minimal(converge.ResourceType):
    pass


class Whole(converge.ResourceType):
    def update(self, *_: object) -> None: ...

    def check(self, *_: object) -> None: ...

    def find(self, *_: object) -> None: ...


def test_what_a_type_lacks_is_named() -> None:
    context = converge.Context("stack", "name")
    with pytest.raises(NotImplementedError, match=r"Minimal must define create\(\)"):
        Minimal().create(context, {})
    with pytest.raises(NotImplementedError, match=r"Minimal must define delete\(\)"):
        Minimal().delete(context, "id")


@pytest.mark.parametrize("method", ["update", "check", "find"])
def test_optional_methods(method: str) -> None:
    assert not supports(Minimal(), method)
    assert supports(Whole(), method)


def test_record_stores_first_and_remembers_then() -> None:
    stored: list[str | None] = []
    context = converge.Context("stack", "name", record=stored.append)
    context.record("id-1")
    assert stored == ["id-1"]
    assert context.physical_id == "id-1"


def test_a_record_that_is_refused_is_not_remembered() -> None:
    def refuse(physical_id: str | None) -> None:
        raise converge.StaleLock("gone")

    context = converge.Context("stack", "name", record=refuse)
    with pytest.raises(converge.StaleLock):
        context.record("id-1")
    assert context.physical_id is None


def test_a_context_alone_can_be_used_in_a_types_own_tests() -> None:
    context = converge.Context("stack", "name")
    context.record("id-1")
    assert (context.attempt, context.token, context.timeout) == (1, "", None)
    assert context.properties == {}
    assert context.attributes == {}
    assert not context.cancelled.is_set()


async def coroutine(*_: object) -> None: ...


async def async_generator(*_: object) -> AsyncIterator[int]:
    yield 1


def generator(*_: object) -> Iterator[int]:
    yield 1


class Call:
    async def __call__(self, *_: object) -> None: ...

    async def bound(self, *_: object) -> None: ...


LAZY: dict[str, Any] = {
    "an async function": coroutine,
    "an async generator": async_generator,
    "a generator": generator,
}


def refusal(type_: converge.ResourceType) -> str:
    with pytest.raises(BadInput) as caught:
        check_types({"t": type_})
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [kind for kind in LAZY if kind != ASYNC])
def test_a_method_that_a_call_does_not_run_is_refused(method: str, kind: str) -> None:
    lazy = LAZY[kind]
    ways: dict[str, Any] = {
        "plain": lazy,
        "static": staticmethod(lazy),
        "class": classmethod(lazy),
        "partial": functools.partial(lazy, 1),
        "twice": functools.partial(functools.partial(lazy, 1), 2),
        "method": functools.partialmethod(lazy, 1),
    }
    for way in ways.values():
        type_ = type("T", (Whole,), {method: way})()
        assert f"resource type 't': {method} is {kind}, which" in refusal(type_)


@pytest.mark.parametrize("way", [coroutine, Call(), Call().bound, functools.partial(Call(), 1)])
def test_all_methods_but_plan_can_be_async(way: Any) -> None:
    for method in METHODS:
        type_ = Whole()
        vars(type_)["find"] = vars(type_)["delete"] = way
        vars(type_)[method] = way
        if method == "plan":
            assert "plan is an async function, which" in refusal(type_)
        else:
            check_types({"t": type_})
            assert is_async(type_, method)


@pytest.mark.parametrize("method", ["find", "delete"])
def test_find_and_delete_are_of_one_kind(method: str) -> None:
    type_ = type("T", (Whole,), {method: coroutine})()
    assert "both must be async def, or both plain" in refusal(type_)


def test_a_plain_function_may_run_an_async_one() -> None:
    @functools.wraps(coroutine)
    def create(*_: object) -> None:
        asyncio.run(coroutine())

    check_types({"t": type("Runs", (Whole,), {"create": create})()})


def make_lazy() -> converge.ResourceType:
    return type("T", (Whole,), {"delete": generator})()  # type: ignore[no-any-return]


def test_every_door_refuses_a_method_that_a_call_does_not_run(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    migrate.upgrade(url)
    store, types = converge.connect(url), {"t": make_lazy()}
    template = converge.Template.parse("resources: {}")
    point = Loaded("t", "package:make_lazy", "converge.resource_types")
    doors: list[Callable[[], object]] = [
        lambda: converge.Engine(store, types),
        lambda: StepEngine(store, types),
        lambda: EngineCore(store.database, 1, types),
        lambda: store.create_stack("s", template, types=types),
        lambda: store.update_stack("s", template, types=types),
        lambda: store.converge_stack("s", template, types=types),
        lambda: load_types([point]),
    ]
    for door in doors:
        with pytest.raises(BadInput, match="delete is a generator"):
            door()


class Loaded(EntryPoint):
    def load(self) -> Any:
        return make_lazy()


def test_an_order_of_replacing_that_there_is_not_is_refused() -> None:
    class Wrong(ResourceType):
        replace = "destroy_first"

    with pytest.raises(BadInput, match="replace must be create_first or delete_first"):
        check_types({"wrong": Wrong()})


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (None, "read must return converge.Real, or raise converge.Gone, not NoneType"),
        ({"size": 1}, "not dict"),
        (converge.Wait(1), "wait 1 s"),
    ],
)
def test_what_a_read_does_not_say_is_not_gone(found: object, error: str) -> None:
    def check() -> None:
        check_over(found, "read")
        check_real(found)

    with pytest.raises((converge.BadInput, converge.Wait), match=error):
        check()


def test_what_a_read_finds() -> None:
    assert check_real(converge.Real({"size": 2})).properties == {"size": 2}
