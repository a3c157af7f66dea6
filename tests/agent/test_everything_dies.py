"""Many notifications, four agents that are killed and paused, a broker and a database that are
restarted: at the end everything is exactly right.

``CONVERGE_TEST_SENT`` says how many there are: 600, or 20,000 for the whole run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import func, select

import converge
from converge import Store
from converge.bus.rabbit_post import RabbitPost
from converge.bus.source import Address
from converge.bus.urls import read_bus_url
from converge.cli import EXIT_TERMINATED
from converge.errors import StoreError
from converge.group.group import PARTITIONS
from converge.group.inbox import Place
from converge.pipeline import DeadLetters
from converge.sql import deliveries, schema
from tests.agent.test_rabbit import Broker
from tests.agent.world import recorded
from tests.brokers import OwnRabbitMQ
from tests.notifications.test_definitions import FOLDER
from tests.servers import OwnServer

NUMBER = int(os.environ.get("CONVERGE_TEST_SENT", "600"))
RESOURCES = 40
#: Longer than the lease of an agent.
PAUSE = 17.0
#: The broken ones, each of another kind.
MALFORMED: tuple[Callable[[int], bytes], ...] = (
    lambda n: b"{nonsense %d" % n,
    lambda n: b"[%d]" % n,
    lambda n: b"%d" % n,
    lambda n: b"\xff\xfe%d" % n,
    lambda n: b'{"a":' * 300 + b"%d" % n + b"}" * 300,
    lambda n: b'"text %d"' % n,
    lambda n: json.dumps({"message_id": f"x-{n}", "payload": {}}).encode(),
    lambda n: json.dumps({"message_id": f"x-{n}", "event_type": 5, "payload": {}}).encode(),
    lambda n: json.dumps({"message_id": {"x": n}, "event_type": "a.b", "payload": {}}).encode(),
    lambda n: json.dumps({"oslo.version": "2.0", "oslo.message": f"{{{n}"}).encode(),
)
PIPELINE = {
    "sources": [
        {"name": "events", "events": ["*"], "sinks": ["counts"]},
        {"name": "meters", "meters": ["volume.size"], "sinks": ["sums"]},
    ],
    "sinks": [
        {
            "name": "counts",
            "steps": [
                {
                    "aggregate": {
                        "function": "count",
                        "by": "resource_id",
                        "window": 1_000_000_000,
                        "grace": 0,
                        "name": "events",
                    }
                }
            ],
            "publishers": ["log"],
        },
        {
            "name": "sums",
            "steps": [{"aggregate": {"window": 60, "grace": 0, "name": "sum"}}],
            "publishers": ["database"],
        },
    ],
    "meters": ["meters.yaml"],
    "event_definitions": ["events.yaml"],
}
METERS = """\
metric:
  - {name: volume.size, event_type: 'volume.*', type: delta, unit: GiB,
     volume: $.payload.size, resource_id: $.payload.volume_id}
"""
EVENTS = """\
- event_type: '*'
  traits:
    resource_id: {fields: [payload.volume_id, payload.id, payload.port.id]}
"""
SERVICES = (
    ("volume.create.end", lambda r, n: {"volume_id": f"vol-{r}", "size": n}),
    ("image.update", lambda r, n: {"id": f"image-{r}", "size": n}),
    ("port.update.end", lambda r, n: {"port": {"id": f"port-{r}", "name": str(n)}}),
)


class Sent(NamedTuple):
    """What is sent, and what must come of it.

    :ivar ids: of the valid ones.
    :ivar sums: of sizes, by volume.
    :ivar counted: how many events have a resource_id, so that they are counted by it.
    :ivar broken: how many are malformed.
    """

    bodies: list[bytes]
    ids: list[str]
    sums: Counter[str]
    counted: int
    broken: int


def make_bodies(rng: random.Random) -> Sent:
    """What is sent, in an order that is drawn."""
    samples = _nova_samples()
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 86_400))
    bodies: list[bytes] = []
    ids: list[str] = []
    sums: Counter[str] = Counter()
    counted = 0
    for number in range(NUMBER):
        message_id = f"m-{number}"
        if samples and number % 4 == 3:
            message = {**samples[number % len(samples)], "message_id": message_id}
        else:
            event_type, payload = SERVICES[number % 3]
            resource = rng.randrange(RESOURCES)
            size = rng.randrange(1, 100)
            message = {
                "message_id": message_id,
                "event_type": event_type,
                "publisher_id": "service.host",
                "priority": "INFO",
                "payload": payload(resource, size),
            }
            if event_type.startswith("volume"):
                sums[f"vol-{resource}"] += size
        counted += _has_resource(message["payload"])
        message["timestamp"] = at
        bodies.append(json.dumps(message).encode())
        ids.append(message_id)
    doubled = [rng.choice(bodies) for _ in range(NUMBER // 20)]
    broken = [MALFORMED[number % 10](number) for number in range(NUMBER // 100)]
    bodies += doubled + broken
    rng.shuffle(bodies)
    return Sent(bodies, ids, sums, counted, len(broken))


def _has_resource(payload: Any) -> bool:
    """Whether the definitions find a resource_id in a payload; written anew, so that it is no
    echo of them."""
    found = payload.get("nova_object.data", payload)
    port = found.get("port") or {}
    return any(one is not None for one in (found.get("volume_id"), found.get("id"), port.get("id")))


def _nova_samples() -> list[dict[str, Any]]:
    """Real notifications of the compute service, where there are some."""
    if not FOLDER:
        return []
    lines = (Path(FOLDER) / "nova-versioned.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.strip()]
    return [one for one in found if isinstance(one.get("event_type"), str)]


class Agents:
    """Processes of ``converge agent``."""

    def __init__(self, folder: Path, bus: str, url: str) -> None:
        self._folder = folder
        self._log = (folder / "agents.log").open("ab")
        self._words = ["--bus", bus, "--db", url, "--topic", "shown", "--group", "show"]
        self.living: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        command = [sys.executable, "-m", "converge", "agent", "--pipeline", "pipeline.json"]
        environment = {**os.environ, "CONVERGE_GROUP_SECRET": "a secret of the tests"}
        self.living.append(
            subprocess.Popen(
                [*command, *self._words],
                cwd=self._folder,
                env=environment,
                stdout=self._log,
                stderr=self._log,
            )
        )

    def kill(self, one: subprocess.Popen[bytes]) -> None:
        self.living.remove(one)
        one.kill()
        one.wait(20)

    def stop(self) -> None:
        for one in self.living:
            one.send_signal(signal.SIGTERM)
        for one in self.living:
            # one that was started just now does not listen yet
            assert one.wait(60) in (EXIT_TERMINATED, -signal.SIGTERM)
        self.living.clear()

    def close(self) -> None:
        for one in list(self.living):
            self.kill(one)
        self._log.close()


def publish(bus: str, bodies: list[bytes]) -> None:
    """Send everything, and wait until the broker has it."""
    broker = Broker(None, bus, Address("openstack", "shown", "info"))
    broker.declare()
    with broker.connect() as connection:
        channel = connection.channel()
        channel.confirm_select()
        for body in bodies:
            message = channel.prepare_message(body, properties={"delivery_mode": 2})
            channel.basic_publish_confirm(message, "", broker.address.queue)


def wait_until(what: Callable[[], bool], seconds: float) -> None:
    """Look until something is so."""
    end = time.monotonic() + seconds
    pause: Any = import_module("threading").Event()
    while time.monotonic() < end:
        try:
            if what():
                return
        except StoreError:
            pass
        pause.wait(0.2)
    raise AssertionError("it never became so")


def count(store: Store) -> int:
    return store.database.read(
        lambda tx: int(
            tx.execute(select(func.count()).select_from(schema.notification)).scalar_one()
        )
    )


def is_over(store: Store) -> bool:
    waiting = select(func.count()).where(schema.step_state.c.sink == "sums")
    return (
        count(store) == NUMBER
        and not store.database.read(deliveries.count_deliveries)
        and not store.database.read(lambda tx: tx.execute(waiting).scalar_one())
    )


@pytest.mark.own_rabbitmq
@pytest.mark.parametrize(
    "own_server",
    [
        pytest.param("own-postgresql", marks=pytest.mark.own_postgresql),
        pytest.param("own-mariadb", marks=pytest.mark.own_mariadb),
    ],
    indirect=True,
)
def test_at_the_end_everything_is_exactly_right(
    own: OwnRabbitMQ, own_server: OwnServer, tmp_path: Path
) -> None:
    bus, url = own.empty(), own_server.migrated()
    for name, text in (
        ("pipeline.json", json.dumps(PIPELINE)),
        ("meters.yaml", METERS),
        ("events.yaml", EVENTS),
    ):
        (tmp_path / name).write_text(text)
    rng = random.Random(13)
    sent = make_bodies(rng)
    publish(bus, sent.bodies)
    agents = Agents(tmp_path, bus, url)
    began = time.monotonic()
    with converge.connect(url) as store:
        try:
            for _ in range(4):
                agents.start()
            # each at a moment at which there is work in hand
            wait_until(lambda: count(store) > NUMBER // 10, 120)
            agents.kill(rng.choice(agents.living))
            agents.start()
            paused = rng.choice(agents.living)
            paused.send_signal(signal.SIGSTOP)
            until = time.monotonic() + PAUSE
            wait_until(lambda: count(store) > NUMBER // 3, 120)
            own.restart()
            agents.kill(rng.choice([one for one in agents.living if one is not paused]))
            agents.start()
            wait_until(lambda: count(store) > NUMBER // 2, 120)
            own_server.stop()
            own_server.start()
            wait_until(lambda: time.monotonic() > until, PAUSE + 5)
            paused.send_signal(signal.SIGCONT)
            agents.kill(rng.choice([one for one in agents.living if one is not paused]))
            agents.start()
            wait_until(lambda: is_over(store), 120 + NUMBER / 20)
            wait_until(lambda: left(bus) == 0, 60)
            agents.stop()
        finally:
            agents.close()
        print(f"{NUMBER} notifications in {time.monotonic() - began:.0f} s")
        check(store, sent)


def check(store: Store, sent: Sent) -> None:
    """What must be at the end."""
    assert sorted(recorded(store)) == sorted(sent.ids)
    table = schema.sample
    query = select(table.c.resource_id, func.sum(table.c.volume)).group_by(table.c.resource_id)
    rows: Any = store.database.read(lambda tx: tx.execute(query).all())
    assert dict(map(tuple, rows)) == sent.sums
    letters = DeadLetters(store).list(limit=10_000)
    assert len(letters) == sent.broken
    states = schema.step_state
    kept = store.database.read(lambda tx: tx.execute(select(states.c.state)).scalars().all())
    assert sum(one["n"] for one in kept) == sent.counted


def left(bus: str) -> int:
    """How many messages are in the queues of notifications and of partitions."""
    post = RabbitPost(read_bus_url(bus))
    post.listen([])
    total = Broker(None, bus, Address("openstack", "shown", "info")).left()
    for number in range(PARTITIONS):
        for sink in ("counts", "sums"):
            name = Place("show", 1, number, sink).queue
            post._declare(name)
            total += post._channel.queue_declare(name, passive=True).message_count
    post.close()
    return total
