"""What more engines bring, measured and predicted: python -m benchmarks scaling [--smaller]

It needs a PostgreSQL server on this machine, with durable commits, and makes a database of its own
there, as ``engine.py`` does.

First the costs are measured that ``simulator.py`` needs: the processor time of an engine and of its
server, for a transaction and for a node, from two runs of one engine, one of which has few nodes in
a transaction; and how long a commit takes. Then 1, 2 and 4 engines, each in a process, do the same
layered graph, and what they reach is compared with what the simulator says: wanted is within 25 %.
If the machine has something else to do, what it leaves of a core is taken into account, roughly.
Last, what the simulator says of larger machines, and of more of them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy.engine import URL

import converge
from benchmarks import graphs, tables
from benchmarks.costs import core_share, read_backends
from benchmarks.databases import count_stacks, empty
from benchmarks.fleet import running_fleet
from benchmarks.graphs import Requires
from benchmarks.measuring import (
    DEFAULT_URL,
    VARIABLE,
    connect_raw,
    fail,
    own_database,
    read_url,
    surroundings,
)
from benchmarks.raw import Raw
from benchmarks.runs import make_template
from benchmarks.simulator import Costs, Setting, predict
from benchmarks.tables import list_table
from converge.store import Store

ENGINES = (1, 2, 4)
WORKERS = 8
#: Seconds after which a run is given up.
LIMIT = 600.0
#: How far a prediction may be from what is measured.
WITHIN = 0.25


@dataclass(frozen=True, slots=True)
class Measured:
    """What engines took together for a graph.

    :ivar cpu: processor seconds, without those of ``workers``.
    :ivar workers: those of the threads that call handlers.
    :ivar server: those of the database's backends.
    """

    nodes: int
    seconds: float
    cpu: float
    workers: float
    server: float
    commits: int

    @property
    def rate(self) -> float:
        """Nodes per second."""
        return self.nodes / self.seconds


def measure(url: URL, store: Store, requires: Requires, engines: int) -> Measured:
    """Let engines do one graph."""
    template = make_template(requires)
    # so much that every engine gets some of it, and learns how quick handlers are
    some = max(20, len(requires) // 20) * engines
    warm = make_template(graphs.layered(some, some // 2))
    empty(store)
    with running_fleet(url, engines, WORKERS) as fleet, connect_raw(url) as connection:
        connection.autocommit = True
        store.create_stack("warm", warm)
        _await_all(store)
        before, server = fleet.read(), read_backends(connection)
        store.create_stack("bench", template)
        begin = time.perf_counter()
        _await_all(store)
        seconds = time.perf_counter() - begin
        after = read_backends(connection)
        used = fleet.read()
    if not after:
        fail("the server must run on this machine: its processes are looked at")
    workers = sum(one.workers for one in used) - sum(one.workers for one in before)
    return Measured(
        nodes=len(requires),
        seconds=seconds,
        cpu=sum(one.cpu for one in used) - sum(one.cpu for one in before) - workers,
        workers=workers,
        server=sum(taken - server.get(pid, 0.0) for pid, taken in after.items()),
        commits=sum(one.commits for one in used) - sum(one.commits for one in before),
    )


def _await_all(store: Store) -> None:
    begin = time.perf_counter()
    while count_stacks(store, "IN_PROGRESS"):
        if time.perf_counter() - begin > LIMIT:
            fail(f"the engines were not done after {LIMIT:g} s")
        time.sleep(0.01)
    if count_stacks(store, "FAILED"):
        fail("a stack failed")


def calibrate(wide: Measured, narrow: Measured, commit: float) -> Costs:
    """The costs of a transaction and of a node, from a run with many nodes in a transaction and
    one with few.

    :param commit: seconds that a commit takes.
    """

    def split(one: float, other: float) -> tuple[float, float]:
        """Of a transaction and of a node: two equations."""
        scale = wide.commits * narrow.nodes - narrow.commits * wide.nodes
        each = (one * narrow.nodes - other * wide.nodes) / scale
        each = min(max(each, 0.0), other / narrow.commits)
        return each, max(0.0, (one - each * wide.commits) / wide.nodes)

    turn, turn_node = split(wide.cpu, narrow.cpu)
    server, server_node = split(wide.server, narrow.server)
    return Costs(
        turn=turn,
        turn_node=turn_node,
        worker_node=wide.workers / wide.nodes,
        server=server,
        server_node=server_node,
        commit=commit,
    )


def slowed(costs: Costs, share: float) -> Costs:
    """The costs on a machine whose cores others use, too.

    :param share: of a core that is left.
    """
    return replace(
        costs,
        turn=costs.turn / share,
        turn_node=costs.turn_node / share,
        worker_node=costs.worker_node / share,
        server=costs.server / share,
        server_node=costs.server_node / share,
    )


def tell_costs(costs: Costs) -> str:
    """Costs in words."""
    return (
        f"An engine's processor: {costs.turn * 1e3:.2f} ms a transaction,"
        f" {costs.turn_node * 1e6:.0f} µs a node, {costs.worker_node * 1e6:.0f} µs a handler;"
        f" the server's: {costs.server * 1e3:.2f} ms a transaction,"
        f" {costs.server_node * 1e6:.0f} µs a node; a commit {costs.commit * 1e3:.2f} ms"
    )


def check(measured: dict[int, list[float]], costs: Costs, requires: Requires) -> list[list[str]]:
    """Compare what was measured with what the simulator says, and print it."""
    rows = []
    for engines, rates in measured.items():
        rate = median(rates)
        cores = os.cpu_count() or 1
        predicted = predict([requires], costs, Setting(engines=engines, cores=cores))
        ratio = predicted / rate
        met = "met" if abs(ratio - 1) <= WITHIN else "NOT MET"
        print(
            f"{engines} engine(s): {rate:,.0f} nodes/s measured"
            f" (rounds: {', '.join(f'{one:,.0f}' for one in rates)}), {predicted:,.0f} predicted:"
            f" ratio {ratio:.2f} (wanted: 0.75 to 1.25: {met})"
        )
        rows.append([str(engines), f"{rate:,.0f}", f"{predicted:,.0f}", f"{ratio:.2f}"])
    return rows


#: Cores of the database's server, and fleets of machines with four cores and four engines each.
DATABASE_CORES, FLEETS = (2, 8, 32), (1, 2, 4, 8)


def look_ahead(costs: Costs, count: int) -> list[list[str]]:
    """What larger servers and more engines would reach, with so many stacks."""
    stacks = [graphs.layered(500, 100)] * count
    rows = []
    for cores in DATABASE_CORES:
        rates = [
            predict(
                stacks,
                costs,
                Setting(fleets=fleets, engines=4, cores=4, database_cores=cores, window=250),
            )
            for fleets in FLEETS
        ]
        print(
            f"a server of {cores} cores, fleets of 4 engines on 4 cores: "
            + ", ".join(f"{n}: {rate:,.0f}" for n, rate in zip(FLEETS, rates, strict=True))
            + " nodes/s"
        )
        rows.append([f"{cores}", *(f"{rate:,.0f}" for rate in rates)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="a tiny graph, 1 round")
    parser.add_argument("--rounds", type=int, help="how often it is measured")
    parser.add_argument("--write", action="store_true", help="keep the figures in doc/measured")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    arguments = parser.parse_args()
    # ends the blocks below, so that what was made is removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    nodes = 400 if arguments.smaller else 20_000
    rounds = arguments.rounds or (1 if arguments.smaller else 3)
    # more ready nodes than an engine holds: with fewer, one engine takes all
    wide = graphs.layered(nodes, nodes // 5)
    narrow = graphs.layered(nodes // 20, 10)
    several = ENGINES[:2] if arguments.smaller else ENGINES
    measured: dict[int, list[float]] = {engines: [] for engines in several}
    with own_database(read_url(arguments.url)) as url:
        where = surroundings(url)
        print(where, flush=True)
        raw = Raw(url, 0.3 if arguments.smaller else 1.0)
        with converge.connect(url, create_schema=True) as store:
            wides, narrows, commits, shares = [], [], [], []
            for _ in range(rounds):
                shares.append(core_share())
                commits.append(1 / raw.rate())
                narrows.append(measure(url, store, narrow, 1))
                for engines in several:
                    one = measure(url, store, wide, engines)
                    measured[engines].append(one.rate)
                    if engines == 1:
                        wides.append(one)
                shares.append(core_share())
        raw.close()
    fastest = [min(each, key=lambda one: one.seconds) for each in (wides, narrows)]
    costs = calibrate(fastest[0], fastest[1], median(commits))
    print(tell_costs(costs))
    share = median(shares)
    left = f"Others left {share:.0%} of a core to who computes."
    print(left)
    checked = check(measured, slowed(costs, share), wide)
    ahead = look_ahead(costs, 5 if arguments.smaller else 100)
    if arguments.write:
        title = f"{nodes:,} nodes in five layers, engines and server on this machine"
        head = ["engines", "nodes/s measured", "predicted", "ratio"]
        lines = [f"{date.today().isoformat()}; {where}.", "", f"{tell_costs(costs)}. {left}", ""]
        lines += list_table(title, head, checked)
        title = "Predicted nodes/s of 100 stacks, fleets of four engines on four cores"
        head = ["cores of the server", *(f"{fleets} fleet(s)" for fleets in FLEETS)]
        tables.keep("scaling.inc", lines + list_table(title, head, ahead))


if __name__ == "__main__":
    main()
