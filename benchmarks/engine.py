"""How fast the engine is, beside the database's own limit: python benchmarks/engine.py [--smaller]

It needs a PostgreSQL server: at ``--url``, else at ``CONVERGE_TEST_POSTGRESQL``, else at
postgresql+psycopg://postgres@127.0.0.1:5432/postgres. It makes a database of its own there,
``converge_bench_`` and its process id, and drops it at the end, also after a failure. Commits
must be durable: with ``fsync`` or ``synchronous_commit`` off it refuses, with status 2. Whether
targets are met does not change the status, which is 0.

One engine, in this process, does no-op resources. What is measured:

- **Speed.** A layered graph of 10,000 nodes: 20 layers of 500, each node requires 2 or 3 random
  ones (seeded) of the layer before. Nodes per second from the commit of ``create_stack`` until
  the stack is seen to be COMPLETE. Right before and right after it, in the same process, the raw
  limit: how often one psycopg connection gets UPDATE of one row and COMMIT done in a second.
  The ratio is to the mean of the two, as disks are not equally fast all the time.
- **Cost per node**, of 10,000 against 1,000 nodes (several runs of them in each round): with 20
  layers both, and with layers of 100 nodes both.
- **Star.** A root that requires 1,000 leaves, against 1,001 unconnected nodes.
- **Statements and commits per node**, by all of the engine's threads: calls of the driver, and
  the rows of parameters that went with them (several for an executemany).
- Besides, in the first round only: an update to the same template, a delete. And how long the
  start transactions take.

Everything is done once before, unmeasured, so that nothing is compiled for the first time
later. Before each run converge's tables are emptied. Ratios are of one round each; the median
of the rounds counts.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest import mock

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import event
from sqlalchemy.engine import URL

import converge
from benchmarks.measuring import (
    DEFAULT_URL,
    VARIABLE,
    connect_raw,
    fail,
    listed,
    load,
    own_database,
    read_url,
    surroundings,
    verdict,
)
from converge.engine import Engine
from converge.sql.schema import metadata
from converge.stack import Stack
from converge.store import Store
from converge.template import Template

LAYERS = 20
#: Runs of the smaller graph in each round.
REPEATS = 3
#: Seconds after which a run is given up.
LIMIT = 300.0
STACK = "bench"


class NoOp(converge.ResourceType):
    """Does nothing, so that only the engine's own work takes time."""

    def create(self, context: converge.Context, properties: object) -> str:
        """Nothing."""
        return "x"

    def delete(self, context: converge.Context, physical_id: str) -> None:
        """Nothing."""


# -- the graphs


def make_template(requires: dict[str, list[str]]) -> Template:
    """A template of no-op resources."""
    return Template.from_dict(
        {
            "resources": {
                name: {"type": "noop", "properties": {}, "depends_on": required}
                for name, required in requires.items()
            }
        }
    )


def layered(nodes: int, width: int) -> Template:
    """Layers of ``width`` nodes, each of which requires 2 or 3 of the layer before."""
    rng = random.Random(20)
    names = [f"n{i}" for i in range(nodes)]
    requires: dict[str, list[str]] = {}
    for i, name in enumerate(names):
        start = i // width * width
        before = names[max(0, start - width) : start]
        requires[name] = rng.sample(before, min(rng.choice((2, 3)), len(before)))
    return make_template(requires)


def star(leaves: int) -> Template:
    """A root that requires all the others."""
    names = [f"n{i}" for i in range(leaves)]
    return make_template({**{name: [] for name in names}, "root": names})


def unconnected(nodes: int) -> Template:
    """Nodes without a requirement."""
    return make_template({f"n{i}": [] for i in range(nodes)})


# -- the raw limit


class Raw:
    """One psycopg connection that does nothing but commit."""

    ROWS = 1000

    def __init__(self, url: URL, seconds: float) -> None:
        self.seconds = seconds
        self._connection = connect_raw(url)
        execute = self._connection.execute
        execute("CREATE TABLE raw_limit (id integer PRIMARY KEY, n integer NOT NULL)")
        execute("INSERT INTO raw_limit SELECT g, 0 FROM generate_series(0, 999) g")
        self._connection.commit()

    def rate(self) -> float:
        """UPDATE of one row and COMMIT, how often in a second."""
        connection, done = self._connection, 0
        begin = time.perf_counter()
        while (taken := time.perf_counter() - begin) < self.seconds:
            connection.execute("UPDATE raw_limit SET n = n + 1 WHERE id = %s", (done % self.ROWS,))
            connection.commit()
            done += 1
        return done / taken

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


# -- one run


@dataclass(slots=True)
class Counts:
    """What went to the database."""

    calls: int = 0
    rows: int = 0
    commits: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """:ivar start: seconds that the call which starts the traversal took, commit included.
    :ivar seconds: from that commit until the stack was seen to be complete.
    :ivar cpu: seconds of processor time that this process took meanwhile.
    """

    nodes: int
    start: float
    seconds: float
    cpu: float
    counts: Counts
    start_counts: Counts

    @property
    def rate(self) -> float:
        """Nodes per second."""
        return self.nodes / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds per node."""
        return self.seconds / self.nodes * 1e6


class Bench:
    """The store, with all that goes to the database counted, and an engine for each run."""

    def __init__(self, url: URL, workers: int) -> None:
        self.store: Store = converge.connect(url, create_schema=True)
        self.workers = workers
        self.engine_class: type[Engine] = Engine
        self._committed = 0.0
        # this thread is the client, all others are the engine's
        self._client = threading.get_ident()
        self._counts = (Counts(), Counts())
        # the first listener, so it is told of a commit before any engine is
        self.store.bus.add_listener(self._mark)
        database = self.store.database.engine
        event.listen(database, "before_cursor_execute", self._count_statement)
        event.listen(database, "commit", self._count_commit)

    def close(self) -> None:
        """Disconnect."""
        self.store.close()

    def _mark(self) -> None:
        if threading.get_ident() == self._client:
            self._committed = time.perf_counter()

    def _of_thread(self) -> Counts:
        return self._counts[threading.get_ident() == self._client]

    def _count_statement(
        self,
        connection: object,
        cursor: object,
        statement: str,
        parameters: Any,
        context: object,
        many: bool,
    ) -> None:
        counts = self._of_thread()
        counts.calls += 1
        counts.rows += len(parameters) if many else 1

    def _count_commit(self, connection: object) -> None:
        self._of_thread().commits += 1

    @contextmanager
    def engine(self) -> Iterator[None]:
        """A new engine on empty tables."""
        tables = ", ".join(table.name for table in metadata.sorted_tables)
        with self.store.transaction() as tx:
            tx.connection.exec_driver_sql(f"TRUNCATE {tables} CASCADE")
        gc.collect()
        with self.engine_class(self.store, {"noop": NoOp()}, workers=self.workers) as engine:
            if not engine.wait_idle(30):
                fail("the engine did not settle in 30 s")
            yield

    def measure(self, nodes: int, begin: Callable[[], Stack]) -> Run:
        """Start a traversal and wait for its end."""
        self._counts = (Counts(), Counts())
        called = time.perf_counter()
        stack = begin()
        committed, cpu = self._committed, time.process_time()
        start_counts = self._counts[1]
        start_counts = Counts(start_counts.calls, start_counts.rows, start_counts.commits)
        try:
            status = stack.wait(LIMIT)
        except TimeoutError as error:
            fail(str(error))
        end = time.perf_counter()
        if status != "COMPLETE":
            fail(f"the {stack.action} ended {status}: {stack.reason}")
        cpu = time.process_time() - cpu
        return Run(nodes, committed - called, end - committed, cpu, self._counts[0], start_counts)

    def create(self, template: Template) -> Run:
        """Measure one create, on an engine of its own."""
        with self.engine():
            return self.measure_create(template)

    def measure_create(self, template: Template) -> Run:
        """Measure a create on the engine that runs."""
        return self.measure(
            len(template.resources), lambda: self.store.create_stack(STACK, template)
        )

    def measure_update(self, template: Template) -> Run:
        """Measure an update on the engine that runs."""
        return self.measure(
            len(template.resources), lambda: self.store.update_stack(STACK, template)
        )

    def measure_delete(self, nodes: int) -> Run:
        """Measure the delete of so many nodes on the engine that runs."""
        return self.measure(nodes, lambda: self.store.delete_stack(STACK))

    def warm_up(self, template: Template) -> None:
        """A whole life, unmeasured."""
        with self.engine():
            self.measure_create(template)
            self.measure_update(template)
            self.measure_delete(len(template.resources))


# -- what is printed


def print_counts(what: str, run: Run) -> None:
    """Print what a node costs in statements and commits."""
    counts = run.counts
    print(
        f"  {what} {run.nodes:>6,} nodes: {counts.calls / run.nodes:.4f} statements,"
        f" {counts.rows / run.nodes:.4f} rows of parameters,"
        f" {counts.commits / run.nodes:.4f} commits a node"
        f" ({counts.calls:,}, {counts.rows:,} and {counts.commits:,} in all)"
    )


def print_besides(what: str, runs: Sequence[Run]) -> None:
    """Print the speed of a traversal that has no target, and of its start."""
    start, started = median(run.start for run in runs), runs[-1].start_counts
    print(
        f"{what} {runs[0].nodes:,} nodes: {median(run.rate for run in runs):,.0f} nodes/s"
        f" (rounds: {listed([run.rate for run in runs], 0)}); its start: {start:.2f} s,"
        f" {started.calls} statements, {started.commits} commit(s)"
    )


def measure_layered(bench: Bench, raw: Raw, nodes: int, rounds: int) -> None:
    """Speed, cost per node, statements."""
    few = nodes // 10
    large, small = layered(nodes, nodes // LAYERS), layered(few, max(1, few // LAYERS))
    width = max(1, few // 10)
    deep, short = layered(nodes, width), layered(few, width)
    creates: list[Run] = []
    updates: list[Run] = []
    deletes: list[Run] = []
    smalls: list[Run] = []
    ratios, costs, same_width = [], [], []
    for number in range(1, rounds + 1):
        before = raw.rate()
        with bench.engine():
            created = bench.measure_create(large)
            after = raw.rate()
            if number == 1:
                updates.append(bench.measure_update(large))
                deletes.append(bench.measure_delete(nodes))
        creates.append(created)
        little = [bench.create(small) for _ in range(REPEATS)]
        little_wide = [bench.create(short) for _ in range(REPEATS)]
        deep_run = bench.create(deep)
        smalls += little
        ratios.append(created.rate / mean((before, after)))
        cost = median(run.cost for run in little)
        cost_wide = median(run.cost for run in little_wide)
        costs.append(created.cost / cost)
        same_width.append(deep_run.cost / cost_wide)
        print(
            f"round {number}: raw {before:,.0f}/s before, {after:,.0f}/s after;"
            f" {nodes:,} nodes {created.seconds:.2f} s = {created.rate:,.0f} nodes/s,"
            f" ratio {ratios[-1]:.2f}, this process on {created.cpu / created.seconds:.2f} CPUs;"
            f" µs a node: {created.cost:.0f}, of {few:,} {cost:.0f};"
            f" in layers of {width} {deep_run.cost:.0f}, of {few:,} {cost_wide:.0f}"
        )
    speed = median(run.rate for run in creates)
    print(f"create: {speed:,.0f} nodes/s, median of {rounds} rounds")
    verdict("ratio nodes/s / raw UPDATE+COMMIT/s", ratios, least=2.0)
    verdict(f"ratio cost per node at {nodes:,} / at {few:,}, {LAYERS} layers", costs, most=1.25)
    verdict(f"ratio of the same, layers of {width} nodes", same_width, most=1.25)
    print("statements of the engine:")
    for what, runs in (
        ("create", smalls),
        ("create", creates),
        ("update", updates),
        ("delete", deletes),
    ):
        print_counts(what, sorted(runs, key=lambda run: run.counts.calls)[len(runs) // 2])
    print_besides("create", creates)
    print_besides("update that changes nothing", updates)
    print_besides("delete", deletes)


def measure_star(bench: Bench, leaves: int, rounds: int) -> None:
    """The fan-in of many into one."""
    templates = {"star": star(leaves), "lone": unconnected(leaves + 1)}
    ratios, taken = [], []
    # one pair takes little time, so there can be more of them
    for number in range(2 * rounds + 1):
        # each goes first in turn
        order = ("star", "lone") if number % 2 else ("lone", "star")
        times = {what: bench.create(templates[what]).seconds for what in order}
        taken.append((times["star"], times["lone"]))
        ratios.append(times["star"] / times["lone"])
    star_time, lone_time = (median(column) for column in zip(*taken, strict=True))
    print(
        f"star of {leaves:,} leaves and a root: {star_time:.3f} s;"
        f" {leaves + 1:,} unconnected nodes: {lone_time:.3f} s"
    )
    verdict("ratio star / unconnected", ratios, most=1.3)


def print_profile(bench: Bench, nodes: int) -> None:
    """One more create, with the engine's turning thread profiled."""
    import cProfile
    import pstats

    # older commits, which compare.py measures, have no such module
    from converge.engine import run

    profile = cProfile.Profile(time.thread_time)

    turn_loop = run.Run._turn_loop

    def profiled(run: run.Run) -> None:
        profile.runcall(turn_loop, run)

    with mock.patch.object(run.Run, "_turn_loop", profiled):
        bench.create(layered(nodes, nodes // LAYERS))
    pstats.Stats(profile).sort_stats("cumulative").print_stats(50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="a tenth of the graph, 2 rounds")
    parser.add_argument("--nodes", type=int, help="nodes of the larger graph, at least 400")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--workers", type=int, default=8, help="the engine's workers")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    parser.add_argument("--profile", action="store_true", help="profile one more run")
    arguments = parser.parse_args()
    nodes = arguments.nodes or (1_000 if arguments.smaller else 10_000)
    rounds = arguments.rounds or (2 if arguments.smaller else 3)
    if nodes < 400 or rounds < 1 or not 1 <= arguments.workers <= 1000:
        parser.error("at least 400 nodes, 1 round, and 1 to 1000 workers")
    # ends the blocks below, so that the database is dropped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    began = time.monotonic()
    with own_database(read_url(arguments.url)) as url:
        settings = ("fsync", "synchronous_commit", "wal_sync_method", "full_page_writes")
        print(surroundings(url, *settings))
        raw = Raw(url, 0.3 if arguments.smaller else 1.0)
        print(
            f"one engine, {arguments.workers} workers; {nodes:,} nodes in {LAYERS} layers,"
            " 2 or 3 predecessors each"
        )
        if nodes < 10_000:
            print("the targets are meant for 10,000 nodes")
        bench = Bench(url, arguments.workers)
        try:
            bench.warm_up(layered(nodes // 10, max(1, nodes // 10 // LAYERS)))
            raw.rate()
            measure_layered(bench, raw, nodes, rounds)
            measure_star(bench, nodes // 10, rounds)
            if arguments.profile:
                print_profile(bench, nodes)
        finally:
            bench.close()
            raw.close()
        print(f"{time.monotonic() - began:.0f} s; {load()}")


if __name__ == "__main__":
    main()
