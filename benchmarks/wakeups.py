"""How soon engines hear of work, and what that costs: python -m benchmarks wakeups [--smaller]

It needs a PostgreSQL server as ``engine.py`` does, and a RabbitMQ: at ``--broker``, else at
``CONVERGE_TEST_RABBITMQ``, else at rabbit://guest:guest@127.0.0.1:5672/. All engines but those of
the idle fleet are processes of their own; the client is this one. What is measured:

- **Latency**: from the commit that makes a node READY to the start of its handler in another
  process. Two engines have been idle for some seconds; a stack of one node is created. By polling
  alone, by NOTIFY, and by RabbitMQ; and by RabbitMQ with two pools of two engines, for stacks of
  either queue in turn.
- **An idle fleet**: the statements that 50 engines send in a second when there is nothing to do and
  no bus, all of them: looks for work, renewals of leases, sweeps. BEGIN, COMMIT and ROLLBACK are
  counted apart, also those that cost no round trip.
- **Overhead**: what a bus costs an engine that does all the work of a layered graph of 10,000
  nodes, by the time from its start to its end in the database, and by the processor time of the
  engine's process, as ratios to those without a bus. An idle client listens.
- **Two engines**: the same work by two processes with RabbitMQ, against one without a bus.

Runs take turns; ratios are of one round each, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import os
import select
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import sqlalchemy
from sqlalchemy import event

import converge
from benchmarks.engine_process import Telling, fleet
from benchmarks.graphs import layered
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
from benchmarks.runs import make_template
from converge import Engine, Store, Template, crash_points
from converge.bus.threads import choose_threads
from converge.crash_points import Commit
from converge.model import DEFAULT_QUEUE

BROKER = "rabbit://guest:guest@127.0.0.1:5672/"
NO_BUS, NOTIFY = "memory://", "database://"
LAYERS = 20
POOLS = (DEFAULT_QUEUE, "far")
LIMIT = 300.0
#: Seconds that engines are idle before a node is made ready, and before an idle fleet is counted.
QUIET = 2.0
SETTLED = 20.0

ONE = Template.from_dict({"resources": {"one": {"type": "noop", "properties": {"tell": True}}}})


@contextmanager
def own_queues(broker: str, bus: str) -> Iterator[None]:
    """Delete the durable queues of a bus at the end."""
    from kombu.connection import Connection

    try:
        yield
    finally:
        topic = bus.rpartition("=")[2]
        make: Any = Connection
        with make(broker.replace("rabbit://", "amqp://", 1)) as connection:
            for queue in (topic, f"{topic}.any"):
                connection.channel().queue_delete(queue)


@contextmanager
def marked() -> Iterator[list[float]]:
    """The moments at which starts were committed."""
    moments: list[float] = []

    def note(name: str) -> None:
        if name == Commit.START.after:
            moments.append(time.monotonic())

    crash_points.hook = note
    try:
        yield moments
    finally:
        crash_points.hook = None


def measure_latency(
    url: str, bus: str, rounds: int, queues: Sequence[str] = (DEFAULT_QUEUE,)
) -> list[float]:
    """Milliseconds from commits to handlers."""
    taken = []
    with (
        converge.connect(url, bus=bus) as store,
        fleet(url, bus, 2, queues=queues) as engines,
        marked() as moments,
    ):
        for number in range(rounds):
            # not in step with what they do regularly
            time.sleep(QUIET + number % 7 / 10)
            queue = queues[number % len(queues)]
            store.create_stack(f"{bus[:6]}-{len(queues)}-{number}", ONE, queue=queue)
            ready, _, _ = select.select(engines, [], [], LIMIT)
            if not ready:
                fail("no handler is called")
            taken.append((ready[0].read_start() - moments[-1]) * 1000)
    return taken


def measure_idle(url: str, engines: int, seconds: float) -> tuple[float, float]:
    """Statements, and ends and beginnings of transactions, in a second."""
    counts: Counter[str] = Counter()

    def count(what: str) -> Any:
        def note(*arguments: object) -> None:
            counts[what] += 1

        return note

    kinds = ("before_cursor_execute", "begin", "commit", "rollback")
    with converge.connect(url, bus=NO_BUS) as store:
        running = [Engine(store, {"noop": Telling()}, workers=1) for _ in range(engines)]
        try:
            for engine in running:
                engine.start()
            time.sleep(SETTLED)
            # of all pools: each lease has its own
            for kind in kinds:
                event.listen(sqlalchemy.Engine, kind, count(kind))
            time.sleep(seconds)
            found = dict(counts)
        finally:
            for engine in running:
                engine.stop()
    statements = found.pop("before_cursor_execute", 0)
    return statements / seconds, sum(found.values()) / seconds


def measure_rate(
    store: Store, url: str, bus: str, processes: int, template: Template, name: str
) -> tuple[float, float]:
    """Nodes per second, by the database's clock; and microseconds of processor time that a node
    took in all engines."""
    with fleet(url, bus, processes) as engines:
        stack = store.create_stack(name, template)
        if stack.wait(LIMIT) != "COMPLETE":
            fail(f"the stack ended {stack.status}: {stack.reason}")
    query = "SELECT ended_at - started_at FROM converge_traversal WHERE id = %s"
    seconds: Any = store.database.read(
        lambda tx: tx.connection.exec_driver_sql(query, (stack.traversal,)).scalar_one()
    )
    nodes = len(template.resources)
    return nodes / float(seconds), sum(engine.cpu for engine in engines) / nodes * 1e6


def measure_rates(url: str, broker: str, nodes: int, rounds: int) -> None:
    """What a bus costs, and what two engines bring."""
    template = make_template(layered(nodes, nodes // LAYERS))
    ways = {
        "one, no bus": (NO_BUS, 1),
        "one, NOTIFY": (NOTIFY, 1),
        "one, RabbitMQ": (broker, 1),
        "two, no bus": (NO_BUS, 2),
        "two, RabbitMQ": (broker, 2),
    }
    stores = {bus: converge.connect(url, bus=bus) for bus in (NO_BUS, NOTIFY, broker)}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    costs: dict[str, list[float]] = {way: [] for way in ways}
    try:
        for number in range(rounds + 1):
            # each goes first in turn
            order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
            for way in order:
                bus, count = ways[way]
                name = f"{way}-{number}"
                rate, cost = measure_rate(stores[bus], url, bus, count, template, name)
                # the first round is for the caches of the server
                if number:
                    rates[way].append(rate)
                    costs[way].append(cost)
    finally:
        for store in stores.values():
            store.close()
    for way, found in rates.items():
        print(
            f"  {way}: {median(found):,.0f} nodes/s (rounds: {listed(found, 0)});"
            f" {median(costs[way]):,.0f} µs of processor time a node"
        )
    alone, cost_alone = rates["one, no bus"], costs["one, no bus"]
    for way in ("one, NOTIFY", "one, RabbitMQ"):
        ratios = [before / after for before, after in zip(alone, rates[way], strict=True)]
        verdict(f"ratio time per node, {way} / one, no bus", ratios, most=1.1)
        ratios = [after / before for before, after in zip(cost_alone, costs[way], strict=True)]
        verdict(f"ratio processor time per node, {way} / one, no bus", ratios, most=1.1)
    ratios = [two / one for two, one in zip(rates["two, RabbitMQ"], alone, strict=True)]
    verdict("ratio nodes/s, two, RabbitMQ / one, no bus", ratios, least=1.3)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="fewer engines, nodes and rounds")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    parser.add_argument(
        "--broker", default=os.environ.get("CONVERGE_TEST_RABBITMQ") or BROKER, help="a RabbitMQ"
    )
    parser.add_argument("--only", choices=("latency", "idle", "rates"), help="one part")
    arguments = parser.parse_args()
    server = read_url(arguments.url)
    broker = f"{arguments.broker}?topic=converge_bench_{os.getpid()}"
    choose_threads()
    print(surroundings(server, "max_connections"))
    with own_database(server) as database, own_queues(arguments.broker, broker):
        url = database.render_as_string(hide_password=False)
        converge.connect(url, create_schema=True).close()
        measure(arguments, url, broker)
    print(load())
    return 0


def measure(arguments: argparse.Namespace, url: str, broker: str) -> None:
    """All parts, or the one that is asked for."""
    few: bool = arguments.smaller
    if arguments.only in (None, "latency"):
        for what, bus, queues in (
            ("polling", NO_BUS, POOLS[:1]),
            ("NOTIFY", NOTIFY, POOLS[:1]),
            ("RabbitMQ", broker, POOLS[:1]),
            ("RabbitMQ, two pools", broker, POOLS),
        ):
            taken = sorted(measure_latency(url, bus, 7 if few else 30, queues))
            late = taken[int(0.9 * len(taken))]
            print(f"{what}: commit to handler, ms: 90 % {late:.1f}, most {taken[-1]:.1f}")
            verdict(f"{what}: median", taken, most=0.0 if bus == NO_BUS else 20.0)
    if arguments.only in (None, "idle"):
        engines, seconds = (10, 10.0) if few else (50, 40.0)
        statements, others = measure_idle(url, engines, seconds)
        print(f"idle fleet of {engines}: besides, {others:.0f} BEGIN, COMMIT or ROLLBACK/s")
        verdict(f"idle fleet of {engines}: statements/s", [statements], most=2.0 * engines)
    if arguments.only in (None, "rates"):
        measure_rates(url, broker, 2_000 if few else 10_000, 3 if few else 5)


if __name__ == "__main__":
    raise SystemExit(main())
