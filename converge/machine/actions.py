"""Actions: called after a move is committed, by one process at a time, until they are done."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from converge.crash_points import Commit
from converge.errors import ConvergeError, StaleLock, StoreError, comes_from
from converge.journal import Scope, guarded_scope
from converge.journal.values import loads
from converge.lease import LOOK, Lease, RowLeases, RowOwner, check_lease, now
from converge.machine.action import Action, action_id, scope_name
from converge.machine.definition import Definition
from converge.machine.move import Move
from converge.machine.moving import TakenAction, Taker
from converge.model import make_mark
from converge.reasons import describe
from converge.sql import moves, scopes
from converge.sql.database import Database, repeatable
from converge.sql.moves import MoveRow
from converge.sql.transaction import Transaction
from converge.synchronous import check_finished

if TYPE_CHECKING:
    from converge.sql.transaction import HostTransaction

T = TypeVar("T")

LOG = logging.getLogger(__name__)

#: Seconds until an action is called again that a database error interrupted.
HAND_BACK = 1.0


@dataclass(frozen=True, slots=True)
class Called:
    """The outcome of calling an action.

    :ivar status: ``DONE``, ``FAILED``, or ``PENDING``: it will be called again.
    :ivar error: what it raised.
    :ivar reason: the error as a text.
    :ivar claimed: it called ``done()`` in a transaction of its own; see :meth:`Actions.check`.
    """

    status: str
    error: Exception | None = None
    reason: str | None = None
    claimed: bool = False


class Actions:
    """The actions of a machine's moves, held under a lease.

    :param lease: seconds that a lease lasts.
    """

    def __init__(self, database: Database, definition: Definition, lease: float) -> None:
        self._database = database
        self._definition = definition
        self._name = definition.name
        self._look = lease * LOOK
        # the marks of actions that are being taken, and the locks of those that are taken
        self._taking: set[int] = set()
        self._own_locks: set[moves.Lock] = set()
        # the thread that renews the lease must not keep this object alive
        this = weakref.ref(self)

        def after(lease: Lease) -> None:
            actions = this()
            if actions is not None:
                actions.reconcile(lease)

        self.owner = RowOwner(database, lease, after)
        self._closing = threading.Event()
        # locks that could not be released
        self._unreleased: list[moves.Lock] = []

    def interrupt(self) -> None:
        """End the waits of steps in running actions."""
        self._closing.set()

    def close(self) -> None:
        """Release all actions."""
        self.interrupt()
        try:
            self.owner.close()
        finally:
            # actions of later events are not interrupted
            self._closing = threading.Event()

    def retry_releases(self, database: Database | None = None) -> None:
        """Release actions whose release failed before, without counting a death.

        :param database: the database over another connection.
        :raises StoreError: it fails again.
        """
        left, self._unreleased = self._unreleased, []
        if not left:
            return
        try:
            self._release(left, database)
        except BaseException:
            self._unreleased += left
            raise

    def take(self, function: Callable[[Taker], T], taken: Callable[[], Sequence[TakenAction]]) -> T:
        """Take actions.

        :param function: takes them in a transaction.
        :param taken: returns the taken actions once that is committed.
        :returns: what the function returned.
        """

        def take(lease: Lease) -> T:
            mark = make_mark()
            self._taking.add(mark)
            try:
                result = function(Taker(lease.id, lease.mark, mark))
                # before the mark is discarded: reconcile() may run between the two
                self._own_locks.update(one.lock for one in taken())
                return result
            finally:
                self._taking.discard(mark)

        return self.owner.attempt_lease(take)

    def reconcile(self, lease: Lease) -> None:
        """Release actions that a lease holds without this process knowing.

        They are left by a commit whose reply was lost, by an outage in which they could not be
        released, and by a database that lost its last seconds.
        """
        leases = lease.leases
        assert isinstance(leases, RowLeases)
        # over the connection of the lease, so that this does not wait for the work
        database = leases.database
        try:
            self.retry_releases(database)
            # read the rows first: an action that is taken meanwhile is then known here
            taken = database.read(lambda tx: _list_held(tx, lease))
            unknown = [
                one for one in taken if one[-1] not in self._taking and one not in self._own_locks
            ]
            if unknown:
                self._release(unknown, database)
                LOG.warning(
                    "machine %s released %s actions, which it did not know",
                    self._name,
                    len(unknown),
                )
        except ConvergeError as error:
            LOG.warning(
                "machine %s cannot compare its actions: %s; tried again later", self._name, error
            )

    def claim(self, limit: int) -> tuple[int, list[TakenAction]]:
        """Take actions that are due and free, at most ``limit``. At most one of them, the last, is
        one on which several processes died.

        :returns: how many were taken, and those of them to call.
        """
        taken: list[TakenAction] = []
        count = self.take(lambda taker: self._claim(taker, limit, taken), lambda: taken)
        return count, taken

    def _claim(self, taker: Taker, limit: int, taken: list[TakenAction]) -> int:
        """:param taken: the list to add the actions to call to."""
        versions = self._definition.versions
        owner, mark = taker.id, taker.mark

        def claim(tx: Transaction) -> list[MoveRow]:
            check_lease(tx, owner, taker.lease)
            return moves.claim_actions(tx, self._name, versions, owner, limit, mark)

        try:
            rows = self._database.transact(
                claim,
                Commit.ACTION_CLAIM,
                happened=lambda tx, rows: bool(rows) and _is_taken(tx, rows[0], owner),
            )
            taken += [one for row in rows if (one := self._accept(row, owner)) is not None]
        except BaseException:
            # some may be held, and it is not known which
            self.owner.give_up(owner)
            raise
        return len(rows)

    def _accept(self, row: MoveRow, owner: int) -> TakenAction | None:
        """The action of a taken row; None if it is not to be called: then it has FAILED."""
        transition = self._definition.find(row.version, row.source, row.event, row.target)
        if transition is None:
            self._refuse(
                row,
                owner,
                f"this program has no transition from {row.source!r} to {row.target!r} with an "
                "action",
            )
            return None
        if row.deaths >= transition.retry.deaths:
            self._refuse(row, owner, f"{row.deaths} processes died while calling it")
            return None
        return TakenAction(
            instance_id=row.instance_id,
            key=row.key,
            number=row.number,
            epoch=row.epoch,
            owner=owner,
            event=row.event,
            source=row.source,
            target=row.target,
            payload=loads(row.payload),
            payloads=row.payloads,
            attempts=row.attempts,
            transition=transition,
            token=row.token,
            mark=row.mark,
        )

    def _refuse(self, row: MoveRow, owner: int, reason: str) -> None:
        LOG.error("machine %s, %s: action of %s: %s", self._name, row.key, row.event, reason)
        locked = (row.instance_id, row.number, owner, row.epoch, row.mark)
        self._end(_ActionLock(row.key, locked, row.token), "FAILED", reason=reason)

    def release(self, taken: Sequence[TakenAction]) -> None:
        """Release actions that were not called. If that fails, their lease is given up."""
        if not taken:
            return
        locks = [one.lock for one in taken]
        self._own_locks.difference_update(locks)
        try:
            self._release(locks)
        except ConvergeError as error:
            self._unreleased += locks
            for owner in sorted({one.owner for one in taken}):
                LOG.warning("machine %s: %s; lease %s is given up", self._name, error, owner)
                self.owner.give_up(owner)

    def _release(self, locks: Sequence[moves.Lock], database: Database | None = None) -> None:
        (database or self._database).transact(
            lambda tx: moves.release_actions(tx, locks), Commit.ACTION, happened=repeatable
        )

    def call(self, taken: TakenAction) -> Called:
        """Call an action, and record the outcome.

        :raises StoreError: the outcome could not be recorded.
        """
        lock = _ActionLock(taken.key, taken.lock, taken.token)
        closing = self._closing
        if not self.owner.holds(taken.owner):
            return Called("PENDING", StaleLock("the lease was lost"), "the lease was lost")
        ends: list[bool] = []

        def spent() -> bool:
            """Whether its journal may have records."""
            return action.has_journal or taken.epoch > 1

        action = Action(
            machine=self._name,
            key=taken.key,
            event=taken.event,
            source=taken.source,
            target=taken.target,
            payload=taken.payload,
            payloads=loads(taken.payloads),
            attempt=taken.attempts + 1,
            id=action_id(self._name, taken.key, taken.instance_id, taken.number, taken.token),
            open_journal=lambda: self._open(lock, closing),
            _lost=lambda: self.owner.lost(taken.owner),
            _over=lambda transaction: ends.append(self._end_in(lock, transaction, spent())),
        )
        try:
            made = taken.transition.action(action)  # type: ignore[misc]
            check_finished(made, "the action")
        except Exception as error:
            if ends and not self.check([taken]):
                return Called("DONE", error, describe(error, place=False))
            if comes_from(error, self._database):
                # a database error does not mean that the action failed
                self._hand_back(lock, 0.0 if closing.is_set() else HAND_BACK)
                return Called("PENDING", error, describe(error, place=False))
            return self.fail(taken, error)
        if ends:
            return Called("DONE", claimed=True)
        self._end(lock, "DONE", spent=spent())
        return Called("DONE")

    def defer(self, taken: list[TakenAction]) -> bool:
        """If this thread is calling an action, have these called after that one.

        :param taken: the actions; emptied if they are deferred.
        :returns: whether they are deferred.
        """
        if not _CALLS.calling:
            return False
        _CALLS.later.extend((self, one) for one in taken)
        taken.clear()
        return True

    def call_all(
        self,
        taken: list[TakenAction],
        results: list[Move | Exception] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[Exception]:
        """Call actions one after the other; then those of the moves that they made.

        :param taken: the actions; those that are done are removed.
        :param results: the results of the events, to add the outcomes to.
        :param stopped: whether to call no more.
        :returns: what these actions raised, but not what those of moves that they made raised.
        :raises StoreError: an outcome could not be recorded.
        """
        with _calling(stopped):
            return self._call_all(taken, results, stopped)

    def _call_all(
        self,
        taken: list[TakenAction],
        results: list[Move | Exception] | None,
        stopped: Callable[[], bool],
    ) -> list[Exception]:
        errors: list[Exception] = []
        claimed: list[TakenAction] = []
        done = 0

        def note(one: TakenAction, called: Called) -> None:
            if results is not None:
                move = results[one.index]
                assert isinstance(move, Move)
                results[one.index] = replace(move, action=called.status, reason=called.reason)
            if called.error is not None:
                where = f"machine {self._name}, {one.key}"
                LOG.warning("%s: action of %s: %s", where, one.event, called.reason)
                errors.append(called.error)

        try:
            for one in taken:
                if stopped():
                    break
                called = self.call(one)
                done += 1
                note(one, called)
                if called.claimed:
                    claimed.append(one)
                else:
                    self._own_locks.discard(one.lock)
            for one in self.check(claimed):
                error = ConvergeError("the transaction of its done() was rolled back")
                note(one, self.fail(one, error))
            self._own_locks.difference_update(one.lock for one in claimed)
            claimed.clear()
        finally:
            # the caller releases what was not called, or may not be done
            taken[:] = claimed + taken[done:]
        return errors

    def check(self, taken: Sequence[TakenAction]) -> list[TakenAction]:
        """The actions that called ``done()`` in a transaction that was rolled back."""
        ids = sorted({one.instance_id for one in taken})
        if not ids:
            return []
        left = self._database.read(lambda tx: moves.list_locks(tx, ids))
        return [one for one in taken if one.lock in left]

    def fail(self, taken: TakenAction, error: Exception) -> Called:
        """Record that an action failed.

        :raises StoreError: it could not be recorded.
        """
        wait = taken.transition.retry.wait(taken.attempts + 1, error)
        status = "FAILED" if wait is None else "PENDING"
        reason = describe(error, place=False)
        self._end(_ActionLock(taken.key, taken.lock, taken.token), status, wait=wait, reason=reason)
        return Called(status, error, reason)

    def _open(self, lock: _ActionLock, closing: threading.Event) -> Scope:
        owner = lock.row[2]
        return guarded_scope(
            self._database,
            lock.scope(self._name),
            owner,
            lambda tx: moves.hold_action(tx, lock.row),
            lambda seconds: self._wait(seconds, owner, closing),
        )

    def _wait(self, seconds: float, owner: int, closing: threading.Event) -> None:
        """Wait before a step is tried again.

        :raises StaleLock: the lease is lost, or the machine is being closed; the process that
            takes the action next tries the step again.
        """
        end = now() + seconds
        while True:
            left = max(0.0, end - now())
            closed = closing.wait(min(left, self._look))
            if closed or not self.owner.holds(owner):
                why = "the machine is being closed" if closed else "the lease is lost"
                error = StaleLock(f"{why}; the process that takes the action next continues it")
                error.origin = self._database
                raise error
            if left <= self._look:
                return

    def _hand_back(self, lock: _ActionLock, wait: float) -> None:
        self._database.transact(
            lambda tx: moves.hand_back(tx, lock.row, wait),
            Commit.ACTION,
            happened=repeatable,
            one_statement=True,
        )

    def _end_in(self, lock: _ActionLock, transaction: HostTransaction, spent: bool) -> bool:
        with self._database.join(transaction) as tx:
            if not self._write_end(tx, lock, "DONE", None, None, spent):
                raise StaleLock(f"the action of {lock.key!r} is no longer held by this caller")
        return True

    def _end(
        self,
        lock: _ActionLock,
        status: str,
        *,
        wait: float | None = None,
        reason: str | None = None,
        spent: bool = True,
    ) -> None:
        self._database.transact(
            lambda tx: self._write_end(tx, lock, status, wait, reason, spent),
            Commit.ACTION,
            happened=repeatable,
            one_statement=not spent or status != "DONE",
        )

    def _write_end(
        self,
        tx: Transaction,
        lock: _ActionLock,
        status: str,
        wait: float | None,
        reason: str | None,
        spent: bool,
    ) -> bool:
        ended = moves.end_action(tx, lock.row, status, wait=wait, reason=reason)
        if ended and spent and status == "DONE":
            scopes.delete_scopes(tx, scopes.find_scopes(tx, [lock.scope(self._name)]))
        return ended


class _Calls(threading.local):
    """The calls of actions by a thread.

    :ivar calling: whether it is calling actions.
    :ivar later: the actions of moves that those made. They are called afterwards and not within
        them, so that each is done before the next begins, however long the chain.
    """

    def __init__(self) -> None:
        self.calling = False
        self.later: deque[tuple[Actions, TakenAction]] = deque()


_CALLS = _Calls()


@contextmanager
def _calling(stopped: Callable[[], bool]) -> Iterator[None]:
    """A context in which this thread calls actions; at its end it calls the deferred ones.

    :param stopped: whether to call no more.
    """
    if _CALLS.calling:
        # a sweep within an action: the outer context calls the deferred ones
        yield
        return
    _CALLS.calling = True
    try:
        yield
        while _CALLS.later and not stopped():
            actions, one = _CALLS.later.popleft()
            todo = [one]
            try:
                actions._call_all(todo, None, stopped)
            except StoreError as error:
                LOG.warning(
                    "machine %s, %s: action of %s: %s", actions._name, one.key, one.event, error
                )
            finally:
                actions.release(todo)
    finally:
        _CALLS.calling = False
        left, _CALLS.later = _CALLS.later, deque()
        for actions in {actions for actions, _ in left}:
            actions.release([one for other, one in left if other is actions])


@dataclass(frozen=True, slots=True)
class _ActionLock:
    """The lock on the action of a move."""

    key: str
    row: moves.Lock
    token: str

    def scope(self, machine: str) -> str:
        instance_id, number, *_ = self.row
        return scope_name(machine, self.key, instance_id, number, self.token)


def _list_held(tx: Transaction, lease: Lease) -> list[moves.Lock]:
    # the id may belong to another lease by now, with actions of its own
    check_lease(tx, lease.id, lease.mark)
    return moves.list_held(tx, lease.id)


def _is_taken(tx: Transaction, row: MoveRow, owner: int) -> bool:
    found = moves.get_move(tx, row.instance_id, row.number)
    taken = (owner, row.epoch, row.mark)
    return found is not None and (found.engine_id, found.epoch, found.mark) == taken
