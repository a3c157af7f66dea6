"""One run of an engine, from its start to its stop.

The turning thread writes the outcomes of handlers and claims new nodes, many of both in one
transaction. While more nodes are ready than it claims, a second thread claims beside it. Worker
threads call handlers; an event loop runs those that are ``async def``. One thread renews the lease,
one watches the clock, one sweeps: it recovers what dead engines left.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converge.awaiting import Doing
from converge.bus.hint import Hint
from converge.bus.pace import Looks
from converge.crash_points import Commit
from converge.engine.core import EngineCore
from converge.engine.loop import Loop
from converge.engine.observer import Observer
from converge.engine.tenure import Tenure
from converge.engine.window import AHEAD, Ahead, Gathering, Window
from converge.engine.workers import Job, Workers
from converge.errors import StaleLock, StoreError
from converge.lease import Lease, RowLeases, now
from converge.protocol.outcomes import failure
from converge.protocol.policy import Policy
from converge.protocol.recover import Sweeper, leave
from converge.protocol.room import Room, has_async, is_async_work
from converge.protocol.work import Operation, Outcome, Result, Work
from converge.resources.resource_type import ResourceType
from converge.sql import engines, sync_points, traversals
from converge.sql.database import repeatable
from converge.sql.sync_points import Key
from converge.sql.transaction import Transaction
from converge.wait import FOREVER

if TYPE_CHECKING:
    from converge.store import Store

LOG = logging.getLogger(__name__)

#: Seconds that a cancelled handler has to return before it is given up.
GRACE = 5.0
#: Seconds between two looks at something that is waited for.
LOOK = 0.25
#: Why handlers are interrupted.
LOST = "the engine lost its lease"
#: What the turning thread is given when there is a hint; None: look now.
_HEARD = "heard"


@dataclass(slots=True)
class Finished:
    """An outcome, and the job that it came from; None if no handler was needed.

    :ivar seconds: how long the handler ran.
    """

    tenure: Tenure
    job: Job | None
    outcome: Outcome
    seconds: float = 0.0


class Run:
    """Registers, and works from :meth:`begin` until :meth:`stop`.

    :param async_workers: how many handlers run at a time that are ``async def``.
    :param lease: seconds without a sign of life after which other engines take over its work.
    :param poll: seconds between two looks for work.
    :param prune_after: prune what ended so many seconds ago; None: never.
    :param needed: how many connections to the database it may need.
    :param observer: is told what it does.
    :param queues: the names of the queues that it serves.
    :param policy: is asked before each call of a handler.
    :ivar ended: set when it has stopped.
    :ivar error: the error that stopped it, if any.
    :raises StoreError: the database cannot be used.
    """

    def __init__(
        self,
        store: Store,
        types: Mapping[str, ResourceType],
        *,
        workers: int,
        async_workers: int,
        lease: float,
        poll: float,
        prune_after: float | None,
        needed: int,
        queues: Collection[str],
        observer: Observer | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.store = store
        self.types = types
        self.queues = queues
        self.poll = poll
        self.prune_after = prune_after
        self.observer = Observer() if observer is None else observer
        self.policy = policy
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._database = store.database
        self._workers = Workers(workers, self._work, Loop(async_workers))
        self._finished: queue.SimpleQueue[Finished | str | None] = queue.SimpleQueue()
        self._looks = Looks(poll)
        # the last wait for something to do ended without anything
        self._polled = False
        self._stopping = threading.Event()
        self._hand_back = threading.Event()
        self._idle = threading.Event()
        self._threads: list[threading.Thread] = []
        # more nodes are ready than the turning thread claimed: the claiming thread claims
        self._more_ready = False
        # there was a hint since the last claim of the turning thread; one about a stack of which
        # this engine has nothing
        self._heard = self._heard_of_other = False
        self._more = threading.Event()
        self._claiming = threading.Lock()
        # what the database says is held is to be compared with what this engine knows of
        self._recheck = threading.Event()
        self._broken = 0
        self._window = Window(workers)
        self._ahead = Ahead(async_workers if has_async(types) else 0)
        # recover at once what dead engines of this host left, before their leases expire
        Sweeper(self._database).sweep()
        self._database.transact(engines.delete_old_engines, Commit.FORGET, happened=repeatable)
        self._check_server(needed)
        self._leases = RowLeases(self._database, lease, types=types, queues=queues)
        try:
            self._tenure = self._begin_tenure()
        except BaseException:
            self._leases.close()
            raise

    @property
    def id(self) -> int:
        """The engine's id in the database; a new one after its lease was lost."""
        return self._tenure.lease.id

    @property
    def is_ready(self) -> bool:
        """Whether it takes work: it neither stops nor has lost its lease."""
        over = self.ended.is_set() or self._stopping.is_set() or self._tenure.is_over
        return not over and self._tenure.lease.check()

    @property
    def lease_age(self) -> float:
        """Seconds since the lease was renewed last."""
        return self._tenure.lease.age

    @property
    def async_running(self) -> int:
        """How many handlers run on the event loop."""
        return len(self._workers) - self._workers.in_threads

    def begin(self) -> None:
        """Start the threads."""
        self.store.bus.add_listener(self._hear)
        for name, target in {
            "turn": self._turn_loop,
            "claim": self._claim_loop,
            "watch": self._watch_loop,
            "sweep": self._sweep_loop,
        }.items():
            thread = threading.Thread(target=target, name=f"converge-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, grace: float | None) -> None:
        """Stop; see :meth:`converge.Engine.stop`. Safe to call from several threads at once."""
        self._stopping.set()
        self.wake()
        if not self.ended.wait(grace):
            self._hand_back.set()
            self.wake()
            if not self.ended.wait(3 * GRACE):
                LOG.warning(
                    "engine %s: the database does not answer; the lease will expire", self.id
                )
                self._end()
        for thread in self._threads:
            # a thread that waits for the database ends by itself
            thread.join(GRACE)

    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until no node in the whole database is left to work on, or the run has ended.

        :param timeout: seconds to wait at most; None for no limit.
        :returns: whether none is left; false if the time ran out or the run has ended.
        """
        self._idle.clear()
        self.wake()
        # both looks are needed: the end, too, sets the event
        return not self.ended.is_set() and self._idle.wait(timeout) and not self.ended.is_set()

    def wake(self) -> None:
        """Look for work now."""
        self._finished.put(None)

    def _hear(self, hint: Hint) -> None:
        """There is a hint: look for work soon, if there is a worker for it."""
        if not self._tenure.core.may_take(hint.ready):
            # it is for engines that have other types, or serve other queues
            return
        # what this engine makes ready itself, it claims as it has room
        if threading.current_thread() not in self._threads:
            self._heard = True
            self._heard_of_other |= not self._tenure.has_all(hint.changed)
        self._finished.put(_HEARD)

    # -- the turning thread

    def _turn_loop(self) -> None:
        try:
            while not self.ended.is_set() and not self._turn():
                pass
        except BaseException as error:
            LOG.exception("engine %s stops because of an error", self.id)
            self.error = error
        finally:
            # nothing watches the handlers that still run, so they must stop
            self._interrupt_all("the engine has stopped")
            self._end()

    def _end(self) -> None:
        self.store.bus.remove_listener(self._hear)
        self._tenure.lease.end()
        self._workers.close()
        self.ended.set()
        self._more.set()
        self._idle.set()
        self._leases.close()

    def _turn(self) -> bool:
        """Do one round.

        :returns: whether the engine has stopped.
        """
        tenure = self._tenure
        if tenure.is_over:
            self._register_again()
            return self._stopping.is_set()
        core = tenure.core
        outcomes = self._collect(tenure, wait=not core.outbox.free())
        if tenure.is_over:
            # a handler that failed because it was interrupted did not fail by itself
            return False
        outcomes += self._check_running(tenure)
        stopping = self._stopping.is_set()
        if stopping:
            with self._claiming:
                self._more_ready = False
                outcomes += self._take_back()
            if self._hand_back.is_set():
                outcomes += self._give_up(tenure)
        tenure.see(outcome.work for outcome in outcomes)
        for outcome in outcomes:
            tenure.discard(outcome.work)
            if outcome.result is Result.RETRY:
                self._looks.plan(time.monotonic() + outcome.wait)
            elif outcome.result is Result.WAIT and outcome.wait < FOREVER:
                self._looks.plan(time.monotonic() + outcome.wait, min(LOOK, outcome.wait / 10))
        busy = bool(outcomes) or bool(core.outbox)
        limit, claims_first = (0, False) if stopping else self._room(tenure)
        room = None if stopping else self._find_room(tenure, limit)
        total = limit if room is None else room.total
        try:
            # before anything that may raise: none may be lost
            core.outbox.put(outcomes)
            broken = self._database.broken_connections
            if core.doubtful or self._recheck.is_set() or self._broken != broken:
                self._reconcile(tenure)
            # what is looked for without a hint is mostly not there: a read costs less than a claim
            in_vain = total and self._polled and not core.has_claimable()
            claims = (0, None) if in_vain else (limit, room)
            most = 0 if claims_first else self._window.most_written
            works = core.turn((), claims[0], most, claims[1])
        except StaleLock:
            # the database no longer knows this engine
            tenure.lease.lose()
            return False
        except StoreError as error:
            LOG.warning("%s; trying again", error)
            self._stopping.wait(min(1.0, self.poll))
            return stopping and self._hand_back.is_set()
        if tenure.is_over:
            return False
        in_threads = self._dispatch(tenure, works, room)
        if core.passed:
            passed, core.passed = core.passed, set()
            tenure.see_stacks(passed)
            self.wake()
        if total:
            self._looks.found(len(works), time.monotonic())
        if limit and in_threads >= limit:
            # if handlers are slow, the next turn is soon enough
            self._more_ready = self._window.is_wide and not self._window.is_shared
        if self._more_ready:
            self._more.set()
        idle = not works and not self._workers and self._finished.empty()
        if stopping and idle and (self._hand_back.is_set() or not core.outbox):
            self._leave(tenure)
            return True
        if not busy and idle:
            self._check_idle()
        return False

    def _room(self, tenure: Tenure) -> tuple[int, bool]:
        """How many nodes the turning thread is to claim, and whether before it writes anything."""
        heard, self._heard = self._heard, False
        other, self._heard_of_other = self._heard_of_other, False
        self._window.is_shared = tenure.core.is_shared = other or tenure.is_shared
        self._window.is_beside = tenure.core.is_beside
        room = self._window.room(tenure.count, len(tenure.core.outbox))
        if heard:
            tenure.core.look_round()
        if self._window.is_shared:
            # this thread claims what it has just made ready; another beside it would hold it up
            self._more_ready = False
        return 0 if self._more_ready else room, self._window.claims_first(other, room)

    def _find_room(self, tenure: Tenure, limit: int) -> Room | None:
        """For what a claim may look; None if no type has a handler that is ``async def``.

        :param limit: how many works for threads it may take.
        """
        if not self._ahead.most:
            return None
        return Room(limit, self._ahead.room(tenure.async_count), self.types)

    def _collect(self, tenure: Tenure, *, wait: bool) -> list[Outcome]:
        """Collect finished works; wait for one, or for a wake-up, if there is none."""
        outcomes: list[Outcome] = []
        self._polled = hinted = False
        at = time.monotonic()
        until = self._looks.next_poll(at)
        if tenure.core.outbox:
            until = min(until, at + LOOK)
        running = len(self._workers) > 0
        gathering = Gathering(self._window, at, until if wait else None, running=running)
        while not self._heard_of_other or not outcomes:
            end = gathering.end
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                finished = self._finished.get(block=left is not None, timeout=left)
            except queue.Empty:
                self._polled = left is not None and not hinted and not outcomes
                break
            if finished is _HEARD:
                hinted = True
                gathering.hurry(self._looks.heard(time.monotonic()))
                continue
            if not isinstance(finished, Finished):
                gathering.stop()
                continue
            if finished.job is not None:
                self._workers.discard(finished.job)
                if finished.job.abandoned:
                    continue
            if finished.job is None or not finished.job.is_async:
                self._window.add(finished.seconds)
            if finished.tenure is tenure:
                outcomes.append(finished.outcome)
                gathering.add(time.monotonic(), tenure.count)
        return outcomes

    def _reconcile(self, tenure: Tenure) -> None:
        """Compare what the database says is held with the works of this tenure."""
        with self._claiming:
            self._recheck.clear()
            broken = self._database.broken_connections
            forgotten = tenure.core.reconcile(tenure.works())
            self._broken = broken
            for work in forgotten:
                LOG.warning(
                    "engine %s: the database no longer knows that it claimed %s of traversal %s",
                    tenure.lease.id,
                    work.decision.operation,
                    work.traversal.id,
                )
                tenure.discard(work)
            gone = {id(work) for work in forgotten}
            for job in self._workers.all():
                if id(job.work) in gone:
                    job.interrupt("the database no longer knows that this engine claimed the work")
                    self._workers.abandon(job)

    def _claim_loop(self) -> None:
        while not self.ended.is_set():
            self._more.wait()
            self._more.clear()
            with self._claiming:
                tenure = self._tenure
                limit = self._window.room(tenure.count)
                if not self._more_ready or tenure.is_over:
                    continue
                # few nodes are not worth a transaction; the turning thread wakes this one again
                if limit < self._window.least():
                    continue
                try:
                    room = self._find_room(tenure, limit)
                    works = tenure.core.claim(limit, room)
                except Exception as error:
                    # the turning thread claims next, and deals with an error that lasts
                    LOG.warning("%s; trying again", error)
                    self._more_ready = False
                    self.wake()
                    continue
                taken = self._dispatch(tenure, works, room)
                self._more_ready = taken >= limit and not self._window.is_shared
            if self._more_ready:
                self._more.set()
            else:
                self.wake()

    def _dispatch(self, tenure: Tenure, works: list[Work], room: Room | None) -> int:
        """Queue works for the workers; finish those that need no handler at once.

        :param room: of the claim.
        :returns: how many are not for the event loop.
        """
        core = tenure.core
        tenure.see(works)
        on_loop = 0
        for work in works:
            is_async = room is not None and is_async_work(work, self.types)
            on_loop += is_async
            tenure.add(work, is_async=is_async)
            if work.decision.operation is Operation.FINISH:
                self._finished.put(Finished(tenure, None, Outcome(work, Result.DONE)))
                continue
            context = core.context(work)
            if context is None:
                self._finished.put(Finished(tenure, None, core.call_handler(work, None)))
                continue
            job = Job(work, context, tenure, is_async=is_async)
            if tenure.is_over:
                job.interrupt(LOST)
            self._workers.add(job)
        if room is not None and self._ahead.found(on_loop, room.passed, room.loop):
            self.wake()
        return len(works) - on_loop

    def _work(self, job: Job) -> Doing[None]:
        """Call a handler, in a worker's thread or on the loop."""
        tenure = job.tenure
        # not only the event: after a suspend, this thread may be the first to run
        if not tenure.lease.check():
            self._workers.discard(job)
            return
        assert job.started is not None
        try:
            outcome = yield from tenure.core.calling(job.work, job.context)
        except GeneratorExit:
            # it was given up, and the loop that it ran on has ended
            raise
        except BaseException as error:
            LOG.exception("engine %s: an error outside the handler", tenure.lease.id)
            outcome = failure(job.work, f"raised outside its handler: {type(error).__name__}")
        self._finished.put(Finished(tenure, job, outcome, time.monotonic() - job.started))

    def _check_running(self, tenure: Tenure) -> list[Outcome]:
        """Give up cancelled handlers that do not return; notice that handlers have become slow."""
        at = time.monotonic()
        outcomes = []
        slow = False
        for job in self._workers.all():
            if job.started is None:
                continue
            slow = slow or (at - job.started > AHEAD and not job.is_async)
            if job.cancelled_at is not None and at - job.cancelled_at > GRACE:
                self._workers.abandon(job)
                limit = job.context.timeout
                if limit is not None and at - job.started > limit:
                    outcomes.append(tenure.core.timed_out(job.work, limit))
                else:
                    outcomes.append(tenure.core.given_up(job.work, GRACE))
        if slow:
            self._window.narrow()
            if self._workers.in_threads > self._window.workers:
                outcomes += self._take_back()
        return outcomes

    def _take_back(self) -> list[Outcome]:
        """Hand back the works whose handlers have not started; any engine can claim them."""
        return [Outcome(job.work, Result.HANDED_BACK) for job in self._workers.take_queued()]

    def _give_up(self, tenure: Tenure) -> list[Outcome]:
        """Interrupt running handlers, wait :data:`GRACE` seconds, and abandon the rest."""
        self._interrupt_all("the engine is stopping")
        outcomes = []
        end = time.monotonic() + GRACE
        while self._workers and (left := end - time.monotonic()) > 0:
            try:
                finished = self._finished.get(timeout=left)
            except queue.Empty:
                break
            if not isinstance(finished, Finished):
                continue
            if finished.job is not None:
                self._workers.discard(finished.job)
            if finished.tenure is tenure:
                outcomes.append(finished.outcome)
        for job in self._workers.all():
            self._workers.abandon(job)
        return outcomes

    def _check_idle(self) -> None:
        if self._idle.is_set():
            return
        try:
            if not self._database.read(sync_points.count_live):
                self._idle.set()
        except StoreError as error:
            LOG.warning("%s", error)

    # -- registering, leaving, and registering again

    def _check_server(self, needed: int) -> None:
        """Log a warning if the server allows too few connections for this engine alone."""
        limit = self._database.read_limit()
        if limit is not None and limit < needed:
            LOG.warning(
                "%s: the server allows %s connections, and this engine may need %s; "
                "raise max_connections there, or have fewer workers",
                self._database.shown,
                limit,
                needed,
            )

    def _begin_tenure(self) -> Tenure:
        """Register under a new id, and start to renew the lease."""
        lease = Lease(self._leases, self._lose)
        threading.Thread(target=lease.keep, name="converge-lease", daemon=True).start()
        core = EngineCore(
            self._database,
            lease.id,
            self.types,
            lease.mark,
            self.observer,
            self.queues,
            self.policy,
        )
        return Tenure(lease, core)

    def _lose(self) -> None:
        """Interrupt what runs: the lease is lost, and another engine will start it."""
        self._workers.take_queued()
        self._interrupt_all(LOST)
        self.wake()

    def _interrupt_all(self, reason: str) -> None:
        for job in self._workers.all():
            job.interrupt(reason)

    def _register_again(self) -> None:
        """Drop all works of the old id, and register under a new one."""
        with self._claiming:
            self._more_ready = False
            self._workers.take_queued()
            # this thread may notice the loss before _lose() is called
            self._interrupt_all(LOST)
            for job in self._workers.all():
                self._workers.abandon(job)
        if self._stopping.is_set():
            return
        try:
            self._tenure = self._begin_tenure()
        except StoreError as error:
            LOG.warning("%s; trying again", error)
            self._stopping.wait(min(1.0, self.poll))

    def _leave(self, tenure: Tenure) -> None:
        """End the registration, so that others can claim at once what this engine still holds."""
        lease = tenure.lease
        lease.end()
        try:
            self._database.transact(
                lambda tx: leave(tx, lease.id, lease.mark),
                Commit.LEAVE,
                happened=repeatable,
                wait_for_locks=False,
            )
        except StoreError as error:
            LOG.warning("engine %s: %s; the lease will expire", lease.id, error)

    # -- the threads that look after the others

    def _watch_loop(self) -> None:
        """Watch the lease, the timeouts of handlers, and the event loop, without waiting for the
        database."""
        while not self.ended.wait(min(LOOK, self._leases.seconds / 20)):
            self._tenure.lease.check()
            at = time.monotonic()
            for job in self._workers.all():
                limit = job.context.timeout
                if job.started is not None and limit is not None and at - job.started > limit:
                    job.cancel(at, f"it took longer than {limit + job.context.waited:g} s")
            self._workers.look(at)

    def _sweep_loop(self) -> None:
        """Recover what dead engines left, and cancel handlers that are to stop."""
        sweeper = Sweeper(self._database, self.prune_after)
        lease = self._leases.seconds
        # engines that were started together do not sweep together
        last_sweep = now() - random.random() * lease / 3
        while not self.ended.wait(min(1.0, lease / 3)):
            try:
                self._cancel_handlers()
                if now() - last_sweep >= lease / 3 * sweeper.share:
                    last_sweep = now()
                    self._recheck.set()
                    found = sweeper.sweep()
                    if found.nodes:
                        self.observer.recovered(found.nodes)
                    if found or found.ready:
                        self.wake()
            except Exception as error:
                # this thread must go on, whatever the error is
                known = isinstance(error, StoreError)
                LOG.warning("engine %s: %s", self.id, error, exc_info=not known)

    def _cancel_handlers(self) -> None:
        """Cancel the handlers whose traversal was cancelled or timed out, or whose resource a
        newer traversal deletes or replaces."""
        tenure = self._tenure
        jobs = [job for job in self._workers.all() if job.tenure is tenure]
        ids = {job.work.traversal.id for job in jobs}
        if not ids:
            return

        def look(tx: Transaction) -> tuple[dict[int, str], set[Key]]:
            reasons, superseded = traversals.list_cancelled(tx, ids)
            id_ = tenure.lease.id
            return reasons, sync_points.list_cancelled(tx, id_) if superseded else set()

        reasons, nodes = self._database.read(look)
        at = time.monotonic()
        for job in jobs:
            reason = reasons.get(job.work.traversal.id)
            if reason is not None:
                job.cancel(at, reason)
            elif job.work.node.key in nodes:
                job.cancel(at, "a newer traversal deletes or replaces the resource")
