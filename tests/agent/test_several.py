"""Agents with several buses, topics, exchanges and priorities; and oslo.messaging's fake driver."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from converge import Store
from converge.agent.agent import Agent
from converge.agent.gathering import Batching
from converge.bus.carrier import CarrierError
from converge.bus.fake import FakeSource
from converge.bus.rabbit import RabbitSource
from converge.bus.several import SeveralSources
from converge.bus.source import Address, Delivery, Source
from converge.bus.threads import choose_threads
from converge.bus.urls import read_bus_url
from converge.cli import main
from converge.errors import BadInput
from converge.sql.faults import Unavailable
from tests.agent.world import PIPELINE, body, ids, pipeline, reasons, recorded, run_until
from tests.backends import Backend, RabbitMQ

# before anything imports oslo.messaging
choose_threads()

FAKE = read_bus_url("fake://")
PLACES = [
    Address(exchange, topic, priority)
    for exchange in ("nova", "cinder")
    for topic in ("notifications", "audit")
    for priority in ("info", "error")
]


@pytest.fixture
def transport() -> Iterator[Any]:
    """What sends to the fake driver; all that it has is gone afterwards."""
    import oslo_messaging
    from oslo_config import cfg

    found = oslo_messaging.get_notification_transport(cfg.CONF, url="fake://")
    found.cleanup()
    yield found
    found.cleanup()


def send(transport: Any, address: Address, *messages: Mapping[str, Any] | str) -> None:
    """Send what may be no notification."""
    import oslo_messaging

    target = oslo_messaging.Target(exchange=address.exchange, topic=address.queue)
    for one in messages:
        transport._driver.send_notification(target, {}, one, version=2.0)


def message(number: int) -> dict[str, Any]:
    """A notification as the fake driver has it."""
    found: dict[str, Any] = json.loads(json.loads(body(number))["oslo.message"])
    return found


class Scripted:
    """A source whose broker can be down.

    :ivar inbox: what it has not given yet.
    :ivar held: what was given, and is not acknowledged.
    """

    ended = False

    def __init__(self, name: str, numbers: Iterable[int] = ()) -> None:
        self.shown = name
        self.is_down = False
        self.inbox = deque(body(number) for number in numbers)
        self.held: list[bytes] = []
        self.opened = 0

    def open(self) -> Source:
        self.opened += 1
        self._check()
        return self

    def _check(self) -> None:
        if self.is_down:
            raise CarrierError(f"{self.shown} is down")

    def receive(self, timeout: float) -> Delivery | None:
        self._check()
        if not self.inbox:
            return None
        self.held.append(self.inbox.popleft())
        return Delivery(self.held[-1])

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        self._check()
        for one in deliveries:
            assert isinstance(one.body, bytes)
            self.held.remove(one.body)

    def requeue(self, deliveries: Iterable[Delivery]) -> None:
        for one in list(deliveries):
            assert isinstance(one.body, bytes)
            self.held.remove(one.body)
            self.inbox.append(one.body)

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self.inbox.extend(self.held)
        self.held.clear()


def several(*sources: Scripted) -> SeveralSources:
    return SeveralSources([(one.shown, one.open) for one in sources])


@pytest.mark.sqlite
def test_what_comes_by_several_buses_is_counted_by_bus(sqlite_store: Store) -> None:
    one, two = Scripted("one", range(30)), Scripted("two", range(20, 50))
    agent = Agent(sqlite_store, pipeline(), lambda: several(one, two), Batching(25, 5.0))
    run_until(agent.turn, lambda: agent.counts.received == 60)
    agent._close()
    assert sorted(recorded(sqlite_store)) == sorted(ids(range(50)))
    assert agent.counts.buses == {"one": 30, "two": 30}
    assert (agent.counts.duplicates, agent.counts.outages, one.held, two.held) == (10, 0, [], [])


@pytest.mark.sqlite
def test_a_bus_that_is_down_holds_up_no_other_one(sqlite_store: Store) -> None:
    one, two = Scripted("one", range(10)), Scripted("two", range(10, 20))
    two.is_down = True
    agent = Agent(sqlite_store, pipeline(), lambda: several(one, two), Batching(10, 0.2))
    run_until(agent.turn, lambda: agent.counts.received == 10)
    assert (recorded(sqlite_store), agent.counts.outages) == (ids(range(10)), 0)
    two.is_down = False
    run_until(agent.turn, lambda: agent.counts.received == 20, 10_000)
    # asked twice or so, not in a hot loop
    assert (one.opened, two.opened) in {(1, 2), (1, 3)}
    # what cannot be acknowledged comes again
    one.inbox.append(body(20))
    one.inbox.append(body(21))
    process = agent._process

    def fall(messages: Any) -> Any:
        one.is_down = True
        return process(messages)

    agent._process = fall  # type: ignore[method-assign]
    run_until(agent.turn, lambda: agent.counts.received == 22, 10_000)
    agent._process = process  # type: ignore[method-assign]
    one.is_down = False
    run_until(agent.turn, lambda: agent.counts.received == 24, 10_000)
    agent._close()
    assert sorted(recorded(sqlite_store)) == sorted(ids(range(22)))
    assert (agent.counts.duplicates, one.held, list(one.inbox)) == (2, [], [])


def test_each_bus_has_its_turn_while_all_have_messages() -> None:
    one, two = Scripted("one", range(1000)), Scripted("two", range(1000))
    source = several(one, two)
    found: list[Delivery] = []

    def take() -> None:
        one = source.receive(0.2)
        found.extend([one] if one is not None else [])

    run_until(take, lambda: {each.bus for each in found} == {"one", "two"}, 10_000)
    start = len(found)
    run_until(take, lambda: len(found) == start + 400, 1000)
    shares = [each.bus for each in found[start:]]
    assert shares.count("one") in range(100, 301)
    source.close()
    assert (len(one.inbox), len(two.inbox)) == (1000, 1000)


def test_a_bus_that_takes_long_to_connect_to_holds_up_no_other_one() -> None:
    connected = threading.Event()
    slow, quick = Scripted("slow", [1]), Scripted("quick", [2])

    def connect() -> Source:
        connected.wait(60)
        return slow.open()

    source = SeveralSources([("slow", connect), ("quick", quick.open)])
    found = source.receive(30)
    assert found is not None
    assert (found.bus, found.body) == ("quick", body(2))
    connected.set()
    found = source.receive(30)
    assert found is not None
    assert found.bus == "slow"
    source.close()


@pytest.mark.sqlite
def test_the_fake_driver_gives_all_topics_exchanges_and_priorities(
    sqlite_store: Store, transport: Any
) -> None:
    for number, place in enumerate(PLACES):
        send(transport, place, message(2 * number), message(2 * number + 1))
    send(transport, Address("nova", "notifications", "debug"), message(99))
    send(transport, PLACES[0], "no object", {"payload": 1})
    agent = Agent(sqlite_store, pipeline(), lambda: FakeSource(FAKE, PLACES), Batching(10, 0.1))
    run_until(agent.turn, lambda: agent.counts.received == 18)
    agent.turn()
    agent._close()
    assert sorted(recorded(sqlite_store)) == sorted(ids(range(16)))
    assert reasons(sqlite_store) == ["missing", "not_object"]
    assert agent.counts.buses == {"fake://": 18}


@pytest.mark.sqlite
def test_what_the_fake_driver_gave_goes_back_while_the_store_is_down(
    sqlite_store: Store, transport: Any
) -> None:
    send(transport, PLACES[0], *(message(number) for number in range(5)))
    agent = Agent(sqlite_store, pipeline(), lambda: FakeSource(FAKE, PLACES), Batching(3, 0.1))
    process = agent._process

    def fail(messages: Any) -> Any:
        raise Unavailable("it is down")

    agent._process = fail  # type: ignore[method-assign]
    agent.stopping.wait = lambda timeout=None: False  # type: ignore[method-assign]
    agent.turn()
    assert (agent.counts.given_back, recorded(sqlite_store)) == (3, [])
    agent._process = process  # type: ignore[method-assign]
    run_until(agent.turn, lambda: agent.counts.recorded == 5)
    # one that is closed with something in hand gives it back
    source = FakeSource(FAKE, PLACES)
    send(transport, PLACES[0], message(7))
    assert source.receive(0) is not None
    source.close()
    run_until(agent.turn, lambda: agent.counts.recorded == 6)
    agent._close()


def test_nothing_may_follow_fake() -> None:
    for text in ("fake://host", "fake:///?x=y"):
        with pytest.raises(BadInput, match="nothing may follow fake://"):
            FakeSource(read_bus_url(text), PLACES)
    with pytest.raises(BadInput, match="name topics with --topic"):
        FakeSource(read_bus_url("fake://?topic=x"), PLACES)


@pytest.fixture
def rabbitmq(_databases: dict[str, Backend]) -> RabbitMQ:
    server = _databases["rabbitmq"]
    assert isinstance(server, RabbitMQ)
    return server


def watch(rabbit: RabbitSource) -> list[int]:
    """How many messages are with the agent and not acknowledged, each time that it receives."""
    found, held = [], 0
    receive, acknowledge = rabbit.receive, rabbit.acknowledge

    def count(timeout: float) -> Delivery | None:
        nonlocal held
        one = receive(timeout)
        held += one is not None
        found.append(held + len(rabbit._received))
        return one

    def done(deliveries: Iterable[Delivery]) -> None:
        nonlocal held
        listed = list(deliveries)
        held -= len(listed)
        acknowledge(listed)

    rabbit.receive, rabbit.acknowledge = count, done  # type: ignore[method-assign]
    return found


@pytest.mark.rabbitmq
@pytest.mark.sqlite
def test_rabbitmq_beside_the_fake_driver_with_bounded_prefetch(
    sqlite_store: Store, transport: Any, rabbitmq: RabbitMQ
) -> None:
    server = rabbitmq
    url, _, topic = server.empty().partition("?topic=")
    places = [
        Address(f"{topic}_{exchange}", f"{topic}_{exchange}", priority)
        for exchange in ("x", "y")
        for priority in ("info", "error")
    ]
    rabbit = RabbitSource(read_bus_url(url), places, 5)
    here = watch(rabbit)

    def connect() -> Source:
        rabbit.connect()
        return rabbit

    def open_both() -> SeveralSources:
        return SeveralSources([("rabbit", connect), ("fake", lambda: FakeSource(FAKE, PLACES))])

    agent = Agent(sqlite_store, pipeline(), open_both, Batching(10, 0.2))
    try:
        rabbit.connect()
        with server.connect() as connection:
            channel = connection.channel()
            channel.confirm_select()
            for number in range(200):
                text = channel.prepare_message(body(number), content_type="application/json")
                place = places[number % 4]
                # unconfirmed, what is under way when the connection ends may be lost
                channel.basic_publish_confirm(text, place.exchange, place.queue)
        send(transport, PLACES[-1], *(message(number) for number in range(200, 230)))
        run_until(agent.turn, lambda: agent.counts.recorded == 230, 1000)
        assert sorted(recorded(sqlite_store)) == sorted(ids(range(230)))
        # nothing came twice: no connection was lost
        assert agent.counts.buses == {"rabbit": 200, "fake": 30}
        assert (agent.counts.duplicates, agent.counts.outages) == (0, 0)
        assert max(here) <= 4 * 5
    finally:
        agent._close()
        with server.connect() as connection:
            channel = connection.channel()
            for place in places:
                channel.queue_delete(place.queue)
                channel.exchange_delete(place.exchange)
        server.discard(f"{url}?topic={topic}")


def test_the_command_takes_several_files_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    monkeypatch.delenv("CONVERGE_BUS", raising=False)
    Path("pipeline.json").write_text(json.dumps(PIPELINE))
    for name, numbers in (("a.jsonl", range(250)), ("b.jsonl", range(200, 300))):
        Path(name).write_bytes(b"\n".join(body(number) for number in numbers))
    words = ["agent", "--pipeline", "pipeline.json", "--bus", "file:a.jsonl", "--json"]
    assert main([*words, "--bus", "file:b.jsonl"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["received"], done["recorded"], done["duplicates"]) == (350, 300, 50)
    assert done["buses"] == {"file:a.jsonl": 250, "file:b.jsonl": 100}
    for more, wrong in (
        (("--bus", "file:a.jsonl"), "the bus file:a.jsonl is named twice"),
        (("--bus", "fake://x"), "nothing may follow fake://"),
        (("--bus", "fake://", "--processes", "2"), "can be read by one process only"),
        (("--bus", "kafka://h/"), "an agent cannot receive from kafka://h/"),
    ):
        assert main([*words, *more]) == 2
        assert wrong in capsys.readouterr().out


def test_the_command_receives_by_the_fake_driver_until_it_is_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    transport: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    # what comes by the file is sent to the agent itself: it has the same id, and ends there
    sent = [{"notify": {"url": "fake://", "topic": "again"}}]
    loop = {**PIPELINE, "sinks": [{"name": "log", "publishers": sent}]}
    Path("pipeline.json").write_text(json.dumps(loop))
    Path("a.jsonl").write_bytes(b"\n".join(map(body, range(20))))
    turn = Agent.turn

    def watched(self: Agent) -> bool:
        if self.counts.received == 40:
            self.stop()
        return turn(self)

    monkeypatch.setattr(Agent, "turn", watched)
    words = ("--bus", "file:a.jsonl", "--bus", "fake://", "--topic", "again", "--json")
    assert main(["agent", "--pipeline", "pipeline.json", "--batch-timeout", "0.1", *words]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["recorded"], done["duplicates"], done["dead_letters"]) == (20, 20, 0)
    assert done["buses"] == {"file:a.jsonl": 20, "fake://": 20}
