"""What an engine does in the database under one id: write outcomes, claim nodes.

The threaded engine, and the one that tests step by hand, are loops around this.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from converge import crash_points
from converge.awaiting import Doing, run_plain
from converge.bus.hint import Lanes
from converge.crash_points import Commit
from converge.engine.observer import Observer, about, log_began, log_ended, log_failed, spanned
from converge.engine.outbox import Outbox, first_of, stack_of
from converge.errors import Cancelled, StaleLock, StoreError
from converge.hiding import Secrets
from converge.journal import Scope, node_scope
from converge.model import DEFAULT_QUEUE
from converge.protocol.arrive import PASSED, PASSED_BESIDE
from converge.protocol.call import calling, check_physical_id, make_context
from converge.protocol.cascade import stop_nested
from converge.protocol.claim import claim, is_suspect
from converge.protocol.complete import complete
from converge.protocol.finish import draft_rollback, finish, may_roll_back
from converge.protocol.halt import complete_failure, halts
from converge.protocol.limits import limits_of
from converge.protocol.nest import Nest
from converge.protocol.outcomes import failed_attempt, failure, mask_outcome
from converge.protocol.places import Bounds
from converge.protocol.policy import Policy
from converge.protocol.recover import release_engine
from converge.protocol.replace import replace
from converge.protocol.room import Room
from converge.protocol.rota import Rota
from converge.protocol.secrets import read_secrets
from converge.protocol.settings import DELETION_POLICY
from converge.protocol.signal import Mailbox
from converge.protocol.work import HANDLED, Operation, Outcome, Result, Work
from converge.resources.resource_type import Context, ResourceType, check_types
from converge.sql import claimable, engines, resource_locks, stacks, sync_points
from converge.sql.database import Database, repeatable
from converge.sql.faults import Locked, is_refused
from converge.sql.lanes import list_lanes
from converge.sql.limits import list_limits
from converge.sql.sync_points import Key
from converge.sql.transaction import Transaction
from converge.sql.traversals import TraversalRow
from converge.tracing import span

T = TypeVar("T")

LOG = logging.getLogger(__name__)
#: Failures of handlers, with their tracebacks.
FAILURES = logging.getLogger("converge.failures")

#: How many traversals, and secrets of traversals, are remembered.
_REMEMBERED = 1000
#: Seconds for which an engine does not look for new lanes, if it finds something to claim, and not
#: for other engines.
_LANES = 1.0
#: While other engines are alive: from how many outcomes on they are written in one transaction and
#: new nodes claimed in the next, so that successors are not locked meanwhile.
_APART = 8


class EngineCore:
    """:param engine_id: the engine's id, which fences all it writes.
    :param types: its resource types by name.
    :param mark: the mark of its registration.
    :param observer: is told what it does.
    :param queues: the names of the queues that it serves.
    :param policy: is asked before each call of a handler.
    """

    def __init__(
        self,
        database: Database,
        engine_id: int,
        types: Mapping[str, ResourceType],
        mark: int = 0,
        observer: Observer | None = None,
        queues: Collection[str] = (DEFAULT_QUEUE,),
        policy: Policy | None = None,
    ) -> None:
        self.policy = policy
        self.observer = Observer() if observer is None else observer
        self.database = database
        self.engine_id = engine_id
        check_types(types)
        self.types = types
        self.mark = mark
        self.outbox = Outbox()
        self._rota = Rota(types, queues)
        self._bounds = Bounds()
        # when the lanes were read last, on the monotonic clock
        self._lanes_read = -math.inf
        # when other engines were counted last, on the monotonic clock
        self._counted = -math.inf
        #: Other engines are alive.
        self.is_beside = False
        # what the turn that is under way may claim
        self._room: Room | None = None
        # works to do that turn() has not returned yet
        self._works: list[Work] = []
        self._traversals: dict[int, TraversalRow] = {}
        # by id and mark of each traversal in which something failed
        self._secrets: dict[tuple[int, int], Secrets] = {}
        # the claimed nodes that may be what kills engines
        self._suspects: set[Key] = set()
        #: A commit may have gone through though its reply was lost: what this engine holds in the
        #: database may differ from what it knows of.
        self.doubtful = False
        #: The ids of the stacks of which claims have passed over nodes: there may be more to claim,
        #: also if they found no work.
        self.passed: set[int] = set()
        #: It works for several stacks, so its transactions are to be short.
        self.is_shared = False

    @property
    def _most_passed(self) -> int:
        return PASSED_BESIDE if self.is_shared else PASSED

    def turn(
        self,
        outcomes: Sequence[Outcome],
        limit: int,
        most: int | None = None,
        room: Room | None = None,
    ) -> list[Work]:
        """Write the outcomes of works, and claim up to ``limit`` new nodes.

        :param most: write about so many outcomes at most, first those of the stacks that have the
            fewest; None: all.
        :param room: how many of each kind to claim; its total counts, and not ``limit``.
        :returns: the works to do, including the replacements that outcomes asked for.
        :raises StoreError: the database cannot be used; what is not written is kept for a later
            turn.
        """
        self.outbox.put(outcomes)
        self._room = room
        try:
            self._mask_outcomes()
            self._check_locked()
            self._write_free(limit if room is None else room.total, most)
        except StoreError:
            self.doubtful = True
            raise
        works, self._works = self._works, []
        return works

    def claim(self, limit: int, room: Room | None = None) -> list[Work]:
        """Claim up to ``limit`` new nodes; safe while another thread is in :meth:`turn`.

        :param room: how many of each kind; its total counts, and not ``limit``.
        :raises StoreError: the database cannot be used.
        """
        started = time.monotonic()
        try:
            works = self.database.transact(
                lambda tx: self._claim(tx, limit, room), Commit.CLAIM, wait_for_locks=False
            )
        except (Locked, StaleLock):
            # a row changed between two statements; the next claim reads everything again
            return []
        except StoreError:
            # the commit may have gone through, with nodes that this engine does not know of
            self.doubtful = True
            raise
        self.observer.claimed(len(works), time.monotonic() - started)
        self._suspects.update(work.node.key for work in works if is_suspect(work.node))
        return works

    def _claim(self, tx: Transaction, limit: int, room: Room | None) -> list[Work]:
        if len(self._traversals) > _REMEMBERED:
            self._traversals = {}
        is_new = time.monotonic() - self._lanes_read > _LANES
        if is_new:
            self._look_up(tx)
        if time.monotonic() - self._counted > _LANES:
            self._counted = time.monotonic()
            self.is_beside = engines.count_alive(tx) > 1
        found = self._claim_in_turn(tx, limit, room)
        if not found and not is_new and self._look_up(tx):
            found = self._claim_in_turn(tx, limit, room)
        return found

    def _claim_in_turn(self, tx: Transaction, limit: int, room: Room | None) -> list[Work]:
        works, passed = claim(
            tx,
            self.engine_id,
            limit,
            self.types,
            self._traversals,
            self._rota,
            self._bounds,
            suspect=not self._suspects,
            mark=self.mark,
            room=room,
            most_passed=self._most_passed,
        )
        if passed:
            self.passed |= passed
            # that took a while: others may have something ready
            self._rota.look_round()
        return works

    def _look_up(self, tx: Transaction) -> bool:
        """Read which lanes and limits there are; return whether it can take others than before."""
        is_other = self._bounds.learn(list_limits(tx))
        return self._read_lanes(tx) or is_other

    def _read_lanes(self, tx: Transaction) -> bool:
        """Read which lanes there are; return whether this engine can take others than before."""
        self._lanes_read = time.monotonic()
        return self._rota.learn(list_lanes(tx))

    def may_take(self, lanes: Lanes) -> bool:
        """Whether it can take nodes of some of these lanes, as far as it knows; safe in any
        thread."""
        return self._rota.may_take(lanes)

    def look_round(self) -> None:
        """Something new may be ready: the next claims look at all stacks."""
        self._rota.look_round()

    def has_claimable(self) -> bool:
        """Whether there is something that this engine can claim now.
        :raises StoreError: the database cannot be used.
        """

        def look(tx: Transaction) -> bool:
            found, lanes = claimable.has_claimable(tx, self._rota.lanes)
            if lanes == self._rota.lanes_with_rows or not self._read_lanes(tx):
                return found
            return claimable.has_claimable(tx, self._rota.lanes)[0]

        return self.database.read(look)

    def reconcile(self, known_works: Iterable[Work]) -> list[Work]:
        """Compare the nodes that this engine holds in the database with those it knows of.

        Nodes that it holds without knowing of this claim are released. They are left by a commit
        whose reply was lost, and by a database that lost its last seconds.

        :param known_works: the works that the caller knows of.
        :returns: the works that this engine does not hold: their outcomes would be refused.
        :raises StaleLock: this engine is no longer registered; its id may belong to another.
        """
        self.doubtful = False
        works = [*known_works, *self._works]
        known = [*works, *(outcome.work for outcome in self.outbox.all())]
        # two of them may be of one node, from different claims
        marks = {(work.node.key, work.node.mark) for work in known}
        try:
            self.database.await_lost_sessions()
            held = self.database.read(self._list_held)
            kept = {key: mark for key, mark in held.items() if (key, mark) in marks}
            if held != kept:
                released = self.database.transact(
                    lambda tx: self._release_all_but(tx, kept),
                    Commit.RECONCILE,
                    wait_for_locks=False,
                )
                LOG.warning("engine %s released %s nodes", self.engine_id, released)
        except StoreError:
            self.doubtful = True
            raise
        self._suspects.intersection_update(kept)
        self.outbox.keep(kept)
        self._works = [work for work in self._works if kept.get(work.node.key) == work.node.mark]
        return [work for work in works if kept.get(work.node.key) != work.node.mark]

    def _list_held(self, tx: Transaction) -> dict[Key, int]:
        if not engines.is_registered(tx, self.engine_id, self.mark):
            raise StaleLock(f"engine {self.engine_id} is no longer registered")
        return sync_points.list_marks(tx, self.engine_id)

    def _release_all_but(self, tx: Transaction, kept: Mapping[Key, int]) -> int:
        if not engines.lock_engine(tx, self.engine_id, self.mark):
            raise StaleLock(f"engine {self.engine_id} is no longer registered")
        return release_engine(tx, self.engine_id, keep=kept)

    # -- writing

    def _mask_outcomes(self) -> None:
        """Mask secrets in new outcomes, and log their failures."""
        for outcome in self.outbox.all():
            if outcome.raw:
                self._mask_outcome(outcome)

    def _mask_outcome(self, outcome: Outcome) -> None:
        mask_outcome(outcome, self._secrets_of(outcome.work.traversal))
        traceback = outcome.values.get("traceback")
        if traceback is None:
            if outcome.result in (Result.FAILED, Result.RETRY):
                log_failed(self.engine_id, outcome.work, outcome)
            return
        work = outcome.work
        is_last = outcome.result is not Result.RETRY
        FAILURES.log(
            logging.ERROR if is_last else logging.WARNING,
            "stack %r: %s of resource %r failed%s: %s\n%s",
            work.traversal.stack,
            work.decision.operation,
            None if work.row is None else work.row.name,
            "" if is_last else f", will be retried in {outcome.wait:g} s",
            outcome.reason,
            # not as exc_info: a formatter would print it unmasked
            traceback.rstrip(),
            extra=about(self.engine_id, work),
        )

    def _secrets_of(self, traversal: TraversalRow) -> Secrets:
        key = (traversal.id, traversal.mark)
        found = self._secrets.get(key)
        if found is None:
            if len(self._secrets) > _REMEMBERED:
                self._secrets = {}
            found = self.database.read(lambda tx: read_secrets(tx, traversal.stack_id))
            self._secrets[key] = found
        return found

    def _check_locked(self) -> None:
        """Look whether the rows of locked stacks are free again."""
        locked = self.outbox.stacks_to_check()
        if locked:
            self.outbox.release(self.database.read(lambda tx: stacks.list_unlocked(tx, locked)))

    def _write_free(self, limit: int, most: int | None) -> None:
        group: list[Outcome] = []
        alone: list[Outcome] = []
        for outcome in self.outbox.free():
            self._suspects.discard(outcome.work.node.key)
            (alone if _needs_own_transaction(outcome) else group).append(outcome)
        for outcome in alone:
            self._write_alone(outcome)
        if alone:
            # that may have found locked rows, or put other outcomes into the outbox
            group = [one for one in self.outbox.free() if not _needs_own_transaction(one)]
        if len(set(map(stack_of, group))) > 1:
            # what one of them makes ready is claimed at once, although another has more
            self._rota.look_round()
        self._write_and_claim(first_of(group, most), limit - len(self._works))

    def _write_alone(self, outcome: Outcome) -> None:
        try:
            if outcome.work.decision.operation is Operation.FINISH:
                self._finish(outcome.work)
            elif outcome.result is Result.REPLACE:
                self._replace(outcome)
            else:
                self._write(outcome)
        except Locked:
            self.outbox.hold([stack_of(outcome)])
        else:
            self.outbox.remove([outcome])

    def _write_and_claim(self, group: Sequence[Outcome], limit: int) -> None:
        def both(tx: Transaction) -> tuple[list[Outcome], list[Work]]:
            stale = complete(tx, self.engine_id, group, self._most_passed)
            claims = limit > 0 and not apart
            return stale, self._claim(tx, limit, self._room) if claims else []

        if not group:
            self._works += self.claim(limit, self._room) if limit > 0 else []
            return
        apart = self.is_beside and len(group) >= _APART
        started = time.monotonic()
        try:
            stale, works = self.database.transact(both, Commit.COMPLETE, wait_for_locks=False)
        except Locked:
            # nothing was committed; write the outcomes whose rows are not locked
            self._write_unlocked(group)
        except StaleLock:
            # a row changed between two statements; the next try reads everything again
            self._write_one_by_one(group)
        except StoreError as error:
            # the commit may have gone through, with nodes that this engine does not know of
            self.doubtful = True
            if len(group) < 2 and not is_refused(error):
                raise
            self._write_one_by_one(group)
        else:
            gone = {id(outcome) for outcome in stale}
            written = [one for one in group if id(one) not in gone]
            self.observer.wrote(written, len(works), time.monotonic() - started)
            self.outbox.remove(group)
            self._log_stale(stale)
            self._suspects.update(work.node.key for work in works if is_suspect(work.node))
            self._works += works
            if apart and limit > 0:
                self._works += self.claim(limit, self._room)

    def _write_unlocked(self, group: Sequence[Outcome]) -> None:
        """Write the outcomes of a group except those of stacks whose rows are locked."""
        by_stack: dict[int, list[Outcome]] = {}
        for outcome in group:
            by_stack.setdefault(stack_of(outcome), []).append(outcome)
        if len(by_stack) > 1:
            free = self.database.read(lambda tx: stacks.list_unlocked(tx, by_stack))
            self.outbox.hold(by_stack.keys() - free)
            parts = [part for stack_id, part in by_stack.items() if stack_id in free]
            if len(parts) > 1 and len(parts) == len(by_stack):
                # no stack's row is locked, but some other row of one stack is
                for part in parts:
                    self._write_and_claim(part, 0)
                return
            self._write_and_claim([one for part in parts for one in part], 0)
            return
        self.outbox.hold(by_stack)

    def _write_one_by_one(self, group: Sequence[Outcome]) -> None:
        """Write each outcome by itself; one that the database refuses becomes a failure."""
        for outcome in group:
            try:
                self._write_alone(outcome)
            except StoreError as error:
                if not is_refused(error):
                    raise
                # the node must end even if a value of its outcome cannot be stored
                reason = f"its outcome cannot be stored: {error}"
                self.outbox.remove([outcome])
                instead = failure(outcome.work, reason)
                self.outbox.put([instead])
                self._mask_outcome(instead)
                self._write_alone(instead)

    def _write(self, outcome: Outcome) -> None:
        is_halt = halts(outcome)
        if is_halt:
            write, commit = complete_failure, Commit.FAIL
        else:
            write, commit = _complete_one, Commit.COMPLETE
        started = time.monotonic()
        stale = self._transact_fenced(lambda tx: write(tx, self.engine_id, outcome), commit)
        self._log_stale(stale or ())
        if stale is not None and not stale:
            self.observer.wrote([outcome], 0, time.monotonic() - started)
            if is_halt:
                stop_nested(self.database, stack_of(outcome))

    def _finish(self, work: Work) -> None:
        draft = None
        if may_roll_back(work):
            draft = self.database.read(lambda tx: draft_rollback(tx, work))
        with self._span(work):
            self._transact_fenced(lambda tx: finish(tx, self.engine_id, work, draft), Commit.FINISH)

    def _replace(self, outcome: Outcome) -> None:
        work = outcome.work
        commit = Commit.CLEAR if work.decision.operation is Operation.DELETE else Commit.REPLACE
        made = self._transact_fenced(
            lambda tx: replace(tx, self.engine_id, work, outcome.then), commit
        )
        if isinstance(made, Work):
            self._works.append(made)
            self._suspects.update({made.node.key} if is_suspect(made.node) else ())
        elif made is not None:
            self.outbox.put([made])

    def _transact_fenced(self, function: Callable[[Transaction], T], commit: Commit) -> T | None:
        """Run a transaction about one work; return None if this engine no longer holds it."""
        try:
            return self.database.transact(function, commit, wait_for_locks=False)
        except StaleLock as error:
            LOG.warning("%s", error)
            # the node that is dropped here may still be held under another claim
            self.doubtful = True
            return None

    def _log_stale(self, stale: Sequence[Outcome]) -> None:
        for outcome in stale:
            # the node may still be held: by a replacement whose reply was lost
            self.doubtful = True
            work = outcome.work
            LOG.warning(
                "refused the outcome of %s of %r in traversal %s: engine %s no longer holds it",
                work.decision.operation,
                None if work.row is None else work.row.name,
                work.traversal.id,
                self.engine_id,
            )

    # -- calling handlers

    def context(self, work: Work) -> Context | None:
        """The context for a work's handler; None if no handler is to be called."""
        if work.decision.operation not in HANDLED:
            return None
        row = work.row
        assert row is not None

        def record(physical_id: str | None) -> None:
            if physical_id is not None or work.decision.operation is not Operation.CREATE:
                check_physical_id(physical_id)
            values: dict[str, Any] = {"physical_id": physical_id}
            if work.decision.operation is Operation.CREATE:
                values["properties"] = dict(work.decision.properties)
                if work.decision.settings:
                    values["settings"] = dict(work.decision.settings)
                    # only what was made whole is left in place
                    values["settings"].pop(DELETION_POLICY, None)
            self.database.transact(
                lambda tx: resource_locks.write_locked(
                    tx, self.engine_id, row.id, row.epoch, row.mark, **values
                ),
                Commit.RECORD,
                happened=repeatable,
                one_statement=True,
            )
            row.physical_id = physical_id

        def journal() -> Scope:
            return node_scope(
                self.database,
                work.scope,
                self.engine_id,
                row.id,
                row.epoch,
                row.mark,
                wait,
                work.key_namespace,
            )

        def wait(seconds: float) -> None:
            if context.cancelled.wait(seconds):
                raise Cancelled(context.cancel_reason or "the handler was cancelled")

        resource_type = self.types[work.type_name]
        limits = limits_of(work, resource_type)
        receive = Mailbox(self.database, work).receive
        nest = Nest(self.database, work, self.engine_id) if resource_type.nests else None
        context = make_context(work, record, limits, journal, receive, nest)
        return context

    def call_handler(self, work: Work, context: Context | None) -> Outcome:
        """Call the work's handler, in no transaction. One that is ``async def`` gets a loop of its
        own."""
        return run_plain(self.calling(work, context))

    def calling(self, work: Work, context: Context | None) -> Doing[Outcome]:
        """Call the work's handler, in no transaction; what an ``async def`` returns is to be
        awaited."""
        if context is None:
            with self._span(work) as fail:
                outcome = yield from calling(work, self.types, None)
                if outcome.result is Result.FAILED:
                    fail()
            return outcome
        crash_points.hit(crash_points.BEFORE_CALL)
        log_began(self.engine_id, work)
        self.observer.began(self.engine_id, work)
        started = time.monotonic()
        with self._span(work) as fail:
            outcome = yield from calling(work, self.types, context, self.database, self.policy)
            if outcome.result in (Result.FAILED, Result.RETRY):
                fail()
        outcome.stepped = context.has_journal
        seconds = time.monotonic() - started
        self.observer.ended(self.engine_id, work, outcome, seconds)
        log_ended(self.engine_id, work, outcome, seconds)
        crash_points.hit(crash_points.AFTER_CALL)
        return outcome

    def _span(self, work: Work) -> AbstractContextManager[Callable[[], None]]:
        """The span of a node."""
        return span(
            f"converge.{work.decision.operation}",
            lambda: spanned(self.engine_id, work),
            work.traversal.trace,
        )

    def timed_out(self, work: Work, seconds: float) -> Outcome:
        """The outcome of a handler that did not return in time.

        :param seconds: that it had for this call.
        """
        reason = f"{work.decision.operation} took longer than {seconds + work.node.waited:g} s"
        limits = limits_of(work, self.types[work.type_name])
        return failed_attempt(work, limits, reason, TimeoutError(reason), seconds)

    def given_up(self, work: Work, seconds: float) -> Outcome:
        """The outcome of a handler that did not stop when it was cancelled.

        :param seconds: how long it was waited for.
        """
        reason = f"{work.decision.operation} did not stop within {seconds:g} s of being cancelled"
        return failure(work, reason)


def _needs_own_transaction(outcome: Outcome) -> bool:
    """Whether an outcome is written in a transaction of its own."""
    return (
        outcome.work.decision.operation is Operation.FINISH
        or outcome.result is Result.REPLACE
        or halts(outcome)
    )


def _complete_one(tx: Transaction, engine_id: int, outcome: Outcome) -> list[Outcome]:
    return complete(tx, engine_id, [outcome])
