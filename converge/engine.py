"""The engine: threads around a :class:`~converge.session.Session`.

One thread turns: it writes what handlers achieved and claims new nodes, many of both in one
transaction. While there are more nodes ready than it gets, a second one claims, beside it.
Worker threads call handlers. One more keeps the lease and sweeps.
"""

from __future__ import annotations

import logging
import os
import platform
import queue
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from converge.errors import BadInput, ConvergeError, StoreError
from converge.jobs import Finished, Job, Jobs
from converge.points import Commit
from converge.recovery import (
    leave,
    process_identity,
    recover_dead_neighbours,
    sweep,
)
from converge.resource_type import ResourceType
from converge.resources import load_types
from converge.session import Session
from converge.store import engines, sync_points, traversals
from converge.store.database import repeatable
from converge.work import Outcome, Result, Step, Work

if TYPE_CHECKING:
    from converge.stacks import Store

LOG = logging.getLogger(__name__)

#: Seconds between two looks for work, when nothing else wakes the engine.
POLL = 0.5
#: Seconds that a lease lasts; it is renewed at a third of that.
LEASE = 15.0
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
        if not 1 <= workers <= 1000:
            raise BadInput(f"workers must be 1 to 1000, not {workers}")
        if not lease > 0 or not poll > 0:
            raise BadInput("lease and poll must be positive numbers of seconds")
        self.store = store
        self.types = {**load_types(), **(types or {})}
        self.workers = workers
        self.lease = lease
        self.poll = poll
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
        self._lost = threading.Event()
        # more nodes are ready than the turning thread claimed: the other one claims
        self._hungry = False
        self._more = threading.Event()
        self._claiming = threading.Lock()
        self._hand_back = threading.Event()
        self._seconds = AHEAD
        self._renewed = 0.0

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
        self._lost.clear()
        self._hungry = False
        self.error = None
        recover_dead_neighbours(self._database)
        self._database.transact(engines.delete_old_engines, Commit.FORGET)
        self._session = self._register()
        self.store.add_listener(self.wake)
        loops = (self._turn_loop, self._claim_loop, self._lease_loop)
        for name, target in zip(("turn", "claim", "lease"), loops, strict=True):
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
            self._stopped.wait()
        self.store.remove_listener(self.wake)
        for _ in range(self._worker_count):
            self._jobs.queued.put(None)
        self._worker_count = 0
        for thread in self._threads:
            thread.join()
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
            self._stopped.set()
            self._more.set()
            self._idle.set()

    def _turn(self, backlog: list[Outcome]) -> bool:
        """One round. True: the engine has stopped."""
        session = self._session
        assert session is not None
        if self._lost.is_set():
            backlog.clear()
            self._start_anew()
            return False
        self._collect(backlog, wait=not backlog)
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
            known = {job.work.node.key for job in self._jobs.all()}
            known.update(outcome.work.node.key for outcome in backlog)
            if self._finished.empty():
                session.reconcile(known)

    def _claim_loop(self) -> None:
        while not self._stopped.is_set():
            self._more.wait()
            self._more.clear()
            with self._claiming:
                session = self._session
                limit = self._room(0)
                if session is None or not self._hungry or self._lost.is_set():
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
        if self._worker_count < min(self.workers, len(self._jobs)):
            self._add_worker()
        self._jobs.queued.put(job)

    def _add_worker(self) -> None:
        self._worker_count += 1
        threading.Thread(target=self._work_loop, name="converge-worker", daemon=True).start()

    def _work_loop(self) -> None:
        while (job := self._jobs.queued.get()) is not None:
            job.started = time.monotonic()
            outcome = job.session.run(job.work, job.context)
            self._finished.put(Finished(job, outcome, time.monotonic() - job.started))
            if job.abandoned:
                return

    def _look_at_running(self, backlog: list[Outcome]) -> None:
        """Tell handlers that run out of time; give up those that don't listen."""
        now = time.monotonic()
        slow = False
        for job in self._jobs.all():
            if job.started is None:
                continue
            slow = slow or now - job.started > AHEAD
            limit = job.context.timeout
            if limit is None:
                continue
            if now - job.started > limit and job.cancelled_at is None:
                job.cancelled_at = now
                job.context.cancelled.set()
            if job.cancelled_at is not None and now - job.cancelled_at > GRACE:
                self._abandon(job)
                backlog.append(job.session.timed_out(job.work, limit))
        if slow:
            self._seconds = max(self._seconds, AHEAD)
            if len(self._jobs) > self.workers:
                backlog.extend(self._take_back())

    def _abandon(self, job: Job) -> None:
        """Expect nothing more of a handler. Its thread ends when it comes back, if ever."""
        job.abandoned = True
        self._jobs.discard(job)
        if job.started is not None:
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

    # -- the lease

    def _register(self) -> Session:
        before = time.monotonic()
        engine_id = self._database.transact(
            lambda tx: engines.insert_engine(
                tx, platform.node(), os.getpid(), process_identity(), self.lease
            ),
            Commit.REGISTER,
        )
        self._renewed = before
        LOG.info("engine %s registered", engine_id)
        return Session(self._database, engine_id, self.types)

    def _deregister(self, session: Session) -> None:
        """Leave at once what another engine can take."""
        try:
            self._database.transact(
                lambda tx: leave(tx, session.engine_id),
                Commit.LEAVE,
                happened=repeatable,
            )
        except StoreError as error:
            LOG.warning("engine %s: %s; its lease will run out", session.engine_id, error)

    def _lease_loop(self) -> None:
        tick = min(1.0, self.lease / 3)
        last_sweep = 0.0
        while not self._stopped.wait(tick):
            now = time.monotonic()
            session = self._session
            assert session is not None
            try:
                if now - self._renewed >= self.lease / 3:
                    self._renew(session, now)
                self._tell_halted()
                if now - last_sweep >= self.lease / 3:
                    last_sweep = now
                    if sweep(self._database):
                        self.wake()
            except StoreError as error:
                LOG.warning("engine %s: %s", session.engine_id, error)
            if time.monotonic() - self._renewed > self.lease * 0.8:
                self._lose()

    def _renew(self, session: Session, now: float) -> None:
        if self._database.transact(
            lambda tx: engines.renew_lease(tx, session.engine_id), Commit.RENEW, happened=repeatable
        ):
            self._renewed = now
        elif not self._stopping.is_set():
            self._lose()

    def _lose(self) -> None:
        """The lease is gone or about to go: stop what runs, before another engine starts it."""
        if self._lost.is_set():
            return
        LOG.warning("engine %s lost its lease; it goes on under a new id", self.id)
        self._lost.set()
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
        try:
            self._session = self._register()
        except StoreError as error:
            LOG.warning("%s; trying again", error)
            self._stopping.wait(min(1.0, self.poll))
            if self._stopping.is_set():
                raise
            return
        self._lost.clear()

    def _tell_halted(self) -> None:
        """Set ``context.cancelled`` of works whose traversal was cancelled or ran out of time."""
        jobs = self._jobs.all()
        ids = {job.work.traversal.id for job in jobs}
        if not ids:
            return
        halted = self._database.read(lambda tx: traversals.list_cancelled(tx, ids))
        for job in jobs:
            if job.work.traversal.id in halted:
                job.context.cancelled.set()
