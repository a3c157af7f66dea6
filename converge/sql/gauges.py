"""How much there is to do in the whole database, for those who look every few seconds."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, select

from converge.model import NodeState
from converge.sql.claimable import PARKED
from converge.sql.schema import sync_point
from converge.sql.sync_points import is_in
from converge.sql.transaction import Transaction

#: READY, but only from some time on: retries, and handlers that wait.
LATER = "LATER"
#: READY, but a limit keeps them from starting.
LIMITED = "LIMITED"


def count_nodes(tx: Transaction, limit: int) -> dict[str, int]:
    """How many nodes are READY, RUNNING, BLOCKED, READY :data:`LATER`, and :data:`LIMITED`.

    Each is counted up to the limit, in an index, so that a look costs the same however many nodes
    there are.
    """
    due = sync_point.c.due_at <= tx.now
    parked = sync_point.c.due_at >= PARKED
    conditions = {
        str(NodeState.READY): (is_in(NodeState.READY), due),
        LATER: (is_in(NodeState.READY), ~due, ~parked),
        LIMITED: (is_in(NodeState.READY), parked),
        str(NodeState.RUNNING): (is_in(NodeState.RUNNING),),
        str(NodeState.BLOCKED): (is_in(NodeState.BLOCKED),),
    }
    found = {}
    for name, where in conditions.items():
        nodes = select(sync_point.c.node).where(*where).limit(limit).subquery()
        found[name] = int(tx.execute(select(func.count()).select_from(nodes)).scalar_one())
    return found


def count_waiting(tx: Transaction, limit: int) -> int:
    """How many of the nodes that are READY :data:`LATER` have a handler that waits. So many of
    those nodes are looked at, at most."""
    later = select(sync_point.c.waiting_since).where(
        is_in(NodeState.READY), sync_point.c.due_at > tx.now, sync_point.c.due_at < PARKED
    )
    nodes = later.limit(limit).subquery()
    return int(tx.execute(select(func.count(nodes.c.waiting_since))).scalar_one())


def count_ready_in(tx: Transaction, lanes: Collection[int], limit: int) -> int:
    """How many nodes of these lanes are READY, up to the limit."""
    if not lanes:
        return 0
    ready = select(sync_point.c.node).where(
        is_in(NodeState.READY), sync_point.c.due_at <= tx.now, sync_point.c.lane.in_(sorted(lanes))
    )
    nodes = ready.limit(limit).subquery()
    return int(tx.execute(select(func.count()).select_from(nodes)).scalar_one())
