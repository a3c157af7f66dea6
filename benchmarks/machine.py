"""What moves of machines cost: python -m benchmarks machine [--smaller]

It needs a PostgreSQL server whose commits are durable, as ``engine.py`` does, and makes a
database of its own there. The machine has a few states, and guards; the payload of an event has
three fields. Beside it, in turns, a program without machines writes the same rows into tables of
the same columns and indexes, by SQLAlchemy Core on a plain engine of the same driver. It does not
look up what an event does, as it knows; its statements are made once. What is measured:

- **An event** without an action, beside a raw move: SELECT … FOR UPDATE of an instance, UPDATE
  of it, INSERT of a move, COMMIT.
- **An event with an action** that does nothing, which is two commits; and with one that inserts
  a row of its own and ends in the same transaction (``done``). Both beside two raw moves, and
  beside what is written: a raw move, and a transaction in which that move is updated, and in
  the second case the row is inserted.
- **1,000 instances made**, beside one INSERT of 1,000 rows from a JSON parameter and COMMIT.
- **1,000 events** at 1,000 instances by ``fire_many``, beside a raw bulk: one SELECT … FOR
  UPDATE of 1,000 keys, one UPDATE and one INSERT of 1,000 rows from a JSON parameter, COMMIT.
- **1,000 timeouts** that a sweep fires, beside the same raw bulk.
- **A sweep with nothing to do** where 100,000 instances wait, each for a timeout and for the next
  attempt of an action, against one where 1,000 do; both right after the rows came, and when the
  server has looked at them (ANALYZE). What a look costs must not grow with what waits.
- **Reading a history** of 100 moves, beside SELECT of 100 rows of the same columns.

Of what writes, SQL statements and transactions are counted; some of these only read. Ratios are
of one round each; the median of the rounds counts. The status is 0 whatever the figures are; 2 if
there is no such server.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sqlalchemy
from sqlalchemy import (
    Engine,
    Table,
    event,
    func,
    literal,
    select,
    update,
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
from benchmarks.plain_machine import (
    INSTANCE,
    MOVE,
    NAME,
    NUMBERS,
    PAY,
    REMIND,
    REPORT,
    ROWS,
    SHIP,
    TIMEOUT,
    Kind,
    Plain,
)
from converge.machine import Action, Machine, Move
from converge.sql import schema

T = TypeVar("T")

#: Events that are fired together.
MANY = 1_000
#: Moves of a history.
MOVES = 100
#: Instances that wait, each for its timeout and for the next attempt of an action.
FILL = """
    WITH made AS (
        INSERT INTO converge_instance
            (machine, key, version, state, epoch, payloads, deadline_at, created_at, updated_at)
        SELECT %(machine)s, 'waiting ' || number, 1, 'paid', 1, %(payloads)s, %(then)s, %(now)s,
            %(now)s
        FROM generate_series(1, %(count)s) AS number
        RETURNING id
    )
    INSERT INTO converge_move (instance_id, number, machine, version, event, source, target,
        payload, payloads, token, at, status, attempts, next_at, epoch)
    SELECT id, 1, %(machine)s, 1, 'pay', 'new', 'paid', %(payload)s, %(payloads)s, 'none',
        %(now)s, 'PENDING', 1, %(then)s, 1
    FROM made
"""


# -- the machine


def is_large(payloads: Mapping[str, Any], payload: Mapping[str, Any]) -> bool:
    """The guard of a payment that is looked at by somebody."""
    return bool(payload["amount"] > 1_000)


def is_paid(payloads: Mapping[str, Any], payload: Mapping[str, Any]) -> bool:
    """The guard of all that comes after a payment."""
    return bool(payloads["pay"]["amount"] > 0)


def nothing(action: Action) -> None:
    """An action that has nothing to do."""


def payload() -> dict[str, Any]:
    """That of an event."""
    return {"amount": next(NUMBERS) % 1_000 + 1, "currency": "EUR", "from": "account 4711"}


def definition(report: Callable[[Action], None] = nothing) -> dict[str, Any]:
    """The machine.

    :param report: the action that ends in the transaction of its effect.
    """
    return {
        "name": NAME,
        "initial": "new",
        "states": {
            "new": {},
            "checking": {},
            "paid": {"timeout": TIMEOUT, "on_timeout": "remind"},
            "late": {},
            "shipped": {"terminal": True},
        },
        "transitions": [
            {"event": "pay", "source": "new", "target": "checking", "guard": is_large},
            {"event": "pay", "source": "new", "target": "paid"},
            {"event": "approve", "source": "checking", "target": "paid"},
            {"event": "note", "source": "paid", "target": "paid", "guard": is_paid},
            {"event": "remind", "source": "paid", "target": "late"},
            {
                "event": "ship",
                "source": ["paid", "late"],
                "target": "shipped",
                "guard": is_paid,
                "action": nothing,
            },
            {
                "event": "report",
                "source": ["paid", "late"],
                "target": "shipped",
                "guard": is_paid,
                "action": report,
            },
        ],
    }


class Bench:
    """The two programs on one database.

    :param url: of the benchmark's database.
    """

    def __init__(self, url: URL) -> None:
        self.store = converge.connect(url, create_schema=True)
        self.machine = Machine(self.store, definition(self.report))
        self.plain = Plain(url)

    def close(self) -> None:
        """Disconnect."""
        self.machine.close()
        self.plain.close()
        self.store.close()

    def report(self, action: Action) -> None:
        """The action that ends in the transaction of its effect."""
        with self.store.transaction() as tx:
            self.plain.insert_row(tx.connection, action.key)
            action.done(tx)

    def keys(self, count: int) -> list[str]:
        """Of new instances."""
        return [f"order {next(NUMBERS):09}" for _ in range(count)]

    def fill(self, count: int, *, paid: bool = False) -> list[str]:
        """New instances in both programs.

        :param paid: in the state after the first event, not in the initial one.
        """
        keys = self.keys(count)
        self.machine.create(*keys)
        self.plain.create_many(keys)
        if paid:
            events = [(key, payload()) for key in keys]
            self.fire_many(events)
            self.plain.move_many(PAY, events)
        return keys

    def fire_many(self, events: Sequence[tuple[str, Any]]) -> None:
        """Each instance is paid."""
        moves = self.machine.fire_many((key, "pay", given) for key, given in events)
        assert all(isinstance(one, Move) and one.target == "paid" for one in moves)

    def fire(self, key: str, kind: Kind, given: Any) -> None:
        """One event."""
        assert self.machine.fire(key, kind.event, given).target == kind.target

    def make_overdue(self, keys: Sequence[str]) -> None:
        """The timeouts of these instances have passed, in both programs."""
        with self.plain.engine.begin() as connection:
            for table in (schema.instance, INSTANCE):
                mine = table.c.machine == NAME, table.c.key == func.any(literal(list(keys)))
                connection.execute(update(table).where(*mine).values(deadline_at=0.0))

    def empty(self) -> None:
        """Delete all instances."""
        tables = ", ".join(map(str, (schema.instance, schema.move, INSTANCE, MOVE, ROWS)))
        with self.plain.engine.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {tables}")
        gc.collect()

    def analyze(self) -> None:
        """Let the server look at what is in the tables, as it does by itself in time."""
        analyze(self.plain.engine, schema.instance, schema.move, INSTANCE, MOVE)


def analyze(engine: Engine, *tables: Table) -> None:
    """Let the server look at what is in these tables."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"VACUUM ANALYZE {', '.join(map(str, tables))}")


@contextmanager
def counted(engine: Engine, what: str) -> Iterator[None]:
    """Count what this thread says to a database, and print it."""
    thread = threading.get_ident()
    counts = {"before_cursor_execute": 0, "begin": 0}

    def listener(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            counts[name] += threading.get_ident() == thread

        return count

    listeners = {name: listener(name) for name in counts}
    for name, function in listeners.items():
        event.listen(engine, name, function)
    yield
    for name, function in listeners.items():
        event.remove(engine, name, function)
    statements, transactions = counts.values()
    print(f"  {what}: {statements} SQL statements, {transactions} transaction(s)")


def each(function: Callable[[T], object], items: Sequence[T]) -> Callable[[int], None]:
    """What calls a function with the item of the turn's number."""

    def call(number: int) -> None:
        function(items[number])

    return call


def ratios(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[float]:
    """Of the time of each round."""
    return [sum(one) / sum(other) for one, other in zip(ours, theirs, strict=True)]


# -- what is measured


def measure_events(bench: Bench, rounds: int, times: int) -> None:
    """Events one by one, with and without actions."""
    plain = bench.plain
    measure_event(bench, "an event", PAY, {"a raw move": plain.move}, rounds, times)
    for what, kind, beside in (
        ("an event with an action that does nothing", SHIP, plain.move_and_end),
        ("an event with an action that ends beside a row", REPORT, plain.move_and_report),
    ):
        others = {"two raw moves": plain.move_twice, "what is written, raw": beside}
        measure_event(bench, what, kind, others, rounds, times)


def measure_event(
    bench: Bench,
    what: str,
    kind: Kind,
    others: Mapping[str, Callable[[str, Kind, Any], object]],
    rounds: int,
    times: int,
) -> None:
    """One kind of event.

    :param others: what it is compared with.
    """
    functions = {what: bench.fire, **others}
    taken: dict[str, list[list[float]]] = {name: [] for name in functions}

    def fires(function: Callable[[str, Kind, Any], object]) -> Callable[[int], None]:
        """At instances of its own."""
        return each(
            lambda key: function(key, kind, payload()),
            bench.fill(times, paid=kind.source == "paid"),
        )

    for _ in range(rounds):
        bench.empty()
        turns = [fires(function) for function in functions.values()]
        bench.analyze()
        for name, seconds in zip(functions, take_turns(times, *turns), strict=True):
            taken[name].append(seconds)
    print("; ".join(f"{name}: {microseconds(seconds)}" for name, seconds in taken.items()))
    (key,) = bench.fill(1, paid=kind.source == "paid")
    with counted(bench.store.database.engine, what):
        bench.fire(key, kind, payload())
    for name in others:
        verdict(f"ratio {what} / {name}", ratios(taken[what], taken[name]))


def measure_many(bench: Bench, rounds: int, times: int) -> None:
    """A thousand instances, and a thousand events."""
    machine, plain, engine = bench.machine, bench.plain, bench.store.database.engine
    created, inserted, fired, moved = [], [], [], []
    for _ in range(rounds):
        bench.empty()
        keys = [bench.keys(MANY) for _ in range(times)]
        one, two = take_turns(
            times, each(lambda part: machine.create(*part), keys), each(plain.create_many, keys)
        )
        created.append(one)
        inserted.append(two)
        bench.analyze()
        events = [[(key, payload()) for key in part] for part in keys]
        one, two = take_turns(
            times, each(bench.fire_many, events), each(partial(plain.move_many, PAY), events)
        )
        fired.append(one)
        moved.append(two)
    new = bench.keys(MANY)
    with counted(engine, f"{MANY:,} instances made"):
        machine.create(*new)
    with counted(engine, f"{MANY:,} events"):
        bench.fire_many([(key, payload()) for key in new])
    print(
        f"an instance of {MANY:,} that are made: {microseconds(created, MANY)};"
        f" INSERT: {microseconds(inserted, MANY)}"
    )
    verdict(f"ratio {MANY:,} instances made / INSERT", ratios(created, inserted))
    print(
        f"an event of {MANY:,}: {microseconds(fired, MANY)}; raw bulk: {microseconds(moved, MANY)}"
    )
    verdict(f"ratio {MANY:,} events / raw bulk", ratios(fired, moved))


def measure_timeouts(bench: Bench, rounds: int, times: int) -> None:
    """A thousand timeouts."""
    swept, moved = [], []

    def sweep(_: int = 0) -> None:
        assert bench.machine.sweep() == MANY

    for _ in range(rounds):
        bench.empty()
        keys = [bench.fill(MANY, paid=True) for _ in range(times)]
        events = [[(key, None) for key in part] for part in keys]
        bench.analyze()
        one, two = take_turns(
            times,
            sweep,
            each(partial(bench.plain.move_many, REMIND), events),
            prepare=each(bench.make_overdue, keys),
        )
        swept.append(one)
        moved.append(two)
    bench.make_overdue(bench.fill(MANY, paid=True))
    with counted(bench.store.database.engine, f"a sweep that fires {MANY:,} timeouts"):
        sweep()
    print(
        f"a timeout of {MANY:,} that a sweep fires: {microseconds(swept, MANY)};"
        f" raw bulk: {microseconds(moved, MANY)}"
    )
    verdict(f"ratio sweep that fires {MANY:,} timeouts / raw bulk", ratios(swept, moved))


def measure_looks(url: URL, few: int, many: int, rounds: int, times: int) -> None:
    """Sweeps that find nothing.

    :param few: how many instances wait in the one place.
    :param many: how many in the other.
    """
    counts = {"few": few, "many": many}
    given = json.dumps(payload())
    with ExitStack() as stack:
        stores, machines = [], []
        for name, count in counts.items():
            # tables of their own, as it is these that must not be read through
            place = url.update_query_dict({"options": f"-c search_path={name}"})
            plain = sqlalchemy.create_engine(place)
            with plain.begin() as connection:
                connection.exec_driver_sql(f"CREATE SCHEMA {name}")
            plain.dispose()
            store = stack.enter_context(converge.connect(place, create_schema=True))
            machine = Machine(store, definition())
            stack.callback(machine.close)
            with store.transaction() as tx:
                values = {
                    "machine": NAME,
                    "count": count,
                    "payload": given,
                    "payloads": f'{{"pay":{given}}}',
                    "now": time.time(),
                    "then": time.time() + TIMEOUT,
                }
                tx.connection.exec_driver_sql(FILL, values)
            assert len(machine.instances(limit=few)) == few
            stores.append(store)
            machines.append(machine)

        def look(machine: Machine, _: int) -> None:
            assert machine.sweep() == 0

        def select_one(_: int) -> None:
            stores[0].database.read(lambda tx: tx.execute(select(literal(1))).all())

        functions: list[Callable[[int], object]] = [
            *(partial(look, machine) for machine in machines),
            select_one,
        ]
        take_turns(10, *functions)
        for state in ("before the server knows them", "after"):
            if state == "after":
                for store in stores:
                    analyze(store.database.engine, schema.instance, schema.move)
            little, much, looks = [], [], []
            for _ in range(rounds):
                one, two, three = take_turns(times, *functions)
                little.append(one)
                much.append(two)
                looks.append(three)
            print(
                f"a sweep with nothing to do, {state}: {few:,} wait {microseconds(little)};"
                f" {many:,} wait {microseconds(much)};"
                f" SELECT in a transaction {microseconds(looks)}"
            )
            what = f"ratio sweep where {many:,} wait / {few:,}, {state}"
            verdict(what, ratios(much, little), most=1.25)


def measure_history(bench: Bench, rounds: int, times: int) -> None:
    """The moves of an instance."""
    bench.empty()
    (key,) = bench.fill(1, paid=True)
    bench.machine.fire_many((key, "note", payload()) for _ in range(MOVES - 1))
    with bench.plain.engine.begin() as connection:
        connection.execute(MOVE.delete())
        connection.execute(MOVE.insert().from_select(list(MOVE.c), select(schema.move)))
        (instance_id,) = connection.execute(select(MOVE.c.instance_id).distinct()).scalars()
    bench.analyze()
    query = select(MOVE).where(MOVE.c.instance_id == instance_id).order_by(MOVE.c.number)

    def read(_: int) -> None:
        assert len(bench.machine.history(key)) == MOVES

    def select_rows(_: int) -> None:
        with bench.plain.engine.begin() as connection:
            assert len(connection.execute(query).all()) == MOVES

    ours, theirs = [], []
    for _ in range(rounds):
        gc.collect()
        one, two = take_turns(times, read, select_rows)
        ours.append(one)
        theirs.append(two)
    print(
        f"a history of {MOVES} moves: {microseconds(ours)};"
        f" SELECT of {MOVES} rows: {microseconds(theirs)}"
    )
    verdict(f"ratio history of {MOVES} moves / SELECT of {MOVES} rows", ratios(ours, theirs))


def warm_up(bench: Bench) -> None:
    """Everything once, unmeasured, so that nothing is compiled for the first time later."""
    plain = bench.plain
    for kind, function in (
        (PAY, plain.move),
        (SHIP, plain.move_and_end),
        (REPORT, plain.move_and_report),
    ):
        for key in bench.fill(20, paid=kind.source == "paid"):
            bench.fire(key, kind, payload())
            function(key, kind, payload())
    keys = bench.fill(MANY, paid=True)
    bench.make_overdue(keys)
    bench.machine.sweep()
    plain.move_many(REMIND, [(key, None) for key in keys])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="fewer events, 2 rounds")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--url", default=os.environ.get(VARIABLE) or DEFAULT_URL)
    arguments = parser.parse_args()
    rounds = arguments.rounds or (2 if arguments.smaller else 5)
    times = 50 if arguments.smaller else 300
    many = 10_000 if arguments.smaller else 100_000
    if rounds < 1:
        parser.error("at least 1 round")
    # ends the blocks below, so that the database is dropped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    began = time.monotonic()
    with own_database(read_url(arguments.url)) as url:
        print(surroundings(url))
        bench = Bench(url)
        try:
            warm_up(bench)
            measure_events(bench, rounds, times)
            # each of these does a thousand things
            measure_many(bench, rounds, max(5, times // 20))
            measure_timeouts(bench, rounds, max(5, times // 20))
            measure_history(bench, rounds, times)
        finally:
            bench.close()
        measure_looks(url, 1_000, many, rounds, times)
    print(f"{time.monotonic() - began:.0f} s; {load()}")


if __name__ == "__main__":
    main()
