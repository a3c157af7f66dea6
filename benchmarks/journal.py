"""What a recorded step costs: python -m benchmarks journal [--smaller]

It needs a PostgreSQL server whose commits are durable, as ``engine.py`` does, and makes a
database of its own there. What is measured, always of steps that return a short text:

- **A step**, beside INSERT of one row and COMMIT by SQLAlchemy Core, on a connection of a plain
  engine of the same driver. The two take turns, one by one, so that both see the same disk.
- The same on SQLite, in a temporary folder.
- **A step in the caller's transaction** beside an INSERT of the caller's own, against that
  transaction without the step.
- **Reading back** a scope of 100 recorded steps: what it takes longer than a scope without any,
  both taken, gone through to the end and let go of; beside SELECT of 100 rows of the same
  columns. These connections do not wait for the disk (``synchronous_commit`` is off), as reading
  doesn't; what taking a scope and letting go of it takes is told, too.
- **An item of an** ``each``, at its first and at its 10,000th item.
- **A step of DBOS**, if it is installed, in a workflow of 100, on the same server and in turns
  with a scope of 100 steps of ours; workflow and scope are begun and ended in both.

With ``--redis URL`` also a step there, for information. Ratios are of one round each; the median
of the rounds counts. The status is 0 whatever the figures are; 2 if there is no such server.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sqlalchemy
from sqlalchemy import (
    Column,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    make_url,
    select,
)
from sqlalchemy.engine import URL

import converge
from benchmarks.measuring import (
    DEFAULT_URL,
    VARIABLE,
    load,
    microseconds,
    own_database,
    read_url,
    surroundings,
    take_turns,
    verdict,
)
from converge.journal import Item, Journal, Scope

#: Steps in a scope that is read back, or compared with a workflow of DBOS.
STEPS = 100
#: Of all rows and scopes.
NUMBERS = itertools.count()
#: The rows that a program without a journal would write.
ROWS = Table(
    "raw_row",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String(255), nullable=False),
    Column("number", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", String(8), nullable=False),
    Column("value", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("wait", Double, nullable=False),
    Column("position", Integer, nullable=False),
    Column("at", Double, nullable=False),
)


def work() -> str:
    """What a step does."""
    return "done"


class Bench:
    """Scopes and rows, each new.

    :param url: of the benchmark's database.
    """

    def __init__(self, url: URL) -> None:
        self.store = converge.connect(url, create_schema=True)
        self.journal = Journal(self.store)
        self.plain = sqlalchemy.create_engine(url)
        ROWS.create(self.plain, checkfirst=True)
        self._insert = insert(ROWS)

    def close(self) -> None:
        """Disconnect."""
        self.journal.close()
        self.store.close()
        self.plain.dispose()

    def name(self) -> str:
        """Of a new scope."""
        return f"scope {next(NUMBERS)} of {os.getpid()}"

    def row(self) -> dict[str, Any]:
        """A new row."""
        number = next(NUMBERS)
        return {
            "id": number,
            "name": f"step {number}",
            "number": number,
            "version": 1,
            "status": "DONE",
            "value": '"done"',
            "attempts": 1,
            "wait": 0.0,
            "position": 0,
            "at": time.time(),
        }

    def insert_row(self) -> None:
        """One row and its commit."""
        with self.plain.begin() as connection:
            connection.execute(self._insert, self.row())

    def insert_alone(self) -> None:
        """One row in a transaction of the store."""
        with self.store.transaction() as tx:
            tx.execute(self._insert, self.row())

    def insert_with_step(self, scope: Scope, name: str) -> None:
        """The same, with a step recorded beside it."""
        with self.store.transaction() as tx:
            tx.execute(self._insert, self.row())
            scope.step(name, work, transaction=tx)


def measure_steps(bench: Bench, rounds: int, times: int) -> None:
    """A step beside a row."""
    where = " on SQLite" if bench.plain.dialect.name == "sqlite" else ""
    ratios, ours, theirs = [], [], []
    for _ in range(rounds):
        with bench.journal.scope(bench.name()) as scope:

            def step(number: int, scope: Scope = scope) -> None:
                scope.step(f"step {number}", work)

            row, recorded = take_turns(times, lambda number: bench.insert_row(), step)
        ratios.append(sum(recorded) / sum(row))
        ours.append(recorded)
        theirs.append(row)
    print(f"a step{where}: {microseconds(ours)}; INSERT and COMMIT: {microseconds(theirs)}")
    verdict(f"ratio step / INSERT and COMMIT{where}", ratios, most=1.5)


def measure_sqlite(rounds: int, times: int) -> None:
    """A step beside a row, on SQLite."""
    with TemporaryDirectory() as folder:
        bench = Bench(make_url(f"sqlite:///{folder}/journal.db"))
        try:
            measure_steps(bench, rounds, times)
        finally:
            bench.close()


def measure_transactions(bench: Bench, rounds: int, times: int) -> None:
    """A step in the caller's transaction."""
    ratios, ours, theirs = [], [], []
    for _ in range(rounds):
        with bench.journal.scope(bench.name()) as scope:

            def both(number: int, scope: Scope = scope) -> None:
                bench.insert_with_step(scope, f"step {number}")

            alone, beside = take_turns(times, lambda number: bench.insert_alone(), both)
        ratios.append(sum(beside) / sum(alone))
        ours.append(beside)
        theirs.append(alone)
    print(
        f"a transaction with a row and a step: {microseconds(ours)};"
        f" with the row alone: {microseconds(theirs)}"
    )
    verdict("ratio with a step / with the row alone", ratios)


def measure_reading(url: URL, rounds: int, times: int) -> None:
    """A scope whose steps are recorded."""
    bench = Bench(url.update_query_dict({"options": "-c synchronous_commit=off"}))
    try:
        full, empty = bench.name(), bench.name()

        def go_through(name: str, steps: int) -> None:
            with bench.journal.scope(name) as scope:
                for number in range(steps):
                    scope.step(f"step {number}", work)

        with bench.plain.begin() as connection:
            first = [bench.row() for _ in range(STEPS)]
            connection.execute(bench._insert, first)
        low, high = first[0]["id"], first[-1]["id"]
        query = select(ROWS).where(ROWS.c.id.between(low, high)).order_by(ROWS.c.number)

        def select_rows(_: int) -> None:
            with bench.plain.begin() as connection:
                assert len(connection.execute(query).all()) == STEPS

        go_through(full, STEPS)
        go_through(empty, 0)
        ratios, whole, nothing, rows = [], [], [], []
        for _ in range(rounds):
            gc.collect()
            one, two, three = take_turns(
                times,
                lambda _: go_through(full, STEPS),
                lambda _: go_through(empty, 0),
                select_rows,
            )
            # medians: the difference of two sums would be mostly noise
            ratios.append((median(one) - median(two)) / median(three))
            whole.append(one)
            nothing.append(two)
            rows.append(three)
        print(
            f"a scope of {STEPS} recorded steps, taken, gone through, let go of:"
            f" {microseconds(whole)}; without any: {microseconds(nothing)};"
            f" SELECT of {STEPS} rows: {microseconds(rows)}"
        )
        verdict(f"ratio reading {STEPS} steps back / SELECT of {STEPS} rows", ratios, most=2.0)
    finally:
        bench.close()


def measure_items(bench: Bench, rounds: int, times: int) -> None:
    """The cost of an item, early and late."""
    ratios, early, late = [], [], []

    def open_each(scope: Scope, every: int = 1) -> Iterator[Item[int]]:
        return scope.each("item", lambda done: iter(range(done, 10**9)), every=every)

    for _ in range(rounds):
        name = bench.name()
        with bench.journal.scope(name) as scope:
            for item in open_each(scope, every=10_000):
                if item.index == 10_000:
                    break
        with bench.journal.scope(bench.name()) as scope, bench.journal.scope(name) as other:
            young, old = open_each(scope), open_each(other)
            assert (next(young).index, next(old).index) == (0, 10_000)
            first, second = take_turns(times, partial(_next, young), partial(_next, old))
        ratios.append(sum(second) / sum(first))
        early.append(first)
        late.append(second)
    print(f"an item: {microseconds(early)}; after 10,000 others: {microseconds(late)}")
    verdict("ratio item after 10,000 / first items", ratios, most=1.25)


def _next(items: Iterator[object], number: int) -> None:
    next(items)


def measure_redis(url: str, bench: Bench, times: int) -> None:
    """A step in Redis."""
    with Journal(url) as journal, journal.scope(bench.name()) as scope:
        taken = take_turns(times, lambda number: scope.step(f"step {number}", work))
        name = scope.name
    with Journal(url) as journal:
        journal.forget(name)
    print(f"a step in Redis: {microseconds(taken)}; as durable as that server is told to be")


def measure_dbos(url: URL, bench: Bench, rounds: int) -> None:
    """Steps of DBOS on the same server."""
    try:
        from dbos import DBOS
    except ImportError:
        print("DBOS is not installed: its steps are not measured (pip install dbos)")
        return
    from importlib.metadata import version

    logging.getLogger("dbos").setLevel(logging.ERROR)
    text = url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    DBOS(
        config={
            "name": "bench",
            "system_database_url": text,
            "log_level": "ERROR",
        }
    )

    @DBOS.step()  # type: ignore[untyped-decorator,unused-ignore]
    def their_step() -> str:
        return work()

    @DBOS.workflow()  # type: ignore[untyped-decorator,unused-ignore]
    def workflow() -> None:
        for _ in range(STEPS):
            their_step()

    def scope(_: int) -> None:
        with bench.journal.scope(bench.name()) as taken:
            for number in range(STEPS):
                taken.step(f"step {number}", work)

    DBOS.launch()
    try:
        workflow()
        ratios, ours, theirs = [], [], []
        for _ in range(rounds):
            one, two = take_turns(3, scope, lambda _: workflow())
            ratios.append(sum(two) / sum(one))
            ours.append([taken / STEPS for taken in one])
            theirs.append([taken / STEPS for taken in two])
    finally:
        DBOS.destroy()
    print(
        f"a step of DBOS {version('dbos')}: {microseconds(theirs)};"
        f" of ours: {microseconds(ours)}, both with a {STEPS}th of beginning and end"
    )
    verdict("ratio step of DBOS / step of ours", ratios, least=2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="fewer steps, 2 rounds")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    parser.add_argument("--redis", metavar="URL", help="measure a step there, too")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (2 if arguments.smaller else 5)
    times = 50 if arguments.smaller else 300
    if rounds < 1:
        parser.error("at least 1 round")
    # ends the blocks below, so that the database is dropped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    began = time.monotonic()
    with own_database(read_url(arguments.url)) as url:
        print(surroundings(url))
        bench = Bench(url)
        try:
            with bench.journal.scope("warm up") as scope:
                for number in range(20):
                    bench.insert_row()
                    bench.insert_alone()
                    scope.step(f"step {number}", work)
                    bench.insert_with_step(scope, f"step {number} again")
            measure_steps(bench, rounds, times)
            measure_sqlite(rounds, times)
            measure_transactions(bench, rounds, times)
            measure_reading(url, rounds, times)
            measure_items(bench, rounds, times)
            measure_dbos(url, bench, rounds)
            if arguments.redis:
                measure_redis(arguments.redis, bench, times)
        finally:
            bench.close()
    print(f"{time.monotonic() - began:.0f} s; {load()}")


if __name__ == "__main__":
    main()
