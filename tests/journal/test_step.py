"""Single steps: what was done is not done again, and gives what it gave."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from converge.errors import BadInput
from converge.journal import Journal, Scope
from tests.journal.places import Place
from tests.journal.world import World, run, steps

# -- one step --------------------------------------------------------------------


def test_a_step_is_done_once_and_gives_its_value_ever_after(place: Place, world: World) -> None:
    for _ in range(3):
        assert run(place, steps(world, "a", "b")) == ["A", "B"]
    assert world.calls == ["a", "b"]


def test_a_failed_program_goes_on_at_the_step_that_failed(place: Place, world: World) -> None:
    program = steps(world, "a", "b", "c")
    world.failures = {"b": 2}
    for _ in range(2):
        with pytest.raises(RuntimeError, match="b failed"):
            run(place, program)
    assert run(place, program) == ["A", "B", "C"]
    assert world.calls == ["a", "b", "b", "b", "c"]


@pytest.mark.parametrize(
    "value",
    [
        {"when": datetime(2026, 11, 3, 12, 30, 1, 7, tzinfo=UTC), "$": [1, None]},
        (1, (2, 3)),
        {(1, 2), frozenset({"x"}), ("y", ("z", 1.5))},
        b"\x00\xff",
        "\x00\ud800 \N{SNOWMAN}",
        10**300,
    ],
    ids=["tags", "tuples", "sets", "bytes", "text", "number"],
)
def test_the_first_time_gives_what_the_later_ones_give(place: Place, value: Any) -> None:
    first = run(place, lambda scope: scope.step("a", lambda: value))
    again = run(place, lambda scope: scope.step("a", pytest.fail))
    assert (first, type(first)) == (again, type(again))
    if not isinstance(value, tuple):
        assert first == value


def test_a_value_that_cannot_be_recorded_is_named_with_its_step(place: Place, world: World) -> None:
    def program(scope: Scope) -> None:
        scope.step("paint", world.call, "paint", {"colours": [1, object()]})

    with pytest.raises(
        BadInput,
        match=r"step 'paint' of scope 'job' has a value .* an object at \['colours'\]\[1\] cannot",
    ):
        run(place, program)
    assert world.calls == ["paint"]


class Colour:
    pass


def bad_plain() -> Colour:
    raise AssertionError


def bad_optional() -> Colour | complex:
    raise AssertionError


def bad_iterator() -> Iterator[int]:
    raise AssertionError


def bad_list() -> list[Colour]:
    raise AssertionError


def bad_mapping() -> dict[str, tuple[int, Colour]]:
    raise AssertionError


@pytest.mark.parametrize("function", [bad_plain, bad_optional, bad_iterator, bad_list, bad_mapping])
def test_a_function_declared_to_return_what_cannot_be_recorded_is_not_called(
    place: Place, function: Callable[[], Any]
) -> None:
    with pytest.raises(BadInput, match=r"step 'paint': it is declared to return .* cannot be"):
        run(place, lambda scope: scope.step("paint", function))


def good_optional() -> Colour | None:
    return None


def good_abstract() -> Mapping[str, Sequence[int] | None]:
    return {"a": [1], "b": None}


def good_unknown() -> Unknown:  # type: ignore[name-defined]  # noqa: F821
    return 1


def good_tuple() -> tuple[int, ...]:
    return (1, 2)


@pytest.mark.parametrize("function", [good_optional, good_abstract, good_unknown, good_tuple])
def test_a_function_that_may_return_what_can_be_recorded_is_called(
    function: Callable[[], Any],
) -> None:
    journal = Journal("memory://")
    with journal.scope("job") as scope:
        value = scope.step("a", function)
    assert value == (list(value) if isinstance(function(), tuple) else function())


def test_a_context_manager_is_passed_over_when_it_is_done(place: Place, world: World) -> None:
    def program(scope: Scope) -> tuple[bool, Any]:
        with scope.step("a") as step:
            done = step.done
            if not done:
                step.value = world.call("a", [1])
        return done, step.value

    world.failures = {"a": 1}
    with pytest.raises(RuntimeError):
        run(place, program)
    assert [run(place, program) for _ in range(2)] == [(False, [1]), (True, [1])]
    assert world.calls == ["a", "a"]


def test_the_value_of_a_done_step_cannot_be_set(place: Place) -> None:
    def program(scope: Scope) -> None:
        with scope.step("a") as step:
            step.value = 1

    run(place, program)
    with pytest.raises(BadInput, match=r"step 'a' is done; look at step\.done"):
        run(place, program)


def test_a_decorated_function_is_called_once(place: Place, world: World) -> None:
    def program(scope: Scope) -> Any:
        @scope.step("a", version=2)
        def charge(amount: int) -> list[int]:
            """Charge."""
            return world.call("a", [amount])  # type: ignore[no-any-return]

        assert charge.__doc__ == "Charge."
        return charge(amount=3)

    assert [run(place, program) for _ in range(2)] == [[3], [3]]
    assert world.calls == ["a"]


def test_what_is_no_function_is_refused(place: Place) -> None:
    with pytest.raises(BadInput, match="step 'a': 3 is not a function"):
        run(place, lambda scope: scope.step("a", 3))  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["", "a/b", " a", "a\n", 7, "x" * 256])
def test_a_name_that_no_step_can_have_is_refused(place: Place, name: Any) -> None:
    with pytest.raises(BadInput, match="name"):
        run(place, lambda scope: scope.step(name, int))
    with pytest.raises(BadInput, match="name"):
        run(place, lambda scope: list(scope.each(name, [])))


def test_a_name_can_be_used_once_in_a_scope(place: Place, world: World) -> None:
    with pytest.raises(BadInput, match="already has a step 'a'; number the names"):
        run(place, steps(world, "a", "a"))
    with pytest.raises(BadInput, match="already has a step 'a'"):
        run(place, lambda scope: [scope.step("a", int), list(scope.each("a", []))])
    assert world.calls == ["a"]


# -- idempotency keys ------------------------------------------------------------


def test_a_function_that_asks_for_the_key_is_given_it(place: Place) -> None:
    def program(scope: Scope) -> Any:
        def charge(amount: int, idempotency_key: str) -> list[Any]:
            return [amount, idempotency_key]

        given = scope.step("a", charge, 3)
        assert given == [3, scope.key("a")]
        assert scope.step("b", charge, 3, idempotency_key="mine") == [3, "mine"]

        class Account:
            def charge(self, *, idempotency_key: str = "") -> str:
                return idempotency_key

        assert scope.step("c", Account().charge) == scope.key("c")
        assert scope.step("d", partial(charge, 4)) == [4, scope.key("d")]
        return given

    assert run(place, program) == run(place, program)


def test_keys_are_the_same_each_time_and_no_others(place: Place) -> None:
    def program(scope: Scope) -> list[str]:
        keys = [scope.step(name).key for name in ("a", "b")]
        keys += [scope.step("c", version=2).key, scope.step("c").key]
        for name in ("a", "each"):
            with scope.scope(name) as inner:
                keys += [inner.step("a").key, inner.step("b").key]
                keys += [item.key for item in inner.each("each", range(3))]
        keys += [item.key for item in scope.each("each", range(3))]
        return keys

    first = run(place, program)
    place.journal().forget("job")
    assert run(place, program) == first
    other = run(place, program, "job 2")
    assert len({*first, *other}) == len(first) * 2
    assert {uuid.UUID(key).version for key in first} == {5}


def test_a_key_never_changes_from_release_to_release() -> None:
    with Journal("memory://").scope("order-17") as scope:
        assert scope.key("charge") == "b52ec9d5-7fd1-5713-88df-ec22ca524a25"
        assert scope.key("mail", 3) == "424fd161-fa0f-536c-958c-00d8e9b66947"


def test_a_step_must_be_over_when_its_function_returns(place: Place) -> None:
    async def later() -> int:
        return 1

    functions: dict[str, Callable[[], Any]] = {
        "an async function": later,
        "a coroutine": lambda: later(),
    }
    for words, function in functions.items():
        with pytest.raises(BadInput, match=words):
            run(place, lambda scope, function=function: scope.step("a", function))  # type: ignore[misc]
    assert place.journal().show("job")[1] == []
