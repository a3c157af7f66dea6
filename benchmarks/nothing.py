"""How soon an ``up`` with nothing to do says so: python -m benchmarks nothing [--smaller]

A file of 20 resources, and one of 1,000, each with references, is deployed, and then ``converge up
FILE`` is typed again, as often as ``--rounds`` says: each time a process of its own, from its start
to its end. Before that the rows are checked to be as the template says, so there is no traversal.
The database is SQLite, unless ``--db`` names another one, which must be empty.

Python has compiled converge before, as pip does when it installs a package. With ``--uncompiled``
each process compiles what it imports, as where ``PYTHONDONTWRITEBYTECODE`` is set and converge is a
source tree.

The target is 0.7 s. The limit beside it is a Python that starts and does nothing. The processor
time is that of the process: on a machine that others use, the only figure to go by.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import converge
from benchmarks.measuring import listed, load, verdict
from converge.resources import load_types

ROOT = Path(__file__).resolve().parents[1]
#: Seconds.
TARGET = 0.7
#: What decides whether Python keeps what it compiles.
_COMPILING = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
SAID = "nothing to do, all is as the template says"


def make_body(count: int) -> dict[str, Any]:
    """A template: each resource refers to the one five before it."""
    resources: dict[str, Any] = {}
    for number in range(count):
        before = {"get_attr": [f"r{number - 5}", "value"]} if number >= 5 else "first"
        resources[f"r{number}"] = {"type": "value", "properties": {"value": [number, before]}}
    return {"resources": resources}


def deploy(url: str, path: Path) -> None:
    """Bring the stack about."""
    with converge.connect(url, create_schema=True) as store:
        stack = store.converge_stack(
            path.stem, converge.Template.load(path), source=str(path.resolve())
        )
        with converge.Engine(store, load_types()):
            status = stack.wait(timeout=600)
        assert status == "COMPLETE", stack.reason


def measure(
    command: Sequence[str], folder: Path, *, compiled: bool = True
) -> tuple[float, float, str]:
    """Run it: seconds, seconds of processor time, and what it printed.

    :param compiled: what was compiled is kept for the next run.
    """
    # what was compiled is put into the folder, as the source tree may be another user's
    name, value = _COMPILING[compiled], str(folder / "compiled") if compiled else "1"
    others = {key: one for key, one in os.environ.items() if key not in _COMPILING}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **others,
            "PYTHONPATH": str(ROOT),
            name: value,
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    took = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, spent, done.stdout


def main() -> None:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks nothing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--db", metavar="URL", help="another database than SQLite; empty")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--uncompiled", action="store_true", help="each compiles what it imports")
    parser.add_argument("--smaller", action="store_true", help="only to see whether it runs")
    arguments = parser.parse_args()
    rounds = 2 if arguments.smaller else arguments.rounds
    print(f"load before: {load()}; {rounds} rounds")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        url = arguments.db or f"sqlite:///{folder / 'converge.db'}"
        bare = [measure([sys.executable, "-c", ""], folder) for _ in range(rounds)]
        print(f"a Python that does nothing: {median(one[0] for one in bare):.2f} s")
        for count in (20,) if arguments.smaller else (20, 1000):
            path = folder / f"n{count}.yaml"
            # JSON is YAML, too
            path.write_text(json.dumps(make_body(count), indent=1), encoding="utf-8")
            deploy(url, path)
            command = [sys.executable, "-m", "converge", "--db", url, "up", str(path)]
            if not arguments.uncompiled:
                # the first one compiles
                measure(command, folder)
            found = [
                measure(command, folder, compiled=not arguments.uncompiled) for _ in range(rounds)
            ]
            assert all(SAID in printed for *_, printed in found), found
            spent = [one[1] for one in found]
            print(f"{count} resources: processor time {median(spent):.2f} s ({listed(spent)})")
            verdict(f"{count} resources: seconds", [one[0] for one in found], most=TARGET)


if __name__ == "__main__":
    main()
