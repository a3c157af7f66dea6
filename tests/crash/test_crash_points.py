"""Death at every commit edge and at the edges of handler calls, and what the others make of it.

Every story is played to its end, and then again with a death at each crash point that it
reaches. The ends must be the same. (Invariant 4: whatever dies, between any two statements,
every live traversal ends, without a person.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import converge
from converge import crash_points
from tests import backends
from tests.crash.deaths import Reference, Stage
from tests.crash.reaper import EVERY_HIT, Driver
from tests.crash.story import STORIES
from tests.stores import Stores

OpenStore = Callable[..., converge.Store]
References = dict[str, Reference]
#: Stories with most of the statements, which a driver has then compiled for its children.
WARMING = ("it is created, updated and deleted, with commits of groups", "two engines die")
ON_SQLITE = [pytest.mark.database, pytest.mark.sqlite]


@pytest.fixture
def stage(fresh_store: OpenStore, tmp_path: Path) -> Stage:
    return Stage(fresh_store, tmp_path)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    """The stories in which nobody dies, played in this process. They end the same on every
    database."""
    folder = tmp_path_factory.mktemp("undisturbed")
    stores = Stores()
    sqlite = backends.Sqlite(folder)
    stage = Stage(lambda clock: stores.fresh(sqlite, clock), folder)
    try:
        return {name: stage.play_undisturbed(name) for name in STORIES}
    finally:
        stores.close()


@pytest.fixture(scope="module")
def _drivers() -> Iterator[dict[str, Driver]]:
    known: dict[str, Driver] = {}
    yield known
    for one in known.values():
        one.close()


@pytest.fixture
def driver(database: backends.Backend, stage: Stage, _drivers: dict[str, Driver]) -> Driver:
    """What forks the processes that are killed, on each backend."""
    if database.name not in _drivers:
        url = stage.enter().store.database.url.render_as_string(hide_password=False)
        known = _drivers[database.name] = Driver("tests.crash.driver", url)
        for name in WARMING:
            known.play(story=name, world=str(stage.enter().world.path))
    return _drivers[database.name]


def count_hits(references: References, point: str) -> dict[str, int]:
    """How often each story reaches a point, of those that do."""
    counts = {name: one.counts[point] for name, one in references.items() if one.counts[point]}
    assert counts, f"no story reaches {point}"
    return counts


def list_hits(references: References, point: str) -> list[tuple[str, int]]:
    """When to die at a point: in the story that reaches it most often at the first, second,
    third and last time; in the others at the first or the last. Of many others, one half dies
    before a commit and one half after it."""
    counts = count_hits(references, point)
    if EVERY_HIT:
        return [(name, hit) for name, count in counts.items() for hit in range(1, count + 1)]
    most = max(counts, key=lambda name: counts[name])
    more = [(most, hit) for hit in (1, 2, 3, counts[most]) if hit <= counts[most]]
    others = list(counts)[crash_points.STACKS.index(point) % 2 :: 2] if len(counts) > 4 else counts
    turns = [(name, (1, counts[name])[turn % 2]) for turn, name in enumerate(others)]
    return sorted({*turns, *more})


def choose_hits(references: References, point: str, number: int) -> list[tuple[str, int]]:
    """One time that a point is reached: a first one for even numbers, for odd ones a later one if
    there is any; another one for each number."""
    if EVERY_HIT:
        return list_hits(references, point)
    counts = count_hits(references, point)
    first = [(name, 1) for name in counts]
    later = [(name, hit) for name in counts for hit in range(2, counts[name] + 1)]
    hits = later if number % 2 and later else first
    return [hits[number * 7 % len(hits)]]


@pytest.mark.parametrize("database", [pytest.param("sqlite", marks=ON_SQLITE)], indirect=True)
@pytest.mark.parametrize("point", crash_points.STACKS)
def test_one_dies_and_the_others_end_as_if_nothing_had_been(
    point: str, stage: Stage, references: References
) -> None:
    found = {
        (name, hit): stage.play_with_death(name, point, hit, references[name])
        for name, hit in list_hits(references, point)
    }
    assert {case: differences for case, differences in found.items() if differences} == {}


@pytest.mark.parametrize("point", crash_points.STACKS)
def test_a_process_is_killed_and_another_ends_as_if_nothing_had_been(
    point: str, stage: Stage, references: References, driver: Driver, database: backends.Backend
) -> None:
    # each database has another one
    number = crash_points.STACKS.index(point) + backends.NAMES.index(database.name)
    found = {
        (name, hit): stage.play_with_kill(driver, name, point, hit, references[name])
        for name, hit in choose_hits(references, point, number)
    }
    assert {case: differences for case, differences in found.items() if differences} == {}


@pytest.mark.database
@pytest.mark.sqlite
def test_every_crash_point_is_reached_by_some_story(references: References) -> None:
    reached = {point for one in references.values() for point in one.counts}
    assert set(crash_points.STACKS) - reached == set()
    # a handler that waits for a signal has it in its journal
    of_journal = crash_points.both_sides(crash_points.JOURNAL)
    assert reached - {*crash_points.STACKS, *of_journal} == set()


@pytest.mark.database
@pytest.mark.sqlite
@pytest.mark.parametrize("story", STORIES)
def test_a_story_without_a_death_leaves_nothing(story: str, references: References) -> None:
    assert references[story].ending.left == []
