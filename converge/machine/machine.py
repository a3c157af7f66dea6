"""A machine: the instances of one definition in one database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from converge.crash_points import Commit
from converge.errors import BadInput, StoreError, did_you_mean
from converge.lease import LEASE, MIN_LEASE
from converge.machine.actions import Actions
from converge.machine.definition import Definition
from converge.machine.drawing import draw
from converge.machine.instances import Instance, Instances
from converge.machine.move import ActionFailed, Move
from converge.machine.moving import BATCH, Event, Fired, Mover, TakenAction, Taker, is_committed
from converge.machine.worker import SWEEP, MachineWorker
from converge.model import check_name, check_seconds
from converge.sql.database import repeatable
from converge.sql.transaction import Transaction

if TYPE_CHECKING:
    from types import TracebackType

    from converge.sql.database import HasDatabase
    from converge.sql.transaction import HostTransaction


class Machine(Instances):
    """All instances of one definition in one database. Safe to share between threads.

    As a context manager it sweeps in the background: it fires timeouts, and calls actions that a
    dead process left.

    :param store: from :func:`converge.connect`.
    :param definition: a :class:`Definition`, or a mapping or class with its attributes.
    :param lease: seconds, at least 1, without a sign of life after which another process calls an
        action. (If the process was on the same host and is gone: at once.)
    :raises BadInput: the definition or the lease is wrong.
    """

    def __init__(self, store: HasDatabase, definition: object, *, lease: float = LEASE) -> None:
        self.definition = Definition.of(definition)
        super().__init__(store, self.definition.name)
        check_seconds("lease", lease, MIN_LEASE)
        self._mover = Mover(self.definition)
        self._actions = Actions(self._database, self.definition, lease)
        self._worker = MachineWorker(self._database, self._mover, self._actions, self._time_out)

    def __enter__(self) -> Machine:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, every: float = SWEEP, *, workers: int = 1) -> None:
        """Sweep in the background; does nothing if it already does.

        :param every: seconds between two sweeps.
        :param workers: how many threads call actions; another one fires timeouts.
        :raises BadInput: a number is out of range.
        """
        if type(workers) is not int or workers < 1:
            raise BadInput(f"workers must be a whole number from 1, not {workers!r}")
        self._worker.start(every, workers)

    def close(self) -> None:
        """Stop sweeping when the running actions have returned, and release all others.

        An action whose step waits to be tried again is interrupted: it stays pending for the next
        sweep of any process.
        """
        self._actions.interrupt()
        self._worker.close()
        self._actions.close()

    # -- firing

    def create(self, *keys: str, transaction: HostTransaction | None = None) -> None:
        """Create instances, in the initial state.

        :param transaction: the caller's own transaction, if any.
        :raises Conflict: one of them already exists; then none is created.
        :raises BadInput: a key is not valid, or is given twice.
        :raises CommitUnknown: the connection was lost during the commit.
        """
        for key in keys:
            check_name("instance", key)
        if len(set(keys)) != len(keys):
            raise BadInput(f"machine {self.name!r}: the same key is given twice")
        if keys:
            self._run(transaction, lambda tx: self._mover.insert(tx, sorted(keys)), Commit.INSTANCE)

    def fire(
        self,
        key: str,
        event: str,
        payload: Any = None,
        *,
        create: bool = False,
        transaction: HostTransaction | None = None,
    ) -> Move:
        """Fire an event at an instance.

        The move is one transaction. Its action is called after that, in this thread. With a
        transaction of the caller's own, all actions are left to the sweep. Within an action, the
        move is made at once, and its own action is called when the outer one is done: ``action`` of
        the result is ``PENDING``, and its errors are only in the log and the history.

        :param payload: any value that a step can return.
        :param create: create the instance if it does not exist.
        :param transaction: the caller's own transaction, if any.
        :returns: the move that was made.
        :raises ActionFailed: the move was made, but its action raised an error, or its outcome
            could not be recorded; ``move.action`` says whether it is called again. After any other
            error except CommitUnknown, no move was made. What a guard raises is raised as it is,
            with a note.
        :raises IllegalEvent: the event is not allowed in the instance's state; the message names
            those that are.
        :raises NotFound: there is no such instance.
        :raises BadInput: the key or event is not valid, the payload cannot be stored, or the
            instance is of a version without a migration to this one.
        """
        given = [Event.of(key, event, payload)]
        (result,), errors = self._fire(given, create=create, transaction=transaction)
        if isinstance(result, Exception):
            raise result
        for error in errors:
            raise _action_failed(self.name, result, error) from error
        return result

    def fire_many(
        self,
        events: Iterable[tuple[str, str] | tuple[str, str, Any]],
        *,
        create: bool = False,
        transaction: HostTransaction | None = None,
    ) -> list[Move | Exception]:
        """Fire events at many instances, in a few statements for a thousand events. Each thousand
        is a transaction, unless the caller gives one; the actions are called after all of them.

        :param events: tuples of key, event and, optionally, payload.
        :param create: create instances that do not exist.
        :param transaction: the caller's own transaction, if any.
        :returns: for each event, in order: the move, with the status of its action; or the error
            that :meth:`fire` would raise, including that of a guard.
        :raises BadInput: a key or event is not valid, or a payload cannot be stored; then nothing
            is fired.
        """
        given = []
        for number, one in enumerate(events, start=1):
            if not isinstance(one, tuple | list) or len(one) not in (2, 3):
                raise BadInput(
                    f"event {number} must be (key, event) or (key, event, payload), not {one!r}"
                )
            given.append(Event.of(*one))
        return self._fire(given, create=create, transaction=transaction)[0]

    def _fire(
        self, given: Sequence[Event], *, create: bool, transaction: HostTransaction | None
    ) -> tuple[list[Move | Exception], list[Exception]]:
        """:returns: the results of the events, and what their actions raised."""
        calls = transaction is None and self.definition.has_actions
        results: list[Move | Exception] = []
        taken: list[TakenAction] = []
        try:
            for start in range(0, len(given), BATCH):
                part = given[start : start + BATCH]

                def fire(taker: Taker | None, part: Sequence[Event] = part) -> None:
                    fired = self._fire_part(part, results, taken, create, transaction, taker)
                    results.extend(fired.results)

                if calls:
                    before = len(taken)
                    self._actions.take(fire, lambda before=before: taken[before:])  # type: ignore[misc]
                else:
                    fire(None)
            if self._actions.defer(taken):
                return results, []
            try:
                errors = self._actions.call_all(taken, results)
            except StoreError as error:
                # the moves are made; the sweep calls the remaining actions
                errors = [error]
            return results, errors
        finally:
            self._actions.release(taken)

    def _fire_part(
        self,
        part: Sequence[Event],
        results: Sequence[Move | Exception],
        taken: list[TakenAction],
        create: bool,
        transaction: HostTransaction | None,
        taker: Taker | None,
    ) -> Fired:
        """Fire a batch of events.

        :param results: the results of the events before them.
        :param taken: the list to add their actions to.
        """
        before = len(taken)

        def write(tx: Transaction) -> Fired:
            fired = self._mover.fire(tx, part, create=create, taker=taker)
            # here, so that they are known if this is interrupted right after the commit
            taken[before:] = [replace(one, index=len(results) + one.index) for one in fired.taken]
            return fired

        return self._run(transaction, write, Commit.FIRE, is_committed)

    # -- the sweep

    def sweep(self) -> int:
        """Fire the timeouts that have passed, and call pending actions.

        Any number of processes may sweep: each timeout fires once, and each action is called by one
        process at a time.

        :returns: how many timeouts fired, plus how many actions were called without an error.
        :raises StoreError: the database cannot be used.
        """
        return self._worker.fire_timeouts() + self._worker.call_actions()

    def _time_out(self) -> Fired:
        return self._run(None, self._mover.time_out, Commit.TIMEOUT, is_committed)

    # -- looking after instances

    def instances(
        self, *, state: str | None = None, after: str = "", limit: int = 1000
    ) -> list[Instance]:
        """Instances, ordered by key.

        :param state: only those in this state.
        :param after: only those after this key.
        :param limit: the most to return.
        :raises BadInput: the machine has no such state.
        """
        if state is not None:
            self._check_state(state)
        return super().instances(state=state, after=after, limit=limit)

    def migrate(self) -> int:
        """Migrate all instances of older versions to this one; without this, each is migrated at
        its next event. Their timeouts start again now.

        :returns: how many were migrated.
        :raises BadInput: there is no migration for one of them.
        """
        count = 0
        after: str | None = ""
        while after is not None:
            moved, after = self._run(
                None,
                lambda tx, after=after: self._mover.migrate(tx, after),  # type: ignore[misc]
                Commit.INSTANCE,
                repeatable,
            )
            count += moved
        return count

    def prune(self, age: float, *states: str) -> int:
        """Delete old instances in terminal states, with their history; but none with an action that
        is pending or has FAILED.

        :param age: only those whose last move was more than this many seconds ago.
        :param states: instead of terminal states: these states, of any version. Instances with a
            timeout are kept.
        :returns: how many were deleted.
        :raises BadInput: the machine has no such state, or the age is negative.
        """
        if states:
            older = {name for names in self.definition.migrations.values() for name in names}
            for state in states:
                self._check_state(state, older)
            return super().prune(age, *states)
        versions = self.definition.versions
        terminal = {one: self.definition.terminal_in(one) for one in versions}
        return self._prune(age, {one: names for one, names in terminal.items() if names})

    def draw(self, how: str = "mermaid") -> str:
        """The machine as the text of a diagram.

        :param how: ``mermaid`` or ``dot``.
        :raises BadInput: it is neither.
        """
        return draw(self.definition, how)

    def _check_state(self, state: str, older: Iterable[str] = ()) -> None:
        """:param older: states of older versions, which are allowed, too."""
        known = {*self.definition.states, *older}
        if state not in known:
            raise BadInput(
                f"machine {self.name!r} has no state {state!r}{did_you_mean(str(state), known)}"
            )


def _action_failed(machine: str, move: Move, error: Exception) -> ActionFailed:
    then = {
        "PENDING": "the sweep calls it again",
        "FAILED": "it is called again only after retry()",
        "DONE": "but it had called done() before",
    }[move.action]
    what = f"machine {machine!r}, {move.key!r}: event {move.event!r} moved it from "
    what += f"{move.source!r} to {move.target!r}, and the action failed: {move.reason or error}"
    return ActionFailed(f"{what}; {then}", move=move)
