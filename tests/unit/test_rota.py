"""Whose turn it is, without a database."""

from __future__ import annotations

from collections import Counter

from converge.protocol.rota import ALONE, SHARE, Rota
from converge.sql.lanes import Course

LANES = {0: Course(), 1: Course(priority=5), 2: Course(priority=-5), 3: Course("far"), 4: Course()}


class Backlog:
    """The ready nodes of a lane, by traversal, and a rota that claims them."""

    def __init__(self, **ready: int) -> None:
        self.rota = Rota()
        self.ready = Counter({int(name[1:]): count for name, count in ready.items()})

    def claim(self, limit: int) -> list[int]:
        """As :func:`converge.protocol.claim.claim` does it; the traversals of what it takes."""
        after = self.rota.after(0)
        found = self._take(limit, [one for one in sorted(self.ready) if one >= after])
        again = self._take(limit - len(found), [one for one in sorted(self.ready) if one < after])
        self.rota.note(0, found, again, filled=len(found) + len(again) >= limit)
        return found + again

    def _take(self, limit: int, traversals: list[int]) -> list[int]:
        taken: list[int] = []
        for one in traversals:
            taken += [one] * min(limit - len(taken), self.ready[one])
        self.ready -= Counter(taken)
        return taken


def test_traversals_take_turns() -> None:
    backlog = Backlog(t1=100, t2=100, t3=100)
    assert [backlog.claim(1) for _ in range(6)] == [[1], [2], [3], [1], [2], [3]]
    assert [backlog.claim(4) for _ in range(3)] == [[1] * 4, [2] * 4, [3] * 4]


def test_a_small_one_is_done_beside_a_large_one() -> None:
    backlog = Backlog(t1=100_000, t2=10)
    taken = []
    while backlog.ready[2]:
        taken += backlog.claim(8)
    assert len(taken) <= 4 * 8


def test_a_later_one_is_reached_soon() -> None:
    backlog = Backlog(t1=100_000)
    for _ in range(50):
        backlog.claim(1)
    backlog.ready[2] = 10
    taken = []
    while backlog.ready[2]:
        taken += backlog.claim(1)
    assert len(taken) <= ALONE + 1 + 2 * 10


def test_one_that_is_alone_is_mostly_found_at_once() -> None:
    backlog = Backlog(t7=100_000)
    looks = []
    for _ in range(8 * (ALONE + 1)):
        looks.append(backlog.rota.after(0))
        assert backlog.claim(1) == [7]
    assert looks.count(0) >= len(looks) * ALONE // (ALONE + 1)


def test_a_claim_that_finds_all_begins_anew() -> None:
    backlog = Backlog(t1=3, t2=3)
    assert backlog.claim(2) == [1, 1]
    assert backlog.claim(10) == [2, 2, 2, 1]
    backlog.ready = Counter({1: 9, 2: 9})
    assert backlog.claim(2) == [1, 1]


def test_an_engine_has_the_lanes_that_suit_it() -> None:
    rota = Rota(["a", "b"], ["default", "near"])
    lanes = {0: Course(), 1: Course("near"), 2: Course("far"), 3: Course(types=("a", "b"))}
    lanes |= {4: Course(types=("a", "c")), 5: Course("near", ("a",), 7)}
    assert rota.learn(lanes)
    assert not rota.learn({**lanes, 6: Course("further")})
    assert rota.lanes == [0, 1, 3, 5]
    assert rota.course(5).priority == 7
    assert Rota([], ["far"]).lanes == []


def test_the_highest_priority_comes_first_and_the_others_have_their_share() -> None:
    rota = Rota()
    rota.learn(LANES)
    firsts = Counter(rota.order([0, 1, 2])[0] for _ in range(8 * SHARE))
    assert firsts == {1: 8 * (SHARE - 1), 0: 4, 2: 4}
    assert all(sorted(rota.order([0, 1, 2])) == [0, 1, 2] for _ in range(SHARE))
    assert rota.order([2]) == [2]
    assert rota.order([]) == []


def test_lanes_of_one_priority_take_turns() -> None:
    rota = Rota()
    rota.learn(LANES)
    assert Counter(rota.order([0, 4])[0] for _ in range(10)) == {0: 5, 4: 5}
