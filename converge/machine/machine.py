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
from converge.sql.database import Transaction, repeatable

if TYPE_CHECKING:
    from types import TracebackType

    from converge.sql.database import HasDatabase, HostTransaction


class Machine(Instances):
    """All instances of one definition in one database. Safe to share between threads.

    As a context manager it sweeps in the background: timeouts fire, and actions that a dead
    process left are called.

    :param definition: a :class:`Definition`, or a mapping or class with its attributes.
    :param lease: seconds, at least 1, after which an action of a process without a sign of life
        is called by another one. (Of a process that is gone from this host, at once.)
    :raises BadInput: the definition is wrong.
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
        """Sweep in the background.

        :param every: seconds between two sweeps.
        :param workers: how many threads call actions; another one fires timeouts.
        """
        if type(workers) is not int or workers < 1:
            raise BadInput(f"workers must be a whole number from 1, not {workers!r}")
        self._worker.start(every, workers)

    def close(self) -> None:
        """End the sweeping after the actions that are being called, and let go of all others.

        An action whose step waits to be tried again does not wait on: it is pending for whoever
        sweeps next, and nothing is recorded of it.
        """
        self._actions.interrupt()
        self._worker.close()
        self._actions.close()

    # -- firing

    def create(self, *keys: str, transaction: HostTransaction | None = None) -> None:
        """Make instances, in the initial state.

        :raises Conflict: one of them is there already; then none is made.
        :raises CommitUnknown: the connection was lost during the commit.
        """
        for key in keys:
            check_name("instance", key)
        if len(set(keys)) != len(keys):
            raise BadInput(f"machine {self.name!r}: one of the keys is there twice")
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

        The move is one transaction. Its action is called after that, in this thread. In a
        transaction of the caller's, all actions are left to the sweep. In an action, the move is
        made at once, and its own action is called when the one that fires is over: ``action`` of
        the result is ``PENDING``, and what it raises is in the log and the history only.

        :param payload: what can be stored as the value of a step.
        :param create: make the instance if it is not there.
        :returns: the move that was made.
        :raises ActionFailed: the move was made, and its action raised something, or how it went
            could not be noted. The sweep tries it again. After any other error no move was made;
            but for CommitUnknown. What a guard raises is raised as it is, with a note.
        :raises IllegalEvent: it does nothing in the instance's state; the legal ones are named.
        :raises NotFound: there is no such instance.
        :raises BadInput: the key or event cannot be one, the payload cannot be stored, or the
            instance is of a version that this one has no migration for.
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
        """Fire events at many instances, in a few statements for a thousand. Each thousand is a
        transaction of its own, but for the caller's; the actions are called after all of them.

        :param events: key, event and, if there is one, payload.
        :returns: for each, in order, the move, which also says how its action went; or what
            :meth:`fire` would raise, also of a guard.
        :raises BadInput: a key or event cannot be one, or a payload cannot be stored; nothing
            was fired then.
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
        """:returns: what became of the events, and what the actions raised."""
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
            if self._actions.put_off(taken):
                return results, []
            try:
                errors = self._actions.call_all(taken, results)
            except StoreError as error:
                # the moves are made; the rest is for the sweep
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

        :param results: of the events before them.
        :param taken: where to put their actions.
        """
        before = len(taken)

        def write(tx: Transaction) -> Fired:
            fired = self._mover.fire(tx, part, create=create, taker=taker)
            # known also if this is interrupted right after the commit
            taken[before:] = [replace(one, index=len(results) + one.index) for one in fired.taken]
            return fired

        return self._run(transaction, write, Commit.FIRE, is_committed)

    # -- the sweep

    def sweep(self) -> int:
        """Fire the timeouts that have passed, and call actions that are pending.

        Any number of processes may sweep: each timeout fires once, each action is called by one
        of them at a time.

        :returns: how many timeouts fired and actions were called without an error.
        :raises StoreError: the database cannot be used.
        """
        return self._worker.fire_timeouts() + self._worker.call_actions()

    def _time_out(self) -> Fired:
        return self._run(None, self._mover.time_out, Commit.TIMEOUT, is_committed)

    # -- looking after instances

    def instances(
        self, *, state: str | None = None, after: str = "", limit: int = 1000
    ) -> list[Instance]:
        """Instances by key.

        :param state: only those in this state.
        :param after: from the one after this key on.
        """
        if state is not None:
            self._check_state(state)
        return super().instances(state=state, after=after, limit=limit)

    def migrate(self) -> int:
        """Bring all instances of older versions to this one; without it, each goes at its next
        event. Timeouts are counted from now on.

        :returns: how many there were.
        :raises BadInput: there is no way for one of them.
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
        """Delete instances that came into a terminal state long ago, with their history; but
        none with an action that is pending or has FAILED.

        :param age: seconds since their last move.
        :param states: only those in one of these states, of any version, terminal or not; but
            none that has a timeout.
        :returns: how many were deleted.
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
        """The machine as a picture; ``mermaid`` or ``dot``."""
        return draw(self.definition, how)

    def _check_state(self, state: str, older: Iterable[str] = ()) -> None:
        """:param older: states of older versions."""
        known = {*self.definition.states, *older}
        if state not in known:
            raise BadInput(
                f"machine {self.name!r} has no state {state!r}{did_you_mean(str(state), known)}"
            )


def _action_failed(machine: str, move: Move, error: Exception) -> ActionFailed:
    then = {
        "PENDING": "it is called again by the sweep",
        "FAILED": "it is called again only after retry()",
        "DONE": "but it had ended before",
    }[move.action]
    what = f"machine {machine!r}, {move.key!r}: event {move.event!r} moved it from "
    what += f"{move.source!r} to {move.target!r}, and the action failed: {move.reason or error}"
    return ActionFailed(f"{what}; {then}", move=move)
