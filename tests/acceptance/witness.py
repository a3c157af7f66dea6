"""An engine in a process of its own, whose handlers tell a file what they do.

The file stands for the world outside of the database: each line is appended by one write, so
it is there whatever becomes of the process, and in the order in which things happened.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import event

import converge
from converge import crash_points
from converge.bus.threads import choose_threads
from converge.errors import StaleLock

#: What a process is told by signals: to stop as SIGSTOP does, but between two transactions;
#: to end in order.
FREEZE = signal.SIGUSR1
END = signal.SIGTERM
#: The place in the middle of a handler, besides the crash points of the library.
HANDLER = "handler"


@dataclass(frozen=True)
class Line:
    """What a process told.

    :ivar what: a handler says "begin", "end", or "stale" when a write of it was refused; the
        process says "at" when it waits to be stopped; its engine "registered" or "lost", which
        is its lease.
    :ivar node: the resource's name; of "at" the place; of an engine its id.
    :ivar attempt: which attempt of the node it is.
    :ivar at: when, in seconds of the machine's monotonic clock.
    """

    what: str
    node: str
    token: str
    attempt: int
    pid: int
    at: float


def read(path: Path) -> list[Line]:
    """All lines, oldest first."""
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        what, node, token, attempt, pid, at = text.split("\t")
        found.append(Line(what, node, token, int(attempt), int(pid), float(at)))
    return found


class Log:
    """Appends lines to the file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(self, what: str, node: str, token: str = "-", attempt: int = 0) -> None:
        line = f"{what}\t{node}\t{token}\t{attempt}\t{os.getpid()}\t{time.monotonic()!r}\n"
        os.write(self._file, line.encode())


class _Listener(logging.Handler):
    """Tells the file what an engine logs about its lease."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        found = re.match(r"engine (\d+) (registered|lost)", record.getMessage())
        if found:
            self._log.tell(found[2], found[1])


class Freezer:
    """Lets this process stop itself at a place, as SIGSTOP would.

    Where a process is stopped by chance it may hold locks of the database, which is another
    matter; so this one waits until no thread uses a connection. At a point before a commit
    one does, and there that is what is meant.

    :param place: a crash point, or HANDLER; the first thread that gets there waits to be
        stopped, and goes on when the process is continued.
    """

    def __init__(self, store: converge.Store, log: Log, place: str) -> None:
        self._log = log
        self._place = place
        self._reached = threading.Event()
        self._continued = threading.Event()
        self._change = threading.Condition()
        self._closed = False
        self._in_use = 0
        self._others = 1 if place.endswith("before_commit") else 0
        event.listen(store.database.engine, "checkout", self._take)
        event.listen(store.database.engine, "checkin", self._give)

    def reach(self, place: str) -> None:
        """Wait here to be stopped, if this is the place."""
        if place != self._place or self._reached.is_set():
            return
        self._reached.set()
        self._log.tell("at", place)
        self._continued.wait()

    def freeze(self) -> None:
        """Stop this process; comes back when it is continued."""
        with self._change:
            self._closed = True
            self._change.wait_for(lambda: self._in_use <= self._others)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._closed = False
            self._continued.set()
            self._change.notify_all()

    def _take(self, *connection: object) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._closed)
            self._in_use += 1

    def _give(self, *connection: object) -> None:
        with self._change:
            self._in_use -= 1
            self._change.notify_all()


class Effect(converge.ResourceType):
    """Something in the world outside, made by a handler that takes its time.

    Its properties: ``until``, the monotonic time before which no handler ends; ``least``, the
    seconds that each takes at least; ``replace``, whose change asks for a replacement;
    ``failures``, how many of the first attempts fail; ``waits``, how many of them wait for a
    cancel; ``deaf``, whether they don't look for one.
    """

    # whatever is killed at work on a node, the node is not to blame
    retry: ClassVar[converge.RetryPolicy] = converge.RetryPolicy(deaths=1000)

    def __init__(self, log: Log, freezer: Freezer | None = None) -> None:
        self._log = log
        self._freezer = freezer

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self._work(context, properties)

    def update(
        self,
        context: converge.Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> None:
        replaced = properties.get("replace") != previous.get("replace")
        self._work(context, properties, converge.Replace() if replaced else None)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        self._work(context, context.properties)

    def _work(
        self,
        context: converge.Context,
        properties: Mapping[str, Any],
        error: Exception | None = None,
    ) -> None:
        self._tell("begin", context)
        if self._freezer is not None:
            self._freezer.reach(HANDLER)
        now = time.monotonic()
        pause = max(properties.get("until", now) - now, properties.get("least", 0.0))
        waits = context.attempt <= properties.get("waits", 0)
        if not properties.get("deaf") and context.cancelled.wait(None if waits else pause):
            raise RuntimeError("cancelled")
        if context.attempt <= properties.get("failures", 0):
            raise RuntimeError("not yet")
        if error is not None:
            raise error
        try:
            # a write in the middle of the work, which is fenced like its end
            context.record(context.physical_id or context.token)
        except StaleLock:
            self._tell("stale", context)
            raise
        self._tell("end", context)

    def _tell(self, what: str, context: converge.Context) -> None:
        self._log.tell(what, context.name, context.token, context.attempt)


class Retried(Effect):
    """An effect whose failed attempts are repeated."""

    retry: ClassVar[converge.RetryPolicy] = converge.RetryPolicy(attempts=3, first=1.0, deaths=1000)


def types(log: Log, freezer: Freezer | None = None) -> dict[str, converge.ResourceType]:
    """The resource types of every engine of these tests."""
    return {"effect": Effect(log, freezer), "retried": Retried(log, freezer)}


@dataclass(frozen=True)
class Orders:
    """How a process is to run its engine.

    :ivar folder: where the file of effects is ("world"), and where the log of each process
        goes, named by its pid.
    :ivar host: the name of the host that it believes to be on. Engines see the death of a
        process on their own host at once, so those of another wait for the end of its lease.
    :ivar place: where it waits to be stopped; None for nowhere.
    :ivar bus: its bus; None for the usual one.
    :ivar pool: the resource types that it has; empty for all.
    """

    url: str
    folder: Path
    lease: float
    workers: int = 4
    host: str = "here"
    place: str | None = None
    bus: str | None = None
    pool: tuple[str, ...] = ()


def main(orders: Orders) -> None:
    """Run an engine until it is told to end."""
    # threads inherit it, so that this one alone gets them
    signal.pthread_sigmask(signal.SIG_BLOCK, {FREEZE, END})
    platform.node = lambda: orders.host
    log = Log(orders.folder / "world")
    handler = logging.FileHandler(orders.folder / f"{os.getpid()}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(threadName)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("converge").setLevel(logging.INFO)
    logging.getLogger("converge").addHandler(_Listener(log))
    if orders.bus is not None:
        choose_threads()
    store = converge.connect(orders.url, bus=orders.bus)
    freezer = None if orders.place is None else Freezer(store, log, orders.place)
    if freezer is not None:
        crash_points.hook = freezer.reach
    known = types(log, freezer)
    engine = converge.Engine(
        store,
        types={name: known[name] for name in orders.pool or known},
        workers=orders.workers,
        lease=orders.lease,
        poll=0.1,
    )
    with engine:
        while signal.sigwait({FREEZE, END}) != END:
            assert freezer is not None
            freezer.freeze()
    store.close()
    if engine.error is not None:
        raise engine.error
