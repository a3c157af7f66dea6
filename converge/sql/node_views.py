"""Nodes as people look at them: who holds them, what they wait for, which are stuck.

Each query finds its rows in the index of live nodes, or by the key of one traversal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select

from converge.model import Kind, NodeState, TraversalStatus
from converge.sql.batch import among
from converge.sql.claimable import PARKED
from converge.sql.engines import engine_has_lease
from converge.sql.schema import resource as resource_table
from converge.sql.schema import stack as stack_table
from converge.sql.schema import sync_point, traversal
from converge.sql.sync_points import is_in
from converge.sql.transaction import Transaction

#: Rows beyond a limit are counted up to this number only.
COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, as people look at it.

    :ivar reason: why its resource failed last.
    :ivar holder: the engine that has its resource's lock.
    :ivar since: seconds since its claim; of one whose handler waits, since its first call.
    :ivar waits: its handler waits, and is called again when its time has come; ``reason`` is how
        far it is.
    :ivar wait: seconds until a retry may be claimed; negative: seconds since it may be claimed.
    :ivar limit_id: the limit that keeps it from starting; 0: none does.
    """

    traversal_id: int
    node: int
    kind: Kind
    state: NodeState
    stack: str
    resource: str | None
    resource_id: int | None
    reason: str | None
    engine_id: int | None
    holder: int | None
    attempts: int
    max_attempts: int | None
    deaths: int
    lane: int
    since: float
    wait: float
    waits: bool = False
    limit_id: int = 0

    @property
    def attempt(self) -> int:
        """How many attempts were begun, not counting those in which an engine died."""
        return max(0, self.attempts - self.deaths)


_HELD = (NodeState.RUNNING, NodeState.SUPERSEDED)


def _select(tx: Transaction) -> Select[Any]:
    node, row = sync_point.c, resource_table.c
    return (
        select(
            node.traversal_id,
            node.node,
            node.kind,
            node.state,
            stack_table.c.name.label("stack"),
            row.name,
            node.resource_id,
            row.reason,
            node.engine_id,
            row.engine_id.label("holder"),
            node.attempts,
            node.max_attempts,
            node.deaths,
            node.lane,
            (tx.now - func.coalesce(node.claimed_at, node.waiting_since, tx.now)).label("since"),
            case(
                (and_(node.due_at > tx.now, node.due_at < PARKED), node.due_at - tx.now),
                # the clock may have been set back
                (node.ready_at < tx.now, node.ready_at - tx.now),
                else_=0.0,
            ).label("wait"),
            _waits(tx).label("waits"),
            case((node.due_at >= PARKED, node.due_at - PARKED), else_=0).label("limit_id"),
        )
        .join_from(sync_point, traversal, traversal.c.id == node.traversal_id)
        .join(stack_table, stack_table.c.id == traversal.c.stack_id)
        .outerjoin(resource_table, row.id == node.resource_id)
    )


def _waits(tx: Transaction) -> ColumnElement[bool]:
    is_later = and_(sync_point.c.due_at > tx.now, sync_point.c.due_at < PARKED)
    return and_(sync_point.c.waiting_since.is_not(None), is_later)


def _rows(tx: Transaction, query: Select[Any]) -> list[NodeView]:
    return [_row(one) for one in tx.execute(query).all()]


def _row(row: Any) -> NodeView:
    values: list[Any] = list(row)[: len(NodeView.__dataclass_fields__)]
    values[2:4] = Kind(values[2]), NodeState(values[3])
    values[-2:] = bool(values[-2]), int(values[-1])
    return NodeView(*values)


def _some(
    tx: Transaction,
    conditions: Sequence[ColumnElement[bool]],
    order: Sequence[Any],
    limit: int,
    joins: Sequence[tuple[Any, ColumnElement[bool]]] = (),
) -> tuple[list[NodeView], int]:
    """The first of these nodes, and how many more there are.

    :param joins: tables that the conditions are about, which need not have a row for each node.
    """
    query = _select(tx)
    for table, condition in joins:
        query = query.outerjoin(table, condition)
    query = query.where(*conditions)
    found = _rows(tx, query.order_by(*order, *_ORDER).limit(limit))
    if len(found) < limit:
        return found, 0
    some = query.with_only_columns(sync_point.c.node).limit(limit + COUNTED).subquery()
    count = tx.execute(select(func.count()).select_from(some)).scalar_one()
    return found, int(count) - limit


_ORDER = (sync_point.c.traversal_id, sync_point.c.node)


# Of one traversal


def list_traversal_nodes(
    tx: Transaction, traversal_id: int, limit: int
) -> tuple[list[NodeView], int]:
    """The nodes of a traversal that are RUNNING, READY or BLOCKED, longest held first.

    :returns: the first of them, and how many more there are.
    """
    conditions = [
        sync_point.c.traversal_id == traversal_id,
        is_in(NodeState.RUNNING, NodeState.READY, NodeState.BLOCKED),
    ]
    order = (sync_point.c.claimed_at.is_(None), sync_point.c.claimed_at)
    return _some(tx, conditions, order, limit)


def list_nodes(tx: Transaction, traversal_id: int, nodes: Iterable[int]) -> list[NodeView]:
    """The nodes of a traversal that have these numbers, by number."""
    query = _select(tx).where(
        sync_point.c.traversal_id == traversal_id, among(tx, sync_point.c.node, nodes)
    )
    return _rows(tx, query.order_by(sync_point.c.node))


def count_running(tx: Transaction, traversal_id: int) -> int:
    """How many resources of a traversal engines are working on."""
    query = select(func.count()).where(
        sync_point.c.traversal_id == traversal_id,
        is_in(NodeState.RUNNING),
        sync_point.c.kind != Kind.STACK,
    )
    return int(tx.execute(query).scalar_one())


def count_waiting(tx: Transaction, traversal_id: int) -> int:
    """How many resources of a traversal have handlers that wait."""
    query = select(func.count()).where(
        sync_point.c.traversal_id == traversal_id, is_in(NodeState.READY), _waits(tx)
    )
    return int(tx.execute(query).scalar_one())


def list_waiting(tx: Transaction, traversal_id: int, limit: int) -> list[NodeView]:
    """The nodes of a traversal whose handlers wait, the longest first."""
    query = _select(tx).where(
        sync_point.c.traversal_id == traversal_id, is_in(NodeState.READY), _waits(tx)
    )
    return _rows(tx, query.order_by(sync_point.c.waiting_since, sync_point.c.node).limit(limit))


def list_lock_holders(tx: Transaction, resource_ids: Iterable[int]) -> dict[int, NodeView]:
    """The nodes, of any traversal, that hold the locks of these resources; by resource id."""
    wanted = set(resource_ids)
    if not wanted:
        return {}
    query = _select(tx).where(
        is_in(*_HELD),
        among(tx, sync_point.c.resource_id, wanted),
        sync_point.c.engine_id == resource_table.c.engine_id,
    )
    return {one.resource_id or 0: one for one in _rows(tx, query.order_by(*_ORDER))}


# Of the whole database


def list_held_by_engine(tx: Transaction, limit: int) -> dict[int, tuple[int, list[NodeView]]]:
    """The nodes that each engine holds, longest held first.

    :param limit: the most nodes of each engine.
    :returns: by engine, how many nodes it holds, and the first of them.
    """
    mine = sync_point.c.engine_id
    order = (sync_point.c.claimed_at, *_ORDER)
    ranked = (
        select(
            *_ORDER,
            mine,
            func.count().over(partition_by=mine).label("held"),
            func.row_number().over(partition_by=mine, order_by=order).label("rank"),
        )
        .where(is_in(*_HELD), mine.is_not(None))
        .subquery()
    )
    query = (
        _select(tx)
        .add_columns(ranked.c.held)
        .join(
            ranked,
            (ranked.c.traversal_id == sync_point.c.traversal_id)
            & (ranked.c.node == sync_point.c.node),
        )
        .where(ranked.c.rank <= limit)
        .order_by(ranked.c.engine_id, ranked.c.rank)
    )
    found: dict[int, tuple[int, list[NodeView]]] = {}
    for row in tx.execute(query).all():
        one = _row(row)
        found.setdefault(one.engine_id or 0, (row.held, []))[1].append(one)
    return found


def list_abandoned(tx: Transaction, limit: int) -> tuple[list[NodeView], int]:
    """Nodes held by engines whose lease has ended, or whose row is gone; longest held first."""
    holder = sync_point.c.engine_id
    conditions = [is_in(*_HELD), holder.is_not(None), ~engine_has_lease(tx, holder)]
    return _some(tx, conditions, (sync_point.c.claimed_at,), limit)


def list_past_timeout(tx: Transaction, limit: int) -> tuple[list[NodeView], int]:
    """Nodes whose handler has run for longer than their traversal allows, longest held first."""
    conditions = [
        is_in(*_HELD),
        traversal.c.node_timeout.is_not(None),
        sync_point.c.claimed_at < tx.now - traversal.c.node_timeout,
    ]
    return _some(tx, conditions, (sync_point.c.claimed_at,), limit)


def list_blocked(tx: Transaction, limit: int) -> tuple[list[NodeView], int]:
    """BLOCKED nodes."""
    return _some(tx, [is_in(NodeState.BLOCKED)], (), limit)


def list_due(tx: Transaction, limit: int) -> tuple[list[NodeView], int]:
    """READY nodes that can be claimed now, longest ready first."""
    conditions = [is_in(NodeState.READY), sync_point.c.due_at <= tx.now]
    return _some(tx, conditions, (sync_point.c.ready_at,), limit)


def list_unclaimed(tx: Transaction, age: float, limit: int) -> tuple[list[NodeView], int]:
    """READY nodes that should have been claimed by now, longest ready first.

    The nodes of a traversal that are in one lane are claimed in the order in which they became
    ready. So a node is late if another of these that became ready after it was claimed, or if no
    node of its lane was claimed for a while.

    :param age: seconds that a node may be READY, and that may pass without a claim.
    """
    node = sync_point.c
    running = is_in(NodeState.RUNNING)
    claims = select(node.lane, func.max(node.claimed_at).label("last"))
    lane = claims.where(running).group_by(node.lane).subquery()
    claims = select(node.traversal_id, node.lane, func.max(node.ready_at).label("last"))
    place = claims.where(running).group_by(node.traversal_id, node.lane).subquery()
    conditions = [
        is_in(NodeState.READY),
        node.ready_at <= tx.now - age,
        # what a limit keeps from starting is not stuck
        node.due_at < PARKED,
        or_(node.ready_at < place.c.last, func.coalesce(lane.c.last, 0) <= tx.now - age),
    ]
    in_place = and_(place.c.traversal_id == node.traversal_id, place.c.lane == node.lane)
    joins = ((lane, lane.c.lane == node.lane), (place, in_place))
    return _some(tx, conditions, (node.ready_at,), limit, joins)


@dataclass(frozen=True, slots=True)
class Overdue:
    """A traversal past its deadline that has not ended.

    :ivar halted: what it will end as; None if no engine has noticed the deadline yet.
    :ivar late: seconds since the deadline.
    """

    traversal_id: int
    stack: str
    action: str
    halted: str | None
    reason: str | None
    late: float


def list_overdue(tx: Transaction, limit: int) -> list[Overdue]:
    """Traversals past their deadline that have not ended, the longest overdue first."""
    query = (
        select(
            traversal.c.id,
            stack_table.c.name,
            traversal.c.action,
            traversal.c.halted,
            traversal.c.reason,
            tx.now - traversal.c.deadline_at,
        )
        .join_from(traversal, stack_table, stack_table.c.id == traversal.c.stack_id)
        .where(
            traversal.c.status == TraversalStatus.RUNNING,
            traversal.c.deadline_at < tx.now,
        )
        .order_by(traversal.c.deadline_at, traversal.c.id)
        .limit(limit)
    )
    rows: Any = tx.execute(query).all()
    return [Overdue(*row) for row in rows]
