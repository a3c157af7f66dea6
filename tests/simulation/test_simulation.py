"""Several engines in one thread, stepped by a seed over real transactions, with all that can go
wrong; see :mod:`tests.simulation.scheduler`.

``CONVERGE_TEST_SEEDS`` says how many seeds; tens of thousands by
``python -m tests.simulation --seeds 0:20000 --jobs 2``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from converge import crash_points
from converge.protocol import recover
from converge.protocol.work import Outcome, Result
from tests.simulation.actors import Actor
from tests.simulation.arena import Arena
from tests.simulation.play import EVERYTHING, Tally, new_arena, play, play_all
from tests.simulation.scheduler import Simulation
from tests.simulation.templates import Entry, parse

SEEDS = int(os.environ.get("CONVERGE_TEST_SEEDS", "150"))
CHUNKS = 4
#: Seeds of those tests that are not about the many, far from theirs.
OTHERS = 10_000_000

pytestmark = [pytest.mark.database, pytest.mark.sqlite]


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with new_arena() as made:
        yield made


@pytest.mark.timeout(max(120, SEEDS))
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_happens_every_traversal_ends_and_no_invariant_is_broken(
    arena: Arena, chunk: int
) -> None:
    tally = play_all(arena, range(chunk, SEEDS, CHUNKS))
    assert not tally.failed, tally.report()


@pytest.mark.timeout(300)  # what is rare takes some hundred histories
def test_the_simulation_reaches_everything_that_can_happen(arena: Arena) -> None:
    tally = Tally()
    with arena.many():
        for seed in range(OTHERS, OTHERS + 1000):
            tally.add(play(arena, seed))
            if tally.reached.keys() >= EVERYTHING:
                break
    assert sorted(EVERYTHING - tally.reached.keys()) == []
    assert not tally.failed, tally.report()


def test_a_seed_is_the_same_each_time_also_in_another_process(arena: Arena) -> None:
    seeds = range(OTHERS, OTHERS + 5)
    lines = []
    for seed in seeds:
        first = play(arena, seed).trace
        assert play(arena, seed).trace == first
        lines += [f"seed {seed}", *first]
    command = ["-m", "tests.simulation", "--seeds", f"{seeds[0]}:{seeds[-1] + 1}", "--trace"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.splitlines() == "\n".join(lines).splitlines()


# -- the oracle: each invariant, broken by hand, is noticed

WANTED = {
    "A": Entry("fake", 0, 0, ()),
    "B": Entry("fake", 0, 0, (("A", "id"),)),
}


@pytest.fixture
def halfway(arena: Arena) -> Iterator[Simulation]:
    """A and B, which refers to A, are there; an update is about to change A, claimed by the
    first of two engines."""
    simulation = Simulation(arena, OTHERS)
    simulation.world.failing = 0.0
    with arena.quiet():
        crash_points.hook = simulation.faults
        one, two = Actor("E1"), Actor("E2")
        simulation._join(one)
        simulation._join(two)
        simulation.store.create_stack("s", parse(WANTED))
        simulation._run_dry()
        changed = {**WANTED, "A": Entry("fake", 1, 0, ())}
        simulation.store.update_stack("s", parse(changed))
        one.turn([], 1)
        simulation.oracle.look()
        assert [work.node.key[0] for work in one.todo] == [2]
        assert simulation.wrong == []
        yield simulation


NODE = "UPDATE converge_sync_point SET"
ROW = "UPDATE converge_resource SET"
BROKEN = [
    ("1: a node runs before its predecessor", f"{NODE} state = 'RUNNING', engine_id = 1 "
     "WHERE state = 'WAITING' AND node = 1", "runs after predecessors that are ['RUNNING']"),
    ("2: an arrival counts twice", f"{NODE} pending = pending - 1 WHERE state = 'WAITING'",
     "are outstanding"),
    ("2: a node is readied too early", f"{NODE} state = 'READY' WHERE state = 'WAITING'",
     "are outstanding"),
    ("3: a lock is stolen", f"{ROW} engine_id = 2 WHERE engine_id = 1", "locked as no lock is"),
    ("3: a lock without a node", f"{ROW} engine_id = 2, epoch = epoch + 1 WHERE engine_id IS NULL",
     "which has no node"),
    ("3: an epoch shrinks", f"{ROW} epoch = epoch - 1", "epoch shrank"),
    ("3: a node without an engine", f"{NODE} engine_id = NULL WHERE state = 'RUNNING'",
     "is RUNNING with engine None"),
    ("3: a write without a lock", f"{ROW} properties = '{{}}' WHERE engine_id IS NULL",
     "written without a lock"),
    ("4: all that is live waits", f"{NODE} state = 'WAITING', engine_id = NULL "
     "WHERE state = 'RUNNING'", "all its nodes are ['WAITING']"),
    ("4: blocked by nobody", f"{NODE} state = 'BLOCKED', engine_id = NULL WHERE state = 'RUNNING'",
     "is blocked by nobody"),
    ("5: what is superseded goes on", "UPDATE converge_traversal SET status = 'SUPERSEDED' "
     "WHERE id = 2", "its stack IN_PROGRESS"),
    ("7: the graph changes", f"{NODE} successors = '[]' WHERE state = 'RUNNING'",
     "its successors changed"),
    ("a move that is none", f"{NODE} state = 'RUNNING' WHERE state = 'WAITING'",
     "WAITING became RUNNING"),
    ("passed over", f"{NODE} state = 'DONE' WHERE state = 'WAITING'",
     "passed over, and should not be"),
    ("an end that is none", "UPDATE converge_traversal SET status = 'FAILED' WHERE id = 1",
     "COMPLETE became FAILED"),
    ("counts that do not add up", "UPDATE converge_traversal SET done = 0 WHERE id = 1",
     "do not add up"),
    ("something is recorded that is not so", f"{ROW} physical_id = 'no' WHERE engine_id IS NULL",
     "no is not there"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "what"), [one[1:] for one in BROKEN], ids=[one[0] for one in BROKEN]
)
def test_what_is_broken_in_the_rows_is_noticed(
    halfway: Simulation, statement: str, what: str
) -> None:
    with halfway.store.transaction() as tx:
        assert tx.connection.exec_driver_sql(statement).rowcount > 0
    assert any(what in one for one in halfway.wrong), halfway.wrong


def test_invariant_8_a_name_that_is_missing_at_the_end_is_noticed(halfway: Simulation) -> None:
    with halfway.store.transaction() as tx:
        tx.connection.exec_driver_sql("DELETE FROM converge_resource WHERE name = 'B'")
        tx.connection.exec_driver_sql(
            "UPDATE converge_traversal SET status = 'COMPLETE' WHERE id = 2"
        )
    what = "traversal 2 is COMPLETE with ['A'] instead of ['A', 'B']"
    assert what in halfway.wrong


def test_an_effect_without_a_node_is_noticed(halfway: Simulation) -> None:
    one = halfway.actors[0]
    with halfway.store.transaction() as tx:
        tx.connection.exec_driver_sql(f"{NODE} engine_id = 2 WHERE engine_id = 1")
        tx.connection.exec_driver_sql(f"{ROW} engine_id = 2 WHERE engine_id = 1")
    halfway._handle(one, one.todo[0])
    assert any("does not hold it" in what for what in halfway.wrong), halfway.wrong


def test_an_effect_that_is_done_again_is_noticed(halfway: Simulation) -> None:
    one = halfway.actors[0]
    halfway.oracle.done.add(one.todo[0].node.key)
    halfway._handle(one, one.todo[0])
    assert any("is done again" in what for what in halfway.wrong), halfway.wrong


def test_invariant_6_a_deletion_of_what_is_required_is_noticed(halfway: Simulation) -> None:
    halfway.oracle.check_delete("s/A.0")
    assert halfway.wrong == ["s/A.0 is deleted, and s/B.0 requires it"]


def test_a_thing_that_refers_to_what_is_gone_is_noticed(halfway: Simulation) -> None:
    one = halfway.actors[0]
    halfway._calling = (one, one.todo[0])
    del halfway.world.things["s/A.0"]
    halfway.world.change("s/B.0", halfway.world.things["s/B.0"].properties)
    assert any("refers to s/A.0" in what for what in halfway.wrong), halfway.wrong


def test_a_thing_that_nobody_knows_of_is_noticed(halfway: Simulation) -> None:
    halfway.world.things["s/A.7"] = halfway.world.things["s/A.0"].__class__("s/A.7", "?", {})
    halfway._run_dry()
    assert any("nobody knows of s/A.7" in what for what in halfway.wrong), halfway.wrong


def test_an_engine_that_holds_what_it_does_not_know_is_noticed(halfway: Simulation) -> None:
    one = halfway.actors[0]
    one.todo.clear()
    halfway._check_hands(one)
    assert any("does not know" in what for what in halfway.wrong), halfway.wrong


def test_an_outcome_that_is_dropped_without_a_word_is_noticed(
    halfway: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = halfway.actors[0]
    monkeypatch.setattr(one.core, "turn", lambda outcomes, limit: [])
    halfway._write(one, [Outcome(one.todo[0], Result.DONE)], 0)
    assert any("nobody was told" in what for what in halfway.wrong), halfway.wrong


def test_a_stack_that_comes_to_no_end_is_noticed(
    halfway: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it stands still for ever, and nobody looks after it
    halfway.actors[0].paused = True
    monkeypatch.setattr(recover, "sweep", lambda database: recover.Sweep())
    halfway._run_dry()
    assert halfway.wrong == ["no end in sight"]
