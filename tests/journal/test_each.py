"""Items: each goes on after the last one that was done."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from converge.errors import BadInput
from converge.journal import Record, Scope
from converge.journal.backend import StepStatus
from tests.dying import Died
from tests.journal.places import Place
from tests.journal.world import World, mismatch, run

MANY = 10_000


class Thing:
    """What no value can be."""


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
    assert "each 'a': 3 items are done, but now there are only 2" in str(error)


def test_items_that_changed_in_front_are_noticed_before_anything_is_done(
    place: Place, world: World
) -> None:
    world.failures = {"12": 1}
    with pytest.raises(RuntimeError):
        run(place, go_through(world, range(10, 15)))
    world.calls.clear()
    for items in ([9, *range(10, 15)], [10, 12, 13], [11, 10, 12, 13]):
        error = mismatch(place, go_through(world, iter(items)))
        assert "each 'a': the first 2 items are not the ones that were done" in str(error)
        assert "key=" in str(error)
        assert error.recorded != error.asked
    assert world.calls == []
    # those that follow may be others
    assert run(place, go_through(world, [10, 11, 5])) == [2]


def test_items_are_compared_by_their_values_as_they_were_given(place: Place, world: World) -> None:
    def program(scope: Scope, swapped: bool, end: int) -> None:
        things: list[dict[str, Any]] = [{"a": Decimal(1), "b": {"x", "y"}}, {"b": 2, "c": 3}, {}]
        if swapped:
            things = [{"b": {"y", "x"}, "a": Decimal(1)}, {"c": 3, "b": 2}, {}]
        for item in scope.each("a", things):
            item.value.clear()
            if item.index == end:
                raise Died

    for swapped, end in ((False, 1), (True, 2), (False, 2)):
        with pytest.raises(Died):
            run(place, partial(program, swapped=swapped, end=end))
    mismatch(place, go_through(world, [{}, {}, {}]))


def test_items_that_cannot_be_stored_are_counted(place: Place, world: World) -> None:
    items = [Thing(), 2, Thing(), Thing(), 5]
    world.failures = {"5": 1}
    with pytest.raises(RuntimeError):
        run(place, go_through(world, items))
    for others in ([Thing(), 3, Thing(), Thing(), 5], items[:2]):
        mismatch(place, go_through(world, others))
    assert run(place, go_through(world, [Thing(), 2, Thing(), Thing(), 5])) == [4]


def test_what_an_older_version_recorded_without_a_digest_goes_on(
    anywhere: Place, world: World
) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    backend.write(lock, Record("a", 1, status=StepStatus.OPEN, position=2))
    backend.release(lock, finished=False)
    world.failures = {"14": 1}
    with pytest.raises(RuntimeError):
        run(anywhere, go_through(world, range(10, 15)))
    assert world.calls == ["12", "13", "14"]
    # from then on it is compared
    mismatch(anywhere, go_through(world, range(9, 15)))
    assert run(anywhere, go_through(world, lambda done: range(10 + done, 15))) == [4]


def test_a_function_may_give_what_a_list_gave(place: Place, world: World) -> None:
    """What is recorded goes on also where nobody compares it."""
    world.failures = {"12": 2, "14": 2}
    for items in (range(10, 15), lambda done: range(10 + done, 15)):
        with pytest.raises(RuntimeError):
            run(place, go_through(world, items))
    with pytest.raises(RuntimeError):
        run(place, go_through(world, lambda done: range(10 + done, 15)))
    mismatch(place, go_through(world, [10, 11, 12, 12, 14]))
    with pytest.raises(RuntimeError):
        run(place, go_through(world, range(10, 15)))
    assert run(place, go_through(world, range(10, 15))) == [4]


# -- keys --------------------------------------------------------------------


def by_key(world: World, items: Any, **options: Any) -> Callable[[Scope], list[Any]]:
    return go_through(world, items, key=lambda one: one, **options)


def test_items_with_keys_may_change_anywhere(
    anywhere: Place, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.journal.items.FULL", 2)
    world.failures = {"g": 2, "h": 1}
    for items, called in (("abcdefgh", "abcdefg"), ("xbacyzgef", "xyzg"), ("hgezb", "h")):
        with pytest.raises(RuntimeError):
            run(anywhere, by_key(world, items))
        assert "".join(world.calls) == called
        world.calls.clear()
    assert run(anywhere, by_key(world, iter("fxeabcdghyz!"))) == [7, 8, 11]
    assert "".join(world.calls) == "gh!"
    info, records = anywhere.journal().show("job")
    (record,) = records
    assert (info.steps, record.status, record.position) == (1, "END", 12)


def test_keys_may_be_strings_or_whole_numbers(place: Place, world: World) -> None:
    items = [1, "1", -1, 10**30, "", "key 1", "é\n\ud800"]
    assert run(place, by_key(world, items)) == list(range(7))
    for wrong in (True, 1.0, None, b"1", ("a",)):
        with pytest.raises(BadInput, match=r"each 'a': the key of item 1 must be a string or a"):
            run(place, by_key(world, ["x", wrong]), "another job")


def test_two_items_of_one_key_are_refused(place: Place, world: World) -> None:
    for items in (["a", "b", "a"], {"x": 1, "y": 1}.items()):
        key: Any = (lambda one: one) if isinstance(items, list) else (lambda one: one[1])
        with pytest.raises(BadInput, match=r"each 'a': items 0 and [12] have the same key"):
            run(place, go_through(world, items, key=key))
    assert world.calls == []
    # of others it is seen when it comes
    with pytest.raises(BadInput, match="items 1 and 2 have the same key 'b'"):
        run(place, by_key(world, iter("abbc")))
    assert world.calls == ["a", "b"]
    assert run(place, by_key(world, "abc")) == [2]


def test_keys_cannot_come_or_go_when_items_are_done(place: Place, world: World) -> None:
    world.failures = {"a": 2, "b": 2}
    with pytest.raises(RuntimeError):
        run(place, by_key(world, "abc"))
    # nothing is done yet
    with pytest.raises(RuntimeError):
        run(place, go_through(world, "abc"))
    with pytest.raises(RuntimeError):
        run(place, by_key(world, "abc"))
    assert "1 items were recorded with keys" in str(mismatch(place, go_through(world, "abc")))
    place.journal().forget("job")
    with pytest.raises(RuntimeError):
        run(place, go_through(world, "abc"))
    assert "1 items were recorded without keys" in str(mismatch(place, by_key(world, "abc")))


def test_a_key_is_a_function_and_the_items_are_given_themselves(place: Place) -> None:
    anything: Any = "id"
    for items, key in (([1], anything), (lambda done: [1], str)):
        with pytest.raises(BadInput, match="each 'a': key must be a function of an item"):
            run(place, lambda scope, items=items, key=key: list(scope.each("a", items, key=key)))  # type: ignore[misc]
    assert place.journal().show("job")[1] == []


def test_the_idempotency_key_of_an_item_is_its_keys(place: Place) -> None:
    def program(scope: Scope, items: str) -> dict[str, str]:
        found = {}
        for item in scope.each("a", items, key=str):
            found[item.value] = item.key
            if len(found) == 3:
                raise Died(found)
        return found

    with pytest.raises(Died) as crash:
        run(place, partial(program, items="abc"))
    found = run(place, partial(program, items="xc"))
    assert found["c"] == crash.value.args[0]["c"]
    assert len({*found.values(), *crash.value.args[0].values()}) == 4


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
            raise Died

    for _ in range(3):
        with pytest.raises(Died):
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


def test_keys_are_kept_in_rows_of_a_limited_size(place: Place) -> None:
    items = [f"thing {number}" for number in range(MANY)]

    def program(scope: Scope, items: list[str], end: int) -> int:
        count = 0
        for item in scope.each("a", items, key=str, every=100):
            count += 1
            if item.index == end:
                raise Died
        return count

    with pytest.raises(Died):
        run(place, partial(program, items=items, end=MANY - 1))
    backend = place.backend()
    records = backend.show("job")[1]
    assert len(records) == MANY // 100
    assert max(len(one.value) for one in records) < 2000
    assert backend.show("job")[0].steps == 1
    random.shuffle(items)
    # of the last one, nothing was recorded
    assert run(place, partial(program, items=["new", *items], end=-1)) == 101


def test_each_of_a_hundred_thousand_items_keeps_one_row(place: Place) -> None:
    many = 100_000
    sizes = []

    def program(scope: Scope, end: int) -> int:
        count = 0
        for item in scope.each("a", lambda done: range(done, many), every=many // 8):
            count += 1
            if item.index == end:
                raise Died
        return count

    for end in (many // 4 + 1, many // 2 + 1):
        with pytest.raises(Died):
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
