"""The claim window, from how long nodes take."""

from __future__ import annotations

import pytest

from converge.engine.window import (
    AHEAD,
    BRIEF,
    CLAIMED,
    GATHERED,
    WINDOW,
    WINDOW_BESIDE,
    WINDOW_SHARED,
    WRITTEN,
    Gathering,
    Window,
)


def test_a_fresh_engine_holds_as_many_nodes_as_it_has_workers() -> None:
    window = Window(8)
    assert (window.size, window.is_wide) == (8, False)
    assert [window.room(held) for held in (0, 3, 8, 9)] == [8, 5, 0, 0]


def test_nodes_without_handlers_widen_it_within_a_few_rounds() -> None:
    window = Window(8)
    for _ in range(6):
        for _ in range(window.size):
            window.add(0)
    assert window.size == WINDOW
    assert window.is_wide


@pytest.mark.parametrize(("seconds", "size"), [(0.1, 20), (0.01, 200), (0.001, WINDOW), (1, 8)])
def test_it_holds_what_the_workers_get_done_ahead(seconds: float, size: int) -> None:
    window = Window(8)
    for _ in range(500):
        window.add(seconds)
    assert window.size == pytest.approx(size, abs=1)


def test_a_slow_handler_narrows_it_at_once() -> None:
    window = Window(8)
    for _ in range(500):
        window.add(0)
    window.add(10 * AHEAD)
    assert window.size == 8
    for _ in range(500):
        window.add(0)
    window.narrow()
    assert window.size == 8
    # but not one that took long a while ago
    window.add(0)
    assert window.seconds < AHEAD


@pytest.mark.parametrize(("seconds", "is_quick"), [(0.0, True), (0.004, True), (0.02, False)])
def test_only_quick_handlers_are_waited_for(seconds: float, is_quick: bool) -> None:
    window = Window(8)
    for _ in range(500):
        window.add(seconds)
    assert window.is_quick is is_quick


def test_a_transaction_that_only_claims_is_for_a_quarter_of_a_wide_window() -> None:
    window = Window(8)
    assert window.least() == 1
    window.seconds = 0.0
    assert window.least() == WINDOW // 4


def test_what_one_holds_other_engines_cannot_take() -> None:
    window = Window(8)
    window.seconds = 0.0
    window.is_beside = True
    assert window.size == WINDOW_BESIDE
    # nor does it hold more for that while handlers are slow
    window.seconds = 0.1
    assert window.size == 20


def test_whoever_shares_it_writes_less_at_a_time_and_finds_room_for_others() -> None:
    window = Window(8)
    window.seconds = 0.0
    assert (window.most_written, window.room(WINDOW)) == (WRITTEN, 0)
    window.is_shared = True
    assert (window.size, window.most_written) == (WINDOW_SHARED, WINDOW_SHARED)
    assert [window.room(held) for held in (0, 60, 64, 1999, 2000)] == [64, 32, 32, 32, 0]
    # slow handlers: there is room when one has returned, written or not
    window.seconds = 1.0
    assert [window.room(held, 200) for held in (8, 5)] == [0, 3]
    window.is_shared = False
    assert window.room(5, 200) == 0


def test_no_transaction_claims_more_than_it_would_write() -> None:
    window = Window(8)
    window.seconds = 0.0
    assert [window.room(held) for held in (0, 900)] == [CLAIMED, 100]


def test_who_hears_of_another_stack_claims_before_it_writes_but_not_twice() -> None:
    window = Window(8)
    heard = [(True, 0), (True, 8), (True, 8), (True, 8), (False, 8), (True, 8)]
    found = [window.claims_first(is_news, room) for is_news, room in heard]
    assert found == [False, True, False, True, False, True]


def quick(*, is_shared: bool = False) -> Window:
    window = Window(8)
    window.seconds = 0.0
    window.is_shared = is_shared
    return window


def test_without_anything_to_write_a_turn_waits_for_its_next_look_or_a_hint() -> None:
    gathering = Gathering(Window(8), 100.0, 107.0, running=True)
    assert gathering.end == 107.0
    gathering.hurry(103.0)
    gathering.hurry(105.0)
    assert gathering.end == 103.0
    gathering.stop()
    assert gathering.end is None


def test_one_of_several_slow_handlers_is_written_at_once() -> None:
    gathering = Gathering(Window(8), 100.0, None, running=True)
    assert gathering.end is None
    gathering = Gathering(Window(8), 100.0, 107.0, running=True)
    gathering.add(101.0, held=8)
    assert gathering.end is None


def test_quick_handlers_are_waited_for_as_long_as_one_returns_after_another() -> None:
    gathering = Gathering(quick(), 100.0, None, running=True)
    assert gathering.end == 100.0 + BRIEF
    now = 100.004
    ends = []
    while True:
        gathering.add(now, held=1000)
        if gathering.end is None:
            break
        ends.append(gathering.end - now)
        now += 0.004
    assert ends == pytest.approx([BRIEF] * len(ends))
    assert GATHERED - 2 * BRIEF < now - 100.004 < GATHERED
    # nor once all of them have returned
    gathering = Gathering(quick(), 100.0, None, running=True)
    gathering.add(100.001, held=2)
    assert gathering.end is not None
    gathering.add(100.002, held=2)
    assert gathering.end is None


def test_those_of_several_stacks_are_waited_for_briefly() -> None:
    gathering = Gathering(quick(is_shared=True), 100.0, None, running=True)
    for now in (100.001, 100.004):
        gathering.add(now, held=8)
        assert gathering.end == 100.0 + BRIEF
    # and without handlers there is nothing to wait for
    assert Gathering(quick(is_shared=True), 100.0, None, running=False).end is None
