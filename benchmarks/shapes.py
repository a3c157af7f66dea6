"""The cost of a node, whatever the shape and the size: python -m benchmarks shapes [--write]

Chains, stars into one and out of one, complete bipartite graphs, layered graphs, and many stacks of
ten nodes, each in several sizes; ``--full`` for the largest. On PostgreSQL as ``engine.py`` needs
it, or on the server of ``--url``: ``mysql+pymysql://…`` for MariaDB, ``sqlite://`` for a file.

``--engines`` engines, each in a process of its own, do resources that do nothing. For each size: a
create, an update that changes nothing, one that changes one resource of a hundred and ten at most,
one that changes a thousand at most, a delete. The time is taken from the commit of the start (of
many stacks, from before the first start, as one client starts them one after the other) until all
is complete. A node's work grows with its edges, so the cost is told for each node and edge: a flat
line is linear. ``--write`` keeps the figures in ``doc/measured``, and draws a plot.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy.exc import SQLAlchemyError

import converge
from benchmarks import graphs, plots, tables
from benchmarks.databases import any_database, count_stacks, describe, empty
from benchmarks.environments import FOLDER
from benchmarks.fleet import Fleet, running_fleet
from benchmarks.graphs import Requires
from benchmarks.measuring import DEFAULT_URL, VARIABLE, fail, load
from benchmarks.runs import make_template
from converge.store import Store
from converge.template import Template

#: Nodes of each of many stacks, stacks that are started in one transaction.
STACK_NODES, TOGETHER = 10, 100
#: Seconds after which a run is given up.
LIMIT = 1800.0

SHAPES: dict[str, Callable[[int], Requires]] = {
    "chain": graphs.chain,
    "star into one": lambda n: graphs.fan_in(n - 1),
    "star out of one": lambda n: graphs.fan_out(n - 1),
    "bipartite": lambda n: graphs.bipartite(n // 2),
    "layered": lambda n: graphs.layered(n, max(1, n // 20)),
    "many stacks": lambda n: graphs.chain(STACK_NODES),
}
SMALLER = dict.fromkeys(SHAPES, (40, 80))
USUAL = {
    "chain": (100, 300, 1_000),
    "star into one": (1_000, 10_000, 30_000),
    "star out of one": (1_000, 10_000, 30_000),
    "bipartite": (60, 200, 600),
    "layered": (1_000, 10_000, 30_000),
    "many stacks": (1_000, 10_000),
}
FULL = {
    "chain": (100, 1_000, 10_000),
    "star into one": (1_000, 10_000, 100_000),
    "star out of one": (1_000, 10_000, 100_000),
    "bipartite": (60, 200, 600),
    "layered": (1_000, 10_000, 100_000, 1_000_000),
    "many stacks": (1_000, 10_000, 100_000),
}
#: What is done, one after the other, and how many resources an update changes at most. They are
#: evenly spread over the graph, the first one among them, so most others require one of them.
ACTIONS = {"create": 0, "unchanged": 0, "ten": 10, "changed": 1_000, "delete": 0}


@dataclass(frozen=True, slots=True)
class Figure:
    """:ivar start: seconds of the start.
    :ivar seconds: from its commit until all was complete; of many stacks with their starts.
    :ivar cpu: processor seconds of all engines.
    :ivar memory: of the engine that had the most, in MB.
    """

    shape: str
    action: str
    nodes: int
    edges: int
    start: float
    seconds: float
    cpu: float
    memory: float

    @property
    def cost(self) -> float:
        """Microseconds for each node and edge."""
        return self.seconds / (self.nodes + self.edges) * 1e6


def _make(action: str, requires: Requires) -> Template:
    most = ACTIONS[action]
    return make_template(requires, max(100, -(-len(requires) // most)) if most else 0)


def _begin(store: Store, action: str, requires: Requires, stacks: int) -> None:
    template = _make(action, requires)
    names = [f"s{number}" for number in range(stacks)]
    for first in range(0, stacks, TOGETHER):
        with store.transaction() as tx:
            for name in names[first : first + TOGETHER]:
                if action == "create":
                    store.create_stack(name, template, transaction=tx)
                elif action == "delete":
                    store.delete_stack(name, transaction=tx)
                else:
                    store.update_stack(name, template, transaction=tx)


def _begin_one(store: Store, action: str, requires: Requires) -> None:
    if action == "create":
        store.create_stack("s0", _make(action, requires))
    elif action == "delete":
        store.delete_stack("s0")
    else:
        store.update_stack("s0", _make(action, requires))


def measure(store: Store, fleet: Fleet, shape: str, nodes: int) -> Iterator[Figure]:
    """All actions of one size, one after the other."""
    requires = SHAPES[shape](nodes)
    stacks = nodes // STACK_NODES if shape == "many stacks" else 1
    empty(store, engines=False)
    for action in ACTIONS:
        before = fleet.read()
        called = time.perf_counter()
        if shape == "many stacks":
            _begin(store, action, requires, stacks)
        else:
            _begin_one(store, action, requires)
        begun = time.perf_counter()
        while count_stacks(store, "IN_PROGRESS"):
            if time.perf_counter() - begun > LIMIT:
                fail(f"{shape}, {nodes:,} nodes: the {action} was not over after {LIMIT:g} s")
            time.sleep(0.02)
        end = time.perf_counter()
        if count_stacks(store, "COMPLETE") != stacks:
            fail(f"{shape}, {nodes:,} nodes: the {action} did not complete")
        used = fleet.read()
        yield Figure(
            shape,
            action,
            stacks * len(requires),
            stacks * sum(map(len, requires.values())),
            begun - called,
            end - (called if shape == "many stacks" else begun),
            sum(one.cpu for one in used) - sum(one.cpu for one in before),
            max(one.memory for one in used),
        )


def tell(figure: Figure) -> str:
    """A figure in words."""
    nodes = figure.nodes
    return (
        f"{figure.shape}, {nodes:,} nodes, {figure.edges:,} edges: {figure.action}"
        f" {figure.seconds:.2f} s = {nodes / figure.seconds:,.0f} nodes/s,"
        f" {figure.cost:.0f} µs a node and edge; µs of processor a node"
        f" {figure.cpu / nodes * 1e6:.0f}; start {figure.start:.2f} s; {figure.memory:.0f} MB"
    )


def write(found: dict[str, Any], environments: Path) -> None:
    """Keep the figures, and draw them."""
    kind = found["database"].split()[0]
    figures = [Figure(**one) for one in found["figures"]]
    head = ["", "nodes", "edges", *(f"{action}, nodes/s" for action in ACTIONS), "start, s", "MB"]
    rows = []
    for create in (one for one in figures if one.action == "create"):
        rates = [
            f"{one.nodes / one.seconds:,.0f}"
            for action in ACTIONS
            for one in figures
            if (one.shape, one.nodes, one.action) == (create.shape, create.nodes, action)
        ]
        size = [create.shape, f"{create.nodes:,}", f"{create.edges:,}"]
        rows.append([*size, *rates, f"{create.start:.2f}", f"{create.memory:.0f}"])
    lines = [f"{found['date']}; {found['where']}.", "", *tables.list_table("", head, rows)]
    tables.keep(f"shapes-{kind}.inc", lines)
    plots.draw(
        tables.DOC / "images" / f"shapes-{kind}.svg",
        environments,
        title=f"{found['database']}: create, µs for each node and edge",
        x="nodes and edges",
        y="µs",
        series={
            shape: [
                (one.nodes + one.edges, one.cost)
                for one in figures
                if (one.shape, one.action) == (shape, "create")
            ]
            for shape in dict.fromkeys(one.shape for one in figures)
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="tiny graphs")
    parser.add_argument("--full", action="store_true", help="up to a million nodes")
    parser.add_argument("--most", type=int, default=1_000_000, help="leave out larger graphs")
    parser.add_argument("--nodes", type=int, nargs="+", help="graphs of these sizes instead")
    parser.add_argument("--shapes", help=f"only these, with ; between them: {'; '.join(SHAPES)}")
    parser.add_argument("--engines", type=int, default=1, help="how many processes")
    parser.add_argument("--workers", type=int, default=8, help="of each engine")
    parser.add_argument("--environments", type=Path, default=FOLDER, help="where they are kept")
    parser.add_argument("--write", action="store_true", help="keep the figures in doc/measured")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    arguments = parser.parse_args()
    sizes = SMALLER if arguments.smaller else FULL if arguments.full else USUAL
    names = arguments.shapes.split(";") if arguments.shapes else list(SHAPES)
    if unknown := set(names) - set(SHAPES):
        parser.error(f"there is no {unknown.pop()!r}; there are: {'; '.join(SHAPES)}")
    if arguments.engines < 1 or not 1 <= arguments.workers <= 1000:
        parser.error("at least 1 engine, and 1 to 1000 workers")
    # ends the blocks below, so that what was made is removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures: list[Figure] = []
    try:
        with any_database(arguments.url) as url, converge.connect(url, create_schema=True) as store:
            database = describe(store)
            where = (
                f"{database}, Python {sys.version.split()[0]}, {arguments.engines} engine(s) of"
                f" {arguments.workers} workers; {os.cpu_count()} CPUs, {load()}"
            )
            print(where, flush=True)
            with running_fleet(url, arguments.engines, arguments.workers) as fleet:
                # compile everything
                for _ in measure(store, fleet, "layered", 200):
                    pass
                for shape in names:
                    chosen = arguments.nodes or sizes[shape]
                    for nodes in (size for size in chosen if size <= arguments.most):
                        for figure in measure(store, fleet, shape, nodes):
                            figures.append(figure)
                            print(tell(figure), flush=True)
    except SQLAlchemyError as error:
        fail(str(error).splitlines()[0])
    if arguments.write:
        found = {
            "date": date.today().isoformat(),
            "database": database,
            "where": where,
            "figures": [asdict(figure) for figure in figures],
        }
        write(found, arguments.environments.absolute())


if __name__ == "__main__":
    main()
