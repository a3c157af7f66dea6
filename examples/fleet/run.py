#!/usr/bin/env python3
"""A fleet on one machine, with nothing needed but Python 3.11 or newer::

    python3 examples/fleet/run.py                          # 4 engines, 20 stacks of 100 resources
    python3 examples/fleet/run.py --engines 2 --stacks 3 --kills 0

Four engine processes in two pools bring about stacks of a make-believe cloud. When a third is
done, every stack is updated, and two engines are killed with SIGKILL and replaced. A table shows
what each engine does. At the end, what is in the cloud is counted and compared with the templates.

It uses PostgreSQL and RabbitMQ at 127.0.0.1 where they answer; otherwise SQLite, and the database
wakes the engines. ``--db URL`` and ``--bus URL`` name others. What it makes is deleted at the end,
but for the folder ``fleet``, which holds the cloud and what each process has done.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

try:
    import psycopg  # noqa: F401
    import sqlalchemy
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
except ImportError:
    import checkout

    try:
        checkout.run([checkout.prepare(["postgresql"]), __file__, *sys.argv[1:]])
    except checkout.SetupError as error:
        sys.exit(f"examples/fleet/run.py: {error}")

import converge
from converge.bus.threads import choose_threads
from converge.bus.urls import uses_oslo

POSTGRESQL = "postgresql+psycopg://postgres@127.0.0.1:5432/"
RABBITMQ = "rabbit://guest:guest@127.0.0.1:5672/"
#: Each resource but those of the first layer requires two of the layer before.
WIDTH = 10
#: Seconds in which all must be over.
LIMIT = 300.0
#: Of each layer, these types in turn.
TYPES = ("disk", "server", "network", "server")


def template(nodes: int, version: int) -> converge.Template:
    """Layers of resources; of each version another half has changed."""
    resources: dict[str, Any] = {}
    for number in range(nodes):
        layer, place = divmod(number, WIDTH)
        before = {f"n{layer - 1}-{(place + step) % WIDTH}" for step in (0, 1)} if layer else ()
        resources[f"n{layer}-{place}"] = {
            "type": TYPES[number % len(TYPES)],
            "properties": {"size": 1 + (version + number) // 2},
            "depends_on": sorted(before),
        }
    return converge.Template.from_dict({"resources": resources})


class Fleet:
    """The engine processes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._pools = itertools.cycle(("storage", "compute"))
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        #: Which pool a process belongs to, and whether it was killed.
        self.pools: dict[int, str] = {}
        self.killed: set[int] = set()

    def start(self, pool: str | None = None) -> None:
        """Start an engine, of the next pool if none is named."""
        pool = pool or next(self._pools)
        given = self._options
        words = ["--db", given.db, "--pool", pool, "--folder", given.folder]
        words += ["--seconds", given.seconds, *(("--bus", given.bus) if given.bus else ())]
        log = (given.folder / f"{len(self.pools)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("cloud.py")), *map(str, words)],
                stdout=log,
                stderr=log,
            )
        self._running.append((pool, process))
        self.pools[process.pid] = pool

    def kill(self) -> None:
        """Kill the oldest with SIGKILL, and start another of its pool."""
        pool, process = self._running.pop(0)
        process.kill()
        process.wait()
        self.killed.add(process.pid)
        self.start(pool)

    def stop(self) -> None:
        """Stop them all: each finishes what it is doing."""
        for _, process in self._running:
            process.terminate()
        for _, process in self._running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def check(self) -> None:
        """:raises RuntimeError: one has ended by itself."""
        for _, process in self._running:
            if process.poll() is not None:
                raise RuntimeError(
                    f"engine {process.pid} has ended; its log is in {self._options.folder}"
                )


def calls(folder: Path) -> dict[int, int]:
    """How many calls each process has made."""
    found = {}
    for path in (folder / "calls").iterdir():
        with path.open(encoding="utf-8") as lines:
            found[int(path.name)] = sum(1 for _ in lines)
    return found


def draw(fleet: Fleet, store: converge.Store, options: argparse.Namespace) -> Table:
    """What each engine does, and how far the stacks are."""
    stacks = Counter(one["status"] for one in store.stacks())
    title = ", ".join(f"{count} {status}" for status, count in sorted(stacks.items()))
    table = Table(title=f"stacks: {title}", title_justify="left", expand=True)
    for column, justify in (("pid", "right"), ("pool", "left"), ("state", "left")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("calls", justify="right")
    table.add_column("works on", no_wrap=True, overflow="ellipsis", ratio=1)
    done = calls(options.folder)
    for engine in store.engines(ended=True):
        pid = engine["pid"]
        holds = ", ".join(f"{one['stack']}/{one['resource']}" for one in engine["holds"][:8])
        state = "KILLED" if pid in fleet.killed else engine["state"]
        pool = fleet.pools.get(pid, "")
        table.add_row(str(pid), pool, state, str(done.get(pid, 0)), holds)
    return table


def follow(fleet: Fleet, store: converge.Store, options: argparse.Namespace) -> Iterator[int]:
    """Show what happens until all stacks have ended.

    :yields: how many calls were made so far.
    """
    console = Console()
    end = time.monotonic() + LIMIT
    with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:
        shown = 0.0
        while any(one["status"] == "IN_PROGRESS" for one in store.stacks()):
            if time.monotonic() > end:
                raise RuntimeError(f"not over in {LIMIT:g} s; the logs are in {options.folder}")
            fleet.check()
            done = sum(calls(options.folder).values())
            yield done
            if console.is_terminal:
                live.update(draw(fleet, store, options), refresh=True)
            elif time.monotonic() - shown > 2:
                shown = time.monotonic()
                print(f"{done} calls, {len(fleet.killed)} engines killed", flush=True)
            time.sleep(0.2)
        live.update(draw(fleet, store, options), refresh=True)


def compare(store: converge.Store, options: argparse.Namespace) -> list[str]:
    """What differs between the templates and what is in the cloud."""
    wanted = template(options.nodes, 2).to_dict()["resources"]
    things = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in (options.folder / "things").glob("*.json")
    }
    wrong = []
    for stack in store.stacks():
        if stack["status"] != "COMPLETE":
            wrong.append(f"{stack['name']} is {stack['status']}: {stack['reason']}")
        for name, one in store.show(stack["name"])["resources"].items():
            found = things.pop(one["physical_id"], None)
            if found != wanted[name]["properties"]:
                wrong.append(f"{stack['name']}/{name} is {found}")
    wrong += [f"nobody knows of {thing}" for thing in things]
    return wrong


def answers(port: int) -> bool:
    """Whether somebody listens there on this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def database(options: argparse.Namespace) -> Iterator[None]:
    """A database of one's own, if none is named."""
    if options.db is not None:
        yield
        return
    if not answers(5432):
        options.db = f"sqlite:///{options.folder}/fleet.db"
        yield
        return
    name = f"converge_fleet_{time.time_ns()}"
    server = sqlalchemy.create_engine(f"{POSTGRESQL}postgres", isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    options.db = POSTGRESQL + name
    try:
        yield
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def main() -> None:
    """Run the fleet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--db", metavar="URL")
    parser.add_argument("--bus", metavar="URL")
    parser.add_argument(
        "--engines", type=int, default=4, metavar="N", help="2 or more (default: 4)"
    )
    parser.add_argument("--stacks", type=int, default=20, metavar="N")
    parser.add_argument("--nodes", type=int, default=100, metavar="N", help="of each stack")
    parser.add_argument("--kills", type=int, default=2, metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=0.05, metavar="S", help="that each call takes"
    )
    parser.add_argument("--folder", type=Path, default=Path("fleet"), metavar="DIR")
    options = parser.parse_args()
    if options.engines < 2:
        parser.error("--engines must be 2 or more: there are two pools")
    mark = options.folder / "calls"
    if options.folder.exists() and not mark.is_dir():
        parser.error(f"--folder {options.folder} is there, and is not of an earlier run")
    shutil.rmtree(options.folder, ignore_errors=True)
    for name in ("things", "calls"):
        (options.folder / name).mkdir(parents=True)
    with ExitStack() as over:
        over.enter_context(database(options))
        if options.bus is None and answers(5672):
            options.bus = RABBITMQ
        print(f"database: {options.db.partition('://')[0]}; ", end="")
        print(f"bus: {(options.bus or 'the database').partition('://')[0]}")
        sys.exit(run(options))


def run(options: argparse.Namespace) -> int:
    """Start, update, kill, wait, count."""
    fleet = Fleet(options)
    if options.bus and uses_oslo(options.bus):
        choose_threads()
    with (
        converge.connect(options.db, bus=options.bus, create_schema=True) as store,
        ExitStack() as over,
    ):
        over.callback(fleet.stop)
        for _ in range(options.engines):
            fleet.start()
        names = [f"stack-{number}" for number in range(options.stacks)]
        for name in names:
            store.create_stack(name, template(options.nodes, 1))
        third = options.stacks * options.nodes / 3
        updated = False
        for done in follow(fleet, store, options):
            if not updated and done >= third:
                for name in names:
                    store.update_stack(name, template(options.nodes, 2))
                updated = True
            if len(fleet.killed) < options.kills and done >= third * (1 + len(fleet.killed) / 4):
                fleet.kill()
        wrong = compare(store, options)
    for line in wrong[:20]:
        print(line)
    made = sum(calls(options.folder).values())
    if wrong:
        print(f"{len(wrong)} differences; the logs are in {options.folder}")
        return 1
    print(
        f"all {options.stacks} stacks are as their templates say: {options.stacks * options.nodes}"
        f" things, {made} calls, {len(fleet.killed)} engines killed"
    )
    return 0


if __name__ == "__main__":
    main()
