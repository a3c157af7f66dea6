"""Places: what of the limits that are set a claim may take, and what must wait.

A node holds a place of each of its limits from its claim until its work is recorded, or recovered
from a dead engine; one whose handler waits keeps them. So what dies takes no place with it, and
frees none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converge.errors import BadInput
from converge.model import Json, Kind, LimitKind, check_name
from converge.protocol.rates import MOST, rate_of
from converge.protocol.work import HANDLED, Decision, Operation, Work
from converge.reasons import describe
from converge.resources.resource_type import ResourceType
from converge.sql import limits
from converge.sql.limits import LimitRow
from converge.sql.sync_points import Key
from converge.sql.transaction import Transaction
from converge.template.keys import STACK


class Bounds:
    """The limits that an engine knows of.

    :ivar changed: the last change of them that it knows.
    """

    def __init__(self) -> None:
        self.changed = 0
        self._ids: dict[tuple[LimitKind, str], int] = {}
        self.is_any = False

    def learn(self, rows: Sequence[LimitRow]) -> bool:
        """Take note of the limits that there are; return whether any has changed."""
        before = self.changed
        self.changed = max((row.changed for row in rows), default=0)
        self._ids = {(row.kind, row.name): row.id for row in rows if row.is_set}
        # nodes may wait for one that was removed
        self.is_any = bool(rows)
        return self.changed != before

    def list_asked(self, work: Work, types: Mapping[str, ResourceType]) -> set[int]:
        """The limits of which a work needs a place."""
        if not self._ids or not needs_place(work):
            return set()
        names = {(LimitKind.STACK, work.traversal.stack)}
        if (made := types.get(work.type_name)) is not None and made.nests:
            # those in it take places; while it held one, they might wait for it for ever
            return set()
        for name, properties in _handled(work):
            names.add((LimitKind.TYPE, name))
            keys = keys_of(name, types[name], properties) if name in types else ()
            names.update((LimitKind.KEY, key) for key in keys)
        return {self._ids[one] for one in names if one in self._ids}


def needs_place(work: Work) -> bool:
    """Whether a handler is called for it, sooner or later."""
    operation = work.decision.operation
    return operation in HANDLED or operation is Operation.REPLACE


def _handled(work: Work) -> Iterable[tuple[str, Mapping[str, Json]]]:
    """The types whose handlers may be called for a work, each with the properties."""
    decision, row = work.decision, work.row
    yield work.type_name, decision.properties
    if row is not None and row.properties:
        yield row.type, row.properties
    if work.node.kind is Kind.UPDATE and decision.operation is Operation.REPLACE:
        yield work.wanted_type, decision.properties
    if decision.wanted is not None:
        # what is deleted first is then made anew by the same work
        yield work.wanted_type, decision.wanted


def keys_of(
    name: str, resource_type: ResourceType, properties: Mapping[str, Json]
) -> frozenset[str]:
    """The author's keys of a resource.

    :raises BadInput: its type says something else, or raises something.
    """
    try:
        said: Any = resource_type.limits(properties)
    except Exception as error:
        raise BadInput(f"limits() of type {name!r} failed: {describe(error)}") from error
    if isinstance(said, str) or not isinstance(said, Iterable):
        raise BadInput(f"limits() of type {name!r} must return several names, not {said!r}")
    found = frozenset(said)
    if not all(isinstance(one, str) for one in found):
        raise BadInput(
            f"limits() of type {name!r} must return names, not {sorted(map(repr, found))}"
        )
    return found


@dataclass(slots=True)
class Room:
    """What is left of a limit.

    :ivar places: how many places are free; None: any number.
    :ivar starts: how many nodes may start now; None: any number.
    :ivar taken: how many have started.
    """

    places: int | None
    starts: int | None
    taken: int = 0

    def has_room(self, *, is_start: bool) -> bool:
        """Whether one more has room.

        :param is_start: it starts; otherwise its handler has waited, and is called again.
        """
        return (self.places is None or self.places > 0) and (
            not is_start or self.starts is None or self.starts > 0
        )

    def take(self, *, is_start: bool) -> None:
        """Let one more in."""
        if self.places is not None:
            self.places -= 1
        if is_start:
            self.taken += 1
            if self.starts is not None:
                self.starts -= 1


@dataclass(slots=True)
class Asker:
    """A node that asks for places.

    :ivar needs: the limits of which it needs a place and holds none.
    :ivar is_start: it starts; otherwise its handler has waited, and is called again.
    """

    key: Key
    needs: Sequence[int]
    is_start: bool = True


@dataclass(slots=True)
class Choice:
    """:ivar taken: those that have room in all their limits.
    :ivar held: those that wait, by the limit that they wait for.
    """

    taken: list[Asker] = field(default_factory=list)
    held: dict[int, list[Key]] = field(default_factory=dict)


def choose(askers: Iterable[Asker], rooms: Mapping[int, Room], most: int) -> Choice:
    """Let in those that have room, in their order; each takes a place of all its limits, or of
    none.

    :param rooms: what is left of each limit; it is taken from.
    :param most: so many at most; what comes after these neither starts nor waits.
    """
    choice = Choice()
    for one in askers:
        if len(choice.taken) >= most:
            break
        asked = [id_ for id_ in sorted(one.needs) if id_ in rooms]
        full = next((id_ for id_ in asked if not rooms[id_].has_room(is_start=one.is_start)), None)
        if full is not None:
            choice.held.setdefault(full, []).append(one.key)
            continue
        for id_ in asked:
            rooms[id_].take(is_start=one.is_start)
        choice.taken.append(one)
    return choice


def which_limit(**given: str | None) -> tuple[LimitKind, str]:
    """The kind and the name of a limit.

    :param given: the kinds, one with a name.
    :raises BadInput: there is not exactly one.
    """
    named = {LimitKind(kind): name for kind, name in given.items() if name is not None}
    if len(named) != 1:
        raise BadInput("a limit is of one type, one stack or one key: name exactly one")
    ((kind, name),) = named.items()
    if (kind, name) == (LimitKind.TYPE, STACK):
        raise BadInput(
            f"nested stacks (type {STACK!r}) take no places, which would be missing for what is in "
            "them: limit a type or a key of that"
        )
    return kind, check_name(kind, name)


def check_places(places: object) -> None:
    """Check a number of places.

    :raises BadInput: it is none.
    """
    if places is not None and (type(places) is not int or not 0 <= places <= MOST):
        raise BadInput(f"places must be a whole number from 0 to {MOST:,}, not {places!r}")


@dataclass(frozen=True, slots=True)
class Seats:
    """What becomes of the works of a claim.

    :ivar works: those that can start.
    :ivar held: the nodes that must wait, by the limit that is full.
    :ivar is_locked: limits are locked.
    """

    works: list[Work]
    held: dict[int, list[Key]] = field(default_factory=dict)
    is_locked: bool = False


def take_places(
    tx: Transaction,
    works: Sequence[Work],
    bounds: Bounds,
    types: Mapping[str, ResourceType],
    most: int,
) -> Seats:
    """Take the places that works need. Limits that have room are locked, by id; no other row may be
    locked after that.

    :param works: of locked nodes.
    :param most: so many works at most.
    :raises StaleLock: another transaction took some.
    """
    asked = {work.node.key: _list_asked(work, bounds, types) for work in works}
    ids = set().union(*asked.values())
    if not ids:
        return Seats(list(works[:most]))
    held = limits.list_places(tx, [key for key, needs in asked.items() if needs])
    needs = {key: sorted(some - held.get(key, set())) for key, some in asked.items()}
    roomy = limits.list_roomy(tx, ids)
    full: dict[int, list[Key]] = {}
    for work in works:
        work.placed = bool(asked[work.node.key])
        closed = [id_ for id_ in needs[work.node.key] if id_ not in roomy]
        if closed:
            full.setdefault(closed[0], []).append(work.node.key)
    works = [work for work in works if roomy.issuperset(needs[work.node.key])]
    ids = set().union(*(needs[work.node.key] for work in works))
    if not ids:
        return Seats(list(works[:most]), full)
    rows, taken, now = limits.lock_limits(tx, ids)
    recent = {
        row.id: rate.recent(row.starts or (), now)
        for row in rows
        if (rate := rate_of(row)) is not None
    }
    rooms = {row.id: _room(row, taken.get(row.id, 0), recent) for row in rows if row.is_set}
    askers = [
        Asker(
            work.node.key,
            needs[work.node.key],
            # of an attempt that goes on, the start was counted
            work.node.note_id is None,
        )
        for work in works
    ]
    choice = choose(askers, rooms, most)
    granted = {one.key for one in choice.taken}
    chosen = [work for work in works if work.node.key in granted]
    limits.take_places(
        tx,
        ((one.key, id_) for one in choice.taken for id_ in one.needs if id_ in rooms),
    )
    for row in rows:
        is_taken = any(row.id in one.needs for one in choice.taken)
        if row.id in rooms and (is_taken or (row.id in choice.held and row.id in recent)):
            _write(tx, row, recent.get(row.id), rooms[row.id].taken, now)
    for id_, keys in full.items():
        choice.held.setdefault(id_, []).extend(keys)
    return Seats(chosen, choice.held, is_locked=True)


def _list_asked(work: Work, bounds: Bounds, types: Mapping[str, ResourceType]) -> set[int]:
    try:
        return bounds.list_asked(work, types)
    except BadInput as error:
        work.decision = Decision(Operation.FAIL, reason=str(error))
        return set()


def _room(row: LimitRow, taken: int, recent: Mapping[int, list[list[float]]]) -> Room:
    rate = rate_of(row)
    return Room(
        None if row.places is None else max(0, row.places - taken),
        None if rate is None else rate.left(recent[row.id]),
    )


def _write(
    tx: Transaction, row: LimitRow, recent: list[list[float]] | None, count: int, now: float
) -> None:
    rate = rate_of(row)
    if rate is None or recent is None:
        limits.write_limit(tx, row, None, 0.0)
        return
    starts = rate.add(recent, now, count)
    limits.write_limit(tx, row, starts, rate.open_at(starts))
