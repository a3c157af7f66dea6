"""What a claim may take of limits, without a database."""

from __future__ import annotations

import random
from typing import Any

import pytest

from converge.errors import BadInput
from converge.model import LimitKind
from converge.protocol.places import (
    Asker,
    Room,
    check_places,
    choose,
    keys_of,
    which_limit,
)
from converge.protocol.rates import GRAIN, Rate, parse_rate
from converge.resources.resource_type import ResourceType


def ask(*needs: int, node: int = 0, is_start: bool = True) -> Asker:
    return Asker((1, node), needs, is_start)


def test_those_that_come_first_have_the_places() -> None:
    choice = choose([ask(1, node=n) for n in range(4)], {1: Room(2, None)}, 9)
    assert [one.key[1] for one in choice.taken] == [0, 1]
    assert choice.held == {1: [(1, 2), (1, 3)]}


def test_a_place_of_each_limit_is_taken_or_of_none() -> None:
    rooms = {1: Room(5, None), 2: Room(0, None), 3: Room(5, None)}
    choice = choose([ask(3, 2, 1), ask(1, node=1)], rooms, 9)
    assert [one.key[1] for one in choice.taken] == [1]
    assert choice.held == {2: [(1, 0)]}
    assert [room.places for room in rooms.values()] == [4, 0, 5]


def test_what_needs_none_passes_by_and_what_is_too_much_is_left_alone() -> None:
    choice = choose([ask(1), ask(node=1), ask(7, node=2), ask(1, node=3)], {1: Room(0, None)}, 2)
    # 7 limits nothing any more
    assert [one.key[1] for one in choice.taken] == [1, 2]
    assert choice.held == {1: [(1, 0)]}


def test_a_call_again_is_no_start() -> None:
    rooms = {1: Room(3, 1)}
    again = ask(1, node=1, is_start=False)
    choice = choose([ask(1), again, ask(1, node=2)], rooms, 9)
    assert [one.key[1] for one in choice.taken] == [0, 1]
    assert rooms[1] == Room(1, 0, taken=1)


@pytest.mark.parametrize(("count", "seconds"), [(1, 1.0), (10, 1.0), (500, 3.0), (3, 0.1)])
def test_a_rate_is_kept_in_whichever_time_one_looks(count: int, seconds: float) -> None:
    chance = random.Random(count)
    rate, now = Rate(count, seconds), 1e9
    starts: list[list[float]] = []
    done: list[float] = []
    for _ in range(600):
        now += chance.choice([0, seconds / 7, seconds / 60, seconds * 1.1])
        starts = rate.recent(starts, now)
        taken = min(rate.left(starts), chance.randint(0, count))
        starts = rate.add(starts, now, taken)
        assert len(starts) <= GRAIN + 1
        # closed as long as there is none, and not for longer
        opens = rate.open_at(starts)
        assert (opens == 0) == (rate.left(starts) > 0)
        assert not opens or rate.left(rate.recent(starts, opens + 1e-6)) > 0
        assert opens <= now + seconds * (1 + 1 / GRAIN) + 1e-6
        done += [now] * taken
        within = [at for at in done if at > now - seconds + 1e-6]
        assert len(within) <= count


def test_a_clock_that_is_set_back_keeps_nothing_closed_for_longer() -> None:
    rate = Rate(2, 10.0)
    starts = rate.add([], 5000.0, 2)
    assert rate.left(rate.recent(starts, 1000.0)) == 0
    assert rate.open_at(rate.recent(starts, 1000.0)) == 1010.0


@pytest.mark.parametrize(
    ("text", "found"),
    [("10/s", (10, 1.0)), ("5/min", (5, 60.0)), ("3/10s", (3, 10.0)), ("7/1.5h", (7, 5400.0))],
)
def test_rates(text: str, found: tuple[int, float]) -> None:
    assert parse_rate(text) == found


@pytest.mark.parametrize("text", ["10", "10/", "0/s", "-1/s", "1/d", "1/0s", "1/25h", "1.5/s", 10])
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(BadInput, match="rate"):
        parse_rate(text)


@pytest.mark.parametrize("places", [-1, 1.5, True, "2", 1_000_001])
def test_what_is_no_number_of_places_is_refused(places: object) -> None:
    with pytest.raises(BadInput, match="places must be a whole number"):
        check_places(places)


def test_a_limit_is_of_one_thing() -> None:
    assert which_limit(type=None, stack=None, key="a:b") == (LimitKind.KEY, "a:b")
    for given in ({}, {"type": "t", "key": "k"}):
        with pytest.raises(BadInput, match="name exactly one"):
            which_limit(**given)


@pytest.mark.parametrize("said", ["account", 7, [1], None])
def test_a_type_must_name_its_keys(said: Any) -> None:
    class Server(ResourceType):
        def limits(self, properties: Any) -> Any:
            return said

    with pytest.raises(BadInput, match=r"limits\(\) of type 'server' must return"):
        keys_of("server", Server(), {})
