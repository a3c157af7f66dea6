"""The works that an engine has in hand, between its threads."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converge.resource_type import Context
    from converge.session import Session
    from converge.work import Outcome, Work


@dataclass(slots=True)
class Job:
    """A work that a handler is to be called for."""

    work: Work
    context: Context
    session: Session
    started: float | None = None
    cancelled_at: float | None = None
    abandoned: bool = False
    ended: bool = False

    def cancel(self, now: float) -> None:
        """Tell the handler to stop.

        :param now: on the monotonic clock, in seconds.
        """
        if self.cancelled_at is None:
            self.cancelled_at = now
            self.context.cancelled.set()


@dataclass(slots=True)
class Finished:
    """What came back from a worker, or needed none (then there is no job)."""

    job: Job | None
    outcome: Outcome
    seconds: float = 0.0


class Jobs:
    """The works in hand: those that wait for a worker, and those whose handler runs."""

    def __init__(self) -> None:
        self.queued: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held: dict[int, Job] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, job: Job) -> None:
        with self._lock:
            self._held[id(job)] = job

    def discard(self, job: Job) -> None:
        with self._lock:
            self._held.pop(id(job), None)

    def all(self) -> list[Job]:
        with self._lock:
            return list(self._held.values())

    def begin(self, job: Job) -> bool:
        """Note that a worker calls the handler now. False: nothing is expected of it any more."""
        with self._lock:
            if not job.abandoned:
                job.started = time.monotonic()
            return not job.abandoned

    def end(self, job: Job) -> bool:
        """Note that the handler came back.

        :returns: whether the job was abandoned, and its worker is not counted any more.
        """
        with self._lock:
            job.ended = True
            return job.abandoned

    def abandon(self, job: Job) -> bool:
        """Expect nothing more of a job.

        :returns: whether a worker is at it.
        """
        with self._lock:
            job.abandoned = True
            self._held.pop(id(job), None)
            return job.started is not None and not job.ended

    def take_queued(self) -> list[Job]:
        """Remove the works that no worker has begun."""
        taken: list[Job] = []
        while True:
            try:
                job = self.queued.get_nowait()
            except queue.Empty:
                return taken
            if job is not None:
                self.discard(job)
                taken.append(job)
