"""Kafka as a bus: a broker that its client library plays within this process."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from converge.bus.hint import ANY, Hint
from converge.bus.oslo import OsloCarrier
from converge.bus.shared import SharedBus
from converge.bus.threads import choose_threads
from converge.bus.urls import read_bus_url
from tests.waiting import WAIT, until

# before anything imports oslo.messaging
choose_threads()


@pytest.fixture
def broker() -> Iterator[str]:
    """The URL of a broker, which is there for as long as its client is."""
    client = Producer({"bootstrap.servers": "nowhere", "test.mock.num.brokers": 1})
    (one,) = client.list_topics(timeout=WAIT).brokers.values()
    yield f"kafka://{one.host}:{one.port}/"
    client.flush(WAIT)


def test_all_processes_hear_of_a_commit(broker: str) -> None:
    url = read_bus_url(broker)
    sender, receiver = (SharedBus(lambda: OsloCarrier(url)) for _ in range(2))
    calls: queue.SimpleQueue[None] = queue.SimpleQueue()
    receiver.add_listener(lambda hint: calls.put(None))
    try:
        # it looks as soon as it receives
        calls.get(timeout=WAIT)

        def hears() -> bool:
            # what is sent before its group has a share of the topic is lost to it
            sender.committed(Hint(ready=ANY))
            return not calls.empty()

        until(hears)
    finally:
        sender.close()
        receiver.close()
