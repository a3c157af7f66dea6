"""Agents with RabbitMQ: everything that comes is done once, and what is no notification is kept."""

from __future__ import annotations

import json
import re
import signal
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from converge import Store
from converge.agent.agent import Agent
from converge.agent.gathering import Batching
from converge.bus.carrier import CarrierError
from converge.bus.pace import Backoff
from converge.bus.rabbit import RabbitSource
from converge.bus.source import Address, Delivery
from converge.bus.urls import read_bus_url
from converge.errors import BadInput
from converge.sql.faults import Unavailable
from tests.acceptance.shell import LIMIT, Shell
from tests.agent.world import PIPELINE, body, ids, pipeline, reasons, recorded, run_until
from tests.backends import Backend, RabbitMQ
from tests.brokers import OwnRabbitMQ

agent_module: Any = import_module("converge.agent.agent")


@dataclass
class Broker:
    """A queue of notifications that nobody else uses.

    :ivar received: every message that was delivered, each time.
    """

    server: Any
    url: str
    address: Address
    received: list[Delivery] = field(default_factory=list)

    def source(self, prefetch: int = 20) -> RabbitSource:
        source = RabbitSource(read_bus_url(self.url), [self.address], prefetch)
        receive = source.receive

        def count(timeout: float) -> Delivery | None:
            one = receive(timeout)
            self.received += [one] if one is not None else []
            return one

        source.receive = count  # type: ignore[method-assign]
        return source

    def agent(self, store: Store, most: int = 10) -> Agent:
        return Agent(store, pipeline(), self.source, Batching(most, 0.2))

    def send(self, *bodies: bytes, **properties: Any) -> None:
        with self.connect() as connection:
            channel = connection.channel()
            # unconfirmed, what is under way when the connection ends may be lost
            channel.confirm_select()
            for one in bodies:
                message = channel.prepare_message(
                    one, content_type=properties.get("content_type", "application/json")
                )
                channel.basic_publish_confirm(message, "", self.address.queue)

    def connect(self) -> Any:
        from kombu.connection import Connection

        make: Any = Connection
        return make(self.url.partition("?")[0].replace("rabbit://", "amqp://", 1))

    def left(self) -> int:
        """How many messages are in the queue, and with nobody."""
        with self.connect() as connection:
            found = connection.channel().queue_declare(self.address.queue, passive=True)
        return int(found.message_count)

    def declare(self) -> None:
        """Let the queue be there, as an agent makes it."""
        source = self.source()
        source.receive(0.01)
        source.close()


@pytest.fixture
def broker(_databases: dict[str, Backend]) -> Iterator[Broker]:
    server = _databases["rabbitmq"]
    assert isinstance(server, RabbitMQ)
    url, _, topic = server.empty().partition("?topic=")
    found = Broker(server, url, Address(f"{topic}_exchange", topic, "info"))
    found.declare()
    yield found
    with server.connect() as connection:
        channel = connection.channel()
        channel.queue_delete(found.address.queue)
        channel.exchange_delete(found.address.exchange)
    server.discard(f"{url}?topic={topic}")


@pytest.mark.rabbitmq
@pytest.mark.sqlite
def test_each_valid_message_is_recorded_once_and_each_other_one_kept(
    sqlite_store: Store, broker: Broker
) -> None:
    valid = [body(number) for number in range(30)]
    deep = b'{"a":' * 300 + b"1" + b"}" * 300
    broker.send(*valid[:20], b"{nonsense", b"[1, 2]", b"", *valid[10:])
    broker.send(b"\xff\xfe\x00", deep, content_type="text/plain")
    broker.send(b"\x80pickle", content_type="application/x-python-serialize")
    agent = broker.agent(sqlite_store)
    run_until(agent.turn, lambda: agent.counts.received == 46)
    agent._close()
    assert recorded(sqlite_store) == ids(range(30))
    assert reasons(sqlite_store) == [
        "encoding",
        "encoding",
        "not_json",
        "not_json",
        "not_object",
        "too_deep",
    ]
    counts = agent.counts
    assert (counts.recorded, counts.duplicates, counts.dead_letters) == (30, 10, 6)
    assert broker.left() == 0
    assert counts.batches <= 7


@pytest.mark.rabbitmq
@pytest.mark.sqlite
def test_while_the_store_cannot_be_used_nothing_is_received(
    sqlite_store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.send(*(body(number) for number in range(50)))
    agent = broker.agent(sqlite_store)
    probes: list[int] = []
    pauses: list[float] = []
    process = agent_module.process_batch
    read: Callable[..., Any] = sqlite_store.database.read

    def fail(*_: Any, **__: Any) -> Any:
        raise Unavailable("it is down")

    def probe(function: Any) -> Any:
        probes.append(len(broker.received))
        fail()

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if len(probes) == 4:
            # it is back
            monkeypatch.setattr(agent_module, "process_batch", process)
            monkeypatch.setattr(sqlite_store.database, "read", read)
        return False

    monkeypatch.setattr(agent_module, "process_batch", fail)
    monkeypatch.setattr(agent.stopping, "wait", wait)
    whole = Backoff(agent_module.FIRST, agent_module.LONGEST, draw=lambda: 1.0)
    monkeypatch.setattr(agent, "_backoff", whole)
    agent.turn()
    assert len(broker.received) == 10
    # what it had is the broker's again
    run_until(lambda: None, lambda: broker.left() == 50, 10_000)
    monkeypatch.setattr(sqlite_store.database, "read", probe)
    run_until(agent.turn, lambda: agent.counts.recorded == 50)
    agent._close()
    assert probes == [10] * 4
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0]
    # only the batch in hand came twice
    assert len(broker.received) == 60
    assert (agent.counts.given_back, agent.counts.outages) == (10, 1)
    # RabbitMQ may put what goes back behind the others
    assert sorted(recorded(sqlite_store)) == sorted(ids(range(50)))
    assert broker.left() == 0


@pytest.mark.own_rabbitmq
@pytest.mark.sqlite
def test_a_broker_that_is_restarted_loses_nothing(sqlite_store: Store, own: OwnRabbitMQ) -> None:
    broker = Broker(own, own.empty(), Address("e", "restarted", "info"))
    broker.declare()
    with broker.connect() as connection:
        channel = connection.channel()
        channel.confirm_select()
        for number in range(40):
            message = channel.prepare_message(
                body(number), content_type="application/json", properties={"delivery_mode": 2}
            )
            channel.basic_publish_confirm(message, "", broker.address.queue)
    agent = broker.agent(sqlite_store)
    agent.turn()
    assert agent.counts.batches == 1
    own.restart()
    run_until(agent.turn, lambda: agent.counts.recorded == 40)
    # what was acknowledged as it went down may come again
    run_until(agent.turn, lambda: broker.left() == 0)
    agent._close()
    assert sorted(recorded(sqlite_store)) == sorted(ids(range(40)))
    assert reasons(sqlite_store) == []


@pytest.mark.rabbitmq
def test_what_is_prefetched_is_bounded(broker: Broker) -> None:
    broker.send(*(body(number) for number in range(30)))
    source = broker.source(prefetch=5)
    found = [source.receive(2.0) for _ in range(5)]
    assert all(found)
    assert source.receive(0.3) is None
    source.acknowledge(one for one in found[:2] if one is not None)
    assert [source.receive(2.0) is not None for _ in range(2)] == [True, True]
    assert source.receive(0.3) is None
    source.close()


def test_a_broker_that_does_not_answer_is_an_error_without_its_secrets() -> None:
    url = read_bus_url("rabbit://guest:hush-hush@127.0.0.1:1/")
    source = RabbitSource(url, [Address("e", "t", "info")], 5)
    with pytest.raises(CarrierError) as caught:
        source.receive(0.1)
    assert "hush" not in str(caught.value)
    with suppress(CarrierError):
        source.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rabbit_quorum_queu=true", "did you mean 'rabbit_quorum_queue'"),
        ("ssl=maybe", "ssl is true or false"),
        ("heartbeat_timeout_threshold=soon", "a number of seconds"),
    ],
)
def test_options_that_are_not_known_are_refused(options: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        RabbitSource(read_bus_url(f"rabbit://h/?{options}"), [], 5)


@pytest.mark.rabbitmq
@pytest.mark.sqlite
def test_as_a_service_it_says_what_its_processes_do_and_sigterm_lets_them_finish(
    broker: Broker, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    shell.write("pipeline.json", json.dumps(PIPELINE))
    broker.send(*map(body, range(30)))
    process = shell.start(
        *("agent", "--pipeline", "pipeline.json", "--bus", broker.url, "--log-format", "json"),
        *("--topic", f"{broker.address.exchange}/{broker.address.topic}", "--batch-size", "10"),
        *("--processes", "2", "--listen", "127.0.0.1:0"),
        environment={"TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stderr is not None
        records = (json.loads(line) for line in iter(process.stderr.readline, ""))
        place = next(one["args"] for one in records if one["name"] == "converge.service.listener")
        # a pipe that is full would hold it up
        rest = threading.Thread(target=lambda: deque(records, maxlen=0))
        rest.start()
        where = f"http://{place[0]}:{place[1]}"
        done = re.compile(r'converge_messages_total\{result="new"\} 30\.0')
        while not done.search(_get(f"{where}/metrics")):
            assert process.poll() is None
        # the other one may still begin
        while _get(f"{where}/readyz") != "ready\n":
            assert process.poll() is None
        assert "converge_messages_received_total{bus=" in _get(f"{where}/metrics")
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 143
        rest.join(LIMIT)
        assert process.stdout is not None
        out = process.stdout.read()
        told = [int(one) for one in re.findall(r"received (\d+) messages", out)]
        assert (len(told), sum(told)) == (2, 30)
        assert broker.left() == 0
    finally:
        shell.end()


def _get(address: str) -> str:
    with suppress(urllib.error.URLError), urllib.request.urlopen(address, timeout=LIMIT) as answer:
        return str(answer.read().decode())
    return ""
