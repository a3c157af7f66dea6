"""When a batch is full: by count or by time, whichever comes first."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.agent.gathering import Batching, gather
from converge.errors import BadInput


class Queue:
    """Messages that come at given times, by a clock of its own."""

    def __init__(self, times: list[float]) -> None:
        self.clock = 0.0
        self.times = deque(sorted(times))

    def receive(self, timeout: float) -> float | None:
        """The time at which the next message came."""
        if self.times and self.times[0] <= self.clock + timeout:
            self.clock = max(self.clock, self.times[0])
            return self.times.popleft()
        self.clock += timeout
        return None

    def gather(self, most: int, wait: float) -> list[float]:
        return gather(self.receive, Batching(most, wait), lambda: self.clock)


def test_a_full_batch_does_not_wait() -> None:
    queue = Queue([0.0] * 5)
    assert queue.gather(3, 9.0) == [0.0] * 3
    assert queue.clock == 0.0
    assert queue.gather(3, 9.0) == [0.0] * 2
    assert queue.clock == 9.0


def test_one_that_comes_late_in_an_idle_time_has_its_whole_wait_before_it() -> None:
    queue = Queue([0.9, 1.7])
    assert queue.gather(10, 1.0) == [0.9, 1.7]
    assert queue.clock == pytest.approx(1.9)


def test_nothing_is_a_batch_of_none() -> None:
    queue = Queue([])
    assert queue.gather(10, 5.0) == []
    assert queue.clock == 1.0


def test_a_stop_hands_on_what_there_is() -> None:
    queue = Queue([0.0, 0.0])
    assert gather(queue.receive, Batching(10, 5.0), lambda: queue.clock, stopped=lambda: True) == [
        0.0
    ]


@given(
    st.lists(st.floats(0, 50), max_size=30),
    st.integers(1, 5),
    st.floats(0.01, 5),
)
def test_nobody_waits_longer_than_the_wait_and_nothing_is_lost(
    times: list[float], most: int, wait: float
) -> None:
    queue = Queue(times)
    found: list[float] = []
    while len(found) < len(times):
        began = queue.clock
        batch = queue.gather(most, wait)
        assert len(batch) <= most
        if batch:
            # it was taken when it came, or when this batch began
            assert queue.clock <= max(batch[0], began) + wait + 1e-9
        found += batch
    assert found == sorted(times)


@pytest.mark.parametrize(("most", "wait"), [(0, 1.0), (10_001, 1.0), (True, 1.0), (5, 0.0)])
def test_impossible_batches_are_refused(most: int, wait: float) -> None:
    with pytest.raises(BadInput):
        Batching(most, wait)
