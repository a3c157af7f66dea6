"""Runs of one engine, in this process, over graphs of resources that do nothing."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL

import converge
from benchmarks.costs import Cost, Meter
from benchmarks.graphs import Requires
from benchmarks.measuring import fail
from converge.bus.hint import Hint
from converge.engine import Engine
from converge.sql.schema import metadata
from converge.stack import Stack
from converge.store import Store
from converge.template import Template

#: Seconds after which a run is given up.
LIMIT = 300.0
STACK = "bench"


class NoOp(converge.ResourceType):
    """Does nothing, so that only the engine's own work takes time."""

    def create(self, context: converge.Context, properties: object) -> str:
        """Nothing."""
        return "x"

    def update(
        self, context: converge.Context, physical_id: str, properties: object, previous: object
    ) -> None:
        """Nothing."""

    def delete(self, context: converge.Context, physical_id: str) -> None:
        """Nothing."""


def make_template(requires: Requires, changed: int = 0) -> Template:
    """A template of no-op resources.

    :param changed: every so manieth has another property than without this; 0 for none.
    """
    return Template.from_dict(
        {
            "resources": {
                name: {
                    "type": "noop",
                    "properties": {"changed": True} if changed and not i % changed else {},
                    "depends_on": required,
                }
                for i, (name, required) in enumerate(requires.items())
            }
        }
    )


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
    :ivar cost: of a run that was metered.
    """

    nodes: int
    start: float
    seconds: float
    cpu: float
    counts: Counts
    start_counts: Counts
    cost: Cost | None = None

    @property
    def rate(self) -> float:
        """Nodes per second."""
        return self.nodes / self.seconds

    @property
    def microseconds(self) -> float:
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

    def _mark(self, hint: Hint) -> None:
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

    def measure(self, nodes: int, begin: Callable[[], Stack], meter: Meter | None = None) -> Run:
        """Start a traversal and wait for its end."""
        if meter is not None:
            meter.prepare()
        self._counts = (Counts(), Counts())
        called = time.perf_counter()
        stack = begin()
        committed, cpu = self._committed, time.process_time()
        start_counts = self._counts[1]
        start_counts = Counts(start_counts.calls, start_counts.rows, start_counts.commits)
        if meter is not None:
            meter.begin()
        try:
            status = stack.wait(LIMIT)
        except TimeoutError as error:
            fail(str(error))
        end = time.perf_counter()
        if status != "COMPLETE":
            fail(f"the {stack.action} ended {status}: {stack.reason}")
        cpu = time.process_time() - cpu
        cost = None if meter is None else meter.end()
        return Run(
            nodes, committed - called, end - committed, cpu, self._counts[0], start_counts, cost
        )

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
