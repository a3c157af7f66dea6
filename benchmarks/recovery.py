"""What recovery costs: python -m benchmarks recovery [--smaller]

It needs a PostgreSQL server, as ``engine.py`` does, and makes a database of its own there. What
is measured:

- **A sweep with nothing to do**, over a database in which 10,000 and 100,000 nodes wait, in ten
  traversals that a living engine works on; beside a SELECT of nothing in a transaction, which is
  what the connection takes. Both right after the rows came, and when the server has looked at
  them (ANALYZE). For information also on SQLite and on MariaDB, if there is one: at
  ``--mariadb``, else at ``CONVERGE_TEST_MARIADB``, else at its conventional local address.
- **Recovery** of 1,000 nodes that a dead engine held, with the locks on their resources, until
  all are ready for another engine; beside an UPDATE of 1,000 rows by primary key with COMMIT.
- **The cost of leases**: nodes/s as in ``engine.py``, of engines with the usual lease, and with
  the shortest one, which is renewed and swept three times a second, against engines that neither
  renew nor sweep while it lasts. All take turns; ratios are of one round each.

``compare.py`` tells what else changed from one commit to another.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import (
    ColumnElement,
    Table,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

import converge
from benchmarks.databases import any_database, empty
from benchmarks.engine import LAYERS
from benchmarks.graphs import chain, layered, unconnected
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
from benchmarks.raw import Raw
from benchmarks.runs import Bench, NoOp, make_template
from converge.engine import Engine
from converge.lease import LEASE, MIN_LEASE
from converge.protocol.recover import Sweeper
from converge.sql import engines
from converge.sql.schema import metadata, resource, sync_point, traversal
from converge.sql.transaction import Transaction
from converge.store import Store
from converge.testing import StepEngine

MARIADB = "mysql+pymysql://root@127.0.0.1:3306/?charset=utf8mb4"
MARIADB_VARIABLE = "CONVERGE_TEST_MARIADB"
#: Traversals that the waiting nodes are of.
TRAVERSALS = 10
#: Nodes that the dead engine held.
HELD = 1_000
#: A lease that is neither renewed nor swept for while anything here lasts, in seconds.
ENDLESS = 1e6
TYPES = {"noop": NoOp()}


def milliseconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1e3


# -- a sweep with nothing to do


def fill(store: Store, nodes: int) -> None:
    """So many nodes that wait, but for the first of each traversal, which is worked on.

    One traversal is started; the others are copies of its rows.
    """
    store.create_stack("s", make_template(chain(nodes // TRAVERSALS)))
    StepEngine(store, TYPES, lease=ENDLESS).claim(1)
    with store.transaction() as tx:
        first = tx.execute(select(func.max(traversal.c.id))).scalar_one()
        top = tx.execute(select(func.max(resource.c.id))).scalar_one()
        for number in range(1, TRAVERSALS):
            copy(tx, traversal, traversal.c.id == first, id=number)
            copy(tx, resource, resource.c.id <= top, id=number * top)
            mine = sync_point.c.traversal_id == first
            copy(tx, sync_point, mine, traversal_id=number, resource_id=number * top)


def copy(tx: Transaction, table: Table, which: ColumnElement[bool], **shifts: int) -> None:
    """Insert rows again, with other numbers in some columns."""
    values = [one + shifts[one.name] if one.name in shifts else one for one in table.columns]
    tx.execute(insert(table).from_select(list(table.columns), select(*values).where(which)))


def analyze(store: Store) -> None:
    """Let the server look at what is in the tables, as it does by itself in time."""
    tables = ", ".join(metadata.tables)
    dialect = store.database.dialect
    statement = {
        "postgresql": f"VACUUM ANALYZE {tables}",
        "sqlite": "ANALYZE",
    }.get(dialect, f"ANALYZE TABLE {tables}")
    engine = store.database.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        result = connection.exec_driver_sql(statement)
        if result.returns_rows:
            result.all()


def measure_sweep(what: str, store: Store, counts: Sequence[int], times: int) -> None:
    """Sweeps that find nothing."""
    database = store.database
    sweeper = Sweeper(database)

    def look() -> None:
        database.read(lambda tx: tx.execute(select(literal(1))).all())

    for nodes in counts:
        empty(store)
        fill(store, nodes)
        for state in ("before the server knows them", "after"):
            if state == "after":
                analyze(store)
            sweeps, looks = [], []
            for _ in range(times):
                looks.append(milliseconds(look))
                sweeps.append(milliseconds(sweeper.sweep))
            taken = median(sweeps)
            wanted = ""
            if what == "PostgreSQL" and nodes == 100_000:
                wanted = f"; wanted: less than 50: {'met' if taken < 50 else 'NOT MET'}"
            print(
                f"sweep, {what}, {nodes:,} nodes wait, {state}: {taken:.2f} ms"
                f" (first {sweeps[0]:.2f}, longest {max(sweeps):.2f}{wanted});"
                f" SELECT in a transaction {median(looks):.2f} ms"
            )
    empty(store)


def measure_sweeps(postgresql: Store, mariadb: str, counts: Sequence[int], times: int) -> None:
    """The same on each database."""
    measure_sweep("PostgreSQL", postgresql, counts, times)
    with any_database("sqlite://") as url, converge.connect(url, create_schema=True) as store:
        measure_sweep("SQLite", store, counts, times)
    try:
        with any_database(mariadb) as url, converge.connect(url, create_schema=True) as store:
            measure_sweep("MariaDB", store, counts, times)
    except (SQLAlchemyError, converge.ConvergeError) as error:
        print(f"sweep, MariaDB: not measured: {str(error).splitlines()[0]}")


# -- recovery


def measure_recovery(store: Store, url: URL, rounds: int) -> None:
    """A sweep that finds a dead engine with all hands full.

    :param url: of a database in which there is the table of :class:`~benchmarks.raw.Raw`.
    """
    connection = connect_raw(url)
    ids = list(range(Raw.ROWS))

    def update() -> None:
        connection.execute("UPDATE raw_limit SET n = n + 1 WHERE id = ANY(%s)", (ids,))
        connection.commit()

    taken, updates = [], []
    for _ in range(rounds):
        empty(store)
        store.create_stack("s", make_template(unconnected(HELD)))
        dead = StepEngine(store, TYPES)
        if len(dead.claim(HELD)) != HELD:
            fail("not all nodes could be claimed")
        with store.transaction() as tx:
            engines.expire_lease(tx, dead.id)
        updates.append(milliseconds(update))
        sweeper = Sweeper(store.database)
        taken.append(milliseconds(sweeper.sweep))
        ready = sweeper.sweep().ready
        if ready != HELD:
            fail(f"{ready} nodes are ready after the recovery of {HELD}")
    seconds = median(taken) / 1e3
    print(
        f"recovery of {HELD:,} nodes of a dead engine: {seconds:.3f} s"
        f" (rounds: {listed([one / 1e3 for one in taken], 3)};"
        f" wanted: less than 2: {'met' if seconds < 2 else 'NOT MET'});"
        f" UPDATE of {Raw.ROWS:,} rows {median(updates):.1f} ms,"
        f" ratio {median(t / u for t, u in zip(taken, updates, strict=True)):.1f}"
    )
    connection.close()
    empty(store)


# -- the cost of leases


class Endless(Engine):
    """An engine that never renews, nor sweeps."""

    LEASE = ENDLESS

    def __init__(self, store: Store, types: Any, *, workers: int) -> None:
        super().__init__(store, types, workers=workers, lease=self.LEASE)


class Usual(Endless):
    """With the usual lease."""

    LEASE = LEASE


class Shortest(Endless):
    """With the shortest lease."""

    LEASE = MIN_LEASE


def measure_leases(bench: Bench, nodes: int, rounds: int) -> None:
    """Engines with leases of different lengths in turn."""
    kinds: list[type[Endless]] = [Endless, Usual, Shortest]
    template = make_template(layered(nodes, max(1, nodes // LAYERS)))
    rates: dict[type[Endless], list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        # each goes first in turn
        for kind in kinds[number % 3 :] + kinds[: number % 3]:
            bench.engine_class = kind
            rates[kind].append(bench.create(template).rate)
    for kind in kinds:
        each = f"median of {rounds} rounds: {listed(rates[kind], 0)}"
        print(f"nodes/s with a lease of {kind.LEASE:g} s: {median(rates[kind]):,.0f} ({each})")
    for kind in (Usual, Shortest):
        ratios = [some / all_ for some, all_ in zip(rates[kind], rates[Endless], strict=True)]
        verdict(f"ratio nodes/s, lease of {kind.LEASE:g} s / endless", ratios, least=0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="fewer nodes and rounds")
    parser.add_argument("--nodes", type=int, help="nodes of the graph for the cost of leases")
    parser.add_argument("--rounds", type=int, help="how often that is measured")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    parser.add_argument("--mariadb", default=os.environ.get(MARIADB_VARIABLE) or MARIADB)
    arguments = parser.parse_args()
    nodes = arguments.nodes or (1_000 if arguments.smaller else 10_000)
    rounds = arguments.rounds or (2 if arguments.smaller else 6)
    counts = [1_000, 10_000] if arguments.smaller else [10_000, 100_000]
    if nodes < LAYERS or rounds < 1:
        parser.error(f"at least {LAYERS} nodes, and 1 round")
    # ends the blocks below, so that the databases are dropped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    began = time.monotonic()
    with own_database(read_url(arguments.url)) as url:
        print(surroundings(url))
        raw = Raw(url, 0.3)
        bench = Bench(url, workers=8)
        try:
            measure_sweeps(bench.store, arguments.mariadb, counts, 10 if arguments.smaller else 30)
            measure_recovery(bench.store, url, 3 if arguments.smaller else 7)
            bench.warm_up(make_template(layered(nodes // 10, max(1, nodes // 10 // LAYERS))))
            measure_leases(bench, nodes, rounds)
        finally:
            bench.close()
            raw.close()
    print(f"{time.monotonic() - began:.0f} s; {load()}")


if __name__ == "__main__":
    main()
