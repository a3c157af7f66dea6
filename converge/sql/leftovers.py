"""What deaths and lost wake-ups leave behind, found through indexes.

Every engine runs these queries all the time. A query that finds nothing reads a few pages only,
however many nodes wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, literal, or_, select

from converge.model import NodeState, Status, TraversalStatus
from converge.sql.batch import among
from converge.sql.engines import ALIVE
from converge.sql.schema import engine, resource, scope, sync_point, traversal
from converge.sql.sync_points import Key, is_in
from converge.sql.transaction import Transaction
from converge.sql.types import MARIADB


def list_stray_holders(tx: Transaction, limit: int) -> list[int]:
    """The ids of engines that have ended and still hold nodes: they claimed them just before their
    end."""
    registered = (
        select(engine.c.id)
        .where(engine.c.id == sync_point.c.engine_id, engine.c.state == ALIVE)
        .exists()
    )
    query = select(sync_point.c.engine_id).where(
        is_in(NodeState.RUNNING, NodeState.SUPERSEDED),
        sync_point.c.engine_id.is_not(None),
        ~registered,
    )
    return list(tx.execute(query.distinct().limit(limit)).scalars())


def list_free_blocked(tx: Transaction, limit: int) -> list[Key]:
    """BLOCKED nodes whose resource is free or gone. They are not sorted: an order could keep the
    database from the right index."""
    held = (
        select(resource.c.id)
        .where(resource.c.id == sync_point.c.resource_id, resource.c.engine_id.is_not(None))
        .exists()
    )
    query = (
        select(sync_point.c.traversal_id, sync_point.c.node)
        .where(is_in(NodeState.BLOCKED), ~held)
        .limit(limit)
    )
    return [(row.traversal_id, row.node) for row in tx.execute(query)]


def count_due(tx: Transaction, limit: int) -> int:
    """How many READY nodes can be claimed now, counted up to the limit."""
    due = (
        select(sync_point.c.node)
        .where(is_in(NodeState.READY), sync_point.c.due_at <= tx.now)
        # that of the index: where many are ready, the table would be read for the first of them
        .order_by(sync_point.c.due_at, sync_point.c.lane)
        .limit(limit)
        .subquery()
    )
    return int(tx.execute(select(func.count()).select_from(due)).scalar_one())


def has_due_retries(tx: Transaction) -> bool:
    """Whether there are retries that are due, and not claimed yet."""
    query = select(sync_point.c.node).where(
        is_in(NodeState.READY), sync_point.c.due_at > 0, sync_point.c.due_at <= tx.now
    )
    return tx.execute(query.limit(1)).first() is not None


def list_leftover_traversals(tx: Transaction, after: int, limit: int) -> tuple[list[int], int]:
    """Traversals that have ended, and whose nodes still exist.

    It goes from one traversal to the next in the primary key, without reading all their nodes.

    :param after: look at traversals with a higher id.
    :param limit: look at no more traversals than this.
    :returns: their ids, and the id to go on after; 0 when all were looked at.
    """
    step = _distinct(after, limit) if tx.dialect in MARIADB else _steps(after, limit)
    query = (
        select(step.c.id, traversal.c.status)
        .outerjoin_from(step, traversal, traversal.c.id == step.c.id)
        .where(step.c.id.is_not(None))
    )
    found: Any = tx.execute(query).all()
    over = sorted(row[0] for row in found if row[1] != TraversalStatus.RUNNING)
    last = max((row[0] for row in found), default=0) if len(found) >= limit else 0
    return over, last


def _steps(after: int, limit: int) -> Any:
    """The traversals that have nodes, with one lookup in the primary key for each."""
    first: Any = select(
        func.min(sync_point.c.traversal_id).label("id"), literal(1).label("number")
    ).where(sync_point.c.traversal_id > after)
    step = first.cte("step", recursive=True)
    further = (
        select(func.min(sync_point.c.traversal_id))
        .where(sync_point.c.traversal_id > step.c.id)
        .scalar_subquery()
    )
    return step.union_all(
        select(further, step.c.number + 1).where(step.c.id.is_not(None), step.c.number < limit)
    )


def _distinct(after: int, limit: int) -> Any:
    """The same for MariaDB: for each of those lookups it would read the whole index. For a DISTINCT
    it goes from one traversal to the next by itself; PostgreSQL does not."""
    query = select(sync_point.c.traversal_id.label("id")).where(sync_point.c.traversal_id > after)
    return query.distinct().order_by(sync_point.c.traversal_id).limit(limit).subquery("step")


class WorkScope(NamedTuple):
    """A scope of the journal for work on a resource.

    :ivar is_free: no engine works on the resource, or it is gone.
    :ivar is_whole: the resource is gone or complete: its create is over.
    """

    id: int
    name: str
    resource_id: int
    is_gone: bool
    is_free: bool
    is_whole: bool


def list_work_scopes(
    tx: Transaction, after: int, limit: int, only: Sequence[int] | None = None
) -> list[WorkScope]:
    """The scopes of work on resources, by resource.

    :param after: only of resources with a higher id.
    :param only: only of these resources.
    """
    is_gone = resource.c.id.is_(None)
    is_whole = resource.c.status == Status.COMPLETE
    query = (
        select(
            scope.c.id,
            scope.c.name,
            scope.c.resource_id,
            is_gone,
            resource.c.engine_id.is_(None),
            or_(is_gone, is_whole),
        )
        .outerjoin_from(scope, resource, resource.c.id == scope.c.resource_id)
        .where(scope.c.resource_id > after)
    )
    if only is not None:
        query = query.where(among(tx, scope.c.resource_id, only))
    rows: Any = tx.execute(query.order_by(scope.c.resource_id, scope.c.id).limit(limit))
    return [WorkScope(*row[:3], *map(bool, row[3:])) for row in rows]


def list_leftovers(tx: Transaction, traversal_ids: Sequence[int], limit: int) -> list[Key]:
    """The nodes of traversals that have ended, without those that an engine works on."""
    order = (sync_point.c.traversal_id, sync_point.c.node)
    query = select(*order).where(
        among(tx, sync_point.c.traversal_id, traversal_ids),
        or_(~is_in(NodeState.RUNNING, NodeState.SUPERSEDED), sync_point.c.engine_id.is_(None)),
    )
    rows = tx.execute(query.order_by(*order).limit(limit))
    return [(row.traversal_id, row.node) for row in rows]
