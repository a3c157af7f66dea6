"""Limits: how many nodes run at once, and how many start in a time, across all engines; and the
places that nodes hold of them.

Places are rows, and those of a limit are counted only while its row is locked. What a claim takes
is written with the limit's next version, so that of two claims one fails, where rows are locked on
one server of a cluster only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from converge.errors import Conflict, StaleLock
from converge.model import Json, Kind, LimitKind, NodeState
from converge.sql.batch import InsertMany, types_of
from converge.sql.claimable import PARKED, are_open, free_places_of, have_room
from converge.sql.faults import duplicate_errors
from converge.sql.loading import read_clock
from converge.sql.schema import limit, place, resource, stack, sync_point, traversal
from converge.sql.sync_points import Key, among_keys, is_in
from converge.sql.transaction import Transaction


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit as it is in the database.

    :ivar name: of the resource type, of the stack, or the author's key.
    :ivar places: how many nodes hold a place at once; None: any number.
    :ivar rate_count: how many start in ``rate_seconds`` seconds; None: any number.
    :ivar starts: the last starts.
    :ivar changed: grows with each change of any limit.
    """

    id: int
    kind: LimitKind
    name: str
    places: int | None
    rate_count: int | None
    rate_seconds: float | None
    starts: Json
    version: int
    changed: int

    @property
    def is_set(self) -> bool:
        """Whether it limits anything. The row of one that was removed stays: nodes that wait for it
        find it open."""
        return self.places is not None or self.rate_count is not None


@dataclass(frozen=True, slots=True)
class LimitView:
    """A limit as people look at it.

    :ivar taken: how many places are taken.
    :ivar waiting: how many nodes wait for it; counted up to a number.
    """

    row: LimitRow
    taken: int
    waiting: int


_COLUMNS = [limit.c[name] for name in LimitRow.__dataclass_fields__]
_TAKE = InsertMany(place, types_of(place, "traversal_id", "node", "limit_id"), lambda row, now: row)
#: How many nodes that wait for one limit are counted.
COUNTED = 10_000


def _row(row: Any) -> LimitRow:
    values = list(row)
    values[1] = LimitKind(values[1])
    return LimitRow(*values)


def list_limits(tx: Transaction) -> list[LimitRow]:
    """All limits that there are or were. There are few."""
    return [_row(row) for row in tx.execute(select(*_COLUMNS).order_by(limit.c.id)).all()]


def list_open(tx: Transaction) -> list[tuple[int, int | None]]:
    """The limits for which nodes wait and need not: each with how many of its places are free, None
    if any number is."""
    query = select(limit.c.id, free_places_of()).where(*are_open(tx))
    rows: Any = tx.execute(query.order_by(limit.c.id)).all()
    return [(id_, free) for id_, free in rows]


def list_roomy(tx: Transaction, ids: Iterable[int]) -> set[int]:
    """Those of these limits that have room just now."""
    query = select(limit.c.id).where(limit.c.id.in_(sorted(ids)), *have_room(tx))
    return set(tx.execute(query).scalars())


def lock_limits(
    tx: Transaction, ids: Iterable[int]
) -> tuple[list[LimitRow], dict[int, int], float]:
    """Lock limits until the transaction ends, by id.

    :returns: the limits, how many places of each are taken, and the time.
    """
    wanted = sorted(set(ids))
    query = select(*_COLUMNS).where(limit.c.id.in_(wanted)).order_by(limit.c.id)
    rows = [_row(row) for row in tx.execute(query.with_for_update()).all()]
    # counted when they are locked: what others took before is there now
    counts = (
        select(place.c.limit_id, func.count())
        .where(place.c.limit_id.in_(wanted))
        .group_by(place.c.limit_id)
    )
    counted: Any = tx.execute(counts).all()
    return rows, {id_: int(count) for id_, count in counted}, read_clock(tx)


def list_places(tx: Transaction, keys: Iterable[Key]) -> dict[Key, set[int]]:
    """The limits of which these nodes hold a place."""
    found: dict[Key, set[int]] = {}
    query = select(place.c.traversal_id, place.c.node, place.c.limit_id)
    rows: Any = tx.execute(query.where(among_keys(tx, keys, place))).all()
    for traversal_id, node, limit_id in rows:
        found.setdefault((traversal_id, node), set()).add(limit_id)
    return found


def take_places(tx: Transaction, found: Iterable[tuple[Key, int]]) -> None:
    """Give places to nodes, which the transaction starts. The limits are locked."""
    rows = [
        {"traversal_id": key[0], "node": key[1], "limit_id": limit_id} for key, limit_id in found
    ]
    if rows:
        _TAKE.execute(tx, rows)


def write_limit(tx: Transaction, row: LimitRow, starts: Json, open_at: float) -> None:
    """Write what a claim took of a limit that the transaction has locked.

    :param starts: the last starts, with those of this claim.
    :param open_at: before which time there is none.
    :raises StaleLock: another transaction took something of it.
    """
    done = tx.execute(
        update(limit)
        .where(limit.c.id == row.id, limit.c.version == row.version)
        .values(version=row.version + 1, starts=starts, open_at=open_at)
    )
    if done.rowcount != 1:
        raise StaleLock(f"limit {row.id} was changed by another transaction")


def free_places(tx: Transaction, keys: Collection[Key]) -> None:
    """Take their places from nodes whose work is over, or was taken from its engine."""
    if keys:
        done = tx.execute(delete(place).where(among_keys(tx, keys, place)))
        # whoever can take what waits for them is told
        tx.news.ready[None] += int(done.rowcount)


def free_idle(tx: Transaction, traversal_id: int) -> None:
    """Take their places from the nodes of a traversal that are not RUNNING: it is being stopped, or
    superseded."""
    done = tx.execute(delete(place).where(place.c.traversal_id == traversal_id, ~_holds(_HELD)))
    tx.news.ready[None] += int(done.rowcount)


def list_stray(tx: Transaction, most: int) -> list[Key]:
    """The nodes that hold a place and neither run nor wait in their handler: an engine that knows
    no limits has ended or recovered them."""
    query = (
        select(place.c.traversal_id, place.c.node).where(~_holds(or_(_HELD, _GOES_ON))).limit(most)
    )
    rows: Any = tx.execute(query).all()
    return [(traversal_id, node) for traversal_id, node in rows]


def free_stray(tx: Transaction, keys: Collection[Key]) -> int:
    """Take their places from nodes that were found to hold them wrongly, and still do.

    :returns: how many places.
    """
    done = tx.execute(
        delete(place).where(among_keys(tx, keys, place), ~_holds(or_(_HELD, _GOES_ON)))
    )
    tx.news.ready[None] += int(done.rowcount)
    return int(done.rowcount)


#: So that no index of states serves it: nodes are found by their keys.
_STATE = func.coalesce(sync_point.c.state, "")
_HELD = _STATE.in_((NodeState.RUNNING, NodeState.SUPERSEDED))
_GOES_ON = and_(_STATE == NodeState.READY, sync_point.c.waiting_since.is_not(None))


def _holds(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the node of a place is as the condition says."""
    # counted, as with EXISTS PostgreSQL may read all nodes for the first of a few places
    count = select(func.count()).where(
        sync_point.c.traversal_id == place.c.traversal_id,
        sync_point.c.node == place.c.node,
        condition,
    )
    found: ColumnElement[bool] = count.correlate(place).scalar_subquery() > 0
    return found


def set_limit(
    tx: Transaction,
    kind: LimitKind,
    name: str,
    places: int | None,
    rate: tuple[int, float] | None,
) -> LimitRow | None:
    """Set a limit, or remove it: None and None. What runs already of a type or a stack that had no
    limit holds a place from now on.

    :param rate: so many starts in so many seconds.
    :returns: what it was before; None if there was none.
    :raises Conflict: another transaction has set one at the same time; nothing was changed, and it
        can be set again.
    """
    try:
        return _set_limit(tx, kind, name, places, rate)
    except duplicate_errors() as error:
        # neither sees the row that the other inserts, or its number
        raise Conflict(
            "another transaction has just set a limit: set it again in a new one"
        ) from error


def _set_limit(
    tx: Transaction,
    kind: LimitKind,
    name: str,
    places: int | None,
    rate: tuple[int, float] | None,
) -> LimitRow | None:
    # all of them, so that each change has a number of its own
    rows = [
        _row(row)
        for row in tx.execute(select(*_COLUMNS).order_by(limit.c.id).with_for_update()).all()
    ]
    before = next((one for one in rows if (one.kind, one.name) == (kind, name)), None)
    values: dict[str, Any] = {
        "places": places,
        "rate_count": None if rate is None else rate[0],
        "rate_seconds": None if rate is None else rate[1],
        "starts": None,
        "open_at": 0.0,
        "changed": 1 + max((one.changed for one in rows), default=0),
    }
    if before is None:
        if places is None and rate is None:
            return None
        done = tx.execute(insert(limit).values(kind=kind, name=name, version=0, **values))
        assert done.inserted_primary_key is not None
        id_ = int(done.inserted_primary_key[0])
    else:
        id_ = before.id
        was = (before.places, before.rate_count, before.rate_seconds)
        if was == (values["places"], values["rate_count"], values["rate_seconds"]):
            return before
        if was[1:] == (values["rate_count"], values["rate_seconds"]):
            # its last starts count on
            del values["starts"], values["open_at"]
        tx.execute(
            update(limit).where(limit.c.id == id_).values(version=before.version + 1, **values)
        )
    if places is not None and (before is None or before.places is None):
        _adopt(tx, id_, kind, name)
    # what waits for it may be claimed, or wait for more
    tx.news.ready[None] += 1
    return before if before is not None and before.is_set else None


def _adopt(tx: Transaction, id_: int, kind: LimitKind, name: str) -> None:
    """Give places to what runs already."""
    if kind is LimitKind.KEY:
        # which of it has that key, only engines know
        return
    goes_on = and_(is_in(NodeState.READY), sync_point.c.waiting_since.is_not(None))
    running = (
        select(sync_point.c.traversal_id, sync_point.c.node, literal(id_))
        .join_from(sync_point, resource, resource.c.id == sync_point.c.resource_id)
        .where(or_(is_in(NodeState.RUNNING, NodeState.SUPERSEDED), goes_on))
        .where(sync_point.c.kind != Kind.STACK)
    )
    if kind is LimitKind.TYPE:
        running = running.where(resource.c.type == name)
    else:
        running = (
            running.join(traversal, traversal.c.id == sync_point.c.traversal_id)
            .join(stack, stack.c.id == traversal.c.stack_id)
            .where(stack.c.name == name)
        )
    held = exists(literal(1)).where(
        place.c.traversal_id == sync_point.c.traversal_id,
        place.c.node == sync_point.c.node,
        place.c.limit_id == id_,
    )
    tx.execute(
        insert(place).from_select(["traversal_id", "node", "limit_id"], running.where(~held))
    )


def list_views(tx: Transaction) -> list[LimitView]:
    """The limits that are set, by kind and name, with what is taken of them."""
    views = []
    for row in list_limits(tx):
        if row.is_set:
            taken = tx.execute(select(func.count()).where(place.c.limit_id == row.id))
            nodes = (
                select(sync_point.c.node)
                .where(is_in(NodeState.READY), sync_point.c.due_at == PARKED + row.id)
                .limit(COUNTED)
                .subquery()
            )
            waiting = tx.execute(select(func.count()).select_from(nodes))
            views.append(LimitView(row, int(taken.scalar_one()), int(waiting.scalar_one())))
    return sorted(views, key=lambda one: (one.row.kind, one.row.name))


def list_holders(tx: Transaction, limit_id: int, most: int) -> list[tuple[str, str]]:
    """Some of the nodes that hold places of a limit: the names of stack and resource."""
    query = (
        select(stack.c.name, resource.c.name)
        .join_from(
            place,
            sync_point,
            and_(
                sync_point.c.traversal_id == place.c.traversal_id,
                sync_point.c.node == place.c.node,
            ),
        )
        .join(resource, resource.c.id == sync_point.c.resource_id)
        .join(stack, stack.c.id == resource.c.stack_id)
        .where(place.c.limit_id == limit_id)
        .order_by(place.c.traversal_id, place.c.node)
        .limit(most)
    )
    rows: Sequence[Any] = tx.execute(query).all()
    return [(row[0], row[1]) for row in rows]
