"""Agents of a group in one thread, stepped by a seed over real transactions, with all that can go
wrong; see :mod:`tests.simulation.members`.

``CONVERGE_TEST_MEMBERS`` says how many seeds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from converge.crash_points import Commit
from tests.simulation.arena import Arena
from tests.simulation.faults import Fault
from tests.simulation.members import COMMON, RARE, Members
from tests.simulation.play import new_arena

SEEDS = int(os.environ.get("CONVERGE_TEST_MEMBERS", "30"))
#: What the seeds must reach, or they prove nothing.
EVERYTHING = {
    *COMMON,
    *RARE,
    *Fault,
    "publisher failed",
    "stall",
    *(
        commit.after
        for commit in (
            Commit.NOTIFICATIONS,
            Commit.DELIVERIES,
            Commit.FAILURES,
            Commit.DELIVERY_CLAIM,
            Commit.EXPIRY,
            Commit.JOIN,
            Commit.BALANCE,
            Commit.GIVE,
            Commit.RESIZE,
            Commit.POSITIONS,
        )
    ),
}

pytestmark = [pytest.mark.database, pytest.mark.sqlite]


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with new_arena() as made:
        yield made


def play(arena: Arena, seed: int) -> Members:
    with arena.quiet():
        simulation = Members(arena.store, seed)
        simulation.run()
    return simulation


@pytest.mark.timeout(max(120, 4 * SEEDS))
def test_whatever_happens_each_is_done_once_in_order_by_its_owner(arena: Arena) -> None:
    reached: Counter[str] = Counter()
    for seed in range(SEEDS):
        simulation = play(arena, seed)
        assert not simulation.wrong, f"seed {seed}:\n" + "\n".join(simulation.trace)
        faults = simulation.faults
        for counter in (simulation.events, faults.points, faults.struck):
            reached.update(+counter)
    assert sorted(EVERYTHING - reached.keys()) == []


# -- the oracle: each invariant, broken by hand, is noticed

TAKE = "UPDATE converge_partition SET engine_id = 99"
MOVE = "UPDATE converge_delivery SET version = version + 1"
BROKEN = [
    ("UPDATE converge_partition SET epoch = epoch - 1", "shrank"),
    (TAKE, "with an old epoch"),
    (f"{TAKE}, epoch = epoch + 1", "which is alive"),
]


def spoil(
    monkeypatch: pytest.MonkeyPatch, arena: Arena, change: Callable[[Members], None]
) -> list[str]:
    """What is complained of after a change by hand, when all is done."""
    settle = Members._settle

    def settled(self: Members) -> None:
        settle(self)
        assert not self.wrong, self.trace
        change(self)

    monkeypatch.setattr(Members, "_settle", settled)
    monkeypatch.setattr(Members, "_choose", quiet)
    return play(arena, 1).wrong


def quiet(simulation: Members) -> None:
    simulation.length, simulation.most, simulation.kinds = 12, 5, []
    simulation.weights = dict(COMMON)


@pytest.mark.parametrize(("statement", "what"), BROKEN)
def test_what_is_broken_in_the_rows_is_noticed(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, statement: str, what: str
) -> None:
    def change(simulation: Members) -> None:
        simulation._connection.execute(statement)
        simulation.oracle.look()

    assert any(what in one for one in spoil(monkeypatch, arena, change))


def test_work_of_who_does_not_hold_the_partition_is_noticed(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(simulation: Members) -> None:
        execute = simulation._connection.execute
        hold = next(iter(simulation.actors[0].sharing._member.locks.values()))
        share = 1024 * hold.generation + hold.number
        execute(
            "INSERT INTO converge_delivery (origin, sink, share, state, position, version, "
            "attempts, created_at, updated_at) VALUES ('m', 'out', ?, 'HELD', 0, 0, 0, 0, 0)",
            [share],
        )
        simulation.oracle.look()
        for actor, is_told in ((simulation.actors[0], False), (simulation.actors[1], True)):
            execute(MOVE)
            simulation.oracle.look(actor)
            assert bool(simulation.wrong) is is_told

    assert "does not hold it" in spoil(monkeypatch, arena, change)[0]


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE converge_notification SET message_id = 'x' WHERE id = 1", "events: "),
        ("UPDATE converge_sample SET volume = 7 WHERE name = 'volume.size'", "the sum of volume"),
        ("DELETE FROM converge_sample WHERE name = 'volume.size.rate'", "the rates of volume"),
        ("DELETE FROM converge_dead_letter", "dead letters: "),
        ("UPDATE converge_partition SET engine_id = NULL", "free partitions: "),
    ],
)
def test_what_is_missing_at_the_end_is_noticed(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, statement: str, what: str
) -> None:
    def change(simulation: Members) -> None:
        assert simulation._connection.execute(statement).rowcount
        simulation.oracle.look()
        simulation.check()

    assert any(one.startswith(what) for one in spoil(monkeypatch, arena, change))


def test_another_order_is_noticed(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(simulation: Members) -> None:
        simulation.failing.clear()
        simulation.published.reverse()
        simulation.check()

    assert any("the order of volume" in one for one in spoil(monkeypatch, arena, change))


def test_a_seed_is_the_same_each_time(arena: Arena) -> None:
    assert play(arena, 3).trace == play(arena, 3).trace
