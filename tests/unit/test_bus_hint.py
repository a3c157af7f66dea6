"""Hints: how they are merged, gathered in transactions, and read from messages of anybody."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.bus.hint import (
    ANY,
    LOOK,
    MOST_CHARACTERS,
    MOST_LANES,
    MOST_STACKS,
    NONE,
    Hint,
    Malformed,
    News,
    concerns,
    decode,
    encode,
    name_stacks,
)

_IDS = st.one_of(st.just(ANY), st.frozensets(st.integers(1, 2**63 - 1), max_size=150))
_LANES = st.one_of(st.just(ANY), st.frozensets(st.integers(0, 2**31), max_size=70))
HINTS = st.builds(
    lambda ready, changed, ended: Hint(ready) | Hint(changed=changed) | Hint(ended=ended),
    _LANES,
    _IDS,
    _IDS,
)


@given(HINTS, st.text(max_size=16))
def test_a_message_says_what_the_hint_said(hint: Hint, sender: str) -> None:
    hint |= Hint()
    assert decode(encode(hint, sender)) == (sender, hint)


@given(HINTS, HINTS, HINTS)
def test_the_order_in_which_hints_are_merged_does_not_matter(
    one: Hint, two: Hint, more: Hint
) -> None:
    assert one | two == two | one
    assert (one | two) | more == one | (two | more)
    assert one | one == one | Hint()
    assert one | LOOK == LOOK


def test_the_longest_message_fits_into_a_notification_of_postgresql() -> None:
    ids = frozenset(range(2**63 - MOST_STACKS, 2**63))
    lanes = frozenset(range(2**31 - MOST_LANES, 2**31))
    text = encode(Hint(lanes, ids, ids), 16 * "f")
    assert len(text) <= MOST_CHARACTERS
    assert len(text.encode()) < 8000
    assert decode(text)[1] == Hint(lanes, ids, ids)


def test_too_many_stacks_are_any() -> None:
    assert name_stacks(range(1, MOST_STACKS + 1)) != ANY
    assert name_stacks(range(1, MOST_STACKS + 2)) is ANY
    assert concerns(ANY, 5)
    assert concerns(frozenset({5}), 5)
    assert not concerns(frozenset({4}), 5)


GOOD = {"v": 1, "from": "me", "ready": True, "changed": [1, 2], "ended": "any"}


def test_a_message_may_hold_more_than_is_known() -> None:
    text = json.dumps({**GOOD, "colour": "red"})
    assert decode(text) == ("me", Hint(ANY, frozenset({1, 2}), ANY))


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        b"{}",
        {"v": 1},
        "",
        "nonsense",
        "[]",
        "null",
        "{" * 5000,
        "[" * 6999,
        json.dumps({**GOOD, "from": MOST_CHARACTERS * "x"}),
        *(
            json.dumps({**GOOD, **wrong})
            for wrong in (
                {"v": 2},
                {"v": 0},
                {"v": True},
                {"v": "1"},
                {"v": None},
                {"from": 7},
                {"ready": 1},
                {"ready": None},
                {"lanes": "all"},
                {"lanes": [-1]},
                {"lanes": [True]},
                {"lanes": None},
                {"changed": "all"},
                {"changed": 5},
                {"changed": {"1": 2}},
                {"changed": [0]},
                {"changed": [-1]},
                {"changed": [2**63]},
                {"changed": [True]},
                {"changed": [1.0]},
                {"ended": ["1"]},
                {"ended": [[1]]},
                {"ended": None},
            )
        ),
    ],
)
def test_what_is_no_message_is_refused(text: object) -> None:
    with pytest.raises(Malformed):
        decode(text)


@given(st.one_of(st.text(), st.binary(), st.none(), st.integers()))
def test_anything_may_come(text: object) -> None:
    with pytest.raises(Malformed):
        decode(text)


def test_who_does_not_know_of_lanes_tells_of_any() -> None:
    assert decode(json.dumps(GOOD))[1].ready is ANY
    assert decode(json.dumps({**GOOD, "lanes": [0, 7]}))[1].ready == frozenset({0, 7})
    assert decode(json.dumps({**GOOD, "lanes": [0, 7], "ready": False}))[1].ready == NONE
    # as one of before reads it
    assert json.loads(encode(Hint(frozenset({7})), "me"))["ready"] is True
    assert json.loads(encode(Hint(), "me"))["ready"] is False


def test_a_transaction_tells_of_nodes_only_if_it_leaves_more_ready_than_there_were() -> None:
    news = News()
    assert not news
    news.ready[0] += 3
    assert news.hint == Hint(frozenset({0}))
    news.ready[0] -= 3
    assert not news
    news.ready[0] -= 1
    assert not news.hint
    # what is taken from one lane is not what others wait for
    news.ready[7] += 1
    assert news.hint == Hint(frozenset({7}))


def test_what_is_claimed_may_be_of_those_whose_lane_is_not_known() -> None:
    news = News()
    news.ready[None] += 2
    news.ready[0] -= 1
    assert news.hint == Hint(ANY)
    news.ready[7] -= 1
    assert not news


def test_a_transaction_tells_of_stacks() -> None:
    news = News(changed={1, 2}, ended={2})
    assert news
    assert news.hint == Hint(NONE, frozenset({1, 2}), frozenset({2}))


def test_only_an_end_is_urgent() -> None:
    ids = frozenset({7})
    assert Hint(ended=ids).is_urgent
    assert LOOK.is_urgent
    assert not Hint(ids, ids).is_urgent
