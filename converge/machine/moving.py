"""Moving instances: what is written in one transaction, for one event or many."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from converge.errors import BadInput, ConvergeError, IllegalEvent, NotFound, did_you_mean
from converge.journal.values import dumps, loads
from converge.lease import check_lease
from converge.machine.definition import Definition, Transition
from converge.machine.move import Move
from converge.model import check_name
from converge.sql import machines, moves
from converge.sql.machines import InstanceRow
from converge.sql.transaction import Transaction

LOG = logging.getLogger(__name__)

#: The most instances in one transaction.
BATCH = 1000
#: Seconds until a timeout that cannot fire is tried again.
LATER = 60.0


@dataclass(frozen=True, slots=True)
class Event:
    """An event to fire.

    :ivar key: the key of the instance.
    :ivar payload: the payload, after a round trip through JSON.
    :ivar text: the payload as JSON text.
    """

    key: str
    name: str
    payload: Any = None
    text: str = "null"

    @classmethod
    def of(cls, key: str, name: str, payload: Any = None) -> Event:
        """Make and check an event.

        :raises BadInput: the key or the name is not valid, or the payload cannot be stored.
        """
        check_name("instance", key)
        check_name("event", name)
        if payload is None:
            return cls(key, name)
        try:
            text = dumps(payload)
        except BadInput as error:
            raise BadInput(
                f"event {name!r} of {key!r} has a payload that cannot be stored: {error}"
            ) from None
        return cls(key, name, loads(text), text)


@dataclass(frozen=True, slots=True)
class TakenAction:
    """An action that this process has taken and not called yet.

    :ivar number: the number of the move.
    :ivar owner: the id of the lease that it was taken under.
    :ivar payloads: JSON text.
    :ivar token: a random text of the transaction that made the move.
    :ivar mark: a random number of the transaction that took the action.
    :ivar index: the index of the result that its outcome is added to.
    """

    instance_id: int
    key: str
    number: int
    epoch: int
    owner: int
    event: str
    source: str
    target: str
    payload: Any
    payloads: str
    attempts: int
    transition: Transition
    token: str
    mark: int
    index: int = 0

    @property
    def lock(self) -> moves.Lock:
        """Instance, number, owner, epoch and mark."""
        return self.instance_id, self.number, self.owner, self.epoch, self.mark


@dataclass(frozen=True, slots=True)
class Taker:
    """What actions are taken with, in one transaction.

    :ivar id: the id of the lease.
    :ivar lease: the mark of the lease.
    :ivar mark: a random number for the taken actions.
    """

    id: int
    lease: int
    mark: int


@dataclass(slots=True)
class Fired:
    """The results of events that were fired in one transaction.

    :ivar results: the result of each event, in order.
    :ivar taken: the actions to call.
    :ivar token: a random text of the transaction.
    :ivar made: instance and number of one move of the transaction, if there is one.
    :ivar seen: how many overdue instances were found.
    """

    results: list[Move | Exception]
    taken: list[TakenAction] = field(default_factory=list)
    token: str = ""
    made: tuple[int, int] | None = None
    seen: int = 0

    @property
    def moves(self) -> int:
        """How many events moved an instance."""
        return sum(isinstance(one, Move) for one in self.results)


def is_committed(tx: Transaction, fired: Fired) -> bool:
    """Whether the transaction of these moves was committed."""
    return fired.made is not None and moves.is_made(tx, *fired.made, fired.token)


class Mover:
    """Moves instances of a machine."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.name = definition.name

    def insert(self, tx: Transaction, keys: Sequence[str], *, skip_existing: bool = False) -> None:
        """Insert instances in the initial state.

        :param skip_existing: skip those that exist.
        :raises Conflict: one of them exists.
        """
        definition = self.definition
        machines.insert_instances(
            tx,
            self.name,
            keys,
            version=definition.version,
            state=definition.initial,
            timeout=definition.states[definition.initial].timeout,
            skip_existing=skip_existing,
        )

    def fire(
        self, tx: Transaction, events: Sequence[Event], *, create: bool, taker: Taker | None
    ) -> Fired:
        """Fire events; those of one instance in the given order.

        :param create: insert instances that do not exist.
        :param taker: what their actions are taken with; None to leave them to the sweep.
        :raises LeaseOver: the lease of the taker has expired.
        """
        rows = machines.lock_instances(tx, self.name, (event.key for event in events))
        missing = sorted({event.key for event in events} - rows.keys())
        if missing and create:
            self.insert(tx, missing, skip_existing=True)
            rows |= machines.lock_instances(tx, self.name, missing)
        return self._fire(tx, events, rows, taker)

    def time_out(self, tx: Transaction) -> Fired:
        """Fire a batch of timeouts that have passed. Their actions are left to the sweep."""
        rows = machines.lock_overdue(tx, self.name, self.definition.versions, BATCH)
        events: list[Event] = []
        idle: list[int] = []
        stuck: list[int] = []
        for row in rows:
            try:
                state = self.definition.states[self.definition.migrate(row.version, row.state)]
            except BadInput as error:
                self._warn(row.key, error)
                stuck.append(row.id)
                continue
            if state.timeout is None:
                # only its own, older version has a timeout here
                idle.append(row.id)
            else:
                events.append(Event(row.key, state.on_timeout))
        by_key = {row.key: row for row in rows}
        fired = self._fire(tx, events, by_key, None)
        for event, result in zip(events, fired.results, strict=True):
            if isinstance(result, Exception):
                self._warn(event.key, result)
                stuck.append(by_key[event.key].id)
        # otherwise they would stay ahead of all others
        machines.postpone_timeouts(tx, stuck, LATER)
        machines.postpone_timeouts(tx, idle, None)
        fired.seen = len(rows)
        return fired

    def migrate(self, tx: Transaction, after: str) -> tuple[int, str | None]:
        """Migrate a batch of instances of older versions to this one.

        :param after: only those with a key after this one.
        :returns: how many, and the last key if there may be more.
        :raises BadInput: there is no migration for one of them.
        """
        definition = self.definition
        rows = machines.lock_older(tx, self.name, definition.version, after, BATCH)
        updates = []
        for row in rows:
            state = definition.migrate(row.version, row.state)
            updates.append(self._update(row, state, row.payloads))
        machines.move_instances(tx, updates, definition.version, step=0)
        return len(rows), rows[-1].key if len(rows) == BATCH else None

    def _warn(self, key: str, error: Exception) -> None:
        LOG.warning("machine %s, %s: its timeout cannot fire: %s", self.name, key, error)

    def _fire(
        self,
        tx: Transaction,
        events: Sequence[Event],
        rows: Mapping[str, InstanceRow],
        taker: Taker | None,
    ) -> Fired:
        found: dict[int, Move | Exception] = {}
        fired = Fired([], token=uuid.uuid4().hex)
        todo = list(enumerate(events))
        # in one round each instance moves once
        while todo:
            later = []
            now = {}
            for index, event in todo:
                if event.key in now:
                    later.append((index, event))
                else:
                    now[event.key] = (index, event)
            self._fire_round(tx, list(now.values()), rows, taker, fired, found)
            todo = later
        fired.results = [found[index] for index in range(len(events))]
        return fired

    def _fire_round(
        self,
        tx: Transaction,
        events: Sequence[tuple[int, Event]],
        rows: Mapping[str, InstanceRow],
        taker: Taker | None,
        fired: Fired,
        found: dict[int, Move | Exception],
    ) -> None:
        updates = []
        made = []
        taken = []
        for index, event in events:
            row = rows.get(event.key)
            if row is None:
                found[index] = NotFound(f"machine {self.name!r} has no instance {event.key!r}")
                continue
            try:
                source, transition, payloads = self._choose(row, event)
            except Exception as error:
                # including what a guard raises: it must not affect other events
                found[index] = error
                continue
            status = "NONE" if transition.action is None else "PENDING"
            updates.append(self._update(row, transition.target, payloads))
            made.append(
                {
                    "instance_id": row.id,
                    "number": row.epoch + 1,
                    "event": event.name,
                    "source": source,
                    "target": transition.target,
                    "payload": event.text,
                    "payloads": "{}" if transition.action is None else payloads,
                    "status": status,
                }
            )
            row.epoch += 1
            row.state = transition.target
            row.version = self.definition.version
            row.payloads = payloads
            found[index] = Move(
                row.key, row.epoch, event.name, source, transition.target, event.payload, status
            )
            fired.made = (row.id, row.epoch)
            if transition.action is not None and taker is not None:
                taken.append(_accept(row, event, source, transition, taker, fired.token, index))
        if taken and taker is not None:
            check_lease(tx, taker.id, taker.lease)
        fired.taken += taken
        machines.move_instances(tx, updates, self.definition.version)
        version = self.definition.version
        if taker is None:
            moves.insert_moves(tx, self.name, version, fired.token, made, None)
        else:
            moves.insert_moves(tx, self.name, version, fired.token, made, taker.id, taker.mark)

    def _update(self, row: InstanceRow, state: str, payloads: str) -> dict[str, Any]:
        return {
            "id": row.id,
            "epoch": row.epoch,
            "state": state,
            "payloads": payloads,
            "timeout": self.definition.states[state].timeout,
        }

    def _choose(self, row: InstanceRow, event: Event) -> tuple[str, Transition, str]:
        """The state in this version, the transition that the event takes, and the payloads after
        it."""
        definition = self.definition
        state = definition.migrate(row.version, row.state)
        payloads = loads(row.payloads)
        try:
            transition = definition.choose(
                state, event.name, MappingProxyType(payloads), event.payload
            )
        except Exception as error:
            note = (
                f"no move was made: a guard of event {event.name!r} raised this; machine "
                f"{self.name!r}, {row.key!r} is in state {state!r} as before"
            )
            # a guard may raise the same exception object again
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise
        if transition is None:
            raise self._illegal_event(row.key, state, event.name)
        try:
            return state, transition, dumps(payloads | {event.name: event.payload})
        except BadInput as error:
            raise BadInput(
                f"event {event.name!r} of {row.key!r}: the payloads of its events cannot be "
                f"stored together: {error}"
            ) from None

    def _illegal_event(self, key: str, state: str, event: str) -> ConvergeError:
        legal = self.definition.events(state)
        shown = ", ".join(legal) if legal else "none: it is terminal"
        hint = ""
        if event in legal:
            why = f"no guard of event {event!r} allows it"
        else:
            why = f"event {event!r} does nothing"
            known = self.definition.all_events
            if event not in known:
                hint = did_you_mean(event, known)
        return IllegalEvent(
            f"machine {self.name!r}, {key!r}: in state {state!r} {why}; legal: {shown}{hint}",
            legal=legal,
        )


def _accept(
    row: InstanceRow,
    event: Event,
    source: str,
    transition: Transition,
    taker: Taker,
    token: str,
    index: int,
) -> TakenAction:
    return TakenAction(
        instance_id=row.id,
        key=row.key,
        number=row.epoch,
        epoch=1,
        owner=taker.id,
        event=event.name,
        source=source,
        target=transition.target,
        payload=event.payload,
        payloads=row.payloads,
        attempts=0,
        transition=transition,
        token=token,
        mark=taker.mark,
        index=index,
    )
