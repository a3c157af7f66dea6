#!/usr/bin/env python3
"""Notifications that two agents share, with nothing needed but Python 3.11 or newer::

    python3 examples/notifications/run.py                   # 400 volumes, an agent is killed
    python3 examples/notifications/run.py --volumes 20 --no-kill

A generator writes what a make-believe service has to say into two files: of each volume, that its
creation began, and that it ended; one in twenty twice, and some lines that are no notifications.
The first halves are in the one file, the others in the other one, each of which an agent takes.
What is said of one volume is paired by one member of their group, whichever agent it came to. One
agent is killed with SIGKILL, and started again: it begins its file anew. At the end all is counted,
and compared with what was sent.

The database is SQLite, in the folder ``notifications``, which stays.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

try:
    import jsonpath_ng  # noqa: F401
    import sqlalchemy  # noqa: F401
except ImportError:
    import checkout

    try:
        checkout.run([checkout.prepare([]), __file__, *sys.argv[1:]])
    except checkout.SetupError as error:
        sys.exit(f"examples/notifications/run.py: {error}")

import converge
from converge.pipeline import DeadLetters

#: Seconds in which all must be over.
LIMIT = 300.0
PROJECTS = ("blue", "green", "red")
PIPELINE = """\
event_definitions: events.yaml
meters: meters.yaml
sources:
  - {name: creations, events: ['volume.create.*'], sinks: [pairs]}
  - {name: sizes, meters: [volume.size], sinks: [sizes]}
sinks:
  - name: pairs
    steps:
      - trigger: {by: resource_id, names: [volume.create.start, volume.create.end], timeout: 600}
    publishers:
      - file: {path: pairs.jsonl}
  - name: sizes
    publishers: [database]
"""
EVENTS = """\
- event_type: 'volume.*'
  traits:
    resource_id: {fields: payload.volume_id}
    project_id: {fields: payload.tenant_id}
    size: {fields: payload.size, type: int}
"""
METERS = """\
metric:
  - name: volume.size
    event_type: volume.create.end
    type: gauge
    unit: GiB
    volume: $.payload.size
    resource_id: $.payload.volume_id
    project_id: $.payload.tenant_id
"""
BAD = ('{"message_id":', "[1, 2]", '{"payload": {}}')


class Sent:
    """What the generator has written."""

    def __init__(self, volumes: int, folder: Path) -> None:
        chance = random.Random(volumes)
        now = datetime.now(UTC) - timedelta(minutes=10)
        self.sizes: Counter[str] = Counter()
        files: dict[str, list[str]] = {"start": [], "end": []}
        for number in range(volumes):
            project, size = chance.choice(PROJECTS), chance.randint(1, 100)
            self.sizes[project] += size
            for part, lines in files.items():
                notification = {
                    "message_id": f"{part}-{number}",
                    "event_type": f"volume.create.{part}",
                    "publisher_id": "volume.make-believe",
                    "timestamp": (now + timedelta(seconds=number)).isoformat(),
                    "payload": {"volume_id": f"v-{number}", "tenant_id": project, "size": size},
                }
                lines += [json.dumps(notification)] * (2 if number % 20 == 0 else 1)
        self.lines = sum(map(len, files.values())) + len(BAD)
        files["end"] += BAD
        for part, lines in files.items():
            # as on a bus, nothing comes in order
            chance.shuffle(lines)
            (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


class Agents:
    """The processes of the agents."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"sqlite:///{folder.resolve()}/converge.db"

    def start(self, part: str) -> None:
        """Start the agent of a file."""
        words = ["agent", "--pipeline", "pipeline.yaml", "--bus", f"file:{part}.jsonl"]
        words += ["--db", self.url, "--batch-size", "20", "--group", "example"]
        words += ["--secret-file", "secret", "--partitions", "8"]
        program = "import sys; from converge.cli import main; sys.exit(main(sys.argv[1:]))"
        with (self._folder / f"{part}.log").open("ab") as log:
            self._running[part] = subprocess.Popen(
                [sys.executable, "-c", program, *words],
                cwd=self._folder,
                env={"PYTHONPATH": str(ROOT), "PATH": ""},
                stdout=log,
                stderr=log,
            )

    def kill(self, part: str) -> None:
        """Kill one with SIGKILL, and start it again."""
        self._running[part].kill()
        self._running[part].wait()
        self.start(part)

    def wait(self) -> None:
        """Wait until all have ended.

        :raises RuntimeError: one did not go well.
        """
        for part, process in self._running.items():
            if process.wait(LIMIT) != 0:
                raise RuntimeError(f"an agent failed; its log is {self._folder}/{part}.log")

    def stop(self) -> None:
        """Stop those that run."""
        for process in self._running.values():
            process.kill()
            process.wait()


def count(store: converge.Store, query: str) -> list[Any]:
    """The rows of a query."""
    with store.transaction() as tx:
        return list(tx.connection.exec_driver_sql(query).all())


def recorded(store: converge.Store) -> int:
    """How many events there are."""
    return int(count(store, "SELECT COUNT(*) FROM converge_notification")[0][0])


def report(store: converge.Store, sent: Sent, volumes: int, folder: Path) -> bool:
    """Print what became of all, and whether it is right."""
    letters = DeadLetters(store).list()
    rows = count(store, "SELECT project_id, SUM(volume) FROM converge_sample GROUP BY project_id")
    sizes = {project: round(size) for project, size in rows}
    lines = (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    # a death may have a publisher send something again, with the same id
    pairs = {one["id"]: one for one in map(json.loads, lines)}
    complete = sum(one["complete"] for one in pairs.values())
    events = recorded(store)
    print(f"lines sent     {sent.lines}")
    print(f"events         {events}, of {2 * volumes} different notifications")
    print(f"pairs          {complete} complete, of {volumes} volumes")
    for project in PROJECTS:
        print(f"GiB of {project:<7} {sizes.get(project, 0)}, of {sent.sizes[project]}")
    print(f"dead letters   {len(letters)}: {', '.join(sorted(str(one.reason) for one in letters))}")
    return (events, complete, len(pairs), sizes, len(letters)) == (
        2 * volumes,
        volumes,
        volumes,
        {project: size for project, size in sent.sizes.items() if size},
        len(BAD),
    )


def main() -> None:
    """Generate, share, kill, count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volumes", type=int, default=400, metavar="N", help="default: 400")
    parser.add_argument("--no-kill", action="store_true", help="let both agents live")
    parser.add_argument("--folder", type=Path, default=Path("notifications"), metavar="DIR")
    options = parser.parse_args()
    if options.volumes < 1:
        parser.error("--volumes must be 1 or more")
    if options.folder.exists() and not (options.folder / "pipeline.yaml").is_file():
        parser.error(f"--folder {options.folder} is there, and is not of an earlier run")
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    for name, text in (("pipeline", PIPELINE), ("events", EVENTS), ("meters", METERS)):
        (options.folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (options.folder / "secret").write_text("known to the two agents\n", encoding="utf-8")
    sys.exit(run(options))


def run(options: argparse.Namespace) -> int:
    """Start both agents, kill one, wait, and report."""
    sent = Sent(options.volumes, options.folder)
    agents = Agents(options.folder)
    with converge.connect(agents.url, create_schema=True) as store:
        try:
            agents.start("start")
            agents.start("end")
            if not options.no_kill:
                end = time.monotonic() + LIMIT
                while recorded(store) < options.volumes and time.monotonic() < end:
                    time.sleep(0.02)
                agents.kill("end")
                print("an agent was killed, and started again")
            agents.wait()
        finally:
            agents.stop()
        is_right = report(store, sent, options.volumes, options.folder)
    print("all is right" if is_right else f"something is wrong; the logs are in {options.folder}")
    return 0 if is_right else 1


if __name__ == "__main__":
    main()
