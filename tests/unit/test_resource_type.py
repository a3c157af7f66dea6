"""What the author of a resource type writes, and is handed."""

from __future__ import annotations

import pytest

import converge
from converge.errors import BadInput
from converge.resource_type import supports


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
    stored: list[str] = []
    context = converge.Context("stack", "name", record=stored.append)
    context.record("id-1")
    assert stored == ["id-1"]
    assert context.physical_id == "id-1"


def test_a_record_that_is_refused_is_not_remembered() -> None:
    def refuse(physical_id: str) -> None:
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
