"""Fair shares: a pure function, and what it leads to when everybody follows it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from converge.group.shares import Change, decide, shares

MEMBERS = st.sets(st.integers(1, 9), min_size=1, max_size=6)


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[int, int | None], set[int]]:
    """Owners, of whom some are dead, and members."""
    members = draw(MEMBERS)
    owner = st.one_of(st.none(), st.integers(1, 9))
    owners = draw(st.dictionaries(st.integers(0, 20), owner, max_size=21))
    return owners, members


def test_members_that_hold_most_keep_most() -> None:
    assert shares(8, {1: 8, 2: 0, 3: 0}) == {1: 3, 2: 3, 3: 2}
    assert shares(8, {1: 2, 2: 3, 3: 3}) == {1: 2, 2: 3, 3: 3}
    assert shares(2, {5: 0, 6: 1, 7: 1}) == {5: 0, 6: 1, 7: 1}
    assert shares(3, {}) == {}


def test_the_first_member_takes_all_and_gives_half_to_the_second() -> None:
    assert decide(dict.fromkeys(range(4)), {1}, 1) == Change(take=(0, 1, 2, 3))
    owners: dict[int, int | None] = dict.fromkeys(range(4), 1)
    assert decide(owners, {1, 2}, 1) == Change(give=(2, 3))
    # nothing is free yet
    assert decide(owners, {1, 2}, 2) == Change()


def test_the_death_of_a_member_moves_only_its_partitions() -> None:
    owners: dict[int, int | None] = {0: 1, 1: 1, 2: 2, 3: 2, 4: 3, 5: 3}
    assert decide(owners, {1, 2}, 1) == Change(take=(4,))
    assert decide(owners | {4: 1}, {1, 2}, 2) == Change(take=(5,))


@given(situations())
def test_nobody_takes_what_another_holds_or_gives_what_is_not_theirs(
    situation: tuple[dict[int, int | None], set[int]],
) -> None:
    owners, members = situation
    for me in members:
        change = decide(owners, members, me)
        assert all(owners[number] not in members for number in change.take)
        assert all(owners[number] == me for number in change.give)
        assert not (change.take and change.give)


@given(situations(), st.randoms())
def test_whoever_acts_first_all_have_their_fair_share_after_two_rounds(
    situation: tuple[dict[int, int | None], set[int]], random: object
) -> None:
    owners, members = situation
    before = dict(owners)
    for _ in range(2):
        order = sorted(members)
        random.shuffle(order)  # type: ignore[attr-defined]
        for me in order:
            change = decide(owners, members, me)
            owners |= dict.fromkeys(change.give) | dict.fromkeys(change.take, me)
    held = [sum(owner == member for owner in owners.values()) for member in members]
    assert sum(held) == len(owners)
    assert max(held) - min(held) <= 1
    # what could stay has stayed
    most = -(-len(owners) // len(members))
    kept = [
        sum(before[number] == owners[number] == member for number in owners) for member in members
    ]
    had = [sum(owner == member for owner in before.values()) for member in members]
    least = len(owners) // len(members)
    assert all(min(one, least) <= stayed <= most for one, stayed in zip(had, kept, strict=True))
    for me in members:
        assert decide(owners, members, me) == Change()
