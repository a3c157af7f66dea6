"""When hints are sent, when an idle engine looks for work, and when something is tried again."""

from __future__ import annotations

import pytest

from converge.bus.pace import PATIENCE, Backoff, Looks, Pace


def test_the_first_is_at_once_and_the_next_after_the_interval() -> None:
    pace = Pace(0.5, 0.5)
    assert pace.wait(10.0) == 0
    assert pace.take(10.0)
    assert pace.wait(10.2) == pytest.approx(0.3)
    assert not pace.take(10.2)
    assert pace.take(10.5)
    # time that was not used is not saved up
    assert pace.take(20.0)
    assert not pace.take(20.1)


def test_what_happens_all_the_time_happens_less_often() -> None:
    pace = Pace(1.0, 4.0)
    now, waits = 0.0, []
    for _ in range(5):
        assert pace.take(now)
        waits.append(pace.wait(now))
        now += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]
    # after a pause it begins anew
    assert pace.take(now + 5.0)
    assert pace.wait(now + 5.0) == 1.0


def test_what_is_urgent_waits_for_the_first_interval_only() -> None:
    pace = Pace(1.0, 4.0)
    for now in (0.0, 1.0, 3.0):
        assert pace.take(now)
    assert (pace.wait(3.5), pace.wait(3.5, urgent=True)) == (4.0 - 0.5, 0.5)
    assert not pace.take(3.5, urgent=True)
    assert pace.take(4.0, urgent=True)
    # and what is not urgent waits as long as ever
    assert pace.wait(4.0) == 4.0


def test_each_wait_is_twice_as_long_up_to_a_limit() -> None:
    backoff = Backoff(1.0, 5.0, draw=lambda: 1.0)
    assert not backoff.has_failed
    assert [backoff.next() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.has_failed
    backoff.reset()
    assert not backoff.has_failed
    assert backoff.next() == 1.0


def test_up_to_half_of_a_wait_is_random() -> None:
    assert Backoff(1.0, 5.0, draw=lambda: 0.0).next() == 0.5
    assert Backoff(1.0, 5.0, draw=lambda: 0.5).next() == 0.75


def looks(poll: float = 1.0) -> Looks:
    return Looks(poll, draw=lambda: 0.0)


def test_an_idle_engine_looks_more_and_more_seldom() -> None:
    one = looks()
    waits = []
    for _ in range(6):
        waits.append(one.next_poll(0.0))
        one.found(0, 0.0)
    assert waits == sorted(waits)
    assert waits[:2] == [1.0, 1.5]
    assert waits[-1] == PATIENCE


def test_as_soon_as_it_finds_something_it_looks_often_again() -> None:
    one = looks()
    for _ in range(9):
        one.found(0, 0.0)
    one.found(1, 0.0)
    assert one.next_poll(0.0) == 1.0


def test_up_to_a_quarter_of_the_wait_is_random() -> None:
    assert Looks(1.0, draw=lambda: 1.0).next_poll(5.0) == 5.75
    assert Looks(1.0, draw=lambda: 0.0).next_poll(5.0) == 6.0


def test_a_hint_is_followed_at_once() -> None:
    one = looks()
    for _ in range(9):
        one.found(0, 7.0)
    assert one.heard(7.0) == 7.0


def test_whoever_comes_too_late_again_and_again_lets_hints_pass() -> None:
    one = looks()
    now, pauses = 0.0, []
    for _ in range(8):
        at = one.heard(now)
        pauses.append(round(at - now, 3))
        now = at
        one.found(0, now)
    assert pauses == [0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.32]
    # a hint that comes later than that is followed at once
    assert one.heard(now + 1.0) == now + 1.0


def test_a_look_that_finds_something_ends_that() -> None:
    one = looks()
    for _ in range(5):
        one.heard(0.0)
        one.found(0, 0.0)
    one.found(3, 0.0)
    assert one.heard(0.0) == 0.0


def test_polls_that_find_nothing_delay_no_hint() -> None:
    one = looks()
    for _ in range(5):
        one.found(0, 0.0)
    assert one.heard(0.0) == 0.0


def test_it_looks_when_something_is_to_be_tried_again() -> None:
    one = looks()
    one.plan(0.6)
    one.plan(0.3)
    assert one.next_poll(0.0) == 0.3
    assert one.next_poll(0.2) == 0.3
    # once, whether there was a free worker then or not
    assert one.next_poll(0.3) == 0.3
    assert one.next_poll(0.3) == 0.6
    assert one.next_poll(0.7) == 0.7
    assert one.next_poll(0.7) == 1.7
