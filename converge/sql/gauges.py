"""How much there is to do in the whole database, for those who look every few seconds."""

from __future__ import annotations

from sqlalchemy import func, select

from converge.model import NodeState
from converge.sql.schema import sync_point
from converge.sql.sync_points import is_in
from converge.sql.transaction import Transaction

#: READY, but only from some time on: retries, and handlers that wait.
LATER = "LATER"


def count_nodes(tx: Transaction, limit: int) -> dict[str, int]:
    """How many nodes are READY, RUNNING, BLOCKED, and READY :data:`LATER`.

    Each is counted up to the limit, in an index, so that a look costs the same however many nodes
    there are.
    """
    due = sync_point.c.due_at <= tx.now
    conditions = {
        str(NodeState.READY): (is_in(NodeState.READY), due),
        LATER: (is_in(NodeState.READY), ~due),
        str(NodeState.RUNNING): (is_in(NodeState.RUNNING),),
        str(NodeState.BLOCKED): (is_in(NodeState.BLOCKED),),
    }
    found = {}
    for name, where in conditions.items():
        nodes = select(sync_point.c.node).where(*where).limit(limit).subquery()
        found[name] = int(tx.execute(select(func.count()).select_from(nodes)).scalar_one())
    return found
