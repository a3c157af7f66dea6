"""Metrics of engines and of databases, as prometheus_client gives them.

Several processes write theirs into files of one folder, and their parent gives the sum
(prometheus_client's multiprocess mode). What the database says is asked for by whoever listens,
at most every few seconds, in statements whose cost does not grow.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from converge.engine.observer import Observer
from converge.errors import ConvergeError
from converge.inspection.pools import count_stranded
from converge.protocol.work import Outcome, Work
from converge.sql.gauges import count_nodes, count_waiting

if TYPE_CHECKING:
    from converge.engine import Engine
    from converge.sql.database import Database

#: prometheus_client's variable: the folder that processes share.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
#: Seconds between two looks of a process at itself, and of a listener into the database.
PULSE = 1.0
CACHED = 5.0
#: How often files are read in which something is missing yet.
ATTEMPTS = 100
#: Up to where nodes are counted.
MOST = 10_000
_HANDLER = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200)
_DATABASE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_SIZES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class ProcessMetrics(ABC):
    """What the work of this process is like, looked at every :data:`PULSE` seconds.

    :param registry: where others read it; None if a parent does.
    :cvar READY: the name of the gauge that tells how many are ready.
    :cvar WHAT: what that gauge says.
    """

    READY: str
    WHAT: str

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._ready = Gauge(self.READY, self.WHAT, multiprocess_mode="livesum", registry=registry)
        self._connections = Gauge(
            "converge_connections_used",
            "Connections to the database that are in use now",
            multiprocess_mode="livesum",
            registry=registry,
        )

    @property
    @abstractmethod
    def is_ready(self) -> bool:
        """Whether work is done."""

    @abstractmethod
    def look(self) -> None:
        """Look at the work now."""

    def begin(self) -> None:
        """Look from now on."""
        threading.Thread(target=self._pulse, name="converge-metrics", daemon=True).start()

    def _pulse(self) -> None:
        while True:
            self.look()
            time.sleep(PULSE)


class EngineMetrics(ProcessMetrics, Observer):
    """What the engine of this process does.

    :param registry: where others read it; None if a parent does.
    """

    READY = "converge_engines_ready"
    WHAT = "Engines that take work: not stopping, and with a valid lease"

    def __init__(self, registry: CollectorRegistry | None) -> None:
        super().__init__(registry)
        self._engine: Engine | None = None
        self._handlers = Histogram(
            "converge_handler_seconds",
            "How long handlers ran, by operation and how they ended, in seconds",
            ["operation", "result"],
            buckets=_HANDLER,
            registry=registry,
        )
        self._running = Gauge(
            "converge_handlers_running",
            "Handlers that run now",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._outcomes = Counter(
            "converge_outcomes",
            "Outcomes of nodes that were written, by result: DONE, FAILED, RETRY, SKIPPED, WAIT, "
            "HANDED_BACK",
            ["result"],
            registry=registry,
        )
        self._recovered = Counter(
            "converge_recovered_nodes",
            "Nodes of dead engines that this engine made READY again",
            registry=registry,
        )
        self._claims = Histogram(
            "converge_claim_seconds",
            "Transactions that only claim nodes, in seconds",
            buckets=_DATABASE,
            registry=registry,
        )
        self._commits = Histogram(
            "converge_commit_seconds",
            "Transactions that write outcomes, in seconds",
            buckets=_DATABASE,
            registry=registry,
        )
        self._claimed = Histogram(
            "converge_claimed_nodes",
            "Nodes that a transaction claimed",
            buckets=_SIZES,
            registry=registry,
        )
        self._written = Histogram(
            "converge_commit_outcomes",
            "Outcomes that a transaction wrote",
            buckets=_SIZES,
            registry=registry,
        )
        self._lease_age = Gauge(
            "converge_lease_age_seconds",
            "Seconds since the lease was renewed; the oldest, of several processes",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._workers = Gauge(
            "converge_workers",
            "How many handlers can run at a time",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._async_workers = Gauge(
            "converge_async_workers",
            "How many handlers that are async def can run at a time beside these",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._async_running = Gauge(
            "converge_async_handlers_running",
            "Handlers that are async def and run now",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def watch(self, engine: Engine) -> None:
        """Look at this engine from now on, every :data:`PULSE` seconds."""
        self._engine = engine
        self.begin()

    @property
    def is_ready(self) -> bool:
        """Whether the engine takes work."""
        return self._engine is not None and self._engine.is_ready

    def look(self) -> None:
        """Look at the engine now."""
        engine = self._engine
        if engine is not None:
            self._ready.set(self.is_ready)
            self._lease_age.set(engine.lease_age)
            self._workers.set(engine.workers)
            self._async_workers.set(engine.async_workers)
            self._async_running.set(engine.async_running)
            self._connections.set(engine.store.database.connections_used)

    # -- as an observer

    def began(self, engine_id: int, work: Work) -> None:
        self._running.inc()

    def ended(self, engine_id: int, work: Work, outcome: Outcome, seconds: float) -> None:
        self._running.dec()
        self._handlers.labels(work.decision.operation, outcome.result).observe(seconds)

    def claimed(self, nodes: int, seconds: float) -> None:
        self._claims.observe(seconds)
        self._claimed.observe(nodes)

    def wrote(self, outcomes: Sequence[Outcome], claimed: int, seconds: float) -> None:
        self._commits.observe(seconds)
        self._written.observe(len(outcomes))
        for outcome in outcomes:
            self._outcomes.labels(outcome.result).inc()

    def recovered(self, nodes: int) -> None:
        self._recovered.inc(nodes)


class DatabaseMetrics(Collector):
    """What there is to do in the database.

    :param open_database: opens it, when it is first asked for.
    :param clock: seconds; for tests.
    """

    def __init__(
        self, open_database: Callable[[], Database], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open = open_database
        self._clock = clock
        self._database: Database | None = None
        self._counts: dict[str, int] | None = None
        self._others: dict[str, int] = {}
        self._looked: float | None = None
        self._lock = threading.Lock()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        # otherwise it would be collected to see what it has
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            counts = self._look()
        yield GaugeMetricFamily(
            "converge_database_up", "Whether the database answers", value=int(counts is not None)
        )
        nodes = GaugeMetricFamily(
            "converge_nodes",
            f"Nodes of all stacks by state, each counted up to {MOST}: READY, RUNNING, BLOCKED, "
            "LATER (READY, but only after a pause), and "
            "LIMITED (READY, but a limit keeps them from starting)",
            labels=["state"],
        )
        for state, count in (counts or {}).items():
            nodes.add_metric([state], count)
        yield nodes
        for name, what in (
            ("waiting", "Nodes whose handlers wait, of those that are LATER"),
            ("stranded", "READY nodes that no engine can take that is alive"),
        ):
            if counts is not None:
                yield GaugeMetricFamily(
                    f"converge_nodes_{name}", f"{what}, up to {MOST}", value=self._others[name]
                )

    def _look(self) -> dict[str, int] | None:
        at = self._clock()
        if self._looked is not None and at - self._looked < CACHED:
            return self._counts
        try:
            if self._database is None:
                self._database = self._open()
            self._counts, self._others = self._database.read(
                lambda tx: (
                    count_nodes(tx, MOST),
                    {"waiting": count_waiting(tx, MOST), "stranded": count_stranded(tx, MOST)},
                )
            )
        except ConvergeError:
            # the engines say what is wrong with it
            self._counts = None
        # after the look: one that takes long is not followed by the next at once
        self._looked = self._clock()
        return self._counts


class Folder:
    """Where several processes write, as a folder that is removed at the end."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="converge-metrics-")

    @property
    def environment(self) -> dict[str, str]:
        """Of each process."""
        return {FOLDER: self.path}

    def collect_into(self, registry: CollectorRegistry) -> None:
        """Give the sum of all processes."""
        registry.register(_Processes(self.path))

    def forget(self, pid: int) -> None:
        """A process has ended: what it was doing is over, what it has done stays."""
        mark_process_dead(pid, path=self.path)  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)


class _Processes(Collector):
    """The sum of what processes write into a folder.

    :param path: of the folder.
    """

    def __init__(self, path: str) -> None:
        self._files = MultiProcessCollector(None, path=path)  # type: ignore[no-untyped-call]

    def describe(self) -> Iterator[Metric]:
        # otherwise it would be collected to see what it has
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for left in reversed(range(ATTEMPTS)):
            try:
                return iter(list(self._files.collect()))  # type: ignore[no-untyped-call]
            except struct.error:
                # a process is making its file
                if not left:
                    raise
                time.sleep(0.01)
        return iter(())


def count_ready(registry: CollectorRegistry, name: str) -> float:
    """How many are ready, of all processes.

    :param name: of the gauge that says it.
    """
    families = (one for one in registry.collect() if one.name == name)
    return sum(sample.value for family in families for sample in family.samples)


def expose(registry: CollectorRegistry) -> tuple[str, bytes]:
    """The content type and the text for Prometheus."""
    return CONTENT_TYPE_LATEST, generate_latest(registry)
