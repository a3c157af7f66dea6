"""The sweep of a machine: it fires timeouts, and calls pending actions."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from converge.lease import expire, list_gone
from converge.machine.actions import Actions
from converge.machine.moving import BATCH, Fired, Mover
from converge.model import check_seconds
from converge.sql import machines, moves
from converge.sql.database import Database

LOG = logging.getLogger(__name__)

#: Seconds between two sweeps.
SWEEP = 1.0
#: The most actions that are taken at a time; other processes can take the rest meanwhile.
CLAIM = 20
#: If the actions taken at a time need less than this many seconds, more are taken next time.
QUICK = 1.0


def never() -> bool:
    """The default for ``stopped``: do not stop."""
    return False


class MachineWorker:
    """Sweeps the instances of a machine, once or in the background.

    :param time_out: fires a batch of timeouts in a transaction of its own.
    """

    def __init__(
        self,
        database: Database,
        mover: Mover,
        actions: Actions,
        time_out: Callable[[], Fired],
    ) -> None:
        self._database = database
        self._definition = mover.definition
        self._name = mover.name
        self._actions = actions
        self._time_out = time_out
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._warned: set[int] = set()

    # -- in the background

    def start(self, every: float, workers: int) -> None:
        """Sweep in threads until :meth:`close`: one for timeouts, so that they do not wait for
        actions, and others for actions.

        :param every: seconds between two sweeps.
        :param workers: how many threads call actions.
        :raises BadInput: ``every`` is not a positive number.
        """
        check_seconds("every", every)
        if any(thread.is_alive() for thread in self._threads):
            return
        self._stopped.clear()
        duties: list[Callable[[], object]] = [self.fire_timeouts]
        if self._definition.has_actions:
            duties += [lambda: self.call_actions(self._stopped.is_set)] * workers
        self._threads = [
            threading.Thread(
                target=self._loop,
                args=(duty, every),
                name=f"converge-machine-{self._name}",
                daemon=True,
            )
            for duty in duties
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads once the running actions have returned."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _loop(self, duty: Callable[[], object], every: float) -> None:
        while not self._stopped.wait(every):
            try:
                duty()
            except Exception as error:
                # this thread must go on, whatever the error is
                LOG.warning("machine %s: %s; trying again", self._name, error)

    # -- once

    def fire_timeouts(self) -> int:
        """Fire timeouts that have passed, and end the leases of processes that are gone.

        :returns: how many fired.
        """
        # read first: nearly always there is nothing to do, and a read blocks nobody
        overdue, gone = self._database.read(
            lambda tx: (machines.list_overdue_versions(tx, self._name), list_gone(tx))
        )
        expire(self._database, gone)
        moved = 0
        while self._supports_any(overdue):
            fired = self._time_out()
            moved += fired.moves
            if fired.seen < BATCH:
                break
        return moved

    def call_actions(self, stopped: Callable[[], bool] = never) -> int:
        """Call actions that are due and free, until there are no more.

        :param stopped: whether to call no more.
        :returns: how many were called without an error.
        """
        self._actions.retry_releases()
        due = self._database.read(lambda tx: moves.list_due_versions(tx, self._name))
        called = 0
        # taken actions wait for each other, so take few until they turn out to be quick
        limit = 1
        while self._supports_any(due) and not stopped():
            begun = time.monotonic()
            count, taken = self._actions.claim(limit)
            if not count:
                break
            to_call = len(taken)
            try:
                errors = self._actions.call_all(taken, stopped=stopped)
                called += to_call - len(taken) - len(errors)
            finally:
                self._actions.release(taken)
            quick = time.monotonic() - begun < QUICK
            limit = min(2 * limit, CLAIM) if quick else 1
        return called

    def _supports_any(self, versions: Iterable[int]) -> bool:
        """Whether this program can move instances of any of these versions; warn about others."""
        known = set(self._definition.versions)
        for version in set(versions) - known - self._warned:
            self._warned.add(version)
            LOG.warning(
                "machine %s: there are instances of version %s, which version %s has no "
                "migration for; their timeouts do not fire and their actions are not called",
                self._name,
                version,
                self._definition.version,
            )
        return not known.isdisjoint(versions)
