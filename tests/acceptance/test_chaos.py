"""Four engines on one stack, while they are killed, stopped and cut off at random.

``CONVERGE_TEST_CHAOS=60`` lets it last for a minute, ``CONVERGE_TEST_CHAOS_SEED`` repeats the
order of the blows. ``pytest -rP`` shows the measured times also when all is well.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

import converge
from tests.acceptance.chaos import Chaos, report, settle
from tests.acceptance.fleet import LIMIT, ON_SERVERS, Cutter, Fleet, wait_for
from tests.acceptance.witness import Orders
from tests.templates import template

#: How long blows fall, in seconds.
SECONDS = float(os.environ.get("CONVERGE_TEST_CHAOS") or 15)
SEED = int(os.environ.get("CONVERGE_TEST_CHAOS_SEED") or random.randrange(10_000))

LEASE = 2.5
#: Seconds that may pass beyond what the protocol promises: to schedule the engine that sweeps,
#: to commit, to reconnect after a cut. On a busy machine it is more: the time that the slowest
#: start of an engine took, which does all of that, too.
ALLOWANCE = 5.0

LAYERS, WIDTH = 15, 20


def lattice(seconds: float) -> converge.Template:
    """300 nodes, each after two others, that keep engines busy for so long: none ends before
    its time, those that are late make haste, and the last layer lasts beyond the end, which is
    later by what the start of the stack takes."""
    start = time.monotonic()
    resources: dict[str, Any] = {}
    for layer in range(LAYERS):
        for number in range(WIDTH):
            before = (number, (number + 1) % WIDTH) if layer else ()
            share = 0.8 * (layer + number / WIDTH) / LAYERS if layer < LAYERS - 1 else 1.25
            resources[f"n{layer}_{number}"] = {
                "type": "effect",
                "properties": {"until": start + share * seconds, "least": 0.05},
                "depends_on": [f"n{layer - 1}_{other}" for other in before],
            }
    return template(resources)


class Observer:
    """Reads from time to time what has been completed.

    :ivar completed: when each node was first seen to be, on the monotonic clock.
    :ivar events: how many events of completion each node has.
    """

    def __init__(self, store: converge.Store, name: str) -> None:
        self.completed: dict[str, float] = {}
        self.events: dict[str, int] = {}
        self._store = store
        self._name = name
        self._due = 0.0

    def look(self) -> None:
        if time.monotonic() < self._due:
            return
        # all of them: ids can become visible out of order
        events = self._store.events(self._name, after=0, limit=100 * LAYERS * WIDTH)
        now = time.monotonic()
        self._due = now + 0.1
        done = [one["resource"] for one in events if one["status"] == "COMPLETE"]
        self.events = {node: done.count(node) for node in set(done) if node is not None}
        for node in self.events:
            self.completed.setdefault(node, now)


@pytest.mark.timeout(120 + 2 * SECONDS)
@ON_SERVERS
def test_a_stack_comes_to_its_end_and_nothing_is_redone_whatever_befalls_its_engines(
    database_url: str, tmp_path: Path
) -> None:
    print(f"CONVERGE_TEST_CHAOS={SECONDS:g} CONVERGE_TEST_CHAOS_SEED={SEED}")
    orders = Orders(database_url, tmp_path, LEASE, workers=10)
    with converge.connect(database_url) as store, Fleet(orders) as fleet:
        chaos = Chaos(fleet, Cutter(database_url), SEED, LEASE)
        for _ in range(4):
            chaos.start_engine()
        stack = store.create_stack("s", lattice(SECONDS))
        observer = Observer(store, "s")
        chaos.run(SECONDS, observer.look)
        # it was busy all the time
        assert stack.refresh().status == "IN_PROGRESS"

        def is_over() -> bool:
            observer.look()
            return stack.refresh().status != "IN_PROGRESS"

        wait_for(is_over, "the end of the stack", LIMIT)
        assert stack.status == "COMPLETE", stack.reason
        for process in fleet.processes:
            if process.is_alive:
                assert process.end() == 0, process.log
        observer.look()

    account = settle(fleet.lines(), chaos.blows, observer.completed)
    print(report(account, chaos.blows, LEASE))
    nodes = {f"n{layer}_{number}" for layer in range(LAYERS) for number in range(WIDTH)}
    assert account.calls.keys() == nodes
    assert observer.events == dict.fromkeys(nodes, 1)
    assert account.redone == []
    assert account.unexplained == []
    assert all(len({line.token for line in calls}) == 1 for calls in account.calls.values())
    most = LEASE + LEASE / 3 + ALLOWANCE + chaos.slowest
    print(f"allowed: {most:.2f} s, as the slowest start of an engine took {chaos.slowest:.2f} s")
    slow = [delay for delays in account.delays.values() for delay in delays if delay > most]
    assert slow == []
