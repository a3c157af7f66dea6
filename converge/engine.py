"""The engine: threads around a :class:`~converge.session.Session`.

One thread turns: it writes what handlers achieved and claims new nodes, many of both in one
transaction. While there are more nodes ready than it gets, a second one claims, beside it.
Worker threads call handlers. One keeps the lease, one watches the time, one sweeps.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from converge.errors import BadInput, ConvergeError, StoreError
from converge.jobs import Finished, Job, Jobs
from converge.lease import LEASE, LEAST, EngineLease, now
from converge.model import check_seconds
from converge.points import Commit
from converge.recovery import Sweeper, leave
from converge.resource_type import ResourceType, check_types
from converge.resources import load_types
from converge.run import failure
from converge.session import Session
from converge.store import engines, sync_points, traversals
from converge.store.database import repeatable
from converge.work import Outcome, Result, Step, Work

if TYPE_CHECKING:
    from converge.stacks import Store

LOG = logging.getLogger(__name__)

#: Seconds between two looks for work, when nothing else wakes the engine.
POLL = 0.5
#: At most so many nodes are held at a time.
WINDOW = 1000
#: Nodes are claimed ahead for so many seconds of the workers' time.
AHEAD = 0.25
#: Seconds that a handler has to obey ``context.cancelled`` before it is given up.
GRACE = 5.0


class Engine:
    """Claims nodes and calls their resource types, in threads of this process.

    Any number of engines work on one database. As a context manager it works in the
    background and stops at the end of the block.

    :param store: what :func:`converge.connect` gave.
    :param types: resource types by name, besides the installed ones; None for those only.
    :param workers: how many handlers run at once.
    :param lease: seconds without a sign of life after which other engines take its work over.
    :param poll: seconds between two looks for work.
    :raises BadInput: a number out of range.
    """

    def __init__(
        self,
        store: Store,
        types: Mapping[str, ResourceType] | None = None,
        *,
        workers: int = 8,
        lease: float = LEASE,
        poll: float = POLL,
    ) -> None:
        if type(workers) is not int or not 1 <= workers <= 1000:
            raise BadInput(f"workers must be a whole number from 1 to 1000, not {workers!r}")
        self.store = store
        self.types = {**load_types(), **(types or {})}
        check_types(self.types)
        self.workers = workers
        self.lease = check_seconds("lease", lease, LEAST)
        self.poll = check_seconds("poll", poll)
        #: What ended it, if that was neither a stop nor the end of its block.
        self.error: BaseException | None = None
        self._database = store.database
        self._session: Session | None = None
        self._jobs = Jobs()
        self._finished: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._worker_count = 0
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._idle = threading.Event()
        self._lease = EngineLease(store.database, self.lease, self._stop_work)
        # more nodes are ready than the turning thread claimed: the other one claims
        self._hungry = False
        self._more = threading.Event()
        self._claiming = threading.Lock()
        self._hand_back = threading.Event()
        self._seconds = AHEAD

    @property
    def id(self) -> int | None:
        """Its id in the database while it runs; a new one after its lease was lost."""
        return None if self._session is None else self._session.engine_id

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Register and begin to work in the background.

        :raises StoreError: the database cannot be used.
        :raises ConvergeError: it runs already.
        """
        if self._session is not None and not self._stopped.is_set():
            raise ConvergeError("this engine runs already")
        self._stopping.clear()
        self._stopped.clear()
        self._idle.clear()
        self._hand_back.clear()
        self._hungry = False
        self.error = None
        # what engines of this host left that are gone need not wait for the end of their leases
        Sweeper(self._database).sweep()
        self._database.transact(engines.delete_old_engines, Commit.FORGET, happened=repeatable)
        self._session = Session(self._database, self._lease.take(), self.types)
        self.store.add_listener(self.wake)
        loops = {
            "turn": self._turn_loop,
            "claim": self._claim_loop,
            "lease": lambda: self._lease.keep(self._stopped),
            "watch": self._watch_loop,
            "sweep": self._sweep_loop,
        }
        for name, target in loops.items():
            thread = threading.Thread(target=target, name=f"converge-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, grace: float | None = None) -> None:
        """Stop: claim nothing more, let running handlers finish, hand the rest back.

        :param grace: seconds that running handlers have, None for as long as they take. After
            that ``context.cancelled`` is set, and what then still runs is given up; its node
            is ready for another engine at once.
        """
        if self._session is None:
            return
        self._stopping.set()
        self.wake()
        if not self._stopped.wait(grace):
            self._hand_back.set()
            self.wake()
            if not self._stopped.wait(3 * GRACE):
                LOG.warning("engine %s: the database does not answer; its lease runs out", self.id)
                self._stopped.set()
        self.store.remove_listener(self.wake)
        for _ in range(self._worker_count):
            self._jobs.queued.put(None)
        self._worker_count = 0
        for thread in self._threads:
            # one that the database does not answer ends by itself
            thread.join(GRACE)
        self._threads.clear()

    def run(self, *, until_idle: bool = False) -> None:
        """Work in the background and wait: for :meth:`stop` from another thread, or, if asked
        for, until no node in the whole database is to be worked on."""
        self.start()
        try:
            self.wait_idle() if until_idle else self._stopped.wait()
        finally:
            self.stop()
        if self.error is not None:
            raise ConvergeError("the engine has stopped by itself") from self.error

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no node in the whole database is to be worked on, by any engine.

        :param timeout: seconds to wait at most.
        :returns: whether that was so.
        """
        self._idle.clear()
        self.wake()
        return self._idle.wait(timeout)

    def wake(self) -> None:
        """Look for work now."""
        self._finished.put(None)

    # -- the turning thread

    def _turn_loop(self) -> None:
        backlog: list[Outcome] = []
        try:
            while not self._turn(backlog):
                pass
        except BaseException as error:
            LOG.exception("engine %s stops", self.id)
            self.error = error
        finally:
            # nobody looks after what still runs, so it must not go on
            self._stop_work()
            self._stopped.set()
            self._more.set()
            self._idle.set()

    def _turn(self, backlog: list[Outcome]) -> bool:
        """One round. True: the engine has stopped."""
        session = self._session
        assert session is not None
        if self._lease.lost.is_set():
            backlog.clear()
            self._start_anew()
            return self._stopping.is_set()
        self._collect(backlog, wait=not backlog)
        if self._lease.lost.is_set():
            # what a handler came to because of that is no failure of its own
            return False
        self._look_at_running(backlog)
        stopping = self._stopping.is_set()
        if stopping:
            with self._claiming:
                self._hungry = False
                backlog.extend(self._take_back())
            if self._hand_back.is_set():
                self._give_up(backlog)
        limit = 0 if stopping or self._hungry else self._room(len(backlog))
        busy = bool(backlog)
        ends = any(outcome.work.decision.step is Step.FINISH for outcome in backlog)
        try:
            if session.doubtful:
                self._reconcile(session, backlog)
            works = session.turn(backlog, limit)
        except StoreError as error:
            LOG.warning("%s; trying again", error)
            self._stopping.wait(min(1.0, self.poll))
            return stopping and self._hand_back.is_set()
        backlog.clear()
        if self._lease.lost.is_set():
            return False
        for work in works:
            self._take_on(session, work)
        if ends:
            self.store.notify_end()
        if limit and len(works) >= limit:
            self._hungry = True
        if self._hungry:
            self._more.set()
        idle = not works and not self._jobs and self._finished.empty()
        if stopping and idle:
            self._deregister(session)
            return True
        if not busy and idle:
            self._check_idle()
        return False

    def _reconcile(self, session: Session, backlog: list[Outcome]) -> None:
        with self._claiming:
            known = [job.work for job in self._jobs.all()]
            known += [outcome.work for outcome in backlog]
            if self._finished.empty():
                session.reconcile(known)

    def _claim_loop(self) -> None:
        while not self._stopped.is_set():
            self._more.wait()
            self._more.clear()
            with self._claiming:
                session = self._session
                limit = self._room(0)
                if session is None or not self._hungry or self._lease.lost.is_set():
                    continue
                window = self._window()
                # a few of many are not worth a transaction; the turning thread calls again
                if limit < max(1, window // 4 if window > 4 * self.workers else 1):
                    continue
                try:
                    works = session.turn([], limit)
                except Exception as error:
                    # the turning thread claims again, and meets what is more than a hiccup
                    LOG.warning("%s; trying again", error)
                    self._hungry = False
                    self.wake()
                    continue
                self._hungry = len(works) >= limit
                for work in works:
                    self._take_on(session, work)
            if self._hungry:
                self._more.set()
            else:
                self.wake()

    def _room(self, backlog: int) -> int:
        """How many more nodes to hold."""
        return max(0, self._window() - len(self._jobs) - backlog)

    def _collect(self, backlog: list[Outcome], *, wait: bool) -> None:
        """Take what workers finished; wait for something to do if there is nothing."""
        timeout = self.poll
        while True:
            try:
                finished = self._finished.get(block=wait, timeout=timeout if wait else None)
            except queue.Empty:
                break
            wait = False
            if finished is None:
                continue
            job = finished.job
            if job is None:
                backlog.append(finished.outcome)
                continue
            self._jobs.discard(job)
            if job.abandoned or job.session is not self._session:
                continue
            # a moving average, quick to see that handlers have become slow
            weight = 0.5 if finished.seconds > self._seconds else 0.05
            self._seconds += weight * (finished.seconds - self._seconds)
            backlog.append(finished.outcome)

    def _window(self) -> int:
        """How many nodes to hold: no more than the workers get done soon, so that other engines
        are left their share; but many, while the commits are what takes the time."""
        soon = int(self.workers * AHEAD / max(self._seconds, 1e-6))
        return max(self.workers, min(soon, WINDOW))

    def _take_on(self, session: Session, work: Work) -> None:
        """Give a work to the workers, or settle it here if it needs no handler."""
        if work.decision.step is Step.FINISH:
            self._finished.put(Finished(None, Outcome(work, Result.DONE)))
            return
        context = session.context(work)
        if context is None:
            self._finished.put(Finished(None, session.run(work, None)))
            return
        job = Job(work, context, session)
        self._jobs.add(job)
        if self._lease.lost.is_set():
            job.context.cancelled.set()
        if self._worker_count < min(self.workers, len(self._jobs)):
            self._add_worker()
        self._jobs.queued.put(job)

    def _add_worker(self) -> None:
        self._worker_count += 1
        threading.Thread(target=self._work_loop, name="converge-worker", daemon=True).start()

    def _work_loop(self) -> None:
        while (job := self._jobs.queued.get()) is not None:
            # the time itself: after a pause, this thread may be the first to go on
            if not self._lease.check() or not self._jobs.begin(job):
                continue
            assert job.started is not None
            try:
                outcome = job.session.run(job.work, job.context)
            except BaseException as error:
                LOG.exception("engine %s: a handler got out of hand", self.id)
                outcome = failure(job.work, f"got out of hand: {type(error).__name__}")
            self._finished.put(Finished(job, outcome, time.monotonic() - job.started))
            if self._jobs.end(job):
                return

    def _look_at_running(self, backlog: list[Outcome]) -> None:
        """Give up handlers that don't obey a cancel; see whether handlers have become slow."""
        at = time.monotonic()
        slow = False
        for job in self._jobs.all():
            if job.started is None:
                continue
            slow = slow or at - job.started > AHEAD
            if job.cancelled_at is not None and at - job.cancelled_at > GRACE:
                self._abandon(job)
                limit = job.context.timeout
                if limit is not None and at - job.started > limit:
                    backlog.append(job.session.timed_out(job.work, limit))
                else:
                    backlog.append(job.session.given_up(job.work, GRACE))
        if slow:
            self._seconds = max(self._seconds, AHEAD)
            if len(self._jobs) > self.workers:
                backlog.extend(self._take_back())

    def _abandon(self, job: Job) -> None:
        """Expect nothing more of a handler. Its thread ends when it comes back, if ever."""
        if self._jobs.abandon(job):
            self._worker_count -= 1

    def _take_back(self) -> list[Outcome]:
        """Hand back the works whose handlers have not started, for any engine to take."""
        return [Outcome(job.work, Result.HANDED_BACK) for job in self._jobs.take_queued()]

    def _give_up(self, backlog: list[Outcome]) -> None:
        """Cancel what runs, wait a little for it, and hand back what does not end."""
        for job in self._jobs.all():
            job.context.cancelled.set()
        end = time.monotonic() + GRACE
        while self._jobs and (left := end - time.monotonic()) > 0:
            try:
                finished = self._finished.get(timeout=left)
            except queue.Empty:
                break
            if finished is None:
                continue
            outcome = finished.outcome
            if finished.job is not None:
                self._jobs.discard(finished.job)
                if outcome.result in (Result.FAILED, Result.RETRY):
                    # a handler that was interrupted by our stop has not failed
                    outcome = Outcome(outcome.work, Result.HANDED_BACK, started=True)
            backlog.append(outcome)
        for job in self._jobs.all():
            self._abandon(job)

    def _check_idle(self) -> None:
        if self._idle.is_set():
            return
        try:
            if not self._database.read(sync_points.count_live):
                self._idle.set()
        except StoreError as error:
            LOG.warning("%s", error)

    # -- beginning, ending, and beginning anew

    def _deregister(self, session: Session) -> None:
        """Leave at once what another engine can take."""
        self._lease.end()
        try:
            self._database.transact(
                lambda tx: leave(tx, session.engine_id), Commit.LEAVE, happened=repeatable
            )
        except StoreError as error:
            LOG.warning("engine %s: %s; its lease will run out", session.engine_id, error)

    def _stop_work(self) -> None:
        """The lease is gone or about to go: stop what runs, before another engine starts it."""
        self._jobs.take_queued()
        for job in self._jobs.all():
            job.context.cancelled.set()
        self.wake()

    def _start_anew(self) -> None:
        """Forget all works of the old id, and register under a new one."""
        with self._claiming:
            self._hungry = False
            self._jobs.take_queued()
            for job in self._jobs.all():
                self._abandon(job)
            while not self._finished.empty():
                self._finished.get_nowait()
        if self._stopping.is_set():
            return
        try:
            self._session = Session(self._database, self._lease.take(), self.types)
        except StoreError as error:
            LOG.warning("%s; trying again", error)
            self._stopping.wait(min(1.0, self.poll))

    # -- the threads that look after the others

    def _watch_loop(self) -> None:
        """What must be seen in time, however long the database takes."""
        while not self._stopped.wait(min(0.25, self.lease / 20)):
            self._lease.check()
            now = time.monotonic()
            for job in self._jobs.all():
                limit = job.context.timeout
                if job.started is not None and limit is not None and now - job.started > limit:
                    job.cancel(now)

    def _sweep_loop(self) -> None:
        """Recover what others left, and tell handlers of cancelled traversals."""
        sweeper = Sweeper(self._database)
        last_sweep = now()
        while not self._stopped.wait(min(1.0, self.lease / 3)):
            try:
                self._tell_halted()
                if now() - last_sweep >= self.lease / 3:
                    last_sweep = now()
                    found = sweeper.sweep()
                    if found or found.ready:
                        self.wake()
            except StoreError as error:
                LOG.warning("engine %s: %s", self.id, error)

    def _tell_halted(self) -> None:
        """Set ``context.cancelled`` of works whose traversal was cancelled or ran out of time."""
        jobs = self._jobs.all()
        ids = {job.work.traversal.id for job in jobs}
        if not ids:
            return
        halted = self._database.read(lambda tx: traversals.list_cancelled(tx, ids))
        for job in jobs:
            if job.work.traversal.id in halted:
                job.cancel(time.monotonic())
