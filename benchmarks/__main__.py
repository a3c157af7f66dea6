"""All benchmarks, or one: python -m benchmarks [NAME] [OPTIONS]

Without a name, those of converge alone run one after the other, in the environment whose Python
runs this, and print what they measure: ratios to a limit that is measured in the same run, each
beside its target if it has one. ``graph`` needs nothing but Python, the others a PostgreSQL
server with durable commits, at ``--url`` if it is given.

``--smaller`` is for a quick look whether they still run: its figures are not meant for the
targets. Each of them says more about itself, and about its other options, in its docstring and
under ``python -m benchmarks NAME --help``.

The status is 0 whatever the figures are; 2 if there is no such PostgreSQL server.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys

#: Those that run if no other is named: name → what it measures.
USUAL = {
    "graph": "graphs beside graphlib: speed and memory",
    "start": "how long a start takes, beside the copying of its rows",
    "engine": "nodes/s, beside what the database can write",
    "recovery": "sweeps, leases, and the recovery of a dead engine's nodes",
    "journal": "what a recorded step costs",
    "machine": "what moves of machines cost",
}
OTHERS = {
    "peers": "converge beside others, in environments that it makes",
    "shapes": "the cost of a node in graphs of several shapes and sizes",
    "wakeups": "how soon engines hear of work, and what a bus costs; it needs a RabbitMQ, too",
    "notifications": "what agents take: batches, two that share, memory; it needs a RabbitMQ, too",
    "updates": "whether an hour of updates leaves anything",
    "waiting": "10,000 handlers that wait for five minutes: threads, statements, processor time",
    "fairness": "what a large stack costs a small one beside it",
    "nothing": "how soon an up with nothing to do says so; it needs no server",
    "scaling": "what more engines bring, measured and predicted",
    "compare": "what a change did to the speed: compare COMMIT",
}


def run(name: str, *options: str) -> int:
    """Run one benchmark, its lines shown as they come.

    :returns: its exit status.
    """
    print(f"== {name}", flush=True)
    # a process of its own, so that memory and threads of one are not the other's
    command = [sys.executable, "-u", "-m", "benchmarks", name, *options]
    return subprocess.run(command, check=False).returncode


def main() -> int:
    names = USUAL | OTHERS
    if len(sys.argv) > 1 and sys.argv[1] in names:
        name = sys.argv.pop(1)
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(__doc__ or "").splitlines()[0],
        epilog="names: " + "; ".join(f"{name}: {what}" for name, what in names.items()),
    )
    parser.add_argument("name", nargs="?", choices=names, help="the benchmark; without it, most")
    parser.add_argument("--smaller", action="store_true", help="smaller graphs, fewer rounds")
    parser.add_argument("--url", help="the PostgreSQL server; see engine.py")
    arguments = parser.parse_args()
    smaller = ["--smaller"] if arguments.smaller else []
    server = ["--url", arguments.url] if arguments.url else []
    statuses = [run(name, *smaller, *(server if name != "graph" else [])) for name in USUAL]
    return max(statuses, key=abs)


if __name__ == "__main__":
    raise SystemExit(main())
