"""Several agents with the same messages, which die, are slow, and get them again: at the end each
is an event once, and each aggregate is exactly what was counted outside.

One number, the seed, decides everything. At a commit another agent may handle a batch before the
one that has committed goes on, or that one may die; what it did not acknowledge comes again, to
anyone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from converge import Store, crash_points
from converge.pipeline import DeadLetters, Message, Pipeline, process_batch, sweep
from converge.sql import deliveries, notifications, samples
from converge.testing import FakeClock
from tests.dying import Died
from tests.notifications.samples import METERS, START, message, volume
from tests.notifications.world import NOTE, OUT, World

MALFORMED = [b"", b"{", b"[]", b"\xff", b'{"event_type": 1}', b'{"payload": NaN}']
RESOURCES = 5


class Chaos:
    """Agents that share a queue.

    :ivar queue: what is to be delivered; a message stays until it is acknowledged.
    """

    def __init__(self, seed: int, store: Store, clock: FakeClock) -> None:
        self.random = random.Random(seed)
        self.store, self.clock = store, clock
        self.depth = 0
        self.calm = False
        self.good = {
            number: self.random.randrange(1, 100) for number in range(self.random.randrange(5, 25))
        }
        sent = [self.make(number) for number in self.good]
        doubled = [self.make(number) for number in self.good if self.random.random() < 0.2]
        bad = [Message(one) for one in MALFORMED if self.random.random() < 0.7]
        self.bad = {bytes(one.body) for one in bad if isinstance(one.body, bytes)}
        self.queue = [*sent, *doubled, *bad]
        self.random.shuffle(self.queue)
        self.deaths = 0

    def make(self, number: int) -> Message:
        resource = f"vol-{number % RESOURCES}"
        return message(volume(number, volume_id=resource, size=self.good[number]))

    def hook(self, point: str) -> None:
        """Something happens at a commit."""
        if self.calm or point not in crash_points.both_sides(crash_points.PIPELINE):
            return
        chance = self.random.random()
        if chance < 0.06:
            self.deaths += 1
            raise Died
        if chance < 0.25 and self.depth < 2 and point.endswith("after_commit"):
            self.agent()

    def agent(self) -> None:
        """An agent handles a batch, or sweeps."""
        self.depth += 1
        batch = self.queue[: self.random.randrange(1, 6)]
        self.random.shuffle(self.queue)
        try:
            given = make_pipeline()
            if self.random.random() < 0.3:
                sweep(self.store, given)
            else:
                process_batch(self.store, given, batch)
                if self.random.random() < 0.8:
                    for one in batch:
                        if one in self.queue:
                            self.queue.remove(one)
        except Died:
            pass
        finally:
            self.depth -= 1

    def play(self) -> None:
        """Everything that happens."""
        for _ in range(200):
            if not self.queue:
                break
            self.agent()
            self.clock.advance(self.random.choice([0, 0, 1, 5]))
        self.calm = True
        for start in range(0, len(self.queue), 5):
            process_batch(self.store, make_pipeline(), self.queue[start : start + 5])
        for _ in range(3):
            # retries, what a sweep died with, and windows
            self.clock.advance(300)
            sweep(self.store, make_pipeline())


def make_pipeline() -> Pipeline:
    return Pipeline.load(
        {
            "sources": [
                {"name": "e", "events": ["*"], "sinks": ["events"]},
                {"name": "m", "meters": ["*"], "sinks": ["sums", "pairs"]},
            ],
            "sinks": [
                {"name": "events", "steps": [NOTE], "publishers": [OUT]},
                {
                    "name": "sums",
                    "steps": [{"aggregate": {"by": "resource_id", "window": 60, "grace": 3}}],
                    "publishers": ["database"],
                },
                {
                    "name": "pairs",
                    "steps": [
                        {"aggregate": {"by": "unit", "count": 2, "name": "pair"}},
                        {"aggregate": {"by": "name", "window": 60, "grace": 3, "name": "pairs"}},
                    ],
                    "publishers": ["database"],
                },
            ],
        },
        meters=METERS,
    )


@pytest.mark.parametrize("seed", [*range(8), 134, 138, 141, 158])
def test_whatever_happens_each_counts_once(
    seed: int,
    fresh_store: Callable[..., Store],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock(START)
    store = fresh_store(clock)
    chaos = Chaos(seed, store, clock)
    with monkeypatch.context() as patch:
        patch.setattr(crash_points, "hook", chaos.hook)
        chaos.play()
    events = store.database.read(lambda tx: notifications.list_events(tx, [], [], limit=1000))
    assert Counter(one.message_id for one in events) == Counter(
        f"m-{number}" for number in chaos.good
    )
    wanted: Counter[str] = Counter()
    for number, size in chaos.good.items():
        wanted[f"vol-{number % RESOURCES}"] += size
    found: Counter[str] = Counter()
    pairs: list[Any] = []
    for one in store.database.read(samples.list_samples):
        if one["name"] == "volume.size":
            found[one["resource_id"]] += one["volume"]
        else:
            pairs.append(one)
    assert found == wanted
    # of an odd number, one waits for another
    paired = sum(chaos.good.values()) - sum(one["volume"] for one in pairs)
    assert sum(one["metadata"]["count"] for one in pairs) == len(chaos.good) // 2
    assert paired == 0 if len(chaos.good) % 2 == 0 else paired in chaos.good.values()
    assert set(world.names()) == {f"m-{number}" for number in chaos.good}
    letters = DeadLetters(store).list()
    assert sorted(one.reason == "step" for one in letters) == [False] * len(chaos.bad)
    assert store.database.read(deliveries.count_deliveries) == {}
