"""RabbitMQ as a bus: one that others use, too, and one that is stopped, restarted and emptied."""

from __future__ import annotations

import json
import logging
import queue
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import converge
from converge.bus.hint import ANY, Hint, encode
from converge.bus.oslo import OsloCarrier
from converge.bus.shared import SharedBus
from converge.bus.threads import choose_threads
from converge.bus.urls import read_bus_url
from tests.backends import Backend, RabbitMQ
from tests.brokers import OwnRabbitMQ
from tests.bus.ether import GARBAGE
from tests.bus.world import Counting, layers
from tests.waiting import WAIT, until

# before anything imports oslo.messaging
choose_threads()

READY = Hint(ready=ANY)


@pytest.fixture
def rabbitmq(_databases: dict[str, Backend]) -> Iterator[tuple[RabbitMQ, str]]:
    """A server, and a URL that nobody else uses."""
    server = _databases["rabbitmq"]
    assert isinstance(server, RabbitMQ)
    url = server.empty()
    yield server, url
    server.discard(url)


class Process:
    """A process that has an engine, or waits: its bus, and what it was told."""

    def __init__(self, url: str) -> None:
        read = read_bus_url(url)
        self.bus = SharedBus(lambda: OsloCarrier(read))
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.bus.add_listener(lambda hint: self._calls.put(None))
        self.await_call()

    def await_call(self) -> None:
        """Wait until it is told that nodes are ready. Whoever begins to receive is, too."""
        self._calls.get(timeout=WAIT)

    @property
    def is_silent(self) -> bool:
        """Whether it was told nothing more."""
        return self._calls.empty()


@pytest.mark.rabbitmq
def test_all_processes_hear_of_a_commit(rabbitmq: tuple[RabbitMQ, str]) -> None:
    processes = [Process(rabbitmq[1]) for _ in range(3)]
    try:
        for one in processes:
            one.bus.committed(READY)
            for each in processes:
                each.await_call()
        assert all(each.is_silent for each in processes)
    finally:
        for one in processes:
            one.bus.close()


@pytest.mark.rabbitmq
def test_what_strangers_send_costs_a_look_at_most(rabbitmq: tuple[RabbitMQ, str]) -> None:
    server, url = rabbitmq
    topic = url.rpartition("=")[2]
    process = Process(url)
    try:
        with server.connect() as connection:
            producer = connection.Producer()

            def send(body: Any, kind: str = "application/json") -> None:
                producer.publish(
                    body, exchange=f"{topic}_fanout", content_type=kind, content_encoding="utf-8"
                )

            def envelope(message: object) -> str:
                return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)})

            for body in (b"", b"\x00\xff", "{", "[]", "null", "7", '{"a": 1}'):
                send(body)
                send(body, "application/data")
            send(json.dumps({"oslo.version": "9.0", "oslo.message": "{}"}))
            send(json.dumps({"oslo.version": "2.0", "oslo.message": "{"}))
            messages: list[object] = [
                [],
                None,
                7,
                {},
                {"method": 7},
                {"method": "hint", "args": []},
            ]
            for message in messages:
                send(envelope(message))
            send(envelope({"method": "destroy", "args": {"all": True}, "_unique_id": "1"}))
            for number, garbage in enumerate(GARBAGE[2:6]):
                arguments = {"text": garbage}
                call = {"method": "hint", "args": arguments, "_unique_id": f"g{number}"}
                send(envelope(call))
            assert process.is_silent
            forged = {"method": "hint", "args": {"text": encode(READY, "x")}, "_unique_id": "2"}
            send(envelope(forged))
            process.await_call()
        # a message of a member is still heard
        other = Process(url)
        other.bus.committed(READY)
        process.await_call()
        other.bus.close()
        assert process.is_silent
    finally:
        process.bus.close()


@pytest.mark.rabbitmq
def test_queues_are_durable_and_of_the_type_quorum(rabbitmq: tuple[RabbitMQ, str]) -> None:
    server, url = rabbitmq
    process = Process(url)
    topic = url.rpartition("=")[2]
    with server.connect() as connection:
        # of one that is otherwise, this would be refused
        connection.channel().queue_declare(
            topic, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
    process.bus.close()


@pytest.mark.rabbitmq
def test_a_wrong_password_is_said_without_it(
    rabbitmq: tuple[RabbitMQ, str], caplog: pytest.LogCaptureFixture
) -> None:
    url = rabbitmq[1].replace("guest@", "Geheim99@")
    read = read_bus_url(url)
    bus = SharedBus(lambda: OsloCarrier(read))
    bus.committed(READY)
    until(lambda: any(one.name == "converge.bus.shared" for one in caplog.records))
    bus.close()
    said = [one.getMessage() for one in caplog.records if one.name == "converge.bus.shared"]
    assert "refused" in said[0].lower()
    assert "Geheim99" not in caplog.text


#: Only SQLite: what is tried here is the bus, and each restart of a server takes seconds.
ON_SQLITE = pytest.mark.parametrize(
    "database",
    [pytest.param("sqlite", marks=[pytest.mark.database, pytest.mark.sqlite])],
    indirect=True,
)


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[[str], converge.Store]]:
    """Connects another process's store."""
    stores = []

    def open_store(bus: str) -> converge.Store:
        stores.append(converge.connect(database_url, bus=bus))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def said(caplog: pytest.LogCaptureFixture, words: str) -> int:
    """How often the buses said something."""
    return sum(
        words in one.getMessage() for one in caplog.records if one.name == "converge.bus.shared"
    )


@pytest.mark.timeout(300)  # a server is started four times
@pytest.mark.own_rabbitmq
@ON_SQLITE
def test_a_broker_that_is_stopped_restarted_and_emptied_in_mid_run_changes_nothing(
    own: OwnRabbitMQ,
    connect: Callable[[str], converge.Store],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    url = own.empty()
    counting = Counting()
    stores = [connect(url) for _ in range(3)]
    client = stores[2]
    names, width = ["one", "two"], 4
    engines = [
        converge.Engine(store, {"counting": counting}, workers=2, poll=0.1) for store in stores[:2]
    ]

    def in_the_middle(start: Callable[[str], object], trouble: Callable[[], None]) -> None:
        counting.open.clear()
        counting.busy.clear()
        for name in names:
            start(name)
        assert counting.busy.wait(WAIT)
        trouble()
        counting.open.set()
        assert {client.stack(name).wait(WAIT) for name in names} == {"COMPLETE"}

    try:
        for engine in engines:
            engine.start()
        in_the_middle(lambda name: client.create_stack(name, layers(width, 1)), own.stop)
        # started and ended while there is none
        client.update_stack("one", layers(width, 2))
        assert client.stack("one").wait(WAIT) == "COMPLETE"
        until(lambda: said(caplog, "does not work") >= 1)
        in_the_middle(lambda name: client.update_stack(name, layers(width, 3)), own.start)
        until(lambda: said(caplog, "works again") >= 1)
        in_the_middle(lambda name: client.update_stack(name, layers(width, 4)), own.restart)
        in_the_middle(lambda name: client.update_stack(name, layers(width, 5)), own.reset)
    finally:
        counting.open.set()
        for engine in engines:
            engine.stop()
    count = 3 * width
    done = Counter(what.partition(" ")[0] for what in counting.done.elements())
    # "one" was updated once more
    assert done == {"create": len(names) * (count + 1), "update": (3 * len(names) + 1) * count}
    # of three processes, in four outages
    assert said(caplog, "does not work") <= 12


@pytest.mark.own_rabbitmq
@ON_SQLITE
def test_a_broker_that_is_down_at_the_start_is_used_as_soon_as_it_is_up(
    own: OwnRabbitMQ,
    connect: Callable[[str], converge.Store],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    url = own.empty()
    own.stop()
    counting = Counting()
    store = connect(url)
    with converge.Engine(store, {"counting": counting}, poll=0.1):
        stack = connect(url).create_stack("one", layers(2, 1))
        assert stack.wait(WAIT) == "COMPLETE"
        until(lambda: said(caplog, "does not work") == 2)
        own.start()
        until(lambda: said(caplog, "works again") == 2)
        until(lambda: store.bus.is_connected)
    assert said(caplog, "does not work") == 2


@pytest.mark.rabbitmq
def test_nothing_is_said_about_the_end_of_a_connection(
    rabbitmq: tuple[RabbitMQ, str], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        process = Process(rabbitmq[1])
        process.bus.close()
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []
