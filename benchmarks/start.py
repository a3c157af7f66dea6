"""How long a start takes, beside the copying of its rows: python -m benchmarks start [--smaller]

It needs a PostgreSQL server, and makes a database of its own there, as ``engine.py`` does; commits
must be durable.

A layered graph (50 layers, each node requires 2 or 3 of the layer before), 10,000 and 100,000
nodes; ``--nodes`` for another number. What is measured, in a process of its own for each round:

- making the template from a mapping, and ``create_stack``;
- how long the transaction of that took, for which the stack is locked;
- an update to the same template, of resources that are all INIT: it reads and plans them;
- the raw limit: one psycopg connection copies the same rows, as ready texts, into two tables like
  those of the resources and the sync points, and commits;
- the most memory that the process had until the commit, and until the update, less what it had when
  the mapping was there;
- the processor time of the process for the template and the start: on a machine that others use,
  the only one of these figures to go by.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy.engine import URL

import converge
from benchmarks.measuring import (
    DEFAULT_URL,
    VARIABLE,
    connect_raw,
    own_database,
    read_url,
    surroundings,
    verdict,
)

LAYERS = 50
_TABLES = ("converge_resource", "converge_sync_point")


def make_body(nodes: int) -> Mapping[str, Any]:
    """A template's mapping."""
    rng = random.Random(20)
    width = max(3, nodes // LAYERS)
    resources: dict[str, Any] = {}
    for number in range(nodes):
        body: dict[str, Any] = {"type": "fake", "properties": {"value": f"v{number}"}}
        first = (number // width - 1) * width
        if first >= 0:
            chosen = rng.sample(range(first, first + width), 2 + number % 2)
            body["depends_on"] = [f"n{i}" for i in sorted(chosen)]
        resources[f"n{number}"] = body
    return {"resources": resources}


def memory() -> float:
    """The most memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(url: URL, nodes: int) -> dict[str, float]:
    """One round, in a database without tables."""
    figures: dict[str, float] = {}
    body = make_body(nodes)
    before = memory()
    with converge.connect(url, create_schema=True) as store:
        transact = store.database.transact
        locked: list[float] = []

        def timed(*given: Any, **more: Any) -> Any:
            begin = time.perf_counter()
            try:
                return transact(*given, **more)
            finally:
                locked.append(time.perf_counter() - begin)

        store.database.transact = timed  # type: ignore[method-assign]
        computed = time.process_time()
        begin = time.perf_counter()
        template = converge.Template.from_dict(body)
        made = time.perf_counter()
        store.create_stack("bench", template)
        created = time.perf_counter()
        figures["computed"] = time.process_time() - computed
        figures["memory"] = memory() - before
        store.update_stack("bench", template)
        figures["update"] = time.perf_counter() - created
        figures["template"], figures["create"] = made - begin, created - made
        figures["locked"] = locked[0]
        figures["memory_updated"] = memory() - before
    figures["raw"] = copy_raw(url)
    return figures


def copy_raw(url: URL) -> float:
    """The seconds to copy the rows that there are into empty tables, in one transaction."""
    with connect_raw(url) as connection, connection.cursor() as cursor:
        rows = {}
        for table in _TABLES:
            cursor.execute(f"CREATE TABLE raw_{table} (LIKE {table} INCLUDING ALL)".encode())
            with cursor.copy(f"COPY {table} TO STDOUT".encode()) as copy:
                rows[table] = b"".join(bytes(part) for part in copy)
        connection.commit()
        begin = time.perf_counter()
        for table, texts in rows.items():
            with cursor.copy(f"COPY raw_{table} FROM STDIN".encode()) as copy:
                copy.write(texts)
        connection.commit()
        return time.perf_counter() - begin


def print_size(url: URL, nodes: int, rounds: int) -> None:
    """Measure some rounds, each in a process of its own, and print their medians."""
    taken = []
    for _ in range(rounds):
        with own_database(url) as own:
            command = [sys.executable, __file__, "--round", own.render_as_string(False)]
            done = subprocess.run(
                [*command, "--nodes", str(nodes)], check=True, stdout=subprocess.PIPE
            )
        taken.append(json.loads(done.stdout))
    middle = {name: median(one[name] for one in taken) for name in taken[0]}
    print(
        f"{nodes:,} nodes: template {middle['template']:.2f} s, create {middle['create']:.2f} s"
        f" (stack locked for {middle['locked']:.2f} s), update {middle['update']:.2f} s,"
        f" raw copy {middle['raw']:.2f} s; the client computed for {middle['computed']:.2f} s"
        f" until the commit, and had {middle['memory']:.0f} MB, with the update"
        f" {middle['memory_updated']:.0f} MB"
    )
    verdict("  create by raw copy", [one["create"] / one["raw"] for one in taken])
    verdict("  locked by raw copy", [one["locked"] / one["raw"] for one in taken])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="a tenth of the nodes, 1 round")
    parser.add_argument("--nodes", type=int, help="nodes of the graph, at least 100")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    parser.add_argument("--round", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.round:
        print(json.dumps(measure(read_url(arguments.round), arguments.nodes)))
        return
    sizes = [1_000, 10_000] if arguments.smaller else [10_000, 100_000]
    rounds = arguments.rounds or (1 if arguments.smaller else 3)
    if arguments.nodes:
        sizes = [arguments.nodes]
    if sizes[0] < 100 or rounds < 1:
        parser.error("at least 100 nodes, and 1 round")
    url = read_url(arguments.url)
    print(surroundings(url, "fsync", "synchronous_commit"))
    for nodes in sizes:
        print_size(url, nodes, rounds)


if __name__ == "__main__":
    main()
