"""Nested stacks under random deaths; see :mod:`tests.simulation.nested`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from converge.crash_points import Commit
from converge.testing import FakeClock
from tests import backends
from tests.simulation.nested import History
from tests.stores import Stores

SEEDS = int(os.environ.get("CONVERGE_TEST_SEEDS", "20"))
#: What the histories must reach, or they prove nothing.
EVERYTHING = {
    "death",
    Commit.NEST.before,
    Commit.NEST.after,
    Commit.NEST_STOP.before,
    Commit.NEST_STOP.after,
    Commit.RENAME.after,
    Commit.ADOPT.after,
    Commit.FAIL.after,
    Commit.FINISH.after,
    Commit.RECOVER.after,
}

pytestmark = [pytest.mark.database, pytest.mark.sqlite]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stores, backends.Backend]]:
    opened = Stores()
    try:
        yield opened, backends.Sqlite(tmp_path_factory.mktemp("nested"))
    finally:
        opened.close()


@pytest.mark.timeout(max(120, 2 * SEEDS))
def test_whatever_happens_nested_stacks_become_what_their_outer_stack_says(
    stores: tuple[Stores, backends.Backend],
) -> None:
    opened, sqlite = stores
    reached: Counter[str] = Counter()
    for seed in range(SEEDS):
        clock = FakeClock()
        history = History(opened.fresh(sqlite, clock), clock, seed)
        history.play()
        assert not history.wrong, "\n".join([f"seed {seed}", *history.wrong, *history.trace])
        reached += history.reached
    assert sorted(EVERYTHING - reached.keys()) == []
