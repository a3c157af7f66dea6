"""Actions: called after a move is committed, by one process at a time, until they are done."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from converge.errors import ConvergeError, StaleLock, StoreError, comes_from
from converge.journal import Scope, guarded_scope
from converge.journal.values import loads
from converge.lease import now
from converge.machine.action import Action, action_id, call_async
from converge.machine.ending import ActionLock
from converge.machine.holding import Holding
from converge.machine.move import Move
from converge.machine.moving import TakenAction
from converge.reasons import describe
from converge.sql import moves
from converge.synchronous import ASYNC, check_finished, deferred_kind

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


class Actions(Holding):
    """The actions of a machine's moves: those that this process holds, and how they are called.

    :param lease: seconds that a lease lasts.
    """

    def call(self, taken: TakenAction) -> Called:
        """Call an action, and record the outcome.

        :raises StoreError: the outcome could not be recorded.
        """
        lock = ActionLock(taken.key, taken.lock, taken.token)
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
            _over=lambda transaction: ends.append(self._endings.end_in(lock, transaction, spent())),
        )
        try:
            function: Any = taken.transition.action
            is_async = deferred_kind(function) == ASYNC
            made = call_async(function, action, self._database) if is_async else function(action)
            check_finished(made, "the action")
        except Exception as error:
            if ends and not self.check([taken]):
                return Called("DONE", error, describe(error, place=False))
            if comes_from(error, self._database):
                # a database error does not mean that the action failed
                self._endings.hand_back(lock, 0.0 if closing.is_set() else HAND_BACK)
                return Called("PENDING", error, describe(error, place=False))
            return self.fail(taken, error)
        if ends:
            return Called("DONE", claimed=True)
        self._endings.end(lock, "DONE", spent=spent())
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
        self._endings.end(
            ActionLock(taken.key, taken.lock, taken.token), status, wait=wait, reason=reason
        )
        return Called(status, error, reason)

    def _open(self, lock: ActionLock, closing: threading.Event) -> Scope:
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
