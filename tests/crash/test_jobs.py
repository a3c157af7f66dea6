"""Death by SIGKILL at every commit edge of the journal and of machines, and of what they need;
another process runs the same job then.

Every job is run to its end once, and then again with a death at each crash point that it reaches:
the first, a middle and the last time. The ends must be the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import converge
from converge import crash_points
from converge.crash_points import Commit
from converge.model import EngineState
from converge.process import is_gone
from converge.testing import FakeClock
from tests import backends
from tests.crash.job import LATER, Job
from tests.crash.jobs import JOBS
from tests.crash.reaper import EVERY_HIT, KILLED, Driver, wait_for_dead
from tests.crash.rows import Row, Rows, read_rows
from tests.dying import Reaper
from tests.journal.driver import AFTER_EFFECT, BEFORE_EFFECT

#: The commits of leases and of the host, without which there are no journal and no machines.
BESIDES = (Commit.REGISTER, Commit.RENEW, Commit.LEAVE, Commit.EXPIRE, Commit.HOST)
POINTS = crash_points.both_sides(crash_points.JOURNAL + crash_points.MACHINE + BESIDES)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended, without what differs in every run: ids, tokens, times, attempts.

    :ivar host: how often each row is in the host's table.
    :ivar effects: how often each was had outside.
    :ivar scopes: the steps of each; keys of items come in any order.
    :ivar instances: the state of each.
    :ivar moves: of each instance.
    :ivar wrong: what may be so in no run.
    """

    host: Counter[str]
    effects: Counter[str]
    scopes: dict[str, list[tuple[Any, ...]]]
    instances: dict[str, tuple[Any, ...]]
    moves: dict[str, list[tuple[Any, ...]]]
    wrong: list[str]


def read_ending(job: Job) -> Ending:
    """How a job ended."""
    rows = read_rows(job.store.database)
    effects = job.world.effects()
    scopes = {row["id"]: row["name"] for row in rows["scope"]}
    keys = {row["id"]: row["key"] for row in rows["instance"]}
    plain = (row | {"value": ""} if row["status"] == "KEYS" else row for row in rows["step"])
    steps = sorted(plain, key=lambda row: (row["number"], row["name"]))
    columns = "number event source target payload version status"
    return Ending(
        host=Counter(job.rows()),
        effects=Counter(what for what, _ in effects),
        scopes={
            name: [
                _pick(row, "name number version status value position")
                for row in steps
                if row["scope_id"] == key
            ]
            for key, name in scopes.items()
        },
        instances={
            row["key"]: _pick(row, "version state epoch payloads") for row in rows["instance"]
        },
        moves={
            key: [_pick(row, columns) for row in rows["move"] if row["instance_id"] == one]
            for one, key in keys.items()
        },
        wrong=list(_list_wrong(rows, effects)),
    )


def _pick(row: Row, columns: str) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns.split())


def _list_wrong(rows: Rows, effects: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Who lives and has not left; what somebody has, or has to do; what belongs to nothing; and
    keys that are not one for each effect."""
    for row in rows["engine"]:
        if row["state"] == EngineState.ALIVE and not is_gone(row["process"]):
            yield f"an owner who has not left: {row}"
    for row in rows["scope"]:
        if row["engine_id"] is not None or row["finished_at"] is None:
            yield f"a scope that is not over: {row}"
    for row in rows["move"]:
        if (row["engine_id"], row["next_at"]) != (None, None) or row["status"] == "PENDING":
            yield f"an action that is not over: {row}"
    for part, column, whole in (("step", "scope_id", "scope"), ("move", "instance_id", "instance")):
        ids = {row["id"] for row in rows[whole]}
        yield from (f"no {whole} has this: {row}" for row in rows[part] if row[column] not in ids)
    by_effect, by_key = defaultdict(set), defaultdict(set)
    for what, key in effects:
        by_effect[what].add(key)
        by_key[key].add(what)
    for found in (by_effect, by_key):
        yield from (f"{one}: {others}" for one, others in found.items() if len(others) > 1)


@dataclass(frozen=True, slots=True)
class Reference:
    """A job without a death.

    :ivar effects: in their order.
    :ivar trace: the points that it reached, in their order.
    """

    ending: Ending
    effects: list[str]
    trace: list[str]

    def after_death(self, point: str, hit: int) -> Ending:
        """How it is to end if it dies there once. What had its effect right before that, and
        was not recorded, is done again."""
        here = [place for place, name in enumerate(self.trace) if name == point][hit - 1]
        if self.trace[here - 1] != AFTER_EFFECT:
            return self.ending
        again = self.effects[self.trace[:here].count(AFTER_EFFECT) - 1]
        return replace(self.ending, effects=self.ending.effects + Counter([again]))


References = dict[str, Reference]


class Place:
    """Where jobs are run, each from an empty store.

    :param open_store: gives the store for a clock.
    :param folder: where the effects are written.
    """

    def __init__(self, open_store: Callable[..., converge.Store], folder: Path) -> None:
        self._open_store = open_store
        self._folder = folder
        self._number = 0

    def enter(self, name: str) -> Job:
        """A job that was not begun."""
        self._number += 1
        folder = self._folder / f"job {self._number}"
        folder.mkdir()
        clock = FakeClock()
        job = JOBS[name](self._open_store(clock), folder, clock)
        job.prepare()
        return job

    def run_undisturbed(self, name: str) -> Reference:
        """Run a job to its end in this process."""
        job = self.enter(name)
        reaper = Reaper()
        with reaper.watching():
            job.run()
        effects = [what for what, _ in job.world.effects()]
        return Reference(read_ending(job), effects, reaper.trace)

    def run_with_kill(self, driver: Driver, name: str, point: str, hit: int) -> Ending:
        """Run a job in a process that is killed at a crash point, and then in this one."""
        job = self.enter(name)
        assert driver.play(point, hit, job=name, folder=str(job.folder)) == KILLED
        wait_for_dead(job.store)
        job.clock.advance(LATER)
        job.run()
        return read_ending(job)


@pytest.fixture
def place(fresh_store: Callable[..., converge.Store], tmp_path: Path) -> Place:
    return Place(fresh_store, tmp_path)


@pytest.fixture(scope="module")
def _references() -> dict[str, References]:
    return {}


@pytest.fixture
def references(
    database: backends.Backend, place: Place, _references: dict[str, References]
) -> References:
    """The jobs without a death, on each backend."""
    if database.name not in _references:
        _references[database.name] = {name: place.run_undisturbed(name) for name in JOBS}
    return _references[database.name]


@pytest.fixture(scope="module")
def _drivers() -> Iterator[dict[str, Driver]]:
    known: dict[str, Driver] = {}
    yield known
    for one in known.values():
        one.close()


@pytest.fixture
def driver(database: backends.Backend, place: Place, _drivers: dict[str, Driver]) -> Driver:
    """What forks the processes that are killed, on each backend."""
    if database.name not in _drivers:
        jobs = {name: place.enter(name) for name in JOBS}
        url = jobs["journal"].store.database.url.render_as_string(hide_password=False)
        known = _drivers[database.name] = Driver("tests.crash.jobs", url)
        for name in JOBS:
            # its children need not compile what it has
            known.play(job=name, folder=str(place.enter(name).folder))
    return _drivers[database.name]


def choose_hits(
    references: References, point: str, database: backends.Backend
) -> list[tuple[str, int]]:
    """When to die at a point: at the first, a middle and the last time that a job reaches it, one
    job after the other; on the servers, where a death takes longer, in the middle."""
    hits = [
        (name, hit)
        for name, one in references.items()
        for hit in range(1, one.trace.count(point) + 1)
    ]
    assert hits, f"no job reaches {point}"
    if EVERY_HIT:
        return hits
    middle = hits[len(hits) // 2]
    return sorted({hits[0], middle, hits[-1]}) if database.name == "sqlite" else [middle]


@pytest.mark.parametrize("point", POINTS)
def test_a_process_is_killed_and_another_ends_as_if_nothing_had_been(
    point: str,
    place: Place,
    references: References,
    driver: Driver,
    database: backends.Backend,
) -> None:
    hits = choose_hits(references, point, database)
    found = {(name, hit): place.run_with_kill(driver, name, point, hit) for name, hit in hits}
    assert found == {(name, hit): references[name].after_death(point, hit) for name, hit in hits}


def test_every_crash_point_of_journal_and_machines_is_reached(references: References) -> None:
    reached = {point for one in references.values() for point in one.trace}
    assert reached - {BEFORE_EFFECT, AFTER_EFFECT} == set(POINTS)


def test_jobs_without_a_death_do_everything_once(references: References) -> None:
    for one in references.values():
        assert one.ending.wrong == []
        assert set((one.ending.host + one.ending.effects).values()) == {1}
    # those that were pruned, and of actions, are gone
    assert set(references["journal"].ending.scopes) == {"job", "inherited"}
    assert set(references["machine"].ending.scopes) == {"job"}
    assert set(references["upgrade"].ending.scopes) == {"job"}


def test_instances_without_a_death_move_by_events_and_timeouts(references: References) -> None:
    endings = [references[name].ending for name in ("machine", "upgrade")]
    states = [{key: row[:2] for key, row in one.instances.items()} for one in endings]
    assert states == [
        {
            "a": (1, "closed"),
            "b": (1, "closed"),
            "c": (1, "late"),
            "f": (1, "closed"),
            "p": (1, "sent"),
        },
        {"c": (2, "archived"), "p": (2, "shipped")},
    ]
    moves = [
        {key: [(event, status) for _, event, *_, status in rows] for key, rows in one.moves.items()}
        for one in endings
    ]
    sent = [("pay", "NONE"), ("send", "DONE")]
    closed = [*sent, ("close", "DONE")]
    late = [("pay", "NONE"), ("remind", "DONE")]
    closed_late = [("pay", "NONE"), ("remind", "NONE"), ("give up", "DONE")]
    assert moves == [
        {"a": closed, "b": closed, "c": late, "f": closed_late, "p": sent},
        {"c": [*late, ("archive", "DONE")], "p": sent},
    ]
