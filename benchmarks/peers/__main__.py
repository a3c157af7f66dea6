"""converge beside others: python -m benchmarks peers [--write]

Each peer is a program of this folder (``with_NAME.py``) that does the same graphs in the way that
suits it best, in a virtual environment of its own, which is made from pinned packages when it is
first needed (``--environments`` says where). The handler of a node notes that it was called, and
does nothing else, so that only the peer's own work takes time. What is noted is checked: all nodes,
each after those that it requires. A peer that cannot do a case is shown with the reason.

It needs PostgreSQL with durable commits (see ``engine.py``); for Celery RabbitMQ and Redis, too.

- layered graphs of 1,000 and 10,000 nodes; 10 to 3,000 nodes into one; a chain of 300;
- recovery: each node takes 10 ms, and the processes are killed when half of 300 are done. Another
  is started at once. Seconds until it has done the next node, and until all is done; how many
  nodes were done twice;
- graphs: build and topological order of a million edges.

Figures are multiples of the raw limit: how often in a second one connection can UPDATE a row and
COMMIT, the mean of just before and just after. ``--write`` keeps the results in ``doc/measured``,
and draws plots.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from sqlalchemy.engine import URL

from benchmarks import graphs
from benchmarks.environments import FOLDER, NotInstalled, prepare, version
from benchmarks.graphs import Requires
from benchmarks.measuring import DEFAULT_URL, VARIABLE, own_database, read_url, surroundings
from benchmarks.peers import report
from benchmarks.peers.common import Case
from benchmarks.peers.running import Failed, Result, measure_library, recover, run
from benchmarks.raw import Raw

BROKER = "amqp://guest:guest@127.0.0.1:5672//"
RESULTS = "redis://127.0.0.1:6379/9"
#: Seconds that the work of a node takes where processes are killed.
WORK = 0.01


@dataclass(frozen=True, slots=True)
class Peer:
    """:ivar environment: None: that of this process.
    :ivar package: whose version is told.
    :ivar idiom: how it does a graph.
    """

    name: str
    module: str
    environment: str | None
    package: str
    idiom: str


PEERS = [
    Peer("converge", "with_converge", None, "converge", "one engine"),
    Peer(
        "Heat",
        "with_heat",
        "heat",
        "openstack-heat",
        "its Dependencies and sync_point.sync, one process; no RPC, no resources",
    ),
    Peer("TaskFlow", "with_taskflow", "taskflow", "taskflow", "a graph flow, SQL persistence"),
    Peer("DBOS", "with_dbos", "dbos", "dbos", "a workflow, steps of a level at the same time"),
    Peer("Celery", "with_celery", "celery", "celery", "chords of levels; RabbitMQ, Redis"),
    Peer(
        "Celery, counted",
        "with_celery_count",
        "celery",
        "celery",
        "a table of our own that counts; RabbitMQ",
    ),
    Peer(
        "procrastinate",
        "with_procrastinate",
        "procrastinate",
        "procrastinate",
        "a table of our own that counts, in the transaction of the deferral",
    ),
    Peer("Prefect", "with_prefect", "prefect", "prefect", "a flow with wait_for, own server"),
]
LIBRARIES = {"converge": None, "graphlib": None, "networkx": "graphs", "rustworkx": "graphs"}


def make_cases(smaller: bool) -> dict[str, Requires]:
    """Name → graph. Those of one kind, the part before the comma, from small to large."""
    sizes = (100, 200) if smaller else (1_000, 10_000)
    leaves = (10, 20) if smaller else (10, 100, 300, 1_000, 3_000)
    length = 20 if smaller else 300
    return {
        **{f"layered, {n}": graphs.layered(n, n // 20) for n in sizes},
        **{f"fan-in, {n}": graphs.fan_in(n) for n in leaves},
        f"chain, {length}": graphs.chain(length),
        "recovery": graphs.layered(300, 20),
    }


class Round:
    """What is measured in one run of this program."""

    def __init__(self, url: URL, raw: Raw, environments: Path, limit: float) -> None:
        self._url = url
        self._raw = raw
        self._environments = environments
        self._limit = limit
        self._numbers = iter(range(10**6))

    def python(self, environment: str | None) -> Path:
        """The Python of an environment.

        :raises NotInstalled: it could not be made.
        """
        if environment is None:
            return Path(sys.executable)
        return prepare(self._environments, environment)

    def measure(self, peer: Peer, cases: dict[str, Requires]) -> dict[str, Any]:
        """Let a peer do its cases."""
        found: dict[str, Any] = {"name": peer.name, "idiom": peer.idiom, "cases": {}}
        try:
            python = self.python(peer.environment)
        except NotInstalled as error:
            reason = f"not installed: {error}"
            found["version"] = ""
            found["cases"] = {name: {"reason": reason} for name in cases}
            return found
        found["version"] = version(python, peer.package)
        given_up: dict[str, str] = {}
        for name, requires in cases.items():
            kind = name.partition(",")[0]
            if kind in given_up:
                found["cases"][name] = {"reason": f"not tried, see {given_up[kind]}"}
                continue
            before = self._raw.rate()
            result = self._run(python, peer, requires, name == "recovery")
            raw = mean((before, self._raw.rate()))
            if result.reason:
                given_up[kind] = name
            found["cases"][name] = report.keep(result, raw)
            print(f"{peer.name}: {name}: {report.tell(name, found['cases'][name])}", flush=True)
        return found

    def _run(self, python: Path, peer: Peer, requires: Requires, recovers: bool) -> Result:
        do = recover if recovers else run
        with own_database(self._url, f"_{next(self._numbers)}") as own:
            case = Case(
                requires=requires,
                database=own.set(drivername="postgresql").render_as_string(False),
                broker=BROKER,
                results=RESULTS,
                seconds=WORK if recovers else 0.0,
                log="",
                folder="",
                resume=False,
            )
            return do(python, peer.module, case, self._limit)

    def measure_libraries(self, nodes: int, edges: int) -> list[dict[str, Any]]:
        """Let the libraries for graphs do one."""
        found = []
        for name, environment in LIBRARIES.items():
            one: dict[str, Any] = {"name": name, "edges": edges, "version": ""}
            try:
                python = self.python(environment)
                if environment is not None:
                    one["version"] = version(python, name)
                one.update(measure_library(python, name, nodes, edges))
            except (NotInstalled, Failed) as error:
                one["reason"] = str(error)
            found.append(one)
            print(f"{name}: {report.tell_library(one)}", flush=True)
        return found


def chosen(text: str | None, names: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The names that an option lists, all of them if it is not given."""
    if text is None:
        return names
    wanted = [name.strip() for name in text.split(";")]
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"there is no {unknown[0]!r}; there are: {'; '.join(names)}")
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--smaller", action="store_true", help="a tenth of the graphs")
    parser.add_argument("--peers", help="only these, with ; between them")
    parser.add_argument("--cases", help="only these, with ; between them")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one case")
    parser.add_argument("--environments", type=Path, default=FOLDER, help="where they are kept")
    parser.add_argument("--write", action="store_true", help="keep the results in doc/measured")
    parser.add_argument("--draw", action="store_true", help="draw anew what is kept, and end")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    arguments = parser.parse_args()
    draw = partial(report.write, environments=arguments.environments)
    if arguments.draw:
        draw(json.loads(report.RESULTS.read_text()))
        return
    every = make_cases(arguments.smaller)
    peers = chosen(arguments.peers, [peer.name for peer in PEERS], parser)
    names = chosen(arguments.cases, [*every, "graphs"], parser)
    cases = {name: graph for name, graph in every.items() if name in names}
    # ends the blocks below, so that what was made is removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    url = read_url(arguments.url)
    with own_database(url) as own:
        where = surroundings(own)
        print(where)
        raw = Raw(own, 0.3 if arguments.smaller else 1.0)
        one = Round(url, raw, arguments.environments.absolute(), arguments.limit)
        found: dict[str, Any] = {
            "date": date.today().isoformat(),
            "where": where,
            "limit": arguments.limit,
            "peers": [],
            "libraries": [],
        }
        if cases:
            found["peers"] = [one.measure(peer, cases) for peer in PEERS if peer.name in peers]
        if "graphs" in names:
            size = (2_000, 10_000) if arguments.smaller else (200_000, 1_000_000)
            found["libraries"] = one.measure_libraries(*size)
        raw.close()
    print("\n".join(report.table(found)))
    if arguments.write:
        draw(found)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
