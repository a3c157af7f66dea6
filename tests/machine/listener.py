"""Runs listeners of ``examples/trigger.py`` in processes that can be killed.

It has one database, and for each line of JSON on its standard input, a list of files, it forks
as many listeners as there are files, each of which hears the events of its file; it answers with
their process ids, and with an empty line for each of them that has heard all of them. They go on
to look after what is left. No connection is open when it forks, and no thread runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from sqlalchemy import event

import converge
from examples.trigger import Trigger

ROOT = Path(__file__).resolve().parents[2]
#: Seconds between two looks after what is left.
SWEEP = 0.05
#: Seconds after which a thing is late; no test waits for that.
PATIENCE = 3600.0


class Listeners:
    """The process of this file, for one database.

    :param url: of a database with converge's schema and the example's tables.
    """

    def __init__(self, url: str) -> None:
        self._alive: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.machine.listener", url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, *files: Path) -> list[int]:
        """Start a listener for each file, and return their process ids."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(path) for path in files]) + "\n")
        self._process.stdin.flush()
        started = list(map(int, self._line().split()))
        self._alive += started
        return started

    def wait(self, count: int) -> None:
        """Wait until so many of them have heard all."""
        for _ in range(count):
            assert self._line() == "\n"

    def kill(self, *pids: int) -> None:
        """Kill listeners as nothing else can."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            self._alive.remove(pid)

    def close(self) -> None:
        """End all of them."""
        self.kill(*list(self._alive))
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def main(url: str) -> None:
    """Start listeners when asked to."""
    # the kernel buries the dead at once
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pids = []
        for path in json.loads(line):
            pid = os.fork()
            if pid == 0:
                try:
                    _listen(url, Path(path))
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(1)
            pids.append(pid)
        _tell(" ".join(map(str, pids)))


def _listen(url: str, path: Path) -> None:
    store = converge.connect(url)
    if store.database.dialect == "sqlite":
        # what a killed process has written is there, only a dead machine would lose it
        store.close()
        event.listen(store.database.engine, "connect", _hurry)
    trigger = Trigger(store, PATIENCE)
    trigger.machine.start(SWEEP)
    with path.open(encoding="utf-8") as lines:
        trigger.hear(lines)
    _tell("")
    threading.Event().wait()


def _hurry(connection: Any, record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def _tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
