"""Engines in processes of their own, on resources that do nothing.

This file is also the program of such a process: python -m benchmarks.fleet URL WORKERS [SECONDS]
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import URL

from benchmarks.costs import processor_seconds
from benchmarks.measuring import fail

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Used:
    """:ivar cpu: processor seconds of an engine's process since its start.
    :ivar workers: of them, those of the threads that call handlers.
    :ivar commits: transactions.
    :ivar memory: the most that it had, in MB.
    """

    cpu: float
    workers: float
    commits: int
    memory: float


class Fleet:
    """The engines that run."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def read(self) -> list[Used]:
        """What each has used so far."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return [Used(**json.loads(_answer(process))) for process in self._processes]


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        fail("an engine's process has ended")
    return line


@contextmanager
def running_fleet(
    url: URL, engines: int, workers: int, *, prune_after: float | None = None
) -> Iterator[Fleet]:
    """So many engines, each in a process, until the block ends.

    :param prune_after: they prune what ended so many seconds ago.
    """
    command = [sys.executable, "-m", "benchmarks.fleet", url.render_as_string(False), str(workers)]
    command += [] if prune_after is None else [str(prune_after)]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(engines)
    ]
    try:
        for process in processes:
            _answer(process)
        yield Fleet(processes)
    finally:
        for process in processes:
            process.communicate()


def _worker_seconds() -> float:
    """The processor seconds of this process's threads that call handlers."""
    ids = (thread.native_id for thread in threading.enumerate() if thread.name == "converge-worker")
    return sum(processor_seconds(f"self/task/{number}") or 0.0 for number in ids)


def main() -> None:
    """Be an engine until the input ends; tell what it has used for each of its lines."""
    import converge
    from benchmarks.runs import NoOp

    url, workers = sys.argv[1], int(sys.argv[2])
    prune_after = float(sys.argv[3]) if len(sys.argv) > 3 else None
    # as the command line does
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with (
        converge.connect(url) as store,
        converge.Engine(store, {"noop": NoOp()}, workers=workers, prune_after=prune_after),
    ):
        commits = 0

        def count(connection: object) -> None:
            nonlocal commits
            commits += 1

        event.listen(store.database.engine, "commit", count)
        print("ready", flush=True)
        for _ in sys.stdin:
            used = Used(
                cpu=time.process_time(),
                workers=_worker_seconds(),
                commits=commits,
                memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            )
            print(json.dumps(asdict(used)), flush=True)


if __name__ == "__main__":
    main()
