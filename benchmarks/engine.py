"""How fast the engine is, beside the database's own limit: python -m benchmarks engine [--smaller]

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
- **Limits.** In turns with the engine, of the same graph: a loop over hand-written SQL that has
  nothing of safety (``handwritten.py``), in groups as large as the engine's; and the engine's own
  statements that write rows, sent again without any other work (``replay.py``). The engine does a
  create, an update that changes nothing, one that changes a node in 100, and a delete. Beside the
  ratios, what a node costs in processor time, row versions and WAL, which is steadier than time.

Everything is done once before, unmeasured, so that nothing is compiled for the first time
later. Before each run converge's tables are emptied. Ratios are of one round each; the median
of the rounds counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, median
from unittest import mock

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy.engine import URL

from benchmarks import tables
from benchmarks.graphs import fan_in, layered, unconnected
from benchmarks.limits import Limits
from benchmarks.measuring import (
    DEFAULT_URL,
    VARIABLE,
    listed,
    load,
    own_database,
    read_url,
    surroundings,
    verdict,
)
from benchmarks.raw import Raw
from benchmarks.runs import Bench, Run, make_template

LAYERS = 20
PARTS = ("layered", "star", "limits")
#: Runs of the smaller graph in each round.
REPEATS = 3


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
    large = make_template(layered(nodes, nodes // LAYERS))
    small = make_template(layered(few, max(1, few // LAYERS)))
    width = max(1, few // 10)
    deep, short = make_template(layered(nodes, width)), make_template(layered(few, width))
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
        cost = median(run.microseconds for run in little)
        cost_wide = median(run.microseconds for run in little_wide)
        costs.append(created.microseconds / cost)
        same_width.append(deep_run.microseconds / cost_wide)
        print(
            f"round {number}: raw {before:,.0f}/s before, {after:,.0f}/s after;"
            f" {nodes:,} nodes {created.seconds:.2f} s = {created.rate:,.0f} nodes/s,"
            f" ratio {ratios[-1]:.2f}, this process on {created.cpu / created.seconds:.2f} CPUs;"
            f" µs a node: {created.microseconds:.0f}, of {few:,} {cost:.0f};"
            f" in layers of {width} {deep_run.microseconds:.0f}, of {few:,} {cost_wide:.0f}"
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
    templates = {
        "star": make_template(fan_in(leaves)),
        "lone": make_template(unconnected(leaves + 1)),
    }
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


def measure_limits(bench: Bench, url: URL, nodes: int, rounds: int) -> list[str]:
    """The engine beside a hand-written loop, and beside its row writes alone.

    :returns: a table of it.
    """
    limits = Limits(bench, url, layered(nodes, nodes // LAYERS))
    try:
        return limits.measure(rounds)
    finally:
        limits.close()


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
        bench.create(make_template(layered(nodes, nodes // LAYERS)))
    pstats.Stats(profile).sort_stats("cumulative").print_stats(50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="a tenth of the graph, 2 rounds")
    parser.add_argument("--nodes", type=int, help="nodes of the larger graph, at least 400")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--workers", type=int, default=8, help="the engine's workers")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    parser.add_argument("--only", choices=PARTS, help="one part of it; without this, all")
    parser.add_argument(
        "--write", action="store_true", help="keep the table of the limits in doc/measured"
    )
    parser.add_argument("--profile", action="store_true", help="profile one more run")
    arguments = parser.parse_args()
    nodes = arguments.nodes or (1_000 if arguments.smaller else 10_000)
    rounds = arguments.rounds or (2 if arguments.smaller else 3)
    least = LAYERS if arguments.only == "limits" else 400
    if nodes < least or rounds < 1 or not 1 <= arguments.workers <= 1000:
        parser.error(f"at least {least} nodes, 1 round, and 1 to 1000 workers")
    # ends the blocks below, so that the database is dropped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    began = time.monotonic()
    with own_database(read_url(arguments.url)) as url:
        settings = ("fsync", "synchronous_commit", "wal_sync_method", "full_page_writes")
        where = surroundings(url, *settings)
        print(where)
        raw = Raw(url, 0.3 if arguments.smaller else 1.0)
        print(
            f"one engine, {arguments.workers} workers; {nodes:,} nodes in {LAYERS} layers,"
            " 2 or 3 predecessors each"
        )
        if nodes < 10_000:
            print("the targets are meant for 10,000 nodes")
        bench = Bench(url, arguments.workers)
        try:
            bench.warm_up(
                make_template(layered(max(LAYERS, nodes // 10), max(1, nodes // 10 // LAYERS)))
            )
            raw.rate()
            parts = (arguments.only,) if arguments.only else PARTS
            if "layered" in parts:
                measure_layered(bench, raw, nodes, rounds)
            if "star" in parts:
                measure_star(bench, nodes // 10, rounds)
            if "limits" in parts:
                table = measure_limits(bench, url, nodes, rounds)
                if arguments.write:
                    when = date.today().isoformat()
                    tables.keep("limits.inc", [f"{when}; {where}.", "", *table])
            if arguments.profile:
                print_profile(bench, nodes)
        finally:
            bench.close()
            raw.close()
        print(f"{time.monotonic() - began:.0f} s; {load()}")


if __name__ == "__main__":
    main()
