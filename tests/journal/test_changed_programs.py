"""Programs that changed since their steps were recorded are noticed, or change on purpose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from converge.errors import BadInput, StepFailed
from converge.journal import Scope
from converge.retry import RetryPolicy
from tests.dying import Died
from tests.journal.places import Place
from tests.journal.world import World, mismatch, run, steps


def test_a_step_at_the_end_may_be_new(place: Place, world: World) -> None:
    run(place, steps(world, "a"))
    assert run(place, steps(world, "a", "b")) == ["A", "B"]
    assert world.calls == ["a", "b"]


def test_a_step_that_the_program_no_longer_has_is_noticed(place: Place, world: World) -> None:
    run(place, steps(world, "a", "b"))
    error = mismatch(place, steps(world, "a"))
    assert (error.recorded, error.asked) == ("b", None)
    assert "without asking for recorded steps: 'b'" in str(error)


def test_steps_in_another_order_are_noticed_before_anything_is_done(
    place: Place, world: World
) -> None:
    run(place, steps(world, "a", "b"))
    error = mismatch(place, steps(world, "b", "a"))
    assert (error.recorded, error.asked) == ("a", "b")
    assert "asked for step 'b' as number 1; recorded is step 'a' there, and 'b' as number 2" in str(
        error
    )
    assert world.calls == ["a", "b"]


def test_a_step_put_in_between_is_noticed_before_it_is_done(place: Place, world: World) -> None:
    run(place, steps(world, "a", "b"))
    error = mismatch(place, steps(world, "a", "new", "b"))
    assert (error.recorded, error.asked) == ("b", "new")
    assert "recorded is step 'b' there. The program has changed" in str(error)
    assert world.calls == ["a", "b"]


def test_a_recorded_step_asked_for_later_than_recorded_is_noticed(
    place: Place, world: World
) -> None:
    def crash(scope: Scope) -> None:
        steps(world, "a")(scope)
        raise Died

    with pytest.raises(Died):
        run(place, crash)
    error = mismatch(place, steps(world, "first", "a"))
    assert (error.recorded, error.asked) == ("a", "first")
    assert world.calls == ["a"]


def test_a_step_that_has_become_an_each_is_noticed_and_the_other_way_round(
    place: Place, world: World
) -> None:
    run(place, steps(world, "a"))
    error = mismatch(place, lambda scope: list(scope.each("a", [1])))
    assert (error.recorded, error.asked) == ("step a", "each a")
    place.journal().forget("job")
    run(place, lambda scope: list(scope.each("a", [1])))
    error = mismatch(place, steps(world, "a"))
    assert (error.recorded, error.asked) == ("each a", "step a")
    assert world.calls == ["a"]


def version(world: World, number: int) -> Callable[[Scope], Any]:
    return lambda scope: scope.step("a", world.call, f"a{number}", number, version=number)


def test_a_higher_version_does_the_step_again_on_purpose(place: Place, world: World) -> None:
    for number in (1, 1, 2, 2, 3):
        assert run(place, version(world, number)) == number
    assert world.calls == ["a1", "a2", "a3"]
    record = place.journal().show("job")[1][0]
    assert (record.version, record.value, record.attempts) == (3, "3", 1)


def test_a_lower_version_is_refused(place: Place, world: World) -> None:
    run(place, version(world, 3))
    error = mismatch(place, version(world, 2))
    assert (error.recorded, error.asked) == ("a version 3", "a version 2")
    assert world.calls == ["a3"]


def test_a_higher_version_begins_the_attempts_anew(place: Place, world: World) -> None:
    world.failures = {"a": 1}

    def program(scope: Scope, number: int) -> Any:
        return scope.step("a", world.call, "a", 1, version=number, retry=RetryPolicy())

    with pytest.raises(StepFailed):
        run(place, partial(program, number=1))
    assert run(place, partial(program, number=2)) == 1


@pytest.mark.parametrize("number", [0, -1, 1.0, True, None])
def test_a_version_is_a_whole_number(place: Place, number: Any) -> None:
    with pytest.raises(BadInput, match="version must be a whole number from 1"):
        run(place, lambda scope: scope.step("a", int, version=number))
