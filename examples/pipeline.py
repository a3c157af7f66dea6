#!/usr/bin/env python3
"""A job of ten steps that goes on where it was stopped, and a thousand samples beside it::

    python3 examples/pipeline.py                    # ten steps
    python3 examples/pipeline.py --kill-in 4        # the same, killed in the middle of step 4
    python3 examples/pipeline.py --samples 1000     # a generator of samples; Ctrl-C it, kill it

Run it again after a kill: what was done is not done again. What the steps do to the world, they
append to the file ``pipeline.log``, one line each; at the end it is counted. ``--forget`` begins
afresh. ``--db URL`` keeps the journal elsewhere than in ``sqlite:///pipeline.db``, such as in
``redis://localhost``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

try:
    import sqlalchemy  # noqa: F401 - whether what converge needs is there
except ImportError:
    import checkout

    try:
        checkout.run([checkout.prepare(), __file__, *sys.argv[1:]])
    except checkout.SetupError as error:
        sys.exit(f"examples/pipeline.py: {error}")

import converge
from converge.errors import ConvergeError, NotFound
from converge.journal import Journal, Scope

STEPS = (
    *("register", "begin", "fetch", "clean", "average"),
    *("spread", "render", "archive", "invoice", "notify"),
)


class World:
    """What the steps have their effects on: a file, to which each appends a line.

    :param path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def act(self, what: str, key: str) -> None:
        """Have an effect. A real service would be told the key, to see what it did before."""
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps([what, key]).encode() + b"\n")

    def effects(self) -> list[tuple[str, str]]:
        """What was done, and with which keys, in order."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return [(what, key) for what, key in map(json.loads, lines)]


class Laboratory:
    """The steps. Each is told its idempotency key, as it has a parameter of that name.

    :param world: what they act on.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def register(self, idempotency_key: str) -> uuid.UUID:
        """A number for the experiment. It is random, and yet the same in every run."""
        self.world.act("register", idempotency_key)
        return uuid.uuid4()

    def begin(self, idempotency_key: str) -> datetime:
        """When it began, which does not change when it is run again."""
        self.world.act("begin", idempotency_key)
        return datetime.now(UTC)

    def fetch(self, number: uuid.UUID, idempotency_key: str) -> list[int]:
        """The data."""
        self.world.act("fetch", idempotency_key)
        dice = random.Random(number.int)
        return [dice.randrange(1000) for _ in range(50)]

    def clean(self, data: list[int], idempotency_key: str) -> list[int]:
        """Without outliers."""
        self.world.act("clean", idempotency_key)
        return sorted(data)[5:-5]

    def average(self, data: list[int], idempotency_key: str) -> Decimal:
        """An expensive calculation."""
        self.world.act("average", idempotency_key)
        return Decimal(sum(data)) / len(data)

    def spread(self, data: list[int], average: Decimal, idempotency_key: str) -> Decimal:
        """Another one."""
        self.world.act("spread", idempotency_key)
        return max(abs(one - average) for one in data)

    def render(self, average: Decimal, spread: Decimal, idempotency_key: str) -> bytes:
        """The report."""
        self.world.act("render", idempotency_key)
        return f"average {average}, at most {spread} off".encode()

    def archive(self, report: bytes, idempotency_key: str) -> str:
        """Where the report is kept."""
        self.world.act("archive", idempotency_key)
        return hashlib.sha256(report).hexdigest()

    def invoice(self, data: list[int], idempotency_key: str) -> Decimal:
        """What it costs; nobody wants to be billed twice."""
        self.world.act("invoice", idempotency_key)
        return Decimal("0.15") * len(data)

    def notify(self, place: str, cost: Decimal, idempotency_key: str) -> dict[str, Any]:
        """Thousands are told."""
        self.world.act("notify", idempotency_key)
        return {"place": place, "cost": cost}


def pipeline(scope: Scope, world: World) -> dict[str, Any]:
    """The ten steps. Read it as if nothing could happen in between."""
    laboratory = Laboratory(world)
    number = scope.step("register", laboratory.register)
    began = scope.step("begin", laboratory.begin)
    data = scope.step("fetch", laboratory.fetch, number)
    cleaned = scope.step("clean", laboratory.clean, data)
    average = scope.step("average", laboratory.average, cleaned)
    spread = scope.step("spread", laboratory.spread, cleaned, average)
    report = scope.step("render", laboratory.render, average, spread)
    place = scope.step("archive", laboratory.archive, report)
    cost = scope.step("invoice", laboratory.invoice, data)
    return {
        "number": number,
        "began": began,
        "report": report.decode(),
        **scope.step("notify", laboratory.notify, place, cost),
    }


def draw_samples(done: int, number: int) -> Iterator[float]:
    """The samples after the first so many, the same ones each time."""
    for index in range(done, number):
        yield random.Random(index).random()


def evaluate_samples(scope: Scope, world: World, number: int) -> None:
    """Each sample has its effect on the world outside: at least once, with the same key."""
    for item in scope.each("sample", lambda done: draw_samples(done, number)):
        world.act(f"sample {item.index}", item.key)


def store_samples(scope: Scope, store: converge.Store, number: int) -> None:
    """Each sample is a row in the journal's database: exactly once, as row and record are
    committed together."""
    for item in scope.each("sample", lambda done: draw_samples(done, number)):
        with store.transaction() as tx:
            tx.connection.exec_driver_sql(
                f"INSERT INTO sample (number, value) VALUES ({item.index}, {item.value})"
            )
            item.done(transaction=tx)


class Deadly(World):
    """A world in which the process is killed right after one effect: at the worst moment, as it
    is not recorded yet."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(path)
        self._what = what

    def act(self, what: str, key: str) -> None:
        """Have an effect, and perhaps die of it."""
        super().act(what, key)
        if what == self._what:
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def open_journal(url: str) -> Journal:
    """The journal of a URL; the tables of a database are made if need be."""
    if url.startswith(("sqlite", "postgresql", "mysql", "mariadb")):
        return Journal(converge.connect(url, create_schema=True))
    return Journal(url)


def main() -> None:
    """Run it once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--db", metavar="URL", default="sqlite:///pipeline.db")
    parser.add_argument("--kill-in", metavar="N", type=int, choices=range(1, len(STEPS) + 1))
    parser.add_argument("--samples", metavar="N", type=int, help="go through so many samples")
    parser.add_argument("--forget", action="store_true", help="begin afresh")
    arguments = parser.parse_args()
    path = Path("pipeline.log")
    world = World(path)
    if arguments.kill_in:
        world = Deadly(path, STEPS[arguments.kill_in - 1])
    name = f"{arguments.samples} samples" if arguments.samples else "experiment"
    with open_journal(arguments.db) as journal:
        if arguments.forget:
            path.unlink(missing_ok=True)
            with suppress(NotFound):
                journal.forget(name)
        # whoever held it on another machine, and was killed, is waited for
        with journal.scope(name, wait=60) as scope:
            before = len(world.effects())
            if arguments.samples:
                evaluate_samples(scope, world, arguments.samples)
            else:
                for what, value in pipeline(scope, world).items():
                    print(f"{what}: {value}")
    effects = world.effects()
    counts = Counter(what for what, _ in effects)
    twice = sum(count > 1 for count in counts.values())
    print(
        f"effects: {len(effects) - before} in this run, {len(effects)} in all, of which {twice} "
        f"twice or more often; different keys: {len(set(effects))}"
    )


if __name__ == "__main__":
    try:
        main()
    except ConvergeError as error:
        sys.exit(f"examples/pipeline.py: {error}")
