"""A member dies before and after each commit of a group: others go on, nothing is held twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from converge.crash_points import GROUP, Commit
from converge.errors import StaleLock
from converge.group import group
from converge.group.member import Member
from tests.dying import die_at
from tests.group.world import LEASE, World


def join(world: World) -> object:
    return world.join()


def balance(world: World) -> object:
    return world.living[0].balance()


def give(world: World) -> object:
    first = world.living[0]
    world.join()
    first.give(first.balance().give)
    return first


def resize(world: World) -> object:
    return group.resize(world.store.database, "g", 3)


ACTS: dict[Commit, Callable[[World], object]] = {
    Commit.JOIN: join,
    Commit.BALANCE: balance,
    Commit.GIVE: give,
    Commit.RESIZE: resize,
}


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("commit", ACTS)
def test_others_go_on_where_a_member_died(world: World, commit: Commit, side: str) -> None:
    dying = None if commit is Commit.JOIN else world.join()
    if commit is not Commit.JOIN and commit is not Commit.BALANCE:
        world.settle()
    held = [] if dying is None else list(dying.locks.values())
    die_at(getattr(commit, side), lambda: ACTS[commit](world))
    if dying is not None:
        world.pause(dying)
    other = world.join(None if commit is Commit.RESIZE else 4)
    world.wait(LEASE * 1.1)
    for _ in range(4):
        for member in world.living:
            balance = member.balance(member.row.generation if commit is not Commit.RESIZE else 2)
            for lock in balance.ending:
                member.end(lock)
            member.give(set(balance.give) - set(balance.ending))
    resized = commit is Commit.RESIZE and side == "after"
    rows = world.partitions()
    assert [row.number for row in rows] == list(range(3 if resized else 4))
    assert sum(world.counts()) == len(rows)
    for lock in held:
        with pytest.raises(StaleLock), world.store.transaction() as tx:
            Member.check(tx, lock)
    assert other.locks


def test_no_commit_is_forgotten() -> None:
    # agents have that of positions
    assert {*ACTS, Commit.POSITIONS} == set(GROUP)
