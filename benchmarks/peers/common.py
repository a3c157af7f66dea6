"""What the programs share: the case that they are given, the work of a node, what they answer.

A program runs in the environment of what it measures, where there may be nothing but Python.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

#: Names the file of the case, for the processes that a program starts, too.
VARIABLE = "CONVERGE_PEER_CASE"
#: How many handlers may run at once.
WORKERS = 8


@dataclass(frozen=True, slots=True)
class Case:
    """:ivar requires: the graph: node → the nodes that it requires.
    :ivar database: an empty PostgreSQL database, as libpq's URL.
    :ivar broker: RabbitMQ, as AMQP's URL, with a virtual host of its own.
    :ivar results: Redis, as its URL.
    :ivar seconds: that the work of a node takes.
    :ivar log: the file in which each node notes that it was done.
    :ivar folder: for files of the program's own.
    :ivar resume: an earlier process of the same program was killed; go on where it was.
    """

    requires: dict[str, list[str]]
    database: str
    broker: str
    results: str
    seconds: float
    log: str
    folder: str
    resume: bool


def read() -> Case:
    """The case that this process is to do."""
    return Case(**json.loads(Path(os.environ[VARIABLE]).read_text()))


def work(case: Case, node: str) -> None:
    """What the handler of a node does: it takes its time, and notes that it was done."""
    if case.seconds:
        time.sleep(case.seconds)
    note(case, node)


def note(case: Case, node: str) -> None:
    """Note that a node was done. Safe from several threads and processes."""
    line = f"{node} {time.monotonic()}\n".encode()
    file = os.open(case.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def say(what: str) -> None:
    """Tell the runner when something happened: ``started`` just before the graph is handed over,
    ``ended`` when it is known that all of it was done."""
    print(json.dumps({"what": what, "at": time.monotonic()}), flush=True)


def give_up(reason: str) -> NoReturn:
    """End, and say why this cannot do the case."""
    print(json.dumps({"what": "cannot", "reason": reason}), flush=True)
    sys.exit(0)


def successors(requires: dict[str, list[str]]) -> dict[str, list[str]]:
    """Node → the nodes that require it."""
    found: dict[str, list[str]] = defaultdict(list)
    for node, required in requires.items():
        for one in required:
            found[one].append(node)
    return found


def levels(requires: dict[str, list[str]]) -> list[list[str]]:
    """The nodes whose requirements are all in earlier levels, level by level."""
    waiting = {node: len(required) for node, required in requires.items()}
    after = successors(requires)
    level = [node for node, count in waiting.items() if not count]
    found = []
    while level:
        found.append(level)
        following = []
        for node in level:
            for one in after.get(node, ()):
                waiting[one] -= 1
                if not waiting[one]:
                    following.append(one)
        level = following
    return found
