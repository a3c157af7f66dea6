"""Engines of two pools in processes of their own, woken by a RabbitMQ that is stopped, restarted
and emptied while some of them are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

import converge
from converge.bus.threads import choose_threads
from tests.acceptance import witness
from tests.acceptance.fleet import Fleet, wait_for
from tests.acceptance.layered import STACKS, TYPES, check_converged, layers
from tests.brokers import OwnRabbitMQ

# before anything imports oslo.messaging
choose_threads()


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
            fleet.start(host=f"host-{number}", pool=TYPES[number % 2 :][:1])
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
        fleet.start(host="host-4", pool=TYPES[1:])
        own.reset()
        own.stop()
        own.start()
        assert {client.stack(name).wait(120) for name in STACKS} == {"COMPLETE"}
        check_converged(client, 3, fleet.lines(), killed)
