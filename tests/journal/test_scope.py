"""Steps, items and scopes: what was done is not done again, whoever asks, until it is forgotten."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from converge.errors import (
    BadInput,
    Busy,
    JournalMismatch,
    NotFound,
    StaleLock,
    StepFailed,
    StoreError,
)
from converge.journal import Journal, Scope
from converge.journal.memory import Memory, MemoryBackend
from converge.journal.scope import Item
from converge.resource_type import RetryPolicy
from tests.journal.places import InDatabase, Place


@dataclass
class World:
    """Where steps have their effects; it outlives journals.

    :ivar calls: what was called, in order.
    """

    calls: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)

    def call(self, name: str, value: Any = None) -> Any:
        """Have an effect, unless this name has failures left."""
        self.calls.append(name)
        left = self.failures.get(name, 0)
        if left:
            self.failures[name] = left - 1
            raise RuntimeError(f"{name} failed")
        return value


@pytest.fixture
def world() -> World:
    return World()


class Crash(BaseException):
    """As if the process ended here: nothing is recorded of it."""


def run(place: Place, program: Callable[[Scope], Any], name: str = "job") -> Any:
    """Run a program as the scope of that name, in a new process as it were."""
    journal = place.journal()
    with journal.scope(name) as scope:
        result = program(scope)
    return result


def mismatch(place: Place, program: Callable[[Scope], Any]) -> JournalMismatch:
    with pytest.raises(JournalMismatch) as caught:
        run(place, program)
    return caught.value


def steps(world: World, *names: str) -> Callable[[Scope], list[Any]]:
    """A program of these steps; each returns its name in capitals."""

    def program(scope: Scope) -> list[Any]:
        return [scope.step(name, world.call, name, name.upper()) for name in names]

    return program


# -- one step ----------------------------------------------------------------


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
        match=r"step 'paint' of scope 'job' has a value .* a object at \['colours'\]\[1\] cannot",
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
    with pytest.raises(BadInput, match="has a step 'a' already; number the names"):
        run(place, steps(world, "a", "a"))
    with pytest.raises(BadInput, match="has a step 'a' already"):
        run(place, lambda scope: [scope.step("a", int), list(scope.each("a", []))])
    assert world.calls == ["a"]


# -- failures ----------------------------------------------------------------

POLICY = RetryPolicy(attempts=3, first=2.0, exceptions=(RuntimeError,))


def test_a_failed_step_is_tried_again_as_its_policy_says(place: Place, world: World) -> None:
    world.failures = {"a": 2}
    assert run(place, lambda scope: scope.step("a", world.call, "a", 1, retry=POLICY)) == 1
    assert world.calls == ["a"] * 3
    assert place.slept == pytest.approx([2.0, 4.0])


def test_attempts_and_the_rest_of_a_wait_survive_a_crash(place: Place, world: World) -> None:
    world.failures = {"a": 9}

    def crash(seconds: float) -> None:
        raise Crash

    for attempt in (1, 2):
        journal = Journal(place.backend(), sleep=crash)
        with pytest.raises(Crash), journal.scope("job") as scope:
            scope.step("a", world.call, "a", retry=POLICY)
        record = journal.show("job")[1][0]
        assert (record.status, record.attempts) == ("RETRY", attempt)
        assert record.wait == pytest.approx(2.0 * attempt)
        place.pass_time(0.5)
        # what is left of the wait is waited for before the next attempt
        place.slept.clear()
        if attempt == 1:
            with pytest.raises(Crash):
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
        raise Crash

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
def test_trouble_of_the_store_is_no_failure_of_a_step(
    place: Place, world: World, error: type[Exception]
) -> None:
    """It says nothing of the function, and may say that the step is another one's now."""

    def lose() -> None:
        world.calls.append("a")
        raise error("lost")

    for _ in range(4):
        with pytest.raises(error, match="lost"):
            run(place, lambda scope: scope.step("a", lose, retry=RetryPolicy(attempts=2)))
    assert world.calls == ["a"] * 4
    assert (place.slept, place.journal().show("job")[1]) == ([], [])


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


def test_an_error_whose_text_cannot_be_had_is_recorded_without(place: Place) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    def fail() -> None:
        raise Odd

    with pytest.raises(StepFailed, match=r"failed for good: Odd: $"):
        run(place, lambda scope: scope.step("a", fail, retry=RetryPolicy()))


# -- programs that changed ---------------------------------------------------


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
    assert "recorded is step 'b' there. It has changed" in str(error)
    assert world.calls == ["a", "b"]


def test_a_recorded_step_asked_for_later_than_recorded_is_noticed(
    place: Place, world: World
) -> None:
    def crash(scope: Scope) -> None:
        steps(world, "a")(scope)
        raise Crash

    with pytest.raises(Crash):
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


# -- scopes ------------------------------------------------------------------


def nested(world: World, *names: str) -> Callable[[Scope], Any]:
    def program(scope: Scope) -> list[Any]:
        values = [scope.step("a", world.call, "a", 0)]
        for name in names:
            with scope.scope(name) as inner:
                values.append(inner.step("a", world.call, f"{name}/a", name))
                with inner.scope("deep") as deepest:
                    values.append(deepest.step("a", world.call, f"{name}/deep/a", [name]))
        values.append(scope.step("b", world.call, "b", 1))
        return values

    return program


def test_steps_of_nested_scopes_have_their_own_names_and_order(place: Place, world: World) -> None:
    for _ in range(2):
        values = run(place, nested(world, "x", "y"))
        assert values == [0, "x", ["x"], "y", ["y"], 1]
    assert world.calls == ["a", "x/a", "x/deep/a", "y/a", "y/deep/a", "b"]
    info, records = place.journal().show("job")
    assert info.steps == 6
    assert {one.name: one.number for one in records} == {
        "a": 1,
        "x/a": 1,
        "x/deep/a": 1,
        "y/a": 1,
        "y/deep/a": 1,
        "b": 2,
    }


def test_a_nested_scope_that_is_gone_is_noticed(place: Place, world: World) -> None:
    run(place, nested(world, "x", "y"))
    error = mismatch(place, nested(world, "x"))
    assert (error.recorded, error.asked) == ("y/a", None)


def test_a_nested_scope_notices_at_its_own_end_what_is_gone(place: Place, world: World) -> None:
    run(place, nested(world, "x"))

    def program(scope: Scope) -> None:
        scope.step("a", world.call, "a")
        with scope.scope("x"):
            pass
        pytest.fail("the end of the nested scope is late")

    assert mismatch(place, program).recorded == "x/a"


def test_a_nested_scope_has_its_name_to_itself(place: Place, world: World) -> None:
    with pytest.raises(BadInput, match="has a nested scope 'x' already"):
        run(place, nested(world, "x", "x"))


def test_a_step_and_a_nested_scope_may_have_the_same_name(place: Place, world: World) -> None:
    def program(scope: Scope) -> list[Any]:
        with scope.scope("x") as inner:
            return [inner.step("x", world.call, "1", 1), scope.step("x", world.call, "2", 2)]

    assert [run(place, program) for _ in range(2)] == [[1, 2]] * 2
    assert world.calls == ["1", "2"]


def test_threads_may_each_have_a_nested_scope(place: Place, world: World) -> None:
    def program(scope: Scope) -> list[Any]:
        values: dict[str, Any] = {}

        def work(name: str) -> None:
            with scope.scope(name) as inner:
                values[name] = [inner.step(f"{n}", world.call, f"{name}{n}", n) for n in range(5)]

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [values[name] for name in "abcd"]

    assert [run(place, program) for _ in range(2)] == [[list(range(5))] * 4] * 2
    assert len(world.calls) == len(set(world.calls)) == 20


def test_a_scope_knows_whether_it_had_come_to_its_end(place: Place, world: World) -> None:
    seen = []

    def program(scope: Scope) -> None:
        seen.append(scope.finished)
        steps(world, "a")(scope)

    world.failures = {"a": 1}
    with pytest.raises(RuntimeError):
        run(place, program)
    run(place, program)
    run(place, program)
    assert seen == [False, False, True]


def test_a_finished_scope_stays_so_when_a_look_at_it_fails(place: Place, world: World) -> None:
    run(place, steps(world, "a"))
    with pytest.raises(JournalMismatch):
        run(place, steps(world, "b"))
    assert place.journal().show("job")[0].finished is not None
    # but not when there was more to do
    world.failures = {"c": 1}
    with pytest.raises(RuntimeError):
        run(place, steps(world, "a", "b", "c"))
    assert place.journal().show("job")[0].finished is None
    assert place.journal().prune(age=0) == 0


def test_a_forgotten_scope_is_done_anew(place: Place, world: World) -> None:
    run(place, steps(world, "a"))
    journal = place.journal()
    journal.forget("job")
    with pytest.raises(NotFound, match="'job'"):
        journal.show("job")
    run(place, steps(world, "a"))
    assert world.calls == ["a", "a"]


def test_scopes_do_not_see_each_other(place: Place, world: World) -> None:
    for name in ("job", "JOB", "job 2", "jöb"):
        run(place, steps(world, "a"), name)
    assert world.calls == ["a"] * 4


# -- two at once -------------------------------------------------------------


def test_the_second_of_two_is_told_that_the_scope_is_busy(place: Place, world: World) -> None:
    first, second = place.journal(), place.journal()
    with first.scope("job"):
        # also the same journal again, in a second thread as it were
        for journal in (second, first):
            with pytest.raises(Busy, match="'job' is being worked on"), journal.scope("job"):
                pytest.fail("two have it")
    with second.scope("job") as scope:
        steps(world, "a")(scope)


def test_the_second_of_two_can_wait(place: Place, world: World) -> None:
    holder = place.journal()
    block = holder.scope("job")
    steps(world, "a")(block.__enter__())
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            block.__exit__(None, None, None)

    with Journal(place.backend(), sleep=wait).scope("job", wait=60) as scope:
        assert steps(world, "a")(scope) == ["A"]
    assert len(waits) == 3
    assert world.calls == ["a"]


def test_a_wait_comes_to_an_end(place: Place) -> None:
    with place.journal().scope("job"):
        with pytest.raises(Busy), place.journal().scope("job", wait=0.001):
            pytest.fail("two have it")
        with pytest.raises(BadInput, match="wait must be a positive number"):
            place.journal().scope("job", wait=-1).__enter__()


def test_who_lost_the_scope_writes_nothing_more(place: Place, world: World) -> None:
    lost, taker = place.backend(), place.journal()
    journal = Journal(lost)

    def record_one(scope: Scope) -> None:
        scope.step("a", world.call, "a", 1)

    with journal.scope("job") as old:
        record_one(old)
        place.kill(lost)
        with taker.scope("job") as new:
            assert new.step("a", pytest.fail) == 1
            with pytest.raises(StaleLock):
                old.step("b", world.call, "b of the loser", 2)
            new.step("b", world.call, "b", 3)
        with pytest.raises(StaleLock):
            old.step("c", world.call, "c of the loser")
    info, records = taker.show("job")
    assert {one.name: one.value for one in records} == {"a": "1", "b": "3"}
    # the loser's end is not the end
    assert info.finished is not None


def test_who_lost_the_scope_cannot_finish_it(place: Place, world: World) -> None:
    lost = place.backend()
    with Journal(lost).scope("job"):
        place.kill(lost)
        taker = place.journal()
        block = taker.scope("job")
        block.__enter__()
    info, _ = taker.show("job")
    assert (info.finished, info.owner is None) == (None, False)
    block.__exit__(None, None, None)


def test_an_each_that_lost_the_scope_stops_at_the_next_item(place: Place, world: World) -> None:
    lost = place.backend()
    rest = []

    def go_on(scope: Scope) -> None:
        for item in scope.each("a", range(5)):
            world.call(f"{item.value}")
            if item.index == 2:
                place.kill(lost)
                with place.journal().scope("job") as new:
                    rest.extend([one.value for one in new.each("a", range(5))])

    with Journal(lost).scope("job") as old, pytest.raises(StaleLock):
        go_on(old)
    assert world.calls == ["0", "1", "2"]
    assert rest == [2, 3, 4]


# -- idempotency keys --------------------------------------------------------


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


# -- each --------------------------------------------------------------------


def go_through(world: World, items: Any, **options: Any) -> Callable[[Scope], list[Any]]:
    def program(scope: Scope) -> list[Any]:
        return [world.call(f"{one.value}", one.index) for one in scope.each("a", items, **options)]

    return program


def test_each_goes_on_after_the_last_item_that_was_done(place: Place, world: World) -> None:
    world.failures = {"12": 1}
    program = go_through(world, range(10, 15))
    with pytest.raises(RuntimeError):
        run(place, program)
    assert run(place, program) == [2, 3, 4]
    assert world.calls == ["10", "11", "12", "12", "13", "14"]
    assert run(place, program) == []
    record = place.journal().show("job")[1][0]
    assert (record.status, record.position) == ("END", 5)


def test_each_asks_a_function_for_the_rest(place: Place, world: World) -> None:
    asked = []

    def rest(done: int) -> Iterator[int]:
        asked.append(done)
        return iter(range(10 + done, 15))

    world.failures = {"12": 1, "14": 1}
    program = go_through(world, rest)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            run(place, program)
    run(place, program)
    run(place, program)
    assert asked == [0, 2, 4]
    assert world.calls == ["10", "11", "12", "12", "13", "14", "14"]


def test_each_may_record_after_several_items(place: Place, world: World) -> None:
    world.failures = {"15": 1}
    program = go_through(world, range(10, 18), every=3)
    with pytest.raises(RuntimeError):
        run(place, program)
    assert place.journal().show("job")[1][0].position == 3
    run(place, program)
    assert place.journal().show("job")[1][0].position == 8
    assert world.calls == [str(one) for one in (*range(10, 16), *range(13, 18))]


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_every_is_a_whole_number(place: Place, every: Any) -> None:
    with pytest.raises(BadInput, match="every must be a whole number of at least 1"):
        run(place, lambda scope: list(scope.each("a", [], every=every)))


def test_fewer_items_than_are_done_are_noticed(place: Place, world: World) -> None:
    world.failures = {"13": 1}
    with pytest.raises(RuntimeError):
        run(place, go_through(world, range(10, 15)))
    error = mismatch(place, go_through(world, range(10, 12)))
    assert (error.recorded, error.asked) == ("3", "2")
    assert "3 items of each 'a' are done, but there are only 2 now" in str(error)


def test_each_without_items_is_done_at_once(place: Place, world: World) -> None:
    assert run(place, go_through(world, [])) == []
    assert run(place, go_through(world, range(3))) == []
    assert world.calls == []


def test_an_item_can_be_recorded_before_the_next_is_asked_for(place: Place, world: World) -> None:
    def program(scope: Scope) -> None:
        for item in scope.each("a", range(3)):
            world.call(f"{item.index}")
            item.done()
            item.done()
            raise Crash

    for _ in range(3):
        with pytest.raises(Crash):
            run(place, program)
    run(place, program)
    assert world.calls == ["0", "1", "2"]


def test_an_each_that_nobody_went_through_is_not_asked_for(place: Place) -> None:
    def program(scope: Scope) -> None:
        items = scope.each("a", range(3))
        next(items)

    run(place, program)
    # no longer to go through them is another program
    assert mismatch(place, lambda scope: None).recorded == "a"


def test_each_of_a_hundred_thousand_items_keeps_one_row(place: Place) -> None:
    many = 100_000
    sizes = []

    def program(scope: Scope, end: int) -> int:
        count = 0
        for item in scope.each("a", lambda done: range(done, many), every=many // 8):
            count += 1
            if item.index == end:
                raise Crash
        return count

    for end in (many // 4 + 1, many // 2 + 1):
        with pytest.raises(Crash):
            run(place, partial(program, end=end))
        sizes.append([(len(repr(one)), one.position) for one in place.journal().show("job")[1]])
    assert run(place, partial(program, end=many)) == many // 2
    assert [position for (_, position), *rest in sizes if not rest] == [many // 4, many // 2]
    assert abs(sizes[0][0][0] - sizes[1][0][0]) <= 1
    assert place.journal().show("job")[1][0].position == many


# -- in the caller's transaction ---------------------------------------------


def add_row(connection: Any, number: int) -> int:
    connection.exec_driver_sql(f"INSERT INTO effect VALUES ({number})")
    return number


@pytest.fixture
def effects(sql: InDatabase) -> Callable[[], list[int]]:
    """A table of the caller's beside converge's; gives its rows."""
    engine = sql.store.database.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS effect")
        connection.exec_driver_sql("CREATE TABLE effect (number INTEGER)")

    def read() -> list[int]:
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT number FROM effect ORDER BY number")
            return [int(row[0]) for row in rows]

    return read


def test_a_step_in_a_transaction_is_there_with_its_effect_or_not_at_all(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    def program(scope: Scope, crash: bool) -> Any:
        with sql.store.transaction() as tx:
            value = scope.step("a", add_row, tx.connection, 1, transaction=tx)
            if crash:
                raise Crash
        return value

    for _ in range(2):
        with pytest.raises(Crash):
            run(sql, partial(program, crash=True))
        assert (effects(), sql.journal().show("job")[1]) == ([], [])
    assert [run(sql, partial(program, crash=False)) for _ in range(2)] == [1, 1]
    assert effects() == [1]


def test_the_transaction_can_be_a_connection_or_a_session(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    from sqlalchemy.orm import Session

    engine = sql.store.database.engine

    def program(scope: Scope) -> None:
        with engine.begin() as connection:
            scope.step("a", add_row, connection, 1, transaction=connection)
        with Session(engine) as session, session.begin():
            scope.step("b", lambda: add_row(session.connection(), 2), transaction=session)
        with engine.begin() as connection, scope.step("c", transaction=connection) as step:
            if not step.done:
                step.value = add_row(connection, 3)

    for _ in range(2):
        run(sql, program)
    assert effects() == [1, 2, 3]
    with pytest.raises(BadInput, match="transaction must be"):
        run(sql, lambda scope: scope.step("a", int, transaction=3), "other")  # type: ignore[call-overload]


def test_items_in_transactions_have_their_effect_once(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    def program(scope: Scope, crash: int) -> None:
        for item in scope.each("a", range(6)):
            with sql.store.transaction() as tx:
                add_row(tx.connection, item.value)
                item.done(transaction=tx)
                if item.index == crash:
                    raise Crash
            if item.index == crash - 1:
                raise Crash

    for crash in (2, 3, 5):
        with pytest.raises(Crash):
            run(sql, partial(program, crash=crash))
    run(sql, partial(program, crash=-1))
    assert effects() == list(range(6))


def test_an_item_that_was_rolled_back_can_be_done_in_another_transaction(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    def attempt(item: Item[int], fail: bool) -> None:
        with sql.store.transaction() as tx:
            add_row(tx.connection, item.value)
            item.done(transaction=tx)
            if fail:
                raise RuntimeError

    def program(scope: Scope) -> None:
        for item in scope.each("a", range(3)):
            with pytest.raises(RuntimeError):
                attempt(item, fail=True)
            attempt(item, fail=False)
            raise Crash

    for _ in range(3):
        with pytest.raises(Crash):
            run(sql, program)
    run(sql, program)
    assert effects() == [0, 1, 2]


def test_who_lost_the_scope_has_no_effect_in_a_transaction(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    lost = sql.backend()

    def write(scope: Scope) -> None:
        with sql.store.transaction() as tx:
            scope.step("a", add_row, tx.connection, 1, transaction=tx)

    with Journal(lost).scope("job") as scope:
        sql.kill(lost)
        with sql.journal().scope("job"), pytest.raises(StaleLock):
            write(scope)
    assert effects() == []


def test_a_retry_in_a_transaction_is_refused(place: Place, world: World) -> None:
    with pytest.raises(BadInput, match="retry and transaction exclude each other"):
        run(
            place,
            lambda scope: scope.step("a", world.call, "a", retry=POLICY, transaction=object()),  # type: ignore[call-overload]
        )
    assert world.calls == []


def test_a_journal_in_memory_has_no_transactions(world: World) -> None:
    journal = Journal("memory://")
    with pytest.raises(BadInput, match="no transactions"), journal.scope("job") as scope:
        scope.step("a", world.call, "a", transaction=object())  # type: ignore[call-overload]


# -- the journal itself ------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://x", "has the URL memory://"),
        ("journal.db", "is not the URL of a journal"),
        ("sqlit:///x.db", "did you mean 'sqlite'"),
    ],
)
def test_a_wrong_url_is_named(url: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Journal(url)


@pytest.mark.parametrize("backend", [None, "sql"])
def test_a_journal_is_opened_by_the_url_of_its_database(
    database_url: str, world: World, backend: str | None
) -> None:
    name = f"job of {backend}"
    for _ in range(2):
        with Journal(database_url, backend=backend) as journal, journal.scope(name) as scope:
            assert steps(world, "a")(scope) == ["A"]
    assert world.calls == ["a"]


def test_a_journal_is_opened_by_a_name_alone(world: World) -> None:
    with Journal("memory") as journal, journal.scope("job") as scope:
        assert steps(world, "a")(scope) == ["A"]
        assert isinstance(journal.backend, MemoryBackend)


def test_a_backend_is_found_by_its_name_whatever_the_scheme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[str, float]] = []

    def open_etcd(url: str, lease: float) -> MemoryBackend:
        opened.append((url, lease))
        return MemoryBackend(Memory(), lease)

    monkeypatch.setattr("converge.journal._backends", lambda: {"etcd": open_etcd})
    Journal("https://host:2379", backend="etcd", lease=5.0).close()
    assert opened == [("https://host:2379", 5.0)]
    with pytest.raises(BadInput, match=r"there is no backend 'etc'; did you mean 'etcd'\?"):
        Journal("https://host:2379", backend="etc")
    with pytest.raises(BadInput, match="'https://host:2379' is not the URL of a journal"):
        Journal("https://host:2379")


def test_a_closed_journal_leaves_its_scopes_to_others_at_once(place: Place) -> None:
    backend = place.backend()
    block = Journal(backend).scope("job")
    block.__enter__()
    backend.close()
    with place.journal().scope("job"):
        pass


@pytest.mark.parametrize(
    "limits", [{}, {"age": -1}, {"keep": -1}, {"age": float("inf")}, {"age": float("nan")}]
)
def test_prune_wants_to_know_what(place: Place, limits: Any) -> None:
    with pytest.raises(BadInput, match=r"prune needs|must be a (whole )?number"):
        place.journal().prune(**limits)
