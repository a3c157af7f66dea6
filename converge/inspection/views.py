"""What people are shown of rows: read only, indexed, and bounded by what is shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from converge.errors import NotFound
from converge.model import DEFAULT_QUEUE, NodeState, TraversalStatus
from converge.sql import engines, node_views, stacks, traversals
from converge.sql import events as event_rows
from converge.sql.loading import read_clock
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.wait import waits_until

#: What the nodes of a traversal are counted as.
COUNTS = ("total", "done", "running", "waiting", "failed", "skipped")


def list_stacks(tx: Transaction, *, nested: bool = False) -> list[dict[str, Any]]:
    """The live stacks, by name.

    :param nested: also nested ones.
    """
    return [
        {
            "name": row.name,
            "action": row.action,
            "status": row.status,
            "reason": row.reason,
            "version": version,
            "queue": row.queue or DEFAULT_QUEUE,
            "priority": row.priority,
            "actor": actor,
            "created": row.created_at,
            "updated": row.updated_at,
            "outer": outer,
        }
        for row, version, actor, outer in stacks.list_stacks(tx, nested=nested)
    ]


def progress(tx: Transaction, name: str) -> dict[str, int]:
    """The counts of the current traversal's nodes."""
    return count_nodes(tx, stacks.get_stack(tx, name, any_format=True))


def count_nodes(tx: Transaction, row: StackRow) -> dict[str, int]:
    """The counts of the nodes of a stack's current traversal."""
    if row.traversal_id is None:
        return dict.fromkeys(COUNTS, 0)
    traversal = traversals.get_traversal(tx, row.traversal_id)
    if traversal.status is TraversalStatus.RUNNING:
        counts = traversals.sum_progress(tx, traversal.id)
        running = node_views.count_running(tx, traversal.id)
        waiting = node_views.count_waiting(tx, traversal.id)
    else:
        counts = {name: getattr(traversal, name) for name in ("done", "failed", "skipped")}
        running = waiting = 0
    return {
        "total": traversal.total,
        "done": counts["done"],
        "running": running,
        "waiting": waiting,
        "failed": counts["failed"],
        "skipped": counts["skipped"],
    }


def find_actor(tx: Transaction, row: StackRow) -> str | None:
    """Who asked for a stack's current traversal; None if nobody said."""
    if row.traversal_id is None:
        return None
    return traversals.get_traversal(tx, row.traversal_id).actor


def running(tx: Transaction, name: str) -> list[dict[str, Any]]:
    """The nodes whose handlers are running, oldest first."""
    row = stacks.get_stack(tx, name, any_format=True)
    if row.traversal_id is None:
        return []
    return [
        {
            "resource": one.resource,
            "kind": one.kind,
            "engine": one.engine_id,
            "since_seconds": max(0.0, one.since),
        }
        for one in node_views.list_traversal_nodes(tx, row.traversal_id, limit=1000)[0]
        if one.state is NodeState.RUNNING and one.resource is not None
    ]


def waiting(tx: Transaction, name: str, limit: int) -> list[dict[str, Any]]:
    """The nodes whose handlers wait, the longest first."""
    row = stacks.get_stack(tx, name, any_format=True)
    if row.traversal_id is None:
        return []
    return [
        {
            "resource": one.resource,
            "kind": one.kind,
            "progress": one.reason,
            "since_seconds": max(0.0, one.since),
            "again_in_seconds": one.wait if waits_until(one.wait) is None else None,
            "until": waits_until(one.wait),
        }
        for one in node_views.list_waiting(tx, row.traversal_id, limit)
    ]


def events(
    tx: Transaction, name: str, after: int | None, limit: int, since: float | datetime | None
) -> list[dict[str, Any]]:
    """The events of a stack, oldest first."""
    row = stacks.find_last_stack(tx, name)
    if row is None:
        stacks.get_stack(tx, name, any_format=True)
        raise NotFound(f"there is no stack {name!r}")
    return [
        {
            "id": one["id"],
            "time": one["at"],
            "traversal": one["traversal_id"],
            "resource": one["resource"],
            "action": one["action"],
            "status": one["status"],
            "reason": one["reason"],
            "actor": one["actor"],
        }
        for one in event_rows.list_events(tx, row.id, after, limit, since)
    ]


def list_engines(tx: Transaction, *, ended: bool, limit: int) -> list[dict[str, Any]]:
    """The engines, by id; see :meth:`converge.Store.engines`."""
    held = node_views.list_held_by_engine(tx, limit)
    states = (engines.ALIVE, engines.STOPPED, engines.DEAD) if ended else (engines.ALIVE,)
    rows = {row.id: row for row in engines.list_engines(tx, states)}
    # an engine that has ended and still holds something must be seen
    rows.update(engines.get_engines(tx, held.keys() - rows.keys()))
    now = read_clock(tx)
    answers = []
    for _, row in sorted(rows.items()):
        count, nodes = held.get(row.id, (0, []))
        left = row.expires_at - now
        answers.append(
            {
                "id": row.id,
                "host": row.host,
                "pid": row.pid,
                "state": "EXPIRED" if row.state == engines.ALIVE and left <= 0 else row.state,
                "started": row.started_at,
                "lease": row.lease,
                "lease_seconds": left,
                "types": row.types,
                "queues": row.queues,
                "format": row.format,
                "nodes": count,
                "holds": [
                    {
                        "stack": one.stack,
                        "traversal": one.traversal_id,
                        "resource": one.resource,
                        "kind": one.kind,
                        "since_seconds": max(0.0, one.since),
                    }
                    for one in nodes
                ],
            }
        )
    return answers
