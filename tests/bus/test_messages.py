"""Whatever happens to messages, the stacks converge, and nothing is done twice."""

from __future__ import annotations

from collections import Counter

import pytest

import converge
from converge.bus.memory import MemoryBus
from tests.bus.ether import HostileEther
from tests.bus.world import Counting, layers
from tests.waiting import WAIT


def connect(url: str, bus: MemoryBus) -> converge.Store:
    """A process's own store."""
    store = converge.connect(url, bus="memory://")
    store.database.bus = bus
    return store


@pytest.mark.parametrize("seed", [1, 2])
def test_messages_that_are_lost_doubled_late_out_of_order_or_forged_change_nothing(
    database_url: str, seed: int
) -> None:
    ether = HostileEther(seed)
    counting = Counting()
    types = {"counting": counting}
    width, stacks = 6, ["one", "two"]
    stores = [connect(database_url, ether.bus()) for _ in range(3)]
    engines = [converge.Engine(store, types, workers=2, poll=0.05) for store in stores[:2]]
    try:
        for engine in engines:
            engine.start()
        client = stores[2]
        for name in stacks:
            client.create_stack(name, layers(width, 1))
        assert {client.stack(name).wait(WAIT) for name in stacks} == {"COMPLETE"}
        for name in stacks:
            client.update_stack(name, layers(width, 2))
        assert {client.stack(name).wait(WAIT) for name in stacks} == {"COMPLETE"}
    finally:
        for engine in engines:
            engine.stop()
        for store in stores:
            store.close()
    count = 3 * width
    assert set(counting.done.values()) == {1}
    kinds = Counter(what.partition(" ")[0] for what in counting.done)
    assert kinds == {"create": len(stacks) * (count + 1), "update": len(stacks) * count}
    # it was put to the test
    assert ether.sent
