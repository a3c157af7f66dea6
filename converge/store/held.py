"""Sync points as people look at them: what is held, what it waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from converge.model import Kind, State
from converge.store.database import Transaction
from converge.store.schema import resource as resource_table
from converge.store.schema import sync_point
from converge.store.sync_points import LIVE, is_in


@dataclass(frozen=True, slots=True)
class HeldNode:
    """A live node, as people look at it.

    :ivar since: seconds since its claim.
    :ivar wait: seconds until it may be claimed.
    :ivar holder: the engine that has its resource's lock.
    """

    node: int
    kind: Kind
    state: State
    resource: str | None
    reason: str | None
    engine_id: int | None
    holder: int | None
    attempts: int
    since: float
    wait: float


def list_held(
    tx: Transaction, traversal_id: int, limit: int, resource: str | None = None
) -> list[HeldNode]:
    """The nodes of a traversal that somebody could or does work on, longest held first.

    :param resource: only those of this name, and also the ones that still wait.
    """
    node, row = sync_point, resource_table
    states = [State.RUNNING, State.READY, State.BLOCKED]
    query = (
        select(
            node.c.node,
            node.c.kind,
            node.c.state,
            row.c.name,
            row.c.reason,
            node.c.engine_id,
            row.c.engine_id.label("holder"),
            node.c.attempts,
            (tx.now - func.coalesce(node.c.claimed_at, tx.now)).label("since"),
            (func.coalesce(node.c.ready_at, 0) - tx.now).label("wait"),
        )
        .outerjoin_from(node, row, row.c.id == node.c.resource_id)
        .where(node.c.traversal_id == traversal_id)
        .order_by(node.c.claimed_at.is_(None), node.c.claimed_at, node.c.node)
        .limit(limit)
    )
    if resource is not None:
        states.append(State.WAITING)
        query = query.where(row.c.name == resource)
    rows: Any = tx.execute(query.where(is_in(*states))).all()
    return [HeldNode(one[0], Kind(one[1]), State(one[2]), *one[3:]) for one in rows]


def list_outstanding(
    tx: Transaction, traversal_id: int, node: int, limit: int
) -> list[tuple[str | None, State]]:
    """Which predecessors of a node are outstanding, with their states. For people: it looks
    through the live nodes of the traversal."""
    query = (
        select(sync_point.c.state, sync_point.c.successors, resource_table.c.name)
        .outerjoin_from(sync_point, resource_table, resource_table.c.id == sync_point.c.resource_id)
        .where(
            sync_point.c.traversal_id == traversal_id,
            sync_point.c.node < node,
            is_in(*LIVE),
        )
        .order_by(sync_point.c.node)
    )
    found = [(row.name, State(row.state)) for row in tx.execute(query) if node in row.successors]
    return found[:limit]


def count_running(tx: Transaction, traversal_id: int) -> int:
    """How many resources of a traversal are being worked on."""
    query = select(func.count()).where(
        sync_point.c.traversal_id == traversal_id,
        is_in(State.RUNNING),
        sync_point.c.kind != Kind.STACK,
    )
    return int(tx.execute(query).scalar_one())


def read_clock(tx: Transaction) -> float:
    """The time, in seconds since 1970."""
    return float(tx.execute(select(tx.now)).scalar_one())
