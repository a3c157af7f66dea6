"""What deaths and lost wake-ups leave behind, found through indexes.

The queries that find nothing read a few pages, however many nodes wait: every engine asks
them all the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, literal, or_, select

from converge.model import NodeState, Status, TraversalStatus
from converge.sql.batch import among
from converge.sql.database import Transaction
from converge.sql.engines import ALIVE
from converge.sql.schema import engine, resource, scope, sync_point, traversal
from converge.sql.sync_points import Key, is_in
from converge.sql.types import MARIADB


def list_stray_holders(tx: Transaction, limit: int) -> list[int]:
    """Engines that are no more, by id, and yet hold nodes: they claimed them with their last
    breath."""
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
    """BLOCKED nodes whose resource is free or gone; in no order, which could keep the database
    from the right index."""
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
    """How many READY nodes could be claimed now; at most the limit."""
    due = (
        select(sync_point.c.node)
        .where(is_in(NodeState.READY), sync_point.c.due_at <= tx.now)
        .limit(limit)
        .subquery()
    )
    return int(tx.execute(select(func.count()).select_from(due)).scalar_one())


def has_due_retries(tx: Transaction) -> bool:
    """Whether there are retries whose time has come, and that nobody has claimed yet."""
    query = select(sync_point.c.node).where(
        is_in(NodeState.READY), sync_point.c.due_at > 0, sync_point.c.due_at <= tx.now
    )
    return tx.execute(query.limit(1)).first() is not None


def list_leftover_traversals(tx: Transaction, after: int, limit: int) -> tuple[list[int], int]:
    """Traversals that are over, and whose nodes are still there.

    It steps from one traversal to the next in the primary key, past all their nodes.

    :param after: look from this id on.
    :param limit: look at so many traversals at most.
    :returns: their ids, and where to go on; 0 when all were looked at.
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
    """The traversals that have nodes: one look into the primary key for each."""
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
    """The same for MariaDB, which would read the whole index for each step, but by itself steps
    through it for a DISTINCT. PostgreSQL does not."""
    query = select(sync_point.c.traversal_id.label("id")).where(sync_point.c.traversal_id > after)
    return query.distinct().order_by(sync_point.c.traversal_id).limit(limit).subquery("step")


class WorkScope(NamedTuple):
    """A scope of the journal, of work on a resource.

    :ivar is_free: nobody works on the resource, or it is gone.
    :ivar is_whole: the resource is gone, or complete: nothing goes on with its create.
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

    :param after: of resources from this id on.
    :param only: those of these resources.
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
    """The nodes of traversals that are over, but for those that somebody works on."""
    order = (sync_point.c.traversal_id, sync_point.c.node)
    query = select(*order).where(
        among(tx, sync_point.c.traversal_id, traversal_ids),
        or_(~is_in(NodeState.RUNNING, NodeState.SUPERSEDED), sync_point.c.engine_id.is_(None)),
    )
    rows = tx.execute(query.order_by(*order).limit(limit))
    return [(row.traversal_id, row.node) for row in rows]
