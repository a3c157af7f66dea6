"""All benchmarks with one command: python3 benchmarks/run.py [--smaller] [--url URL]

Runs ``graph.py`` (nothing but Python), and ``start.py``, ``engine.py``, ``recovery.py``,
``journal.py`` and ``machine.py`` (PostgreSQL with durable commits) one after the other, in the
environment whose Python runs this, and prints what they measure: ratios to a limit that is
measured in the same run, each beside its target if it has one.
``--smaller`` is for a quick look whether they still run: its figures are not meant for the
targets. Each of them says more about itself, and about its other options, in its docstring and
under ``--help``. What a change did to the speed is told by ``compare.py``.

The status is 0 whatever the figures are; 2 if there is no such PostgreSQL server.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def run(name: str, *options: str) -> int:
    """Run one benchmark, its lines shown as they come.

    :returns: its exit status.
    """
    print(f"== {name}", flush=True)
    # a process of its own, so that memory and threads of one are not the other's
    command = [sys.executable, "-u", str(FOLDER / f"{name}.py"), *options]
    return subprocess.run(command, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="smaller graphs, fewer rounds")
    parser.add_argument("--url", help="the PostgreSQL server; see engine.py")
    arguments = parser.parse_args()
    smaller = ["--smaller"] if arguments.smaller else []
    server = ["--url", arguments.url] if arguments.url else []
    statuses = [
        run("graph", *smaller),
        run("start", *smaller, *server),
        run("engine", *smaller, *server),
        run("recovery", *smaller, *server),
        run("journal", *smaller, *server),
        run("machine", *smaller, *server),
    ]
    return max(statuses, key=abs)


if __name__ == "__main__":
    raise SystemExit(main())
