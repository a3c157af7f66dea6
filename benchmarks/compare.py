"""What a change did to the speed: python -m benchmarks compare COMMIT [--smaller]

Measures this checkout, with whatever is not committed, against a commit. Its files are taken
from git into a temporary folder, and both are measured by the benchmarks of this checkout, on a
PostgreSQL server as ``engine.py`` needs it, each in a process and a database of its own. They
take turns, one run each: whatever else the machine does, both suffer from it. Ratios are of one
round each; the median of the rounds counts, and how far they are apart says what it is worth.

In each round, of no-op resources: create of a layered graph, update without a change, delete.

The status is 0 whatever the figures are; 2 if there is no such commit or server, or if the
commit is too old for these benchmarks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(ROOT))

WHAT = ("create", "update", "delete")
#: Of the graph.
LAYERS = 20


def fail(message: str) -> NoReturn:
    """End with status 2: nothing can be measured."""
    print(f"benchmarks/compare.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def git(*arguments: str) -> bytes:
    """What git says; it ends this program if that is an error."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if done.returncode:
        fail(f"git {' '.join(arguments)}: {done.stderr.decode().strip() or 'not found'}")
    return done.stdout


@contextmanager
def checkout(name: str) -> Iterator[Path]:
    """The files of a commit in a temporary folder, with the benchmarks of this checkout."""
    with tempfile.TemporaryDirectory(prefix="converge-compare-") as text:
        folder = Path(text)
        archive = git("archive", "--format=tar", name)
        subprocess.run(["tar", "-x", "-C", text], input=archive, check=True)
        shutil.rmtree(folder / "benchmarks", ignore_errors=True)
        shutil.copytree(ROOT / "benchmarks", folder / "benchmarks")
        yield folder


class Side:
    """The process that measures one of the two, a run each time it is told to."""

    def __init__(self, name: str, folder: Path, options: list[str]) -> None:
        self.name = name
        command = [sys.executable, str(folder / "benchmarks" / "compare.py"), "--measure"]
        self._process = subprocess.Popen(
            [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.rates: dict[str, list[float]] = {what: [] for what in WHAT}
        self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            fail(f"{self.name} cannot be measured: its process has ended")
        found: dict[str, float] = json.loads(line)
        return found

    def run(self) -> None:
        """Measure once."""
        assert self._process.stdin is not None
        # of a process that has ended, the answer says so
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        for what, rate in self._answer().items():
            self.rates[what].append(rate)

    def close(self) -> None:
        """End it; it drops its database."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def serve(url_text: str, nodes: int, workers: int) -> None:
    """Be a side: measure once for each line of input, and print the rates."""
    # not before: it is the converge of this folder that is measured
    import converge
    from benchmarks.graphs import layered
    from benchmarks.measuring import own_database, read_url
    from benchmarks.runs import Bench, make_template

    if Path(converge.__file__).parents[1] != ROOT:
        fail(f"{converge.__file__} would be measured, not {ROOT}")
    # the parent closes the input
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    template = make_template(layered(nodes, max(1, nodes // LAYERS)))
    few = max(LAYERS, nodes // 10)
    with own_database(read_url(url_text)) as url:
        bench = Bench(url, workers)
        try:
            bench.warm_up(make_template(layered(few, few // LAYERS)))
            print("{}", flush=True)
            for _ in sys.stdin:
                with bench.engine():
                    runs = {
                        "create": bench.measure_create(template),
                        "update": bench.measure_update(template),
                        "delete": bench.measure_delete(nodes),
                    }
                print(json.dumps({what: run.rate for what, run in runs.items()}), flush=True)
        finally:
            bench.close()


def compare(commit: str, rounds: int, options: list[str]) -> None:
    """Let both take turns, and print what came out."""
    name = git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode().strip()
    shown = git("log", "-1", "--format=%h %s", name).decode().strip()
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"this checkout against {shown}; load average {load}", flush=True)
    began = time.monotonic()
    sides: list[Side] = []
    with checkout(name) as folder:
        try:
            sides.append(Side("this checkout", ROOT, options))
            sides.append(Side(shown, folder, options))
            now, then = sides
            for number in range(rounds):
                # each goes first in turn
                for side in (now, then) if number % 2 else (then, now):
                    side.run()
                each = (
                    f"{what} {now.rates[what][-1]:,.0f} / {then.rates[what][-1]:,.0f}"
                    for what in WHAT
                )
                print(f"round {number + 1}: nodes/s {', '.join(each)}", flush=True)
        finally:
            for side in sides:
                side.close()
    for what in WHAT:
        pairs = zip(now.rates[what], then.rates[what], strict=True)
        ratios = sorted(one / other for one, other in pairs)
        print(
            f"{what}: {median(now.rates[what]):,.0f} nodes/s,"
            f" was {median(then.rates[what]):,.0f};"
            f" ratio {median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    print(f"{time.monotonic() - began:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", help="what to compare with, as git names it")
    parser.add_argument("--smaller", action="store_true", help="a tenth of the graph, 3 rounds")
    parser.add_argument("--nodes", type=int, help="nodes of the graph, at least 20")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--workers", type=int, default=8, help="the engines' workers")
    parser.add_argument("--url", help="the PostgreSQL server; see engine.py")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    nodes = arguments.nodes or (1_000 if arguments.smaller else 10_000)
    rounds = arguments.rounds or (3 if arguments.smaller else 9)
    if nodes < 20 or rounds < 1 or not 1 <= arguments.workers <= 1000:
        parser.error("at least 20 nodes, 1 round, and 1 to 1000 workers")
    # ends the blocks below, so that what was made is removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments.measure:
        from benchmarks.measuring import DEFAULT_URL, VARIABLE

        url = arguments.url or os.environ.get(VARIABLE) or DEFAULT_URL
        serve(url, nodes, arguments.workers)
        return
    if arguments.commit is None:
        parser.error("which commit?")
    options = ["--nodes", str(nodes), "--workers", str(arguments.workers)]
    options += ["--url", arguments.url] if arguments.url else []
    compare(arguments.commit, rounds, options)


if __name__ == "__main__":
    main()
