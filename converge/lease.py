"""The lease: an engine's sign of life in the database, and what it does without one.

One thread renews it, a second one only looks at the time. That one never waits for the
database, so that handlers are told in time also when the database hangs.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable

from converge.errors import StoreError
from converge.points import Commit
from converge.process import process_identity
from converge.store import engines
from converge.store.database import Database, repeatable

LOG = logging.getLogger(__name__)

#: Seconds that a lease lasts.
LEASE = 15.0
#: A shorter one, in seconds, would be lost whenever a machine or database is busy.
LEAST = 1.0
#: Parts of the lease after which it is renewed, and given up for lost.
RENEW = 1 / 3
LOSE = 0.8


def now() -> float:
    """Seconds on a clock of this machine that goes on while the machine is suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Lease:
    """One engine's lease; after a loss it is taken anew, under another id.

    :param seconds: how long it lasts without being renewed.
    :param on_loss: called, in any thread, once per loss.
    :param role: what its holder does.
    """

    def __init__(
        self,
        database: Database,
        seconds: float,
        on_loss: Callable[[], None],
        role: str = engines.ENGINE,
    ) -> None:
        self.seconds = seconds
        #: Set while there is no lease.
        self.lost = threading.Event()
        self._database = database
        self._on_loss = on_loss
        self._role = role
        self._process = process_identity()
        self._engine_id = 0
        self._renewed = 0.0
        self._ended = False
        self._lock = threading.Lock()

    def take(self) -> int:
        """Register an engine, and return its id.

        :raises StoreError: the database cannot be used.
        """
        before = now()
        engine_id = self._database.transact(
            lambda tx: engines.insert_engine(
                tx, platform.node(), os.getpid(), self._process, self.seconds, self._role
            ),
            Commit.REGISTER,
            # one that nobody knows of does nothing, and its lease runs out
            happened=repeatable,
        )
        with self._lock:
            self._engine_id = engine_id
            self._renewed = before
            self._ended = False
            self.lost.clear()
        LOG.info("engine %s registered", engine_id)
        return engine_id

    def renew(self) -> None:
        """Renew it; or find that others take the engine for dead already.

        :raises StoreError: the database cannot be used.
        """
        before = now()
        engine_id = self._engine_id
        renewed = self._database.transact(
            lambda tx: engines.renew_lease(tx, engine_id, self._process),
            Commit.RENEW,
            happened=repeatable,
        )
        with self._lock:
            if self._engine_id != engine_id:
                return
            if renewed and not self.lost.is_set():
                self._renewed = before
                return
        self.lose()

    def end(self) -> None:
        """It is given back: from now on it can neither be renewed nor be lost."""
        with self._lock:
            self._ended = True

    def lose(self) -> None:
        """Give it up for lost."""
        with self._lock:
            if self._ended or self.lost.is_set():
                return
            self.lost.set()
        LOG.warning("engine %s lost its lease; it goes on under a new id", self._engine_id)
        self._on_loss()

    def keep(self, stopped: threading.Event) -> None:
        """Renew it again and again, until the engine has stopped."""
        pause = self.seconds * RENEW
        while not stopped.wait(pause):
            pause = self.seconds * RENEW
            if self.lost.is_set():
                continue
            try:
                self.renew()
            except StoreError as error:
                pause /= 5
                LOG.warning("engine %s cannot renew its lease: %s", self._engine_id, error)

    def check(self) -> bool:
        """Give it up for lost if it is about to end.

        :returns: whether there is one.
        """
        with self._lock:
            late = now() - self._renewed > self.seconds * LOSE
        if late:
            self.lose()
        return not self.lost.is_set()
