"""Engines in processes of their own, for benchmarks of several.

As a program, it is one of them: python -m benchmarks.engine_process URL BUS WORKERS POLL QUEUE. It
prints ``ready`` when it has settled, then the moment of each handler's start, in seconds of the
machine's monotonic clock, until its stdin ends; and then the processor time that it took since it
was ready.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import converge
from benchmarks.measuring import fail
from converge.bus.threads import choose_threads
from converge.model import DEFAULT_QUEUE

ROOT = Path(__file__).resolve().parents[1]
#: Seconds that a process has to start or to stop.
LIMIT = 60.0


class Telling(converge.ResourceType):
    """Does nothing for ``seconds``, and tells when it starts, if its property ``tell`` is true."""

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        """Take as long as the property says."""
        if properties.get("tell"):
            print(time.monotonic(), flush=True)
        if properties.get("seconds"):
            time.sleep(properties["seconds"])
        return "x"

    def update(
        self, context: converge.Context, physical_id: str, properties: object, previous: object
    ) -> None:
        """Nothing."""

    def delete(self, context: converge.Context, physical_id: str) -> None:
        """Nothing."""


class EngineProcess:
    """An engine in a process of its own, which has settled.

    :ivar cpu: seconds of processor time that it took until its end.
    """

    def __init__(
        self,
        url: str,
        bus: str,
        *,
        workers: int = 8,
        poll: float = 0.5,
        queue: str = DEFAULT_QUEUE,
    ) -> None:
        self.cpu = 0.0
        words = [url, bus, str(workers), str(poll), queue]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engine_process", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> EngineProcess:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            fail("an engine does not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self.cpu = float(self._process.stdout.read().split()[-1])
        self._process.wait(LIMIT)

    def fileno(self) -> int:
        """What becomes readable when a handler has told its start."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def read_start(self) -> float:
        """When a handler started: wait for the next."""
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())


@contextmanager
def fleet(
    url: str, bus: str, count: int, workers: int = 8, queues: Sequence[str] = (DEFAULT_QUEUE,)
) -> Iterator[list[EngineProcess]]:
    """So many engines for each queue, at the start of which nothing is measured."""
    processes = [
        EngineProcess(url, bus, workers=workers, queue=queue)
        for queue in queues
        for _ in range(count)
    ]
    entered: list[EngineProcess] = []
    try:
        for process in processes:
            entered.append(process.__enter__())
        yield processes
    finally:
        for process in processes:
            process.__exit__(None, None, None)


def main() -> int:
    url, bus, workers, poll, name = sys.argv[1:]
    choose_threads()
    with (
        converge.connect(url, bus=bus) as store,
        converge.Engine(
            store, {"noop": Telling()}, workers=int(workers), poll=float(poll), queues=[name]
        ) as engine,
    ):
        if not engine.wait_idle(LIMIT):
            fail("the engine did not settle")
        end = time.monotonic() + LIMIT
        while bus != "memory://" and not store.bus.is_connected:
            if time.monotonic() > end:
                fail(f"{bus} does not work")
            time.sleep(0.01)
        print("ready", flush=True)
        begun = time.process_time()
        sys.stdin.read()
        print(time.process_time() - begun, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
