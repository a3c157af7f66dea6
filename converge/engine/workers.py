"""The threads of an engine that call handlers, and the works that wait for one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from converge.engine.tenure import Tenure
from converge.protocol.decide import Work
from converge.resources.resource_type import Context


@dataclass(slots=True)
class Job:
    """A work that a handler is to be called for.

    :ivar tenure: under which lease of the engine it was taken.
    :ivar started: when the call began, on the monotonic clock, in seconds.
    """

    work: Work
    context: Context
    tenure: Tenure
    started: float | None = None
    cancelled_at: float | None = None
    abandoned: bool = False
    ended: bool = False

    def cancel(self, now: float, reason: str) -> None:
        """Tell the handler to stop; it is given up if it does not obey.

        :param now: on the monotonic clock, in seconds.
        """
        if self.cancelled_at is None:
            self.cancelled_at = now
            self.context.cancel(reason)

    def interrupt(self, reason: str) -> None:
        """Tell the handler to stop, as another engine, or this one later, will call it again."""
        self.context.cancel(reason, interrupted=True)


class Workers:
    """Threads, as many as there are jobs for, up to a number.

    :param most: how many.
    :param work: what each does with a job.
    """

    def __init__(self, most: int, work: Callable[[Job], object]) -> None:
        self._most = most
        self._work = work
        self._queued: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._count = 0
        self._closed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many jobs are in hand: those that wait for a thread, and those that have one."""
        return len(self._jobs)

    def all(self) -> list[Job]:
        """The jobs in hand."""
        with self._lock:
            return list(self._jobs.values())

    def add(self, job: Job) -> None:
        """Have a job done."""
        with self._lock:
            self._jobs[id(job)] = job
            more = not self._closed and self._count < min(self._most, len(self._jobs))
            self._count += more
        self._queued.put(job)
        if more:
            threading.Thread(target=self._loop, name="converge-worker", daemon=True).start()

    def discard(self, job: Job) -> None:
        """A job is over, and not in hand any more."""
        with self._lock:
            self._jobs.pop(id(job), None)

    def take_queued(self) -> list[Job]:
        """Take the jobs back that no thread has begun."""
        taken: list[Job] = []
        ends = 0
        while True:
            try:
                job = self._queued.get_nowait()
            except queue.Empty:
                break
            if job is None:
                ends += 1
            else:
                self.discard(job)
                taken.append(job)
        for _ in range(ends):
            self._queued.put(None)
        return taken

    def abandon(self, job: Job) -> None:
        """Expect nothing more of a job. If a thread is at it, that ends when it comes back, if
        ever, and another one takes its place."""
        with self._lock:
            job.abandoned = True
            self._jobs.pop(id(job), None)
            if job.started is not None and not job.ended:
                self._count -= 1

    def close(self) -> None:
        """End the threads, each when it has nothing to do. Once is enough; more is no harm."""
        with self._lock:
            ending = 0 if self._closed else self._count
            self._closed = True
        for _ in range(ending):
            self._queued.put(None)

    def _loop(self) -> None:
        while (job := self._queued.get()) is not None:
            if not self._begin(job):
                continue
            self._work(job)
            if self._end(job):
                return

    def _begin(self, job: Job) -> bool:
        with self._lock:
            if not job.abandoned:
                job.started = time.monotonic()
            return not job.abandoned

    def _end(self, job: Job) -> bool:
        """:returns: whether the job was abandoned, and its thread is not counted any more."""
        with self._lock:
            job.ended = True
            return job.abandoned
