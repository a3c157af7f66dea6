"""Sync points as people look at them: who holds them, what they wait for, which are stuck.

Each query finds its rows in the index of live nodes, or by the key of one traversal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, or_, select

from converge.model import Kind, NodeState, TraversalStatus
from converge.sql.batch import among
from converge.sql.database import Transaction
from converge.sql.engines import has_lease, lives
from converge.sql.schema import engine, sync_point, traversal
from converge.sql.schema import resource as resource_table
from converge.sql.schema import stack as stack_table
from converge.sql.sync_points import LIVE, is_in

#: What is beyond a limit is counted only up to this.
COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class HeldNode:
    """A node, as people look at it.

    :ivar reason: why its resource failed last.
    :ivar holder: the engine that has its resource's lock.
    :ivar since: seconds since its claim.
    :ivar wait: of a retry, seconds until it may be claimed; negative: it may be since then.
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
    since: float
    wait: float

    @property
    def attempt(self) -> int:
        """How many attempts were begun, without those in which an engine died."""
        return max(0, self.attempts - self.deaths)


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A node that another one waits for.

    :ivar direct: whether it waits for this one itself, not through others.
    """

    node: int
    kind: Kind
    state: NodeState
    resource: str | None
    direct: bool


_IN_HAND = (NodeState.RUNNING, NodeState.SUPERSEDED)


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
            (tx.now - func.coalesce(node.claimed_at, tx.now)).label("since"),
            case(
                (node.due_at > tx.now, node.due_at - tx.now),
                # the clock may have gone back
                (node.ready_at < tx.now, node.ready_at - tx.now),
                else_=0.0,
            ).label("wait"),
        )
        .join_from(sync_point, traversal, traversal.c.id == node.traversal_id)
        .join(stack_table, stack_table.c.id == traversal.c.stack_id)
        .outerjoin(resource_table, row.id == node.resource_id)
    )


def _rows(tx: Transaction, query: Select[Any]) -> list[HeldNode]:
    return [_row(one) for one in tx.execute(query).all()]


def _row(row: Any) -> HeldNode:
    values: list[Any] = list(row)[: len(HeldNode.__dataclass_fields__)]
    values[2:4] = Kind(values[2]), NodeState(values[3])
    return HeldNode(*values)


def _some(
    tx: Transaction, conditions: Sequence[ColumnElement[bool]], order: Sequence[Any], limit: int
) -> tuple[list[HeldNode], int]:
    """The first of these nodes, and how many more there are."""
    query = _select(tx).where(*conditions)
    found = _rows(tx, query.order_by(*order, *_ORDER).limit(limit))
    if len(found) < limit:
        return found, 0
    some = query.with_only_columns(sync_point.c.node).limit(limit + COUNTED).subquery()
    count = tx.execute(select(func.count()).select_from(some)).scalar_one()
    return found, int(count) - limit


_ORDER = (sync_point.c.traversal_id, sync_point.c.node)


# Of one traversal


def list_held(
    tx: Transaction, traversal_id: int, limit: int, resource: str | None = None
) -> tuple[list[HeldNode], int]:
    """The nodes of a traversal that somebody could or does work on, longest held first.

    :param resource: only those of this name, and in every state.
    :returns: the first of them, and how many more there are.
    """
    mine = sync_point.c.traversal_id == traversal_id
    if resource is None:
        conditions = [mine, is_in(NodeState.RUNNING, NodeState.READY, NodeState.BLOCKED)]
    else:
        conditions = [mine, resource_table.c.name == resource]
    order = (sync_point.c.claimed_at.is_(None), sync_point.c.claimed_at)
    return _some(tx, conditions, order, limit)


def list_nodes(tx: Transaction, traversal_id: int, nodes: Iterable[int]) -> list[HeldNode]:
    """Nodes of a traversal by their numbers, in the order of these."""
    query = _select(tx).where(
        sync_point.c.traversal_id == traversal_id, among(tx, sync_point.c.node, nodes)
    )
    return _rows(tx, query.order_by(sync_point.c.node))


def list_outstanding(tx: Transaction, traversal_id: int, node: int) -> list[Predecessor]:
    """Which predecessors of a node are outstanding, and what those wait for in the end.

    For people: it looks through the live nodes of the traversal.

    :returns: the direct ones, and of the others those that do not wait themselves; by number.
    """
    query = (
        select(
            sync_point.c.node,
            sync_point.c.kind,
            sync_point.c.state,
            sync_point.c.successors,
            resource_table.c.name,
        )
        .outerjoin_from(sync_point, resource_table, resource_table.c.id == sync_point.c.resource_id)
        .where(
            sync_point.c.traversal_id == traversal_id,
            sync_point.c.node < node,
            is_in(*LIVE),
        )
        .order_by(sync_point.c.node.desc())
    )
    # successors have higher numbers, so they are met before what they wait for
    behind = {node}
    found = []
    for row in tx.execute(query):
        if behind.isdisjoint(row.successors):
            continue
        behind.add(row.node)
        direct = node in row.successors
        if direct or row.state != NodeState.WAITING:
            found.append(
                Predecessor(row.node, Kind(row.kind), NodeState(row.state), row.name, direct)
            )
    return found[::-1]


def count_running(tx: Transaction, traversal_id: int) -> int:
    """How many resources of a traversal are being worked on."""
    query = select(func.count()).where(
        sync_point.c.traversal_id == traversal_id,
        is_in(NodeState.RUNNING),
        sync_point.c.kind != Kind.STACK,
    )
    return int(tx.execute(query).scalar_one())


def list_workers(tx: Transaction, resource_ids: Iterable[int]) -> dict[int, HeldNode]:
    """The nodes that have these resources in hand, of any traversal, by resource."""
    wanted = set(resource_ids)
    if not wanted:
        return {}
    query = _select(tx).where(
        is_in(*_IN_HAND),
        among(tx, sync_point.c.resource_id, wanted),
        sync_point.c.engine_id == resource_table.c.engine_id,
    )
    return {one.resource_id or 0: one for one in _rows(tx, query.order_by(*_ORDER))}


# Of the whole database


def list_in_hand(tx: Transaction, limit: int) -> dict[int, tuple[int, list[HeldNode]]]:
    """What each engine holds, longest held first.

    :param limit: so many nodes of each engine at most.
    :returns: by engine, how many nodes, and the first of them.
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
        .where(is_in(*_IN_HAND), mine.is_not(None))
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
    found: dict[int, tuple[int, list[HeldNode]]] = {}
    for row in tx.execute(query).all():
        one = _row(row)
        found.setdefault(one.engine_id or 0, (row.held, []))[1].append(one)
    return found


def list_abandoned(tx: Transaction, limit: int) -> tuple[list[HeldNode], int]:
    """Nodes held by engines whose lease has ended or that are no more, longest held first."""
    holder = sync_point.c.engine_id
    conditions = [is_in(*_IN_HAND), holder.is_not(None), ~lives(tx, holder)]
    return _some(tx, conditions, (sync_point.c.claimed_at,), limit)


def list_overrun(tx: Transaction, limit: int) -> tuple[list[HeldNode], int]:
    """Nodes whose handler is at work for longer than their traversal allows, longest held first."""
    conditions = [
        is_in(*_IN_HAND),
        traversal.c.node_timeout.is_not(None),
        sync_point.c.claimed_at < tx.now - traversal.c.node_timeout,
    ]
    return _some(tx, conditions, (sync_point.c.claimed_at,), limit)


def list_blocked(tx: Transaction, limit: int) -> tuple[list[HeldNode], int]:
    """BLOCKED nodes."""
    return _some(tx, [is_in(NodeState.BLOCKED)], (), limit)


def list_due(tx: Transaction, limit: int) -> tuple[list[HeldNode], int]:
    """READY nodes whose time has come, longest ready first."""
    conditions = [is_in(NodeState.READY), sync_point.c.due_at <= tx.now]
    return _some(tx, conditions, (sync_point.c.ready_at,), limit)


def list_passed_over(tx: Transaction, age: float, limit: int) -> tuple[list[HeldNode], int]:
    """READY nodes that should have been claimed by now, longest ready first.

    Nodes are claimed in the order in which they became ready. So that is one that is older than
    one that was claimed, or any when nothing was claimed for a while.

    :param age: seconds for which a node may be ready, or nothing be claimed.
    """
    query = select(func.max(sync_point.c.ready_at), func.max(sync_point.c.claimed_at))
    last: Any = tx.execute(query.where(is_in(NodeState.RUNNING))).one()
    conditions = [is_in(NodeState.READY), sync_point.c.ready_at <= tx.now - age]
    if last[0] is not None:
        overtaken = sync_point.c.ready_at < last[0]
        conditions.append(or_(overtaken, tx.now - age >= last[1]))
    return _some(tx, conditions, (sync_point.c.ready_at,), limit)


@dataclass(frozen=True, slots=True)
class Overdue:
    """A traversal past its deadline that has not ended.

    :ivar halted: what it will end as, None if nobody has noticed the deadline yet.
    :ivar late: seconds since the deadline.
    """

    traversal_id: int
    stack: str
    action: str
    halted: str | None
    reason: str | None
    late: float


def list_overdue(tx: Transaction, limit: int) -> list[Overdue]:
    """Traversals past their deadline that have not ended, the latest first."""
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


def count_alive(tx: Transaction) -> int:
    """How many engines are alive, their leases not ended."""
    query = select(func.count()).select_from(engine).where(has_lease(tx.now))
    return int(tx.execute(query).scalar_one())


def read_clock(tx: Transaction) -> float:
    """The time, in seconds since 1970."""
    return float(tx.execute(select(tx.now)).scalar_one())
