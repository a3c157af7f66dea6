"""Handlers that wait, many at once: python -m benchmarks waiting [--smaller]

It needs a PostgreSQL server, as ``engine.py`` does, and makes a database of its own there. An
engine of 4 workers creates 10,000 resources that do not depend on each other. Each is ready after
five minutes, and is looked at every minute until then (``converge.Wait``). What is measured, all
of the engine's process:

- how many threads there are at most;
- statements and processor time for each call of a handler, and how many statements are sent in the
  seconds in which nothing is due;
- how long after the five minutes the whole is COMPLETE.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import event

import converge
from benchmarks.measuring import DEFAULT_URL, load, own_database, read_url, surroundings

WORKERS = 4


class Slow(converge.ResourceType):
    """Ready after some time, and asked for its progress again and again.

    :ivar calls: how many there were.
    """

    def __init__(self, ready: float, every: float) -> None:
        self.ready = ready
        self.every = every
        self.calls = 0

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        """Wait until it is ready."""
        self.calls += 1
        if context.physical_id is None:
            context.record(context.token)
        left = self.ready - context.waited
        if left > 0.5:
            progress = f"BUILDING, {100 * context.waited / self.ready:.0f} %"
            raise converge.Wait(min(self.every, left), progress)
        return context.token

    def delete(self, context: converge.Context, physical_id: str) -> None:
        """Nothing was made."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks waiting", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--url", type=read_url, default=read_url(DEFAULT_URL))
    parser.add_argument("--smaller", action="store_true", help="500 resources, ready after 10 s")
    arguments = parser.parse_args()
    count, ready, every = (500, 10.0, 2.0) if arguments.smaller else (10_000, 300.0, 60.0)
    print(surroundings(arguments.url))
    with own_database(arguments.url) as url:
        measure(url.render_as_string(hide_password=False), count, ready, every)
    print(load())
    return 0


def measure(url: str, count: int, ready: float, every: float) -> None:
    """Create the resources, and print what that took."""
    store = converge.connect(url, create_schema=True, bus="memory://")
    statements = 0

    def note(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(store.database.engine, "before_cursor_execute", note)
    slow = Slow(ready, every)
    resources = {f"r{number}": {"type": "slow"} for number in range(count)}
    stack = store.create_stack("s", converge.Template.from_dict({"resources": resources}))
    statements, threads, quiet = 0, 0, []
    started, used = time.monotonic(), time.process_time()
    with converge.Engine(store, types={"slow": slow}, workers=WORKERS):
        while stack.refresh().status == "IN_PROGRESS":
            before, calls, at = statements, slow.calls, time.monotonic()
            time.sleep(1.0)
            threads = max(threads, threading.active_count())
            if calls == slow.calls:
                quiet.append((statements - before) / (time.monotonic() - at))
    seconds, used = time.monotonic() - started, time.process_time() - used
    print(
        f"{count} resources, ready after {ready:g} s, looked at every {every:g} s: {stack.status}"
    )
    print(f"  threads of the process: {threads}, with {WORKERS} workers")
    print(f"  calls of handlers: {slow.calls}, {slow.calls / count:.1f} for each resource")
    print(f"  statements for each call: {statements / slow.calls:.2f}")
    print(f"  processor time for each call: {1000 * used / slow.calls:.2f} ms")
    if quiet:
        idle = sum(quiet) / len(quiet)
        print(f"  statements in a second in which no handler is called: {idle:.1f}")
    print(f"  COMPLETE {seconds - ready:.1f} s after the last could be")
    store.close()


if __name__ == "__main__":
    raise SystemExit(main())
