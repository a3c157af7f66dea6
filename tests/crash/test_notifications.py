"""Death at every commit edge of a batch of notifications and of a sweep; the messages come again.

A story is told once to its end, and then again with a death at each crash point that it reaches:
on SQLite each time that it reaches it, on servers the first, a middle and the last time. Whoever
died is gone: its transaction is undone, and nothing of its memory is left. Then the story is told
again from the start, as the broker delivers again what was not acknowledged. The ends must be the
same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge import Store, crash_points
from converge.pipeline import (
    DeadLetters,
    Filter,
    Limits,
    Message,
    Pipeline,
    process_batch,
    prune,
    sweep,
)
from converge.sql import deliveries, schema
from converge.testing import FakeClock
from tests.dying import Died, Reaper
from tests.notifications import world as worlds
from tests.notifications.samples import METERS, START, body, message, volume
from tests.notifications.world import NOTE, OUT, World

MONTH = 30 * 86_400.0
POINTS = crash_points.both_sides(crash_points.PIPELINE)


def make_pipeline() -> Pipeline:
    return Pipeline.load(
        {
            "sources": [
                {"name": "events", "events": ["*"], "sinks": ["events"]},
                {"name": "meters", "meters": ["*"], "sinks": ["sums", "rates"]},
            ],
            "sinks": [
                {"name": "events", "steps": [NOTE], "publishers": [OUT], "attempts": 1},
                {
                    "name": "sums",
                    "steps": [{"aggregate": {"by": "name", "window": 60, "grace": 0}}],
                    "publishers": ["database", "sink://more"],
                },
                {"name": "rates", "steps": ["rate_of_change"], "publishers": ["database"]},
                {"name": "more", "publishers": [{OUT: {"label": "more"}}]},
            ],
        },
        meters=METERS,
    )


def batches() -> list[list[Message]]:
    """Two batches, with a duplicate, a message that is none, two volumes of one resource, and one
    that is a month old."""
    old = body("m-old", "a.b", {}) | {"timestamp": START - MONTH + 60}
    again = volume(4, volume_id="vol-1") | {"timestamp": "2026-11-01T00:00:10"}
    deep = body("m-deep", "a.b", {"a": {"b": 1}})
    return [
        [message(volume(1)), Message(b"{"), message(volume(2)), message(deep), message(old)],
        [message(volume(2)), message(again), message(volume(3))],
    ]


def tell(store: Store, clock: FakeClock, world: World) -> None:
    """The story: two batches, a repair, sweeps, and what is old is deleted."""
    given = make_pipeline()
    clock.seconds = START
    world.fails = {"m-3"}
    given.limits = Limits(depth=2)
    for batch in batches():
        process_batch(store, given, batch)
    world.fails = set()
    DeadLetters(store).retry(Filter(sink="events"), limit=10)
    DeadLetters(store).retry(Filter(reason="definition"), limit=10)
    given.limits = Limits(depth=50)
    DeadLetters(store).retry(Filter(reason="too_deep"), limit=10)
    sweep(store, given)
    clock.seconds = START + 60
    sweep(store, given)
    # what a sweep died with is due after its lease
    clock.seconds = START + 500
    sweep(store, given)
    clock.seconds = START + 800
    prune(store, older_than=MONTH)


def ending(store: Store, world: World) -> dict[str, Any]:
    """What is left, without what differs in every run."""

    def read(tx: Any) -> dict[str, Any]:
        found = schema.notification, schema.sample, schema.step_state
        notification, sample, state = found
        return {
            "events": sorted(tx.execute(select(notification.c.message_id)).scalars()),
            "traits": len(tx.execute(select(schema.trait.c.name)).all()),
            "samples": sorted(
                (row.name, row.volume, row.sample_id)
                for row in tx.execute(select(sample.c.name, sample.c.volume, sample.c.sample_id))
            ),
            "states": sorted(map(str, tx.execute(select(state.c.key)).scalars())),
            "deliveries": deliveries.count_deliveries(tx),
            "letters": [one.reason for one in DeadLetters(store).list()],
        }

    return {
        **store.database.read(read),
        # at least once, and always with the same id
        "published": sorted({(where, item.id) for where, item in world.got}),
        "seen": sorted(set(world.seen)),
    }


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    monkeypatch.setattr(worlds, "WORLD", found)
    return found


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | None, int], Reaper]]:
    def set_death(point: str | None, number: int) -> Reaper:
        death = Reaper(point, number)
        monkeypatch.setattr(crash_points, "hook", death)
        return death

    yield set_death
    monkeypatch.setattr(crash_points, "hook", None)


def test_a_death_at_any_commit_changes_nothing_in_the_end(
    fresh_store: Callable[..., Store],
    clock: FakeClock,
    world: World,
    dying: Callable[[str | None, int], Reaper],
) -> None:
    store = fresh_store(clock)
    counted = dying(None, 0)
    tell(store, clock, world)
    wanted = ending(store, world)
    assert wanted["deliveries"] == {}
    assert wanted["letters"] == ["not_json"]
    assert ("out", "m-old") in wanted["published"]
    assert "m-old" not in wanted["events"]
    assert [one[1] for one in wanted["samples"]] == [11.0 + 12 + 14 + 13, 0.3]
    reached = dict(counted.counts)
    assert set(POINTS) - set(reached) == set()
    for point in POINTS:
        last = reached[point]
        some = sorted({1, (last + 1) // 2, last})
        every = store.database.dialect == "sqlite"
        for number in range(1, last + 1) if every else some:
            store = fresh_store(clock)
            vars(world).update(vars(World()))
            dying(point, number)
            with pytest.raises(Died):
                tell(store, clock, world)
            dying(None, 0)
            tell(store, clock, world)
            assert ending(store, world) == wanted, f"died at {point}, time {number}"


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "point", [crash_points.Commit.NOTIFICATIONS, crash_points.Commit.DELIVERIES]
)
def test_a_process_that_is_killed_leaves_the_same(point: Any, tmp_path: Path, world: World) -> None:
    """The same with a real death, after the commit of a process of its own."""
    url = f"sqlite:///{tmp_path}/n.db"
    converge.connect(url, create_schema=True).close()
    child = os.fork()
    if child == 0:
        crash_points.hook = lambda name: (
            os.kill(os.getpid(), signal.SIGKILL) if name == point.after else None
        )
        with converge.connect(url) as store:
            process_batch(store, make_pipeline(), batches()[0], now=START)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with converge.connect(url) as store:
        result = process_batch(store, make_pipeline(), batches()[0], now=START)
        assert (result.recorded, result.resumed) == (0, 4)
        left = store.database.read(deliveries.count_deliveries)
    assert left == {}
