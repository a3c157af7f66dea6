"""How many notifications agents take: python -m benchmarks notifications [--smaller]

It needs a PostgreSQL server as ``engine.py`` does, and a RabbitMQ: at ``--broker``, else at
``CONVERGE_TEST_RABBITMQ``, else at rabbit://guest:guest@127.0.0.1:5672/, where it makes queues of
its own. What is measured:

- **Statements**: how many a batch takes, of 10, of 100 and of 1,000 notifications, through a sink
  with a step that remembers.
- **Batches**: notifications in a second by an agent in this process, in batches of 100 and of 1,
  with a sink that hands each to the log; and by oslo.messaging's own batch listener, with a handler
  that does nothing. All have their messages in a queue before; they take turns.
- **Agents**: the same by one agent, by the only one of a group, and by two of a group, each a
  process of its own, with sums of each resource, until nothing is open any more.
- **Memory**: of the process of an agent, from a fifth of 200,000 notifications on.

Ratios are of one round each, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import event, func, select

import converge
from benchmarks.databases import empty
from benchmarks.engine_process import ROOT
from benchmarks.measuring import (
    DEFAULT_URL,
    VARIABLE,
    fail,
    listed,
    load,
    own_database,
    read_url,
    surroundings,
    verdict,
)
from benchmarks.wakeups import BROKER
from converge import Store
from converge.agent.agent import Agent
from converge.agent.gathering import Batching
from converge.agent.watcher import Watcher
from converge.bus.rabbit import RabbitSource
from converge.bus.source import Address
from converge.bus.threads import choose_threads
from converge.bus.urls import read_bus_url
from converge.pipeline import Message, Pipeline, process_batch
from converge.sql import schema

TOPIC = f"converge_bench_{os.getpid()}"
#: Sums of so many resources.
RESOURCES = 50
#: Seconds that anything may take.
LIMIT = 1800.0
#: How many messages are in the queue at most while memory is measured.
AHEAD = 5_000
DEFINITIONS = [
    {
        "event_type": "volume.*",
        "traits": {
            "resource_id": {"fields": "payload.volume_id"},
            "size": {"type": "int", "fields": "payload.size"},
        },
    }
]
METERS = {
    "metric": [
        {
            "name": "volume.size",
            "event_type": "volume.*",
            "type": "gauge",
            "unit": "GiB",
            "volume": "$.payload.size",
            "resource_id": "$.payload.volume_id",
        }
    ]
}
LOG: dict[str, Any] = {"name": "log", "publishers": [{"log": {"level": "debug"}}]}
SUMS: dict[str, Any] = {
    "name": "sums",
    "steps": [{"aggregate": {"by": "resource_id", "count": 10}}],
    "publishers": ["database"],
}
EVENTS = {"name": "events", "events": ["*"], "sinks": ["log"]}
SIZES = {"name": "sizes", "meters": ["*"], "sinks": ["sums"]}
SIMPLE = {"sources": [EVENTS], "sinks": [LOG]}
SUMMED = {"sources": [EVENTS, SIZES], "sinks": [LOG, SUMS]}


def load_pipeline(given: Mapping[str, Any]) -> Pipeline:
    """A pipeline with the definitions."""
    return Pipeline.load(given, event_definitions=DEFINITIONS, meters=METERS)


_NUMBERS = count()


def make_body() -> bytes:
    """Another notification, as oslo.messaging sends it."""
    number = next(_NUMBERS)
    message = {
        "message_id": f"bench-{os.getpid()}-{number}",
        "event_type": "volume.resize.end",
        "publisher_id": "volume.host-1@lvm#pool",
        "priority": "INFO",
        "timestamp": datetime.now(UTC).isoformat(),
        "payload": {
            "volume_id": f"vol-{number % RESOURCES}",
            "size": 10 + number % 7,
            "status": "in-use",
            "display_name": f"a disk, the {number}. of its kind",
            "tenant_id": "6f9d1d0a7f2b4a2f9c3c1d2e3f405162",
            "metadata": [{"key": "purpose", "value": "benchmark"}] * 3,
        },
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


class Broker:
    """Queues of this benchmark's own.

    :param url: of a RabbitMQ.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        kombu: Any = import_module("kombu")
        self._connection = kombu.Connection(url.replace("rabbit://", "amqp://", 1))
        self._channel: Any = self._connection.channel()
        self._names: set[str] = set()

    def address(self, name: str) -> Address:
        """Where one of the measured receives from; its queue is deleted at the end."""
        topic = f"{TOPIC}_{name}"
        self._names.add(f"{topic}.info")
        return Address("openstack", topic, "info")

    def own(self, *queues: str) -> None:
        """Delete more queues at the end."""
        self._names |= set(queues)

    def declare(self, address: Address) -> None:
        """Let a queue be there, as an agent makes it."""
        source = RabbitSource(read_bus_url(self.url), [address], 1)
        source.connect()
        source.close()

    def send(self, address: Address, number: int, *, wait: bool = True) -> None:
        """Put notifications into a queue.

        :param wait: until all are there.
        """
        before = self.left(address) if wait else 0
        for _ in range(number):
            message = self._channel.prepare_message(make_body(), content_type="application/json")
            self._channel.basic_publish(message, "", address.queue)
        until(lambda: not wait or self.left(address) >= before + number, "messages do not arrive")

    def left(self, address: Address) -> int:
        """How many messages wait in a queue."""
        found = self._channel.queue_declare(address.queue, passive=True)
        return int(found.message_count)

    def close(self) -> None:
        """Delete the queues."""
        for name in sorted(self._names):
            with suppress(Exception):
                self._connection.channel().queue_delete(name)
        self._connection.close()


def until(done: Callable[[], bool], what: str, pause: float = 0.02) -> None:
    """Wait until something is so.

    :param what: what is said if it never becomes so.
    """
    end = time.monotonic() + LIMIT
    while not done():
        if time.monotonic() > end:
            fail(what)
        time.sleep(pause)


# -- statements


def count_statements(store: Store, size: int) -> int:
    """The statements of a batch of so many notifications that are new."""
    # sums that are complete would be deleted, which is one more
    steps = [{"aggregate": {"by": "resource_id", "count": 1_000_000}}]
    pipeline = load_pipeline({**SUMMED, "sinks": [LOG, {**SUMS, "steps": steps}]})
    messages = [Message(make_body()) for _ in range(size)]
    statements = 0

    def note(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(store.database.engine, "before_cursor_execute", note)
    try:
        process_batch(store, pipeline, messages)
    finally:
        event.remove(store.database.engine, "before_cursor_execute", note)
    return statements


def measure_statements(store: Store) -> None:
    """How many statements batches of several sizes take."""
    empty(store)
    # what is remembered of each resource is there from here on
    count_statements(store, RESOURCES)
    counts = [count_statements(store, size) for size in (10, 100, 1_000)]
    print(f"statements of a batch of 10, 100 and 1,000: {', '.join(map(str, counts))}")
    verdict("ratio statements of a batch, 1,000 / 10", [counts[2] / counts[0]], most=1.0)


# -- batches


class Pace(Watcher):
    """Notes when batches were done, and stops the agent after so many messages."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._size = 0
        self.done_at: list[tuple[float, int]] = []
        self.agent: Agent | None = None

    def gathered(self, buses: Mapping[str, int], age: float) -> None:
        """A batch was received."""
        self._size = sum(buses.values())

    def acknowledged(self, seconds: float) -> None:
        """A batch was acknowledged."""
        self.note(self._size)
        if self.total >= self._number and self.agent is not None:
            self.agent.stop()

    def note(self, messages: int) -> None:
        """So many were done just now."""
        self.done_at.append((time.perf_counter(), messages))

    @property
    def total(self) -> int:
        """How many were done."""
        return sum(messages for _, messages in self.done_at)

    @property
    def rate(self) -> float:
        """Messages in a second, from the end of the first batch on."""
        first, last = self.done_at[0], self.done_at[-1]
        if first is last:
            fail("all came in one batch: take a larger --number")
        return (self.total - first[1]) / (last[0] - first[0])


def agent_rate(store: Store, broker: Broker, address: Address, number: int, most: int) -> float:
    """Notifications in a second, in batches of so many."""
    empty(store)
    broker.declare(address)
    broker.send(address, number)
    pace = Pace(number)

    def connect() -> RabbitSource:
        source = RabbitSource(read_bus_url(broker.url), [address], 2 * most)
        source.connect()
        return source

    agent = Agent(store, load_pipeline(SIMPLE), connect, Batching(most, 1.0), pace)
    pace.agent = agent
    agent.run()
    return pace.rate


def oslo_rate(broker: Broker, address: Address, number: int, most: int) -> float:
    """Notifications in a second that oslo.messaging hands to a handler that does nothing."""
    messaging: Any = import_module("oslo_messaging")
    cfg: Any = import_module("oslo_config.cfg")
    conf = cfg.ConfigOpts()
    conf([], project="bench", default_config_files=[])
    transport = messaging.get_notification_transport(conf, url=broker.url)
    # the same kind of queue
    conf.set_override("rabbit_quorum_queue", True, group="oslo_messaging_rabbit")
    conf.set_override("amqp_durable_queues", True, group="oslo_messaging_rabbit")
    pace, over = Pace(number), threading.Event()

    class Endpoint:
        def info(self, messages: list[dict[str, Any]]) -> None:
            pace.note(len(messages))
            if pace.total >= number:
                over.set()

    def listen() -> Any:
        target = messaging.Target(topic=address.topic, exchange=address.exchange)
        listener = messaging.get_batch_notification_listener(
            transport,
            [target],
            [Endpoint()],
            executor="threading",
            batch_size=most,
            batch_timeout=1.0,
        )
        listener.start()
        return listener

    def end(listener: Any) -> None:
        listener.stop()
        listener.wait()

    # the queue is there from here on
    end(listen())
    broker.send(address, number)
    listener = listen()
    if not over.wait(LIMIT):
        fail("oslo.messaging does not deliver")
    end(listener)
    transport.cleanup()
    return pace.rate


def measure_batches(store: Store, broker: Broker, number: int, rounds: int) -> None:
    """Batches beside single notifications, and beside oslo.messaging's."""
    ways: dict[str, Callable[[], float]] = {
        "batches of 100": lambda: agent_rate(store, broker, broker.address("100"), number, 100),
        # so that it takes about as long
        "batches of 1": lambda: agent_rate(
            store, broker, broker.address("1"), max(20, number // 10), 1
        ),
        "oslo.messaging": lambda: oslo_rate(broker, broker.address("oslo"), number, 100),
    }
    rates = measure_ways(ways, rounds)
    hundred = rates["batches of 100"]
    for way, least in (("batches of 1", 10.0), ("oslo.messaging", 0.5)):
        ratios = [one / other for one, other in zip(hundred, rates[way], strict=True)]
        verdict(f"ratio notifications/s, batches of 100 / {way}", ratios, least=least)


def measure_ways(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Take turns, and print the rates of each way."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        # each goes first in turn
        for way in list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]:
            rates[way].append(ways[way]())
    for way, found in rates.items():
        print(f"  {way}: {median(found):,.0f} notifications/s (rounds: {listed(found, 0)})")
    return rates


# -- agents in processes of their own


@contextmanager
def agent_process(url: str, broker: Broker, address: Address, *more: str) -> Iterator[int]:
    """An agent in a process of its own, and its number."""
    with tempfile.TemporaryDirectory(prefix="converge-bench-") as folder:
        files = {"pipeline": SUMMED, "event-definitions": DEFINITIONS, "meters": METERS}
        words = [sys.executable, "-m", "converge", "agent", "--db", url, "--bus", broker.url]
        for name, value in files.items():
            path = Path(folder, f"{name}.json")
            path.write_text(json.dumps(value))
            words += [f"--{name}", str(path)]
        words += ["--topic", f"{address.exchange}/{address.topic}", *more]
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, "CONVERGE_GROUP_SECRET": "a secret of the benchmark"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process.pid
            if process.poll() is not None:
                fail(f"an agent ended with status {process.returncode}")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def count_done(store: Store) -> tuple[int, int]:
    """How many notifications were recorded, and how many deliveries are open."""
    tables = (schema.notification, schema.delivery)
    query = [select(func.count()).select_from(one) for one in tables]
    recorded, left = store.database.read(lambda tx: [tx.execute(q).scalar_one() for q in query])
    return recorded, left


def processes_rate(
    store: Store, url: str, broker: Broker, number: int, agents: int, group: str | None
) -> float:
    """Notifications in a second, from the first recorded to the last that came to its end."""
    empty(store)
    address = broker.address("agents")
    broker.declare(address)
    broker.send(address, number)
    more: list[str] = []
    if group is not None:
        more = ["--group", group, "--partitions", "8"]
        for sink in ("log", "sums"):
            broker.own(*(f"converge.{group}.1.{one}.{sink}" for one in range(8)))
    with ExitStack() as stack:
        for _ in range(agents):
            stack.enter_context(agent_process(url, broker, address, *more))
        until(lambda: count_done(store)[0] > 0, "nothing is recorded")
        first, started = count_done(store)[0], time.perf_counter()
        until(lambda: count_done(store) == (number, 0), "it never ends", 0.05)
        return (number - first) / (time.perf_counter() - started)


def measure_agents(store: Store, url: str, broker: Broker, number: int, rounds: int) -> None:
    """Two agents of a group beside one."""
    names = (f"bench{os.getpid()}-{round_}" for round_ in count())
    ways: dict[str, Callable[[], float]] = {
        "one agent": lambda: processes_rate(store, url, broker, number, 1, None),
        "one of a group": lambda: processes_rate(store, url, broker, number, 1, next(names)),
        "two of a group": lambda: processes_rate(store, url, broker, number, 2, next(names)),
    }
    rates = measure_ways(ways, rounds)
    two = rates["two of a group"]
    ratios = [one / other for one, other in zip(two, rates["one of a group"], strict=True)]
    verdict("ratio notifications/s, two of a group / one of a group", ratios, least=1.4)
    ratios = [one / other for one, other in zip(two, rates["one agent"], strict=True)]
    verdict("ratio notifications/s, two of a group / one agent", ratios)


def read_memory(pid: int) -> float:
    """MB that a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_memory(store: Store, url: str, broker: Broker, number: int) -> None:
    """Whether an agent's memory stays as it is."""
    empty(store)
    address = broker.address("memory")
    broker.declare(address)
    found: list[float] = []
    with agent_process(url, broker, address) as pid:
        for part in range(10):
            sent = 0
            while sent < number // 10:
                some = min(AHEAD, number // 10 - sent)
                broker.send(address, some, wait=False)
                sent += some
                wanted = part * (number // 10) + sent - AHEAD // 2
                until(lambda wanted=wanted: count_done(store)[0] >= wanted, "it stands still", 0.2)  # type: ignore[misc]
            wanted = (part + 1) * (number // 10)
            until(lambda wanted=wanted: count_done(store) == (wanted, 0), "it stands still", 0.2)  # type: ignore[misc]
            found.append(read_memory(pid))
    print(f"memory of an agent at each tenth of {number:,}, MB: {listed(found, 1)}")
    verdict("ratio memory, at the end / at a fifth", [found[-1] / found[1]], most=1.1)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks notifications", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--smaller", action="store_true", help="fewer notifications and rounds")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    parser.add_argument(
        "--broker", default=os.environ.get("CONVERGE_TEST_RABBITMQ") or BROKER, help="a RabbitMQ"
    )
    parser.add_argument(
        "--only",
        choices=("statements", "batches", "agents", "memory"),
        action="append",
        help="one part; may be repeated",
    )
    parser.add_argument("--number", type=int, help="notifications of each part")
    parser.add_argument("--rounds", type=int, help="of the parts that take turns")
    arguments = parser.parse_args()
    server = read_url(arguments.url)
    choose_threads()
    broker = Broker(arguments.broker)
    try:
        with own_database(server) as database:
            print(surroundings(database))
            url = database.render_as_string(hide_password=False)
            with converge.connect(url, create_schema=True, bus="memory://") as store:
                measure(arguments, store, url, broker)
    finally:
        broker.close()
    print(load())
    return 0


def measure(arguments: argparse.Namespace, store: Store, url: str, broker: Broker) -> None:
    """All parts, or those that are asked for."""
    few: bool = arguments.smaller
    number: int = arguments.number or (1_000 if few else 10_000)
    rounds: int = arguments.rounds or (1 if few else 3)
    parts = arguments.only or ("statements", "batches", "agents", "memory")
    if "statements" in parts:
        measure_statements(store)
    if "batches" in parts:
        measure_batches(store, broker, number, rounds)
    if "agents" in parts:
        measure_agents(store, url, broker, number, rounds)
    if "memory" in parts:
        measure_memory(store, url, broker, arguments.number or (5_000 if few else 200_000))


if __name__ == "__main__":
    raise SystemExit(main())
