#!/usr/bin/env python3
"""A trigger: when both the start and the end of a thing have been heard of, it is reported::

    python3 examples/trigger.py                     # a demonstration: 300 things
    python3 examples/trigger.py --keys 3000

    # or by hand: events on standard input, one a line; again and again, in as many processes
    # as you like
    printf 'a.end\\nb.start\\na.start\\n' | python3 examples/trigger.py listen

The two events come in any order, more than once, and to several processes at the same time. In
the demonstration three listeners hear of one event of each thing, are killed, and three others
hear of both. Each thing is reported once, as the report is written in the transaction in which
the action is over. A thing of which only one event is heard of is reported as late after 60 s.
``--db URL`` keeps all that elsewhere than in ``sqlite:///trigger.db``.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

try:
    import sqlalchemy
except ImportError:
    import checkout

    try:
        checkout.run([checkout.prepare(), __file__, *sys.argv[1:]])
    except checkout.SetupError as error:
        sys.exit(f"examples/trigger.py: {error}")

import converge
from converge.errors import ConvergeError, IllegalEvent
from converge.machine import Action, Machine

EVENTS = ("start", "end")
#: Seconds to wait for the second event.
TIMEOUT = 60.0
#: Events that are fired together.
BATCH = 500
LISTENERS = 3

# the program's own table, beside converge's
TABLES = sqlalchemy.MetaData()
REPORT = sqlalchemy.Table(
    "trigger_report",
    TABLES,
    # not unique: what is reported twice must be seen
    sqlalchemy.Column("key", sqlalchemy.String(255), nullable=False),
    sqlalchemy.Column("what", sqlalchemy.String(20), nullable=False),
)


class Trigger:
    """The machine of a store, and what it reports.

    :param timeout: seconds to wait for the second event.
    """

    def __init__(self, store: converge.Store, timeout: float = TIMEOUT) -> None:
        self.store = store
        waits = {"timeout": timeout, "on_timeout": "give up"}
        self.machine = Machine(
            store,
            {
                "name": "trigger",
                "initial": "unknown",
                "states": {
                    "unknown": {},
                    "started": waits,
                    "ended": waits,
                    "complete": {"terminal": True},
                    "late": {"terminal": True},
                },
                "transitions": [
                    {"event": "start", "source": "unknown", "target": "started"},
                    {"event": "end", "source": "unknown", "target": "ended"},
                    *(
                        {
                            "event": event,
                            "source": source,
                            "target": "complete",
                            "action": self.report,
                        }
                        for event, source in (("end", "started"), ("start", "ended"))
                    ),
                    {
                        "event": "give up",
                        "source": ["started", "ended"],
                        "target": "late",
                        "action": self.report,
                    },
                ],
            },
        )

    def report(self, action: Action) -> None:
        """The action: what is known of a thing."""
        with self.store.transaction() as transaction:
            row = {"key": action.key, "what": action.target}
            transaction.execute(sqlalchemy.insert(REPORT).values(row))
            # in the same transaction, so neither is without the other
            action.done(transaction)

    def hear(self, lines: Iterable[str]) -> int:
        """Fire events such as ``order-17.start``.

        :returns: how many of them were news.
        """
        news = 0
        events = (line.strip().rpartition(".")[::2] for line in lines if line.strip())
        while batch := list(itertools.islice(events, BATCH)):
            for result in self.machine.fire_many(batch, create=True):
                if isinstance(result, IllegalEvent):
                    continue  # heard of before
                if isinstance(result, Exception):
                    raise result
                news += 1
        return news

    def reports(self) -> Counter[tuple[str, str]]:
        """How often was reported what."""
        query = sqlalchemy.select(REPORT)
        rows: Any = self.store.database.read(lambda tx: tx.execute(query).all())
        return Counter((row.key, row.what) for row in rows)


def connect(url: str) -> Trigger:
    """The trigger of a database, whose tables are made if need be."""
    store = converge.connect(url, create_schema=True)
    TABLES.create_all(store.database.engine)
    return Trigger(store)


def listen(url: str) -> None:
    """Hear events from standard input, and look after timeouts until it ends."""
    trigger = connect(url)
    with trigger.store, trigger.machine:
        news = trigger.hear(sys.stdin)
        print(f"{news} events were news", flush=True)


def demonstrate(url: str, keys: int) -> None:
    """Let listeners hear all events three times, and kill them in between."""
    dice = random.Random(1)
    names = [f"thing-{number}" for number in range(keys)]
    first = [f"{name}.{dice.choice(EVENTS)}" for name in names]
    both = [f"{name}.{event}" for name in names for event in EVENTS]
    trigger = connect(url)
    with trigger.store:
        before = trigger.reports()
        for what, events in (("one event", first), ("both events", both)):
            listeners = [_start(url) for _ in range(LISTENERS)]
            for listener in listeners:
                assert listener.stdin is not None
                listener.stdin.write(
                    "".join(f"{one}\n" for one in dice.sample(events, len(events)))
                )
                listener.stdin.close()
            if events is first:
                # in the midst of it
                time.sleep(1.0)
                for listener in listeners:
                    listener.kill()
            for listener in listeners:
                listener.wait()
            count = sum((trigger.reports() - before).values())
            print(f"{LISTENERS} listeners heard of {what} of {keys} things: {count} reports")
        # what was left by the dead, if anything was
        while trigger.machine.sweep():
            pass
        found = Counter(trigger.reports().values())
        print("reported " + ", ".join(f"{n} things {times}x" for times, n in found.items()))


def _start(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--db", url, "listen"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description="Report what has started and ended, once.")
    parser.add_argument("what", nargs="?", choices=("demo", "listen"), default="demo")
    parser.add_argument("--db", default="sqlite:///trigger.db", metavar="URL")
    parser.add_argument("--keys", type=int, default=300, metavar="N")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    try:
        if arguments.what == "listen":
            listen(arguments.db)
        else:
            demonstrate(arguments.db, arguments.keys)
    except ConvergeError as error:
        sys.exit(f"examples/trigger.py: {error}")


if __name__ == "__main__":
    main()
