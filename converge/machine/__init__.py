"""Machines: things with a state, which events move, one atomic move at a time.

Usable alone, in any program with a database. An instance is a row; the moves of all that was
ever fired at it are its history. The action of a move is called when the move is committed,
and if the process dies, by whoever sweeps; what it has done is in its journal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from converge.errors import BadInput, ConvergeError, NotFound, StaleLock, StoreError, did_you_mean
from converge.journal.values import loads
from converge.lease import LEASE, LEAST
from converge.machine.actions import Action, Actions, Called, scope_name
from converge.machine.definition import Definition, State, Transition
from converge.machine.drawing import draw
from converge.machine.moving import BATCH, Event, Fired, Held, Move, Mover, is_committed
from converge.model import check_name, check_seconds
from converge.points import Commit
from converge.store import machines, scopes
from converge.store.database import Transaction, repeatable
from converge.store.machines import InstanceRow, MoveRow

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session as OrmSession

    from converge.stacks import Store

    HostTransaction = Transaction | Connection | OrmSession

__all__ = ["Action", "Definition", "Instance", "Machine", "Move", "State", "Transition"]

T = TypeVar("T")

LOG = logging.getLogger(__name__)

#: Seconds between two sweeps.
SWEEP = 1.0
#: How many actions a sweep takes at a time; others may take the rest meanwhile.
CLAIM = 20
#: How often events are fired again when somebody else moved an instance meanwhile.
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance, as it was when it was read.

    :ivar version: of the definition that last moved it; ``state`` is one of that version.
    :ivar payloads: the last payload of each event, by event.
    :ivar moves: how many there were.
    :ivar timeout: seconds until its timeout, None if it has none.
    """

    key: str
    state: str
    version: int
    moves: int
    payloads: Mapping[str, Any]
    timeout: float | None


class Machine:
    """All instances of one definition in one database. Safe to share between threads.

    As a context manager it sweeps in the background: timeouts fire, and actions that a dead
    process left are called.

    :param definition: a :class:`Definition`, or a mapping or class with its attributes.
    :param lease: seconds, at least 1, after which an action of a process without a sign of life
        is called by another one. (Of a process that is gone from this host, at once.)
    :raises BadInput: the definition is wrong.
    """

    def __init__(self, store: Store, definition: object, *, lease: float = LEASE) -> None:
        self.definition = Definition.of(definition)
        self.name = self.definition.name
        self._database = store.database
        self._mover = Mover(self.definition)
        check_seconds("lease", lease, LEAST)
        self._actions = Actions(store.database, self.definition, lease)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._every = SWEEP
        self._warned: set[int] = set()

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

    def start(self, every: float = SWEEP) -> None:
        """Sweep in the background.

        :param every: seconds between two sweeps.
        """
        self._every = check_seconds("every", every)
        if self._thread is None:
            self._stopped.clear()
            self._thread = threading.Thread(
                target=self._loop, name=f"converge-machine-{self.name}", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """End the sweeping after the action that is being called, and let go of all others."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._actions.close()

    def _loop(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                self._sweep(self._stopped.is_set)
            except Exception as error:
                # it must not end, whatever is wrong this time
                LOG.warning("machine %s: %s; trying again", self.name, error)

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

        The move is one transaction. Its action is called after that, in this thread; an
        exception of it is raised here, and the sweep tries it again. In a transaction of the
        caller's, all actions are left to the sweep.

        :param payload: what can be stored as the value of a step.
        :param create: make the instance if it is not there.
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
            raise error
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
        owner = None
        if given and transaction is None and self.definition.has_actions:
            owner = self._actions.owner.current_id()
        results: list[Move | Exception] = []
        held: list[Held] = []
        try:
            for start in range(0, len(given), BATCH):
                before = len(held)

                def fire(tx: Transaction, start: int = start, before: int = before) -> Fired:
                    part = given[start : start + BATCH]
                    fired = self._mover.fire(tx, part, create=create, owner=owner)
                    # known also if this is interrupted right after the commit
                    held[before:] = [replace(one, index=start + one.index) for one in fired.held]
                    return fired

                results += self._run(transaction, fire, Commit.FIRE, is_committed).results
            try:
                errors = self._call(held, results)
            except StoreError as error:
                # the moves are made; the rest is for the sweep
                errors = [error]
            return results, errors
        finally:
            self._actions.release(held)

    def _call(
        self,
        held: list[Held],
        results: list[Move | Exception] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[Exception]:
        """Call actions one after the other, each taken off the list when it was.

        :param results: where to note how they went.
        :returns: what they raised.
        :raises StoreError: how one went could not be noted.
        """
        errors: list[Exception] = []
        claimed: list[Held] = []
        done = 0

        def note(one: Held, called: Called) -> None:
            if results is not None:
                move = results[one.index]
                assert isinstance(move, Move)
                results[one.index] = replace(move, action=called.status, reason=called.reason)
            if called.error is not None:
                where = f"machine {self.name}, {one.key}"
                LOG.warning("%s: action of %s: %s", where, one.event, called.reason)
                errors.append(called.error)

        try:
            for one in held:
                if stopped():
                    break
                called = self._actions.call(one)
                done += 1
                note(one, called)
                if called.claimed:
                    claimed.append(one)
            for one in self._actions.check(claimed):
                error = ConvergeError("the transaction of its done() was rolled back")
                note(one, self._actions.fail(one, error))
            claimed.clear()
        finally:
            # what was not called, or may not be over, is to be let go of
            held[:] = claimed + held[done:]
        return errors

    def _run(
        self,
        transaction: HostTransaction | None,
        function: Callable[[Transaction], T],
        commit: Commit,
        happened: Callable[[Transaction, T], bool] | None = None,
    ) -> T:
        if transaction is not None:
            with self._database.join(transaction) as tx:
                return function(tx)
        for _ in range(_TRIES):
            try:
                return self._database.transact(function, commit, happened=happened)
            except StaleLock as error:
                # somebody else moved one of them at the same moment
                again = error
        raise again

    # -- the sweep

    def sweep(self) -> int:
        """Fire the timeouts that have passed, and call actions that are pending.

        Any number of processes may sweep: each timeout fires once, each action is called by one
        of them at a time.

        :returns: how many timeouts fired and actions were called without an error.
        :raises StoreError: the database cannot be used.
        """
        return self._sweep(lambda: False)

    def _sweep(self, stopped: Callable[[], bool]) -> int:
        # nearly always there is nothing to do, and a reader is in nobody's way
        overdue, (due, gone) = self._database.read(
            lambda tx: (machines.list_overdue_versions(tx, self.name), self._actions.look(tx))
        )
        known = set(self.definition.versions)
        for version in {*overdue, *due} - known - self._warned:
            self._warned.add(version)
            LOG.warning(
                "machine %s: there are instances of version %s, which version %s has no "
                "migration for; their timeouts and actions are left alone",
                self.name,
                version,
                self.definition.version,
            )
        count = 0
        if not known.isdisjoint(overdue):
            count += self._time_out()
        if gone:
            self._actions.bury(gone)
        if self.definition.has_actions and (count or gone or not known.isdisjoint(due)):
            count += self._act(stopped)
        return count

    def _time_out(self) -> int:
        count = 0
        while True:
            fired = self._run(None, self._mover.time_out, Commit.TIMEOUT, is_committed)
            count += fired.moves
            if fired.seen < BATCH:
                return count

    def _act(self, stopped: Callable[[], bool]) -> int:
        count = 0
        while not stopped():
            held = self._actions.claim(CLAIM)
            taken = len(held)
            try:
                errors = self._call(held, stopped=stopped)
                count += taken - len(held) - len(errors)
            finally:
                self._actions.release(held)
            if taken < CLAIM:
                break
        return count

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

    # -- looking

    def get(self, key: str) -> Instance:
        """An instance.

        :raises NotFound: there is none.
        """
        check_name("instance", key)
        found = self._database.read(lambda tx: machines.get_instances(tx, self.name, [key]))
        if key not in found:
            raise NotFound(f"machine {self.name!r} has no instance {key!r}")
        return _instance(found[key])

    def instances(
        self, *, state: str | None = None, after: str = "", limit: int = 1000
    ) -> list[Instance]:
        """Instances by key.

        :param state: only those in this state.
        :param after: from the one after this key on.
        """
        if state is not None and state not in self.definition.states:
            raise BadInput(
                f"machine {self.name!r} has no state {state!r}"
                f"{did_you_mean(str(state), self.definition.states)}"
            )
        rows = self._database.read(
            lambda tx: machines.list_instances(tx, self.name, state, after, limit)
        )
        return [_instance(row) for row in rows]

    def history(self, key: str, *, after: int = 0, limit: int = 1000) -> list[Move]:
        """The moves of an instance, the oldest first.

        :param after: only those with a higher number.
        :raises NotFound: there is no such instance.
        """
        check_name("instance", key)

        def read(tx: Transaction) -> list[MoveRow]:
            found = machines.get_instances(tx, self.name, [key])
            if key not in found:
                raise NotFound(f"machine {self.name!r} has no instance {key!r}")
            return machines.list_moves(tx, found[key].id, after, limit)

        return [_moved(row) for row in self._database.read(read)]

    def delete(self, *keys: str, transaction: HostTransaction | None = None) -> int:
        """Delete instances with their history; actions of theirs that are pending are not called.

        :returns: how many there were.
        """

        def remove(tx: Transaction) -> list[int]:
            found = machines.get_instances(tx, self.name, keys, lock=True)
            by_id = {row.id: row.key for row in found.values()}
            begun = machines.list_begun(tx, list(by_id))
            names = [scope_name(self.name, by_id[one], one, number) for one, number in begun]
            scopes.delete_scopes(tx, scopes.find_scopes(tx, names))
            machines.delete_instances(tx, list(by_id))
            return list(by_id)

        def removed(tx: Transaction, ids: list[int]) -> bool:
            return not machines.has_instances(tx, ids)

        for key in keys:
            check_name("instance", key)
        return len(self._run(transaction, remove, Commit.INSTANCE, removed))

    def draw(self, how: str = "mermaid") -> str:
        """The machine as a picture; ``mermaid`` or ``dot``."""
        return draw(self.definition, how)


def _instance(row: InstanceRow) -> Instance:
    return Instance(row.key, row.state, row.version, row.epoch, loads(row.payloads), row.left)


def _moved(row: MoveRow) -> Move:
    return Move(
        row.key,
        row.number,
        row.event,
        row.source,
        row.target,
        loads(row.payload),
        row.status,
        row.at,
        row.reason,
    )
