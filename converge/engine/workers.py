"""The threads of an engine that call handlers, and the jobs that wait for a thread.

Traversals take turns here, too: a job waits for one of each of the others, not for all jobs that
were claimed before it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from converge.awaiting import Doing, run_plain
from converge.engine.loop import Loop
from converge.engine.tenure import Tenure
from converge.protocol.work import Work
from converge.resources.resource_type import Context


@dataclass(slots=True)
class Job:
    """A work that a handler is to be called for. Times are seconds on the monotonic clock.

    :ivar tenure: the tenure in which the work was claimed.
    :ivar started: when the call began.
    :ivar cancelled_at: when the handler was cancelled.
    :ivar abandoned: the outcome is no longer waited for.
    :ivar ended: the call has returned.
    :ivar is_async: its handler runs on the event loop, in no worker's thread.
    """

    work: Work
    context: Context
    tenure: Tenure
    started: float | None = None
    cancelled_at: float | None = None
    abandoned: bool = False
    ended: bool = False
    is_async: bool = False
    stop: Callable[[], object] | None = None

    def cancel(self, now: float, reason: str) -> None:
        """Cancel the handler; if it does not return, it is given up.

        :param now: seconds on the monotonic clock.
        """
        if self.cancelled_at is None:
            self.cancelled_at = now
            self.context.cancel(reason)
            if self.stop is not None:
                self.stop()

    def interrupt(self, reason: str) -> None:
        """Interrupt the handler, which will be called again, by this engine or another one."""
        self.context.cancel(reason, interrupted=True)
        if self.stop is not None:
            self.stop()


class _Queue:
    """Jobs that wait. Of each traversal, the first one is next; traversals take turns."""

    def __init__(self) -> None:
        # a token for each job; false: the thread that takes it is to end
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waiting: dict[int, deque[Job]] = {}
        self._lock = threading.Lock()

    def put(self, job: Job) -> None:
        with self._lock:
            self._waiting.setdefault(job.work.traversal.id, deque()).append(job)
        self._tokens.put(True)

    def put_end(self) -> None:
        """One thread is to end when nothing waits that was put before."""
        self._tokens.put(False)

    def get(self) -> Job | None:
        """The next job, once there is one; None: the thread is to end."""
        return self._pop() if self._tokens.get() else None

    def take_all(self) -> list[Job]:
        """All jobs; the ends stay."""
        taken = []
        ends = 0
        while True:
            try:
                is_job = self._tokens.get_nowait()
            except queue.Empty:
                break
            if is_job:
                taken.append(self._pop())
            else:
                ends += 1
        for _ in range(ends):
            self.put_end()
        return taken

    def _pop(self) -> Job:
        with self._lock:
            traversal_id = next(iter(self._waiting))
            jobs = self._waiting.pop(traversal_id)
            job = jobs.popleft()
            if jobs:
                # behind the others
                self._waiting[traversal_id] = jobs
        return job


class Workers:
    """A pool of threads that grows with the number of jobs, and an event loop for those whose
    handlers are ``async def``.

    :param most: the most threads.
    :param work: what is done with a job.
    :param loop: the event loop.
    """

    def __init__(self, most: int, work: Callable[[Job], Doing[object]], loop: Loop) -> None:
        self._most = most
        self._work = work
        self._loop_of_all = loop
        self._async = 0
        self._queued = _Queue()
        self._jobs: dict[int, Job] = {}
        self._count = 0
        self._closed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many jobs are queued or running."""
        return len(self._jobs)

    @property
    def in_threads(self) -> int:
        """How many of them are for threads."""
        return len(self._jobs) - self._async

    def all(self) -> list[Job]:
        """The jobs that are queued or running."""
        with self._lock:
            return list(self._jobs.values())

    def add(self, job: Job) -> None:
        """Queue a job."""
        if job.is_async:
            self._add_async(job)
            return
        with self._lock:
            self._jobs[id(job)] = job
            more = not self._closed and self._count < min(self._most, self.in_threads)
            self._count += more
        self._queued.put(job)
        if more:
            threading.Thread(target=self._loop, name="converge-worker", daemon=True).start()

    def _add_async(self, job: Job) -> None:
        def over() -> None:
            job.ended = True

        with self._lock:
            self._jobs[id(job)] = job
            self._async += 1
        running = self._loop_of_all.start(self._call_async(job), over, _name_of(job))
        job.stop = lambda: self._loop_of_all.cancel(running)
        if job.context.cancel_reason is not None:
            job.stop()

    def _call_async(self, job: Job) -> Doing[object]:
        if self._begin(job):
            yield from self._work(job)
        return None

    def discard(self, job: Job) -> None:
        """Remove a job that is over."""
        with self._lock:
            self._pop(job)

    def _pop(self, job: Job) -> None:
        if self._jobs.pop(id(job), None) is not None:
            self._async -= job.is_async

    def take_queued(self) -> list[Job]:
        """Remove and return the jobs that no thread has started."""
        taken = self._queued.take_all()
        for job in taken:
            self.discard(job)
        return taken

    def abandon(self, job: Job) -> None:
        """Stop waiting for a job. If a thread runs it, another thread may take that one's place;
        it ends when the call returns, if ever."""
        with self._lock:
            job.abandoned = True
            self._pop(job)
            if job.started is not None and not job.ended and not job.is_async:
                self._count -= 1

    def look(self, at: float) -> None:
        """Look whether the event loop goes on; see :meth:`~converge.engine.loop.Loop.look`."""
        self._loop_of_all.look(at)

    def close(self) -> None:
        """End each thread when it has nothing to do. Safe to repeat."""
        with self._lock:
            ending = 0 if self._closed else self._count
            self._closed = True
        for _ in range(ending):
            self._queued.put_end()
        self._loop_of_all.close()

    def _loop(self) -> None:
        while (job := self._queued.get()) is not None:
            if not self._begin(job):
                continue
            run_plain(self._work(job))
            if self._end(job):
                return

    def _begin(self, job: Job) -> bool:
        with self._lock:
            if not job.abandoned:
                job.started = time.monotonic()
            return not job.abandoned

    def _end(self, job: Job) -> bool:
        """:returns: whether the thread is to end: the job was abandoned, and another thread may
        have taken its place."""
        with self._lock:
            job.ended = True
            return job.abandoned


def _name_of(job: Job) -> str:
    """What a job does, as the log of handlers says it."""
    operation = job.work.decision.operation
    return f"stack {job.context.stack!r}: {operation} of resource {job.context.name!r}"
