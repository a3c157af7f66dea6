"""Steps that fail: tried again as their policy says, and given up for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from converge.errors import BadInput, StaleLock, StepFailed, StoreError
from converge.journal import Journal, Scope
from converge.retry import RetryPolicy
from tests.dying import Died
from tests.journal.places import Place
from tests.journal.world import World, run, steps

POLICY = RetryPolicy(attempts=3, first=2.0, exceptions=(RuntimeError,))


def test_a_failed_step_is_tried_again_as_its_policy_says(place: Place, world: World) -> None:
    world.failures = {"a": 2}
    assert run(place, lambda scope: scope.step("a", world.call, "a", 1, retry=POLICY)) == 1
    assert world.calls == ["a"] * 3
    assert place.slept == pytest.approx([2.0, 4.0])


def test_attempts_and_the_rest_of_a_wait_survive_a_crash(place: Place, world: World) -> None:
    world.failures = {"a": 9}

    def crash(seconds: float) -> None:
        raise Died

    for attempt in (1, 2):
        journal = Journal(place.backend(), sleep=crash)
        with pytest.raises(Died), journal.scope("job") as scope:
            scope.step("a", world.call, "a", retry=POLICY)
        record = journal.show("job")[1][0]
        assert (record.status, record.attempts) == ("RETRY", attempt)
        assert record.wait == pytest.approx(2.0 * attempt)
        place.pass_time(0.5)
        # what is left of the wait is waited for before the next attempt
        place.slept.clear()
        if attempt == 1:
            with pytest.raises(Died):
                Crashing(place, world).run()
            assert world.calls == ["a"]
            place.pass_time(1.5)
    with pytest.raises(StepFailed, match="step 'a' of scope 'job' failed for good: RuntimeError"):
        run(place, lambda scope: scope.step("a", world.call, "a", retry=POLICY))
    assert world.calls == ["a"] * 3
    assert place.slept == pytest.approx([3.5])


class Crashing:
    """A program that ends where it would wait."""

    def __init__(self, place: Place, world: World) -> None:
        self.journal = Journal(place.backend(), sleep=self._wait)
        self.world = world

    def _wait(self, seconds: float) -> None:
        assert seconds == pytest.approx(1.5)
        raise Died

    def run(self) -> None:
        with self.journal.scope("job") as scope:
            scope.step("a", self.world.call, "a", retry=POLICY)


def test_a_step_that_failed_for_good_fails_again_without_a_call(place: Place, world: World) -> None:
    world.failures = {"a": 9}

    def program(scope: Scope) -> None:
        scope.step("a", world.call, "a", retry=RetryPolicy())

    for _ in range(3):
        with pytest.raises(StepFailed) as caught:
            run(place, program)
        error = caught.value
        assert (error.step, error.kind, error.reason) == ("a", "RuntimeError", "a failed")
    assert world.calls == ["a"]
    # the first time, the exception itself is there, too
    journal = place.journal()
    journal.forget("job")
    with pytest.raises(StepFailed) as caught:
        run(place, program)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_job_whose_failed_step_is_forgotten_goes_on_there(place: Place, world: World) -> None:
    def job(scope: Scope, charge: Callable[[], str]) -> None:
        scope.step("a", world.call, "a")
        scope.step("charge", charge, retry=RetryPolicy())
        scope.step("b", world.call, "b")

    def refuse() -> str:
        raise OSError

    journal = place.journal()
    for _ in range(2):
        with pytest.raises(StepFailed), journal.scope("job") as scope:
            job(scope, refuse)
    assert journal.forget("job", failed=True) == 1
    with journal.scope("job") as scope:
        job(scope, lambda: world.call("charge"))
    assert world.calls == ["a", "charge", "b"]


def test_an_exception_that_is_not_worth_it_is_not_tried_again(place: Place, world: World) -> None:
    def fail() -> None:
        world.call("a")
        raise KeyError("gone")

    with pytest.raises(StepFailed, match="KeyError: 'gone'"):
        run(place, lambda scope: scope.step("a", fail, retry=POLICY))
    assert (world.calls, place.slept) == (["a"], [])


@pytest.mark.parametrize("error", [StaleLock, StoreError])
@pytest.mark.parametrize("within", ["itself", "as the cause", "in a group"])
def test_trouble_of_the_store_is_no_failure_of_a_step(
    place: Place, world: World, error: type[StaleLock | StoreError], within: str
) -> None:
    """It says nothing of the function, and may say that the step is another one's now."""

    def lose() -> None:
        world.calls.append("a")
        lost = error("lost")
        lost.origin = place.backend().origin
        if within == "as the cause":
            raise RuntimeError("lost") from lost
        raise lost if within == "itself" else ExceptionGroup("lost", [lost])

    for _ in range(4):
        with pytest.raises((error, RuntimeError, ExceptionGroup), match="lost"):
            run(place, lambda scope: scope.step("a", lose, retry=RetryPolicy(attempts=2)))
    assert world.calls == ["a"] * 4
    assert (place.slept, place.journal().show("job")[1]) == ([], [])


def test_trouble_of_a_store_of_the_programs_own_is_a_failure(place: Place, world: World) -> None:
    def lose() -> None:
        world.calls.append("a")
        lost = StoreError("lost")
        lost.origin = world
        raise lost

    for _ in range(2):
        with pytest.raises(StepFailed, match="StoreError: lost"):
            run(place, lambda scope: scope.step("a", lose, retry=RetryPolicy(attempts=1)))
    assert world.calls == ["a"]


def test_without_a_policy_nothing_is_recorded_of_a_failure(place: Place, world: World) -> None:
    world.failures = {"a": 1}
    with pytest.raises(RuntimeError):
        run(place, steps(world, "a"))
    assert place.journal().show("job")[1] == []


def test_a_context_manager_fails_as_its_policy_says(place: Place, world: World) -> None:
    def program(scope: Scope) -> Any:
        with scope.step("a", retry=POLICY) as step:
            if not step.done:
                step.value = world.call("a", 1)
        return step.value

    world.failures = {"a": 2}
    for _ in range(2):
        with pytest.raises(RuntimeError):
            run(place, program)
    assert run(place, program) == 1
    assert place.slept == pytest.approx([2.0, 4.0])


def test_an_error_whose_text_cannot_be_had_is_recorded(place: Place) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    def fail() -> None:
        raise Odd

    with pytest.raises(StepFailed, match=r"failed for good: Odd: <its message cannot be read>$"):
        run(place, lambda scope: scope.step("a", fail, retry=RetryPolicy()))


class Refused(Exception):
    """An error that Python does not know."""


@pytest.mark.parametrize("error", [ConnectionError("away"), KeyError("missing"), Refused("no")])
def test_a_failure_that_the_program_caught_comes_again_without_a_call(
    place: Place, error: Exception
) -> None:
    calls: list[str] = []
    works = False

    def charge() -> None:
        calls.append("charge")
        if not works:
            raise error

    def program(scope: Scope, crash: bool) -> None:
        try:
            # the failure of a step of a nested scope is caught around it
            with scope.scope("bank") as bank:
                bank.step("charge", charge)
        except (type(error), StepFailed):
            scope.step("tell", calls.append, "told")
        else:
            scope.step("ship", calls.append, "shipped")
        if crash:
            raise Died

    journal = Journal(place.backend())
    with pytest.raises(Died), journal.scope("job") as scope:
        program(scope, crash=True)
    assert calls == ["charge", "told"]
    works = True
    with journal.scope("job") as scope:
        program(scope, crash=False)
    assert calls == ["charge", "told"]
    # not caught this time
    with pytest.raises(StepFailed) as found, journal.scope("job") as scope:
        scope.scope("bank").__enter__().step("charge", charge)
    assert calls == ["charge", "told"]
    assert isinstance(found.value, type(error)) is (type(error) is not Refused)
    assert (found.value.kind, str(found.value)) == (type(error).__name__, str(error))


def test_a_failure_that_ended_the_program_is_tried_again(place: Place, world: World) -> None:
    world.failures = {"a": 1}
    journal = Journal(place.backend())
    with pytest.raises(RuntimeError), journal.scope("job") as scope:
        scope.step("a", world.call, "a")
    with journal.scope("job") as scope:
        scope.step("a", world.call, "a")
    assert world.calls == ["a", "a"]


def test_a_step_that_failed_and_is_asked_for_again_says_what_to_do(
    place: Place, world: World
) -> None:
    world.failures = {"a": 1}

    def program(scope: Scope) -> None:
        with pytest.raises(RuntimeError):
            scope.step("a", world.call, "a")
        scope.step("a", world.call, "a")

    with pytest.raises(BadInput, match=r"already has a step 'a';.*fails, give it retry="):
        run(place, program)


def test_a_failure_that_was_caught_is_recorded_by_a_step_of_the_next_nested_scope(
    place: Place, world: World
) -> None:
    def program(scope: Scope, crash: bool) -> None:
        with pytest.raises((RuntimeError, StepFailed)), scope.scope("one") as one:
            one.step("a", world.call, "a")
        with scope.scope("other") as other:
            other.step("b", world.call, "b")
        if crash:
            raise Died

    world.failures = {"a": 1}
    with pytest.raises(Died):
        run(place, lambda scope: program(scope, crash=True))
    run(place, lambda scope: program(scope, crash=False))
    assert world.calls == ["a", "b"]
