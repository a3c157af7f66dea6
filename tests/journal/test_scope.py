"""Scopes: nested, finished, forgotten, and wanted by two at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from converge.errors import BadInput, Busy, JournalMismatch, NotFound, StaleLock
from converge.journal import Journal, Scope
from tests.journal.places import Place
from tests.journal.world import World, mismatch, run, steps

# -- scopes ----------------------------------------------------------------------


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
    with pytest.raises(BadInput, match="already has a nested scope 'x'"):
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


# -- two at once -----------------------------------------------------------------


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
