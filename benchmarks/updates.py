"""Whether an hour of updates leaves anything: python -m benchmarks updates [--minutes 60]

1,000 stacks of ten resources are updated once a minute, one after the other, each with all its
resources changed, by engines in processes of their own, which prune what ended two minutes ago,
except the newest traversals of each stack. On PostgreSQL as ``engine.py`` needs it, or on the
server of ``--url``.

Each minute it prints how many rows each table has, what a node cost the engines in processor time,
and how many stacks were still at their last update when their next one came. The newest traversals
of each stack are kept, and the others are pruned little by little, so tables grow for half an hour.
The target is that from the third quarter to the last one no table grows, and a node costs no more.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

import converge
from benchmarks.databases import any_database, count_stacks, describe
from benchmarks.fleet import running_fleet
from benchmarks.measuring import DEFAULT_URL, VARIABLE, fail, load, verdict
from converge import Store, Template
from converge.sql.schema import metadata
from converge.sql.transaction import Transaction

NODES = 10
WORKERS = 8
#: Minutes after which an engine prunes what has ended.
KEPT = 2
LEAST = 20
#: What is there between updates, too.
LASTING = ("event", "resource", "stack", "template", "traversal")
LIMIT = 120.0


def make(version: int) -> Template:
    """A chain of which each resource is another in each version."""
    body = {"type": "noop", "properties": {"version": version}}
    return Template.from_dict(
        {
            "resources": {
                f"n{number}": body | ({"depends_on": f"n{number - 1}"} if number else {})
                for number in range(NODES)
            }
        }
    )


def count_rows(store: Store) -> dict[str, int]:
    """How many rows each table has that has any."""
    queries = {
        table.name.removeprefix("converge_"): select(func.count()).select_from(table)
        for table in metadata.sorted_tables
    }

    def read(tx: Transaction) -> dict[str, int]:
        return {name: int(tx.execute(query).scalar_one()) for name, query in queries.items()}

    return {name: count for name, count in store.database.read(read).items() if count}


def update_all(store: Store, stacks: int, version: int, seconds: float) -> int:
    """Update each stack once, evenly over so many seconds.

    :returns: how many were still at their last update.
    """
    template = make(version)
    begun = time.monotonic()
    late = 0
    for number in range(stacks):
        wait = begun + number * seconds / stacks - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        stack = store.stack(f"s{number}")
        late += stack.status == "IN_PROGRESS"
        store.update_stack(stack.name, template)
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    return late


def create_all(store: Store, stacks: int) -> None:
    """Create the stacks, and wait until they are there."""
    template = make(0)
    for number in range(stacks):
        store.create_stack(f"s{number}", template)
    end = time.monotonic() + LIMIT
    while count_stacks(store, "IN_PROGRESS"):
        if time.monotonic() > end:
            fail(f"the stacks were not created within {LIMIT:g} s")
        time.sleep(0.1)


def compare(what: str, figures: Sequence[float], quarter: int, *, most: float) -> None:
    """Print how the last quarter of an hour compares with the one before."""
    last, before = figures[-quarter:], figures[-2 * quarter : -quarter]
    verdict(f"{what}: last quarter / third quarter", [median(last) / median(before)], most=most)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks updates", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--smaller", action="store_true", help="20 stacks, 5 times, and no verdict")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--stacks", type=int, default=1000, help="that are updated in a minute")
    parser.add_argument("--engines", type=int, default=1, help="how many processes")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    arguments = parser.parse_args()
    stacks, rounds, minute = arguments.stacks, arguments.minutes, 60.0
    if arguments.smaller:
        stacks, rounds, minute = 20, 5, 2.0
    elif rounds < LEAST:
        parser.error(f"--minutes must be {LEAST} at least: until then tables grow")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with any_database(arguments.url) as url, converge.connect(url, create_schema=True) as store:
            print(f"{describe(store)}; {stacks} stacks of {NODES}; {load()}", flush=True)
            kept = KEPT * minute
            with running_fleet(url, arguments.engines, WORKERS, prune_after=kept) as fleet:
                create_all(store, stacks)
                costs, counts, late = [], [], 0
                for number in range(1, rounds + 1):
                    before = sum(one.cpu for one in fleet.read())
                    passed = update_all(store, stacks, number, minute)
                    late += passed
                    used = fleet.read()
                    cost = (sum(one.cpu for one in used) - before) / (stacks * NODES) * 1e6
                    costs.append(cost)
                    counts.append(count_rows(store))
                    rows = ", ".join(f"{name} {count:,}" for name, count in counts[-1].items())
                    memory = max(one.memory for one in used)
                    print(
                        f"minute {number}: {cost:.0f} µs of processor a node, {memory:.0f} MB, "
                        f"{passed} late; rows: {rows}",
                        flush=True,
                    )
    except SQLAlchemyError as error:
        fail(str(error).splitlines()[0])
    if not arguments.smaller:
        quarter = rounds // 4
        for name in LASTING:
            found = [one[name] for one in counts]
            compare(f"rows of {name}", found, quarter, most=1.1)
        compare("processor time of a node", costs, quarter, most=1.25)
    print(f"{late} updates came while the one before was under way")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
