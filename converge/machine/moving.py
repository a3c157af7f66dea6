"""Events move instances: what is written in one transaction, for however many of them."""

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
from converge.sql.database import Transaction
from converge.sql.machines import InstanceRow

LOG = logging.getLogger(__name__)

#: Instances in one transaction.
BATCH = 1000
#: Seconds after which a timeout that cannot fire is tried again.
LATER = 60.0


@dataclass(frozen=True, slots=True)
class Event:
    """An event to fire, with its payload as it is stored."""

    key: str
    name: str
    payload: Any = None
    text: str = "null"

    @classmethod
    def of(cls, key: str, name: str, payload: Any = None) -> Event:
        """Check one.

        :raises BadInput: the key or the name cannot be one, or the payload cannot be stored.
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
    """An action that this process has taken, and not called yet.

    :ivar index: of which result.
    :ivar payloads: as a text of JSON.
    :ivar token: of the transaction that made the move: a random text.
    :ivar mark: a random number of who took it.
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
    """Who takes actions, once.

    :ivar id: of its lease.
    :ivar lease: the mark of that.
    :ivar mark: what it takes them with: a random number.
    """

    id: int
    lease: int
    mark: int


@dataclass(slots=True)
class Fired:
    """What became of events.

    :ivar results: of each event, in order.
    :ivar taken: actions that are to be called.
    :ivar made: instance and number of some move of the transaction.
    :ivar seen: how many instances were looked at.
    """

    results: list[Move | Exception]
    taken: list[TakenAction] = field(default_factory=list)
    token: str = ""
    made: tuple[int, int] | None = None
    seen: int = 0

    @property
    def moves(self) -> int:
        """How many of them moved an instance."""
        return sum(isinstance(one, Move) for one in self.results)


def is_committed(tx: Transaction, fired: Fired) -> bool:
    """Whether the transaction of these moves is."""
    return fired.made is not None and moves.is_made(tx, *fired.made, fired.token)


class Mover:
    """Moves instances of a machine."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.name = definition.name

    def insert(self, tx: Transaction, keys: Sequence[str], *, pass_over: bool = False) -> None:
        """Insert instances in the initial state.

        :param pass_over: leave those alone that are there.
        :raises Conflict: one of them is there.
        """
        definition = self.definition
        machines.insert_instances(
            tx,
            self.name,
            keys,
            version=definition.version,
            state=definition.initial,
            timeout=definition.states[definition.initial].timeout,
            pass_over=pass_over,
        )

    def fire(
        self, tx: Transaction, events: Sequence[Event], *, create: bool, taker: Taker | None
    ) -> Fired:
        """Fire events; those of one instance in their order.

        :param create: insert instances that are not there.
        :param taker: who will call the actions; None: whoever takes them.
        :raises LeaseOver: it has no lease any more.
        """
        rows = machines.lock_instances(tx, self.name, (event.key for event in events))
        missing = sorted({event.key for event in events} - rows.keys())
        if missing and create:
            self.insert(tx, missing, pass_over=True)
            rows |= machines.lock_instances(tx, self.name, missing)
        return self._fire(tx, events, rows, taker)

    def time_out(self, tx: Transaction) -> Fired:
        """Fire timeouts that have passed. Their actions are for whoever takes them."""
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
                # in the version that it is of it had one
                idle.append(row.id)
            else:
                events.append(Event(row.key, state.on_timeout))
        by_key = {row.key: row for row in rows}
        fired = self._fire(tx, events, by_key, None)
        for event, result in zip(events, fired.results, strict=True):
            if isinstance(result, Exception):
                self._warn(event.key, result)
                stuck.append(by_key[event.key].id)
        # or they would be before all others for ever
        machines.put_off(tx, stuck, LATER)
        machines.put_off(tx, idle, None)
        fired.seen = len(rows)
        return fired

    def migrate(self, tx: Transaction, after: str) -> tuple[int, str | None]:
        """Bring instances of older versions to this one.

        :param after: those with a key after this one.
        :returns: how many, and the last key, if there may be more.
        :raises BadInput: there is no way for one of them.
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
            self._round(tx, list(now.values()), rows, taker, fired, found)
            todo = later
        fired.results = [found[index] for index in range(len(events))]
        return fired

    def _round(
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
                # a guard's, too: the others have nothing to do with it
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
        """The state here, the transition that the event takes, and the payloads after it."""
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
            # a program can raise one exception again and again
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise
        if transition is None:
            raise self._illegal(row.key, state, event.name)
        try:
            return state, transition, dumps(payloads | {event.name: event.payload})
        except BadInput as error:
            raise BadInput(
                f"event {event.name!r} of {row.key!r}: the payloads of its events cannot be "
                f"stored together: {error}"
            ) from None

    def _illegal(self, key: str, state: str, event: str) -> ConvergeError:
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
