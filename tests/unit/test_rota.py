"""Whose turn it is, without a database."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from converge import formats
from converge.bus.hint import ANY
from converge.protocol.rota import ALONE, FEW, RETRIES, SHARE, Rota
from converge.sql.lanes import Course

LANES = {0: Course(), 1: Course(priority=5), 2: Course(priority=-5), 3: Course("far"), 4: Course()}


@dataclass
class Node:
    traversal_id: int


class Backlog:
    """The ready nodes of a lane, by traversal.

    :ivar looks: how many statements the last claim took.
    """

    def __init__(self, **ready: int) -> None:
        self.rota = Rota()
        self.ready = Counter({int(name[1:]): count for name, count in ready.items()})
        self.looks = 0

    def claim(self, limit: int) -> list[int]:
        """The traversals of what the next claim takes."""
        self.looks = 0
        nodes = self.rota.pick(0, limit, self)
        taken = [node.traversal_id for node in nodes]
        self.ready -= Counter(taken)
        return taken

    def take(self, limit: int, *, after: int = 0, before: int | None = None) -> list[Node]:
        self.looks += 1
        found: list[Node] = []
        for one, count in sorted(self.ready.items()):
            if one >= after and (before is None or one < before):
                found += [Node(one)] * count
        return found[:limit]

    def find_others(self, traversal_id: int) -> tuple[bool, bool]:
        self.looks += 1
        return min(self.ready) < traversal_id, max(self.ready) > traversal_id

    def claim_until_done(self, one: int, limit: int) -> int:
        """How many nodes are claimed until one traversal has nothing ready."""
        count = 0
        while self.ready[one]:
            count += len(self.claim(limit))
        return count


def test_traversals_take_turns() -> None:
    backlog = Backlog(t1=100, t2=100, t3=100)
    assert [backlog.claim(1) for _ in range(6)] == [[1], [2], [3], [1], [2], [3]]


def test_a_claim_that_one_could_fill_takes_half_of_others() -> None:
    backlog = Backlog(t1=100, t2=100, t3=1, t4=1)
    assert backlog.claim(4) == [1, 1, 2, 2]
    # those after it first, then those before
    assert backlog.claim(4) == [3, 4, 1, 1]
    assert backlog.claim(4) == [2, 2, 1, 1]


def test_a_small_one_is_done_beside_a_large_one() -> None:
    assert Backlog(t1=100_000, t2=10).claim_until_done(2, 8) <= 3 * 8
    assert Backlog(t2=100_000, t1=10).claim_until_done(1, 8) <= 3 * 8
    assert Backlog(t1=100_000, t2=10).claim_until_done(2, 1) == 2 * 10
    assert Backlog(t2=100_000, t1=10, t3=100_000).claim_until_done(1, 1) <= 3 * 10


@pytest.mark.parametrize("limit", [1, 16])
def test_a_later_one_is_reached_soon(limit: int) -> None:
    backlog = Backlog(t1=100_000)
    for _ in range(50):
        backlog.claim(limit)
    backlog.ready[2] = 10
    assert backlog.claim_until_done(2, limit) <= limit * ALONE + 3 * max(10, limit)
    # at once, if something was heard of it
    backlog.rota.look_round()
    backlog.claim(limit)
    backlog.ready[3] = 1
    backlog.rota.look_round()
    assert backlog.claim_until_done(3, limit) <= 2 * limit


def test_retries_are_looked_for_by_each_claim_that_finds_few_and_by_some_that_find_many() -> None:
    rota = Rota()
    assert [rota.is_turn_of_retries(found) for found in (0, FEW - 1, 0)] == [True] * 3
    looks = [rota.is_turn_of_retries(FEW) for _ in range(3 * RETRIES)]
    assert looks == ([False] * (RETRIES - 1) + [True]) * 3
    # a look counts, whatever it was for
    rota.is_turn_of_retries(FEW)
    assert rota.is_turn_of_retries(0)
    assert [rota.is_turn_of_retries(FEW) for _ in range(RETRIES)] == looks[:RETRIES]


@pytest.mark.parametrize("limit", [1, 16])
def test_one_that_is_alone_is_mostly_found_by_one_look(limit: int) -> None:
    backlog = Backlog(t7=100_000)
    looks = 0
    for _ in range(8 * (ALONE + 1)):
        assert set(backlog.claim(limit)) == {7}
        looks += backlog.looks
    assert looks <= 8 * (ALONE + 2) + 2


def test_a_claim_that_finds_all_begins_anew() -> None:
    backlog = Backlog(t1=3, t2=3)
    assert backlog.claim(2) == [1, 2]
    assert sorted(backlog.claim(10)) == [1, 1, 2, 2]
    backlog.ready = Counter({1: 9, 2: 9})
    assert backlog.claim(1) == [1]


def test_an_engine_has_the_lanes_that_suit_it() -> None:
    rota = Rota(["a", "b"], ["default", "near"])
    lanes = {0: Course(), 1: Course("near"), 2: Course("far"), 3: Course(types=("a", "b"))}
    lanes |= {4: Course(types=("a", "c")), 5: Course("near", ("a",), 7)}
    assert rota.learn(lanes)
    assert not rota.learn({**lanes, 6: Course("further")})
    assert rota.lanes == [0, 1, 3, 5]
    assert rota.course(5).priority == 7
    assert Rota([], ["far"]).lanes == []


def test_an_engine_hears_of_what_it_may_take() -> None:
    rota = Rota(["a"], ["default"])
    assert rota.may_take(frozenset({0, 1}))
    rota.learn({0: Course(), 1: Course("far"), 2: Course(types=("b",))})
    assert not rota.may_take(frozenset({1, 2}))
    assert rota.may_take(frozenset({1, 0}))
    # one that it has not heard of, and any
    assert rota.may_take(frozenset({1, 3}))
    assert rota.may_take(ANY)
    assert not rota.may_take(frozenset())


def test_an_engine_leaves_the_lanes_of_a_newer_format_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rota = Rota()
    lanes = {0: Course(), 1: Course(format=formats.KNOWN + 1)}
    rota.learn(lanes)
    assert rota.lanes == [0]
    monkeypatch.setattr(formats, "KNOWN", formats.KNOWN + 1)
    assert rota.learn(lanes)
    assert rota.lanes == [0, 1]


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
