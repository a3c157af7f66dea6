"""Machines: things with a state, which events move, one atomic move at a time.

Usable alone, in any program with a database. An instance is a row; the moves of all that was
ever fired at it are its history. The action of a move is called when the move is committed,
and if the process dies, by whoever sweeps; what it has done is in the journal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from converge.errors import (
    BadInput,
    Busy,
    Conflict,
    ConvergeError,
    IllegalEvent,
    NotFound,
    StaleLock,
    StoreError,
)
from converge.journal import Item, Journal, Scope
from converge.journal.values import dumps, loads
from converge.lease import LEASE
from converge.machine.definition import Definition, State, Transition
from converge.machine.drawing import draw
from converge.model import check_name, check_seconds
from converge.points import Commit
from converge.store import machines
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

#: Rows of one sort in one transaction.
BATCH = 1000
#: Seconds between two sweeps.
SWEEP = 1.0
#: How often a lone event is fired again when somebody else moved the instance meanwhile.
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance, as it was when it was read.

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


@dataclass(frozen=True, slots=True)
class Move:
    """What an event did.

    :ivar number: as which move of its instance, from 1.
    :ivar at: when, in seconds since 1970; None of one just made.
    :ivar action: ``NONE``, ``PENDING``, ``DONE`` or ``FAILED``.
    :ivar reason: why the last attempt of the action failed.
    """

    key: str
    number: int
    event: str
    source: str
    target: str
    payload: Any
    action: str
    at: float | None = None
    reason: str | None = None


@dataclass(slots=True)
class Action:
    """What the action of a move is given.

    :ivar payloads: the last payload of each event up to this one.
    :ivar attempt: which attempt this is, from 1.
    :ivar journal: the scope of this move: what is a step in it is not done again.
    """

    machine: str
    key: str
    event: str
    source: str
    target: str
    payload: Any
    payloads: Mapping[str, Any]
    attempt: int
    journal: Scope

    def step(self, name: str, function: Any = None, /, *args: Any, **kwargs: Any) -> Any:
        """Do a step unless it is done; see :meth:`converge.journal.Scope.step`."""
        return self.journal.step(name, function, *args, **kwargs)

    def each(self, name: str, items: Any, *, every: int = 1) -> Iterable[Item[Any]]:
        """Go through items that are not done; see :meth:`converge.journal.Scope.each`."""
        return self.journal.each(name, items, every=every)


@dataclass(frozen=True, slots=True)
class _Event:
    key: str
    name: str
    payload: Any = None


class Machine:
    """All instances of one definition in one database.

    As a context manager it sweeps in the background: timeouts fire, and actions that a dead
    process left are called.

    :param definition: a :class:`Definition`, or a mapping or class with its attributes.
    :param lease: seconds after which an action of a process without a sign of life is called by
        another one.
    :raises BadInput: the definition is wrong.
    """

    def __init__(self, store: Store, definition: object, *, lease: float = LEASE) -> None:
        self.definition = Definition.of(definition)
        self.name = self.definition.name
        self._database = store.database
        self._journal = Journal(store, lease=lease)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._every = SWEEP

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
        """End the sweeping, and let go of everything."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._journal.close()

    def _loop(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                self.sweep()
            except StoreError as error:
                LOG.warning("machine %s: %s; trying again", self.name, error)

    # -- firing

    def create(self, *keys: str, transaction: HostTransaction | None = None) -> None:
        """Make instances, in the initial state.

        :raises Conflict: one of them is there already.
        """
        for key in keys:
            check_name("instance", key)
        self._run(transaction, lambda tx: self._insert(tx, keys), Commit.INSTANCE)

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
        """
        (result,) = self.fire_many([(key, event, payload)], create=create, transaction=transaction)
        if isinstance(result, ConvergeError):
            raise result
        return result

    def fire_many(
        self,
        events: Iterable[tuple[str, str] | tuple[str, str, Any]],
        *,
        create: bool = False,
        transaction: HostTransaction | None = None,
    ) -> list[Move | ConvergeError]:
        """Fire events at many instances, in a few statements for a thousand.

        :param events: key, event and, if there is one, payload.
        :returns: for each, in order, the move, or the error that :meth:`fire` would raise.
        """
        given = [self._event(*one) for one in events]
        results: list[Move | ConvergeError] = []
        for start in range(0, len(given), BATCH):
            part = given[start : start + BATCH]
            fired = self._run(
                transaction,
                lambda tx, part=part: self._fire(tx, part, create=create),  # type: ignore[misc]
                Commit.FIRE,
            )
            results += fired
        if transaction is None:
            errors = []
            for result in results:
                if isinstance(result, Move) and result.action == "PENDING":
                    error = self._act_on(result)
                    if error is not None:
                        errors.append(error)
            if errors and len(given) == 1:
                raise errors[0]
        return results

    def _event(self, key: str, name: str, payload: Any = None) -> _Event:
        check_name("instance", key)
        check_name("event", name)
        return _Event(key, name, payload)

    def _run(
        self,
        transaction: HostTransaction | None,
        function: Callable[[Transaction], T],
        commit: Commit,
    ) -> T:
        if transaction is not None:
            with self._database.join(transaction) as tx:
                return function(tx)
        for _ in range(_TRIES):
            try:
                return self._database.transact(function, commit)
            except (Conflict, StaleLock) as error:
                # somebody else made or moved one of them at the same moment
                if commit is Commit.INSTANCE:
                    raise
                again = error
        raise again

    def _insert(self, tx: Transaction, keys: Sequence[str]) -> None:
        state = self.definition.states[self.definition.initial]
        machines.insert_instances(
            tx,
            self.name,
            keys,
            version=self.definition.version,
            state=self.definition.initial,
            timeout=state.timeout,
        )

    def _fire(
        self, tx: Transaction, events: Sequence[_Event], *, create: bool
    ) -> list[Move | ConvergeError]:
        rows = machines.get_instances(tx, self.name, (event.key for event in events), lock=True)
        missing = sorted({event.key for event in events} - rows.keys())
        if missing and create:
            self._insert(tx, missing)
            rows |= machines.get_instances(tx, self.name, missing, lock=True)
        results: list[Move | ConvergeError | None] = [None] * len(events)
        todo = list(enumerate(events))
        # in one round each instance moves once
        while todo:
            later = []
            now = {}
            for number, event in todo:
                if event.key in now:
                    later.append((number, event))
                else:
                    now[event.key] = (number, event)
            self._move(tx, list(now.values()), rows, results)
            todo = later
        return [one for one in results if one is not None]

    def _move(
        self,
        tx: Transaction,
        events: Sequence[tuple[int, _Event]],
        rows: Mapping[str, InstanceRow],
        results: list[Move | ConvergeError | None],
    ) -> None:
        updates = []
        moves = []
        for number, event in events:
            row = rows.get(event.key)
            if row is None:
                results[number] = NotFound(f"machine {self.name!r} has no instance {event.key!r}")
                continue
            try:
                transition, state = self._choose(row, event)
            except ConvergeError as error:
                results[number] = error
                continue
            payloads = loads(row.payloads) | {event.name: event.payload}
            status = "NONE" if transition.action is None else "PENDING"
            text = dumps(payloads)
            updates.append(
                {
                    "id": row.id,
                    "epoch": row.epoch,
                    "state": transition.target,
                    "payloads": text,
                    "timeout": self.definition.states[transition.target].timeout,
                }
            )
            moves.append(
                {
                    "instance_id": row.id,
                    "number": row.epoch + 1,
                    "event": event.name,
                    "source": state,
                    "target": transition.target,
                    "payload": dumps(event.payload),
                    "payloads": text,
                    "status": status,
                }
            )
            row.epoch += 1
            row.state = transition.target
            row.version = self.definition.version
            row.payloads = text
            results[number] = Move(
                event.key, row.epoch, event.name, state, transition.target, event.payload, status
            )
        machines.move_instances(tx, updates, self.definition.version)
        machines.insert_moves(tx, self.name, moves)

    def _choose(self, row: InstanceRow, event: _Event) -> tuple[Transition, str]:
        definition = self.definition
        state = definition.migrate(row.version, row.state)
        transition = definition.choose(state, event.name, loads(row.payloads), event.payload)
        if transition is None:
            legal = definition.events(state)
            shown = ", ".join(legal) if legal else "none: it is terminal"
            if event.name in legal:
                why = f"no guard of event {event.name!r} allows it"
            else:
                why = f"event {event.name!r} does nothing"
            raise IllegalEvent(
                f"machine {self.name!r}, {row.key!r}: in state {state!r} {why}; legal: {shown}",
                legal=legal,
            )
        return transition, state

    # -- the sweep

    def sweep(self) -> int:
        """Fire the timeouts that have passed, and call actions that are pending.

        Any number of processes may sweep: each timeout fires once, each action is called by one
        of them at a time.

        :returns: how many timeouts fired and actions were over.
        """
        count = 0
        while True:
            fired = self._run(None, self._time_out, Commit.TIMEOUT)
            count += fired
            if fired < BATCH:
                break
        pending = self._database.read(lambda tx: machines.list_pending(tx, self.name, BATCH))
        for row in pending:
            try:
                count += self._act(row.instance_id, row.number)
            except StoreError:
                raise
            except Exception as error:
                LOG.warning("machine %s, %s: %s: %s", self.name, row.key, row.event, error)
        return count

    def _time_out(self, tx: Transaction) -> int:
        rows = machines.lock_overdue(tx, self.name, BATCH)
        definition = self.definition
        events = []
        for row in rows:
            state = definition.states[definition.migrate(row.version, row.state)]
            events.append(_Event(row.key, state.on_timeout))
        results: list[Move | ConvergeError | None] = [None] * len(events)
        self._move(tx, list(enumerate(events)), {row.key: row for row in rows}, results)
        return sum(isinstance(one, Move) for one in results)

    def _act_on(self, move: Move) -> Exception | None:
        found = self._database.read(lambda tx: machines.get_instances(tx, self.name, [move.key]))
        if move.key not in found:
            return None
        try:
            self._act(found[move.key].id, move.number)
        except StoreError:
            raise
        except Exception as error:
            return error
        return None

    def _act(self, instance_id: int, number: int) -> bool:
        """Call the action of a move, unless it is over or somebody else is at it."""
        try:
            with self._journal.scope(f"machine {self.name} {instance_id} {number}") as scope:
                row = self._database.read(lambda tx: machines.get_move(tx, instance_id, number))
                if row is None or row.status != "PENDING":
                    return False
                self._call(row, scope)
                return True
        except Busy:
            return False

    def _call(self, row: MoveRow, scope: Scope) -> None:
        payloads = loads(row.payloads)
        payload = loads(row.payload)
        transition = next(
            (
                one
                for one in self.definition.transitions
                if one.event == row.event
                and row.source in one.sources
                and one.target == row.target
                and one.action is not None
            ),
            None,
        )
        if transition is None or transition.action is None:
            self._end(row, "FAILED", reason="this program has no such transition with an action")
            return
        action = Action(
            self.name,
            row.key,
            row.event,
            row.source,
            row.target,
            payload,
            payloads,
            row.attempts + 1,
            scope,
        )
        try:
            transition.action(action)
        except StaleLock:
            raise
        except Exception as error:
            wait = transition.retry.wait(row.attempts + 1, error)
            reason = f"{type(error).__name__}: {error}"
            self._end(row, "FAILED" if wait is None else "PENDING", wait=wait, reason=reason)
            raise
        self._end(row, "DONE")

    def _end(
        self, row: MoveRow, status: str, *, wait: float | None = None, reason: str | None = None
    ) -> None:
        self._database.transact(
            lambda tx: machines.end_action(
                tx, row.instance_id, row.number, status, wait=wait, reason=reason
            ),
            Commit.ACTION,
            happened=repeatable,
        )

    # -- looking

    def get(self, key: str) -> Instance:
        """An instance.

        :raises NotFound: there is none.
        """
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
            raise BadInput(f"machine {self.name!r} has no state {state!r}")
        rows = self._database.read(
            lambda tx: machines.list_instances(tx, self.name, state, after, limit)
        )
        return [_instance(row) for row in rows]

    def history(self, key: str, *, after: int = 0, limit: int = 1000) -> list[Move]:
        """The moves of an instance, the oldest first.

        :param after: only those with a higher number.
        :raises NotFound: there is no such instance.
        """

        def read(tx: Transaction) -> list[MoveRow]:
            found = machines.get_instances(tx, self.name, [key])
            if key not in found:
                raise NotFound(f"machine {self.name!r} has no instance {key!r}")
            return machines.list_moves(tx, found[key].id, after, limit)

        return [_moved(row) for row in self._database.read(read)]

    def delete(self, *keys: str, transaction: HostTransaction | None = None) -> int:
        """Delete instances with their history.

        :returns: how many there were.
        """

        def remove(tx: Transaction) -> int:
            found = machines.get_instances(tx, self.name, keys, lock=True)
            machines.delete_instances(tx, [row.id for row in found.values()])
            return len(found)

        return self._run(transaction, remove, Commit.INSTANCE)

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
