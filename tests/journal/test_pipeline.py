"""The ten-step pipeline and the thousand samples of ``examples/pipeline.py``, killed.

Each process is killed by SIGKILL, and the next one begins at once: it sees that the other, of
the same host, is gone.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from converge.crash_points import Commit
from converge.journal import Journal
from examples.pipeline import STEPS, draw_samples
from tests import backends
from tests.journal.driver import AFTER_EFFECT, BEFORE_EFFECT, Driver

ROOT = Path(__file__).resolve().parents[2]
KILLED = -signal.SIGKILL
SAMPLES = 1000
#: How often the program is killed; on the servers, where that takes longer, less often.
KILLS = {"sqlite": 50, "postgresql": 10, "mariadb": 10}

#: Where a process may die before its first step and after its last, and how often it comes there.
EDGES = (Commit.REGISTER, Commit.TAKE, Commit.SCOPE_RELEASE, Commit.LEAVE)
#: Where it may die in every step → how many steps are over then, and whether the effect of the
#: next one has been had.
IN_STEPS = {
    BEFORE_EFFECT: (-1, False),
    AFTER_EFFECT: (-1, True),
    Commit.STEP.before: (-1, True),
    Commit.STEP.after: (0, False),
}


@pytest.fixture(scope="module")
def _drivers() -> Iterator[dict[str, Driver]]:
    known: dict[str, Driver] = {}
    yield known
    for one in known.values():
        one.close()


@pytest.fixture
def driver(database: backends.Backend, tmp_path: Path, _drivers: dict[str, Driver]) -> Driver:
    """A driver for each database, whose scopes are of this test only."""
    if database.name not in _drivers:
        _drivers[database.name] = Driver(database.migrated())
    one = _drivers[database.name]
    one.folder = tmp_path
    return one


@pytest.mark.parametrize("point", IN_STEPS)
def test_the_pipeline_killed_in_each_step_goes_on_right_there(driver: Driver, point: str) -> None:
    offset, unrecorded = IN_STEPS[point]
    for hit in range(1, len(STEPS) + 1):
        scope = f"killed {hit}"
        assert driver.run("pipeline", scope, point, hit) == KILLED
        before = driver.effects(scope)
        over = hit + offset
        assert [what for what, _ in before] == list(STEPS[: over + unrecorded])
        assert driver.run("pipeline", scope) == 0
        after = driver.effects(scope)[len(before) :]
        assert [what for what, _ in after] == list(STEPS[over:])
        # the step that was done but not recorded was done again with the same key
        assert len({*before, *after}) == len(STEPS)


@pytest.mark.parametrize("edge", EDGES)
def test_the_pipeline_killed_before_and_after_its_steps_does_each_once(
    driver: Driver, edge: Commit
) -> None:
    for point in (edge.before, edge.after):
        assert driver.run("pipeline", point, point, 1) == KILLED
        assert driver.run("pipeline", point) == 0
        assert [what for what, _ in driver.effects(point)] == list(STEPS)


def test_the_pipeline_killed_after_every_step_does_each_once(driver: Driver) -> None:
    for _ in STEPS:
        assert driver.run("pipeline", "job", Commit.STEP.after, 1) == KILLED
    # the second time there is nothing to do
    for _ in range(2):
        assert driver.run("pipeline", "job") == 0
        assert [what for what, _ in driver.effects("job")] == list(STEPS)


def test_a_step_that_kills_is_done_with_the_same_key_each_time(driver: Driver) -> None:
    for _ in range(3):
        assert driver.run("pipeline", "job", AFTER_EFFECT, 1) == KILLED
    assert driver.run("pipeline", "job") == 0
    assert len(driver.effects("job")) == len(STEPS) + 3
    assert len(set(driver.effects("job"))) == len(STEPS)


def kill_again_and_again(driver: Driver, program: str, kills: int, most: int, seed: int) -> None:
    """Kill a program after so many points at most, and at last let it come to its end."""
    dice = random.Random(seed)
    for _ in range(kills):
        assert driver.run(program, "samples", None, dice.randint(1, most)) == KILLED
    assert driver.run(program, "samples") == 0


def test_samples_killed_at_random_have_their_effect_with_the_same_key(
    driver: Driver, database: backends.Backend
) -> None:
    kills = KILLS[database.name]
    kill_again_and_again(driver, "evaluate", kills, 100, seed=1)
    effects = driver.effects("samples")
    keys = defaultdict(set)
    for what, key in effects:
        keys[what].add(key)
    assert list(keys) == [f"sample {index}" for index in range(SAMPLES)]
    assert {len(found) for found in keys.values()} == {1}
    assert len({*effects}) == len({key for _, key in effects}) == SAMPLES
    # at most one more for each kill, and the kills are early enough for all of them
    assert SAMPLES < len(effects) <= SAMPLES + kills


def test_samples_killed_at_random_have_their_effect_once_in_a_transaction(
    driver: Driver, database: backends.Backend
) -> None:
    engine = sqlalchemy.create_engine(driver.url)
    with engine.begin() as connection:
        # without a unique key, which would hide what was done twice
        connection.exec_driver_sql("CREATE TABLE sample (number INTEGER, value DOUBLE PRECISION)")
    kill_again_and_again(driver, "store", KILLS[database.name], 50, seed=2)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT number, value FROM sample ORDER BY number").all()
    engine.dispose()
    assert Counter(number for number, _ in rows) == Counter(range(SAMPLES))
    assert [value for _, value in rows] == pytest.approx(list(draw_samples(0, SAMPLES)))


# -- as a person runs it -----------------------------------------------------


def run_example(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "pipeline.py"), *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )


def test_the_example_can_be_killed_and_run_again(tmp_path: Path) -> None:
    assert run_example(tmp_path, "--kill-in", "9").returncode == KILLED
    done = run_example(tmp_path)
    assert done.stderr == ""
    assert "effects: 2 in this run, 11 in all, of which 1 twice" in done.stdout
    again = run_example(tmp_path)
    assert again.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]
    assert "effects: 0 in this run, 11 in all" in again.stdout
    with Journal(f"sqlite:///{tmp_path}/pipeline.db") as journal:
        info, records = journal.show("experiment")
    assert info.finished is not None
    assert [record.name for record in records] == list(STEPS)
    assert "effects: 10 in this run, 10 in all" in run_example(tmp_path, "--forget").stdout


def test_the_example_goes_through_samples(tmp_path: Path) -> None:
    done = run_example(tmp_path, "--samples", "20")
    assert "effects: 20 in this run, 20 in all, of which 0 twice" in done.stdout


def test_the_example_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = run_example(tmp_path, "--db", "nowhere://x")
    assert done.returncode == 1
    said = "examples/pipeline.py: 'nowhere://***' is not the URL of a journal"
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
