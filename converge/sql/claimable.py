"""What engines can claim: the nodes that are READY, and the limits for which some wait."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    Integer,
    Select,
    bindparam,
    func,
    literal_column,
    or_,
    select,
)

from converge.model import NodeState
from converge.sql.engines import select_if_leased
from converge.sql.lanes import DEFAULT
from converge.sql.schema import engine, lane, limit, place, sync_point
from converge.sql.statements import Form, Statement
from converge.sql.sync_points import KEY_ORDER, Key, SyncPointRow, columns_of, is_in, row_of
from converge.sql.transaction import Transaction

#: A READY node that waits for a limit has this and the limit's id as its ``due_at``, so that no
#: claim sees it until the limit is open.
PARKED = 1e12
# as a literal: of an untyped parameter plus an integer, PostgreSQL makes an integer
_PARKED: ColumnElement[float] = literal_column("1e12", Double())


def lock_ready(
    tx: Transaction,
    engine_id: int,
    most: int,
    most_deaths: int | None = None,
    mark: int | None = None,
    *,
    lane: int = DEFAULT,
    limit_id: int = 0,
    changed: int = 0,
    after: int = 0,
    before: int | None = None,
) -> list[SyncPointRow]:
    """Lock READY nodes of a lane that are no retries: traversal by traversal, those of each in the
    order in which they became ready.

    Rows that another engine has locked are skipped, not waited for.

    :param engine_id: the engine that claims; an engine whose lease has ended gets nothing.
    :param most_deaths: only nodes on which at most so many engines died.
    :param mark: of the registration of that engine.
    :param limit_id: the limit that they wait for; 0: those that wait for none.
    :param changed: the last change of a limit that the engine knows; one that does not know the
        newest gets nothing.
    :param after: only traversals from this id on.
    :param before: only traversals with a lower id.
    """
    given = _without_none(
        in_lane=lane,
        waits_until=_parked_until(limit_id),
        first=after,
        end=before,
        **_claimer(engine_id, most, most_deaths, mark, changed),
    )
    rows = _lock_ready(frozenset(given)).execute(tx, given)
    return [row_of(row) for row in rows.all()]


@cache
def _lock_ready(given: frozenset[str]) -> Statement[Select[Any]]:
    """The statement with these parameters."""

    def make(form: Form) -> Select[Any]:
        conditions = [
            *_ready_in(_parameter("in_lane", "lane"), _parameter("waits_until", "due_at")),
            sync_point.c.traversal_id >= _parameter("first", "traversal_id"),
            *_claimable_by(form, given),
        ]
        if "end" in given:
            conditions.append(sync_point.c.traversal_id < _parameter("end", "traversal_id"))
        order = (sync_point.c.traversal_id, sync_point.c.ready_at, sync_point.c.node)
        return _lock_most(form, conditions, order)

    return Statement(make)


def find_settled(tx: Transaction, traversal_id: int, lane: int, most: int) -> set[Key]:
    """READY nodes of a traversal for which nothing is to be done, among the first of a lane.

    :param most: among so many.
    """
    ready = select(sync_point.c.node, sync_point.c.unsettled).where(
        *_ready_in(lane, _parked_until(0)), sync_point.c.traversal_id == traversal_id
    )
    first = ready.order_by(sync_point.c.ready_at, sync_point.c.node).limit(most).subquery()
    found = tx.execute(select(first.c.node).where(first.c.unsettled == 0)).scalars()
    return {(traversal_id, number) for number in found}


def lock_due(
    tx: Transaction,
    engine_id: int,
    most: int,
    most_deaths: int | None = None,
    mark: int | None = None,
    *,
    lanes: Iterable[int] = (DEFAULT,),
    changed: int = 0,
) -> list[SyncPointRow]:
    """Lock retries of these lanes whose time has come, in that order; as :func:`lock_ready` does.

    There are few: sweeps make them nodes like others.
    """
    given = _without_none(**_claimer(engine_id, most, most_deaths, mark, changed))
    rows = _lock_due(frozenset(given)).execute(tx, {**given, "in_lanes": sorted(lanes)})
    return [row_of(row) for row in rows.all()]


@cache
def _lock_due(given: frozenset[str]) -> Statement[Select[Any]]:
    """The statement with these parameters."""

    def make(form: Form) -> Select[Any]:
        conditions = [
            is_in(NodeState.READY),
            sync_point.c.due_at > 0,
            sync_point.c.due_at <= form.now,
            sync_point.c.lane.in_(bindparam("in_lanes", expanding=True)),
            *_claimable_by(form, given),
        ]
        return _lock_most(form, conditions, (sync_point.c.due_at, sync_point.c.lane, *KEY_ORDER))

    return Statement(make)


def _without_none(**asked: float | None) -> dict[str, float]:
    return {name: value for name, value in asked.items() if value is not None}


def _claimer(
    engine_id: int, most: int, most_deaths: int | None, mark: int | None, changed: int
) -> dict[str, int | None]:
    """The parameters about an engine that claims."""
    return {
        "claimer": engine_id,
        "registered": mark,
        "most": most,
        "most_deaths": most_deaths,
        "seen": changed,
    }


def _claimable_by(form: Form, given: Collection[str]) -> list[ColumnElement[bool]]:
    """The conditions for what an engine may claim, from its parameters."""
    alive = select_if_leased(form.now, bindparam("claimer", type_=engine.c.id.type))
    if "registered" in given:
        alive = alive.where(engine.c.mark == bindparam("registered", type_=engine.c.mark.type))
    conditions = [alive.exists(), _has_no_newer()]
    if "most_deaths" in given:
        conditions.append(sync_point.c.deaths <= _parameter("most_deaths", "deaths"))
    return conditions


def _has_no_newer() -> ColumnElement[bool]:
    """The condition that no limit was changed since the last change that the engine knows."""
    seen = bindparam("seen", type_=limit.c.changed.type)
    return ~select(limit.c.id).where(limit.c.changed > seen).exists()


def _lock_most(
    form: Form, conditions: Iterable[ColumnElement[bool]], order: Iterable[ColumnElement[Any]]
) -> Select[Any]:
    query = select(*columns_of(form.now)).where(*conditions).order_by(*order)
    return query.limit(bindparam("most", type_=Integer())).with_for_update(skip_locked=True)


def _parameter(name: str, column: str) -> ColumnElement[Any]:
    """A parameter that is compared with a column."""
    return bindparam(name, type_=sync_point.c[column].type)


def _ready_in(lane: Any, due_at: Any) -> tuple[ColumnElement[bool], ...]:
    """The conditions for the READY nodes of a lane that are no retries.

    :param due_at: see :func:`_parked_until`.
    """
    return is_in(NodeState.READY), sync_point.c.due_at == due_at, sync_point.c.lane == lane


def _parked_until(limit_id: int) -> float:
    """The ``due_at`` of nodes that wait for a limit; 0: for none."""
    return PARKED + limit_id if limit_id else 0


def free_places_of() -> ColumnElement[int]:
    """How many places of a limit are free; NULL if any number is."""
    count = select(func.count()).where(place.c.limit_id == limit.c.id).correlate(limit)
    free: ColumnElement[int] = limit.c.places - count.scalar_subquery()
    return free


def are_open(tx: Transaction, *conditions: ColumnElement[bool]) -> list[ColumnElement[bool]]:
    """The conditions for limits for which nodes wait and need not.

    :param conditions: for these nodes.
    """
    parked = (is_in(NodeState.READY), sync_point.c.due_at == _PARKED + limit.c.id)
    return [select(sync_point.c.node).where(*parked, *conditions).exists(), *have_room(tx)]


def have_room(tx: Transaction) -> list[ColumnElement[bool]]:
    """The conditions for limits that have a place and a start left."""
    return [
        or_(limit.c.places.is_(None), free_places_of() > 0),
        # later than its rate could make it, it is from before the clock was set back
        or_(limit.c.open_at <= tx.now, limit.c.open_at > tx.now + 2 * limit.c.rate_seconds),
    ]


def find_busy(tx: Transaction, lanes: Sequence[int], limit_id: int = 0) -> list[int]:
    """Those of these lanes in which something is READY that is no retry.

    :param limit_id: and waits for this limit; 0: for none.
    """

    def is_busy(lane: int) -> ColumnElement[bool]:
        return select(sync_point.c.node).where(*_ready_in(lane, _parked_until(limit_id))).exists()

    found: Any = tx.execute(select(*(is_busy(lane).label(f"l{lane}") for lane in lanes))).one()
    return [lane for lane, busy in zip(lanes, found, strict=True) if busy]


def find_others(
    tx: Transaction, lane: int, traversal_id: int, limit_id: int = 0
) -> tuple[bool, bool]:
    """Whether traversals with lower ids than this one, and with higher ones, have something READY
    in a lane that is no retry.

    :param limit_id: and waits for this limit; 0: for none.
    """
    node = select(sync_point.c.node).where(*_ready_in(lane, _parked_until(limit_id)))
    below = node.where(sync_point.c.traversal_id < traversal_id).exists()
    above = node.where(sync_point.c.traversal_id > traversal_id).exists()
    found: Any = tx.execute(select(below.label("below"), above.label("above"))).one()
    return bool(found[0]), bool(found[1])


def has_claimable(tx: Transaction, lanes: Sequence[int]) -> tuple[bool, int]:
    """Whether something of these lanes can be claimed now, and how many lanes have a row.

    An idle engine looks all the time, and none of the lanes goes: one statement says both.
    """
    mine = (is_in(NodeState.READY), sync_point.c.lane.in_(lanes))
    fresh = select(sync_point.c.node).where(*mine, sync_point.c.due_at == 0)
    is_due = (sync_point.c.due_at > 0, sync_point.c.due_at <= tx.now)
    retry = select(sync_point.c.node).where(*mine, *is_due)
    parked = select(limit.c.id).where(*are_open(tx, sync_point.c.lane.in_(lanes)))
    found = or_(fresh.exists(), retry.exists(), parked.exists())
    count = select(func.count()).select_from(lane).scalar_subquery()
    row: Any = tx.execute(select(found, count)).one()
    return bool(row[0]), int(row[1])
