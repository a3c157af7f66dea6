"""Engines of two pools in processes of their own, woken by a RabbitMQ that is stopped, restarted
and emptied while some of them are killed."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.bus.threads import choose_threads
from tests.acceptance import witness
from tests.acceptance.fleet import Fleet, wait_for
from tests.brokers import OwnRabbitMQ
from tests.templates import template

# before anything imports oslo.messaging
choose_threads()

STACKS = [f"stack-{number}" for number in range(20)]
LAYERS, WIDTH = 10, 10
#: Each engine has one of these types, and each layer has both.
POOLS = ("effect", "retried")


def layers(version: int) -> converge.Template:
    """Each node requires two of the layer before; of each version another half changes."""
    bodies: dict[str, Any] = {}
    for layer, place in itertools.product(range(LAYERS), range(WIDTH)):
        before = {f"n{layer - 1}-{(place + step) % WIDTH}" for step in (0, 1)} if layer else ()
        bodies[f"n{layer}-{place}"] = {
            "type": POOLS[place % 2],
            "properties": {"least": 0.02, "version": (version + place // 2) // 2},
            "depends_on": sorted(before),
        }
    return template(bodies)


@pytest.mark.timeout(400)  # a server is started four times
@pytest.mark.own_rabbitmq
@pytest.mark.parametrize(
    "database",
    [pytest.param("postgresql", marks=[pytest.mark.database, pytest.mark.postgresql])],
    indirect=True,
)
def test_stacks_converge_whatever_becomes_of_the_broker_and_of_engines(
    own: OwnRabbitMQ, database_url: str, tmp_path: Path
) -> None:
    bus = own.empty()
    orders = witness.Orders(database_url, tmp_path, lease=3.0, workers=6, bus=bus)
    killed: set[int] = set()
    with Fleet(orders) as fleet, converge.connect(database_url, bus=bus) as client:

        def kill(number: int) -> None:
            process = fleet.processes[number]
            process.kill()
            killed.add(process.pid)

        def await_work(so_far: int) -> None:
            wait_for(lambda: len(fleet.lines()) > so_far + 100, "work in the middle")

        for number in range(4):
            # a death on another host is seen by the lease alone
            fleet.start(host=f"host-{number}", pool=POOLS[number % 2 :][:1])
        for name in STACKS:
            client.create_stack(name, layers(1))
        await_work(0)
        kill(0)
        own.stop()
        so_far = len(fleet.lines())
        for name in STACKS:
            # in the middle of the create, or after it
            client.update_stack(name, layers(2))
        await_work(so_far)
        own.start()
        so_far = len(fleet.lines())
        for name in STACKS:
            client.update_stack(name, layers(3))
        await_work(so_far)
        kill(1)
        fleet.start(host="host-4", pool=POOLS[1:])
        own.reset()
        own.stop()
        own.start()
        assert {client.stack(name).wait(120) for name in STACKS} == {"COMPLETE"}
        made: list[str] = []
        for name in STACKS:
            found = client.show(name)["resources"]
            made += [one["physical_id"] for one in found.values()]
            assert {one["status"] for one in found.values()} == {"COMPLETE"}
            expected = layers(3).to_dict()["resources"]
            assert {name: one["properties"] for name, one in found.items()} == {
                name: body["properties"] for name, body in expected.items()
            }
        ended: dict[tuple[str, str], list[int]] = defaultdict(list)
        for line in fleet.lines():
            if line.what == "end":
                ended[line.node, line.token].append(line.pid)
    # each piece of work was done once, or by an engine that was killed before it could say so
    assert len(set(made)) == len(STACKS) * LAYERS * WIDTH
    assert {token for _, token in ended}.issuperset(made)
    assert all(killed.issuperset(pids[:-1]) for pids in ended.values())
