"""Items: each goes on after the last one that was done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from converge.errors import BadInput
from converge.journal import Scope
from tests.journal.places import Place
from tests.journal.world import Crash, World, mismatch, run


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


def test_the_function_of_an_each_must_give_its_items_when_it_is_called(place: Place) -> None:
    async def later(done: int) -> list[int]:
        return [1]

    async def generate(done: int) -> AsyncIterator[int]:
        yield 1

    for function in (later, generate):
        items: Any = function
        with pytest.raises(BadInput, match=r"each 'a': .* is an async"):
            run(place, lambda scope, items=items: list(scope.each("a", items)))  # type: ignore[misc]
    assert place.journal().show("job")[1] == []
