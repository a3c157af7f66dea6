"""What is old of stacks: found through indexes, and deleted a batch at a time.

Nothing that is found here changes any more, so that no stack that is worked on is locked for it:
a deleted stack stays so, and a traversal that is over and has no nodes gets neither nodes nor
events. Locks only keep two who prune apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, delete, func, or_, select

from converge.model import Action, TraversalStatus
from converge.sql.batch import among
from converge.sql.schema import event, resource, stack, sync_point, template, traversal
from converge.sql.transaction import Transaction

#: What a stack has, in the order in which it is deleted: what refers to another goes first.
OF_STACKS = (event, template, traversal)


def list_stacks(tx: Transaction, after: int, limit: int) -> list[int]:
    """Stacks, live and deleted, by id; those with a higher one."""
    query = select(stack.c.id).where(stack.c.id > after).order_by(stack.c.id)
    return list(tx.execute(query.limit(limit)).scalars())


# -- deleted stacks


def list_deleted(tx: Transaction, ids: Sequence[int], age: float) -> list[int]:
    """Those of these stacks that were deleted so many seconds ago. One that still has resources,
    or nodes that somebody works on, is left out."""
    busy = select(traversal.c.id).where(
        traversal.c.stack_id == stack.c.id,
        or_(traversal.c.status == TraversalStatus.RUNNING, _has_nodes()),
    )
    has = select(resource.c.id).where(resource.c.stack_id == stack.c.id)
    query = select(stack.c.id).where(
        among(tx, stack.c.id, ids),
        stack.c.live.is_(None),
        stack.c.updated_at <= tx.now - age,
        ~has.exists(),
        ~busy.exists(),
    )
    return list(tx.execute(query.order_by(stack.c.id)).scalars())


def lock_deleted(tx: Transaction, ids: Sequence[int]) -> list[int]:
    """Lock deleted stacks until the transaction ends; those that others have locked are passed
    over."""
    query = select(stack.c.id).where(among(tx, stack.c.id, ids), stack.c.live.is_(None))
    locked = query.order_by(stack.c.id).with_for_update(skip_locked=True)
    return list(tx.execute(locked).scalars())


def count_rows(tx: Transaction, table: Table, stack_ids: Sequence[int]) -> int:
    """How many rows of a table are of these stacks."""
    if not stack_ids:
        return 0
    query = select(func.count()).where(among(tx, table.c.stack_id, stack_ids))
    return int(tx.execute(query).scalar_one())


def delete_rows(tx: Transaction, table: Table, stack_ids: Sequence[int], limit: int) -> int:
    """Delete rows of a table that are of stacks, and return how many there were."""
    if not stack_ids:
        return 0
    # in no order, for which all of them would be read each time
    query = select(table.c.id).where(among(tx, table.c.stack_id, stack_ids)).limit(limit)
    ids = list(tx.execute(query).scalars())
    return int(tx.execute(delete(table).where(among(tx, table.c.id, ids))).rowcount) if ids else 0


def delete_stacks(tx: Transaction, ids: Sequence[int]) -> int:
    """Delete the rows of stacks themselves, and return how many there were."""
    return int(tx.execute(delete(stack).where(among(tx, stack.c.id, ids))).rowcount) if ids else 0


# -- ended traversals


def list_ended(
    tx: Transaction, stack_ids: Sequence[int], age: float, keep: int, limit: int | None = None
) -> list[tuple[int, int]]:
    """Stack and id of the traversals of live stacks that ended so many seconds ago.

    The current one of each stack is left out, and the last one that was no check, which says what
    the stack is doing; so are those with nodes that somebody works on.

    :param keep: how many that are over are left out for each stack, from the newest on.
    """
    number = func.row_number().over(
        partition_by=traversal.c.stack_id, order_by=traversal.c.id.desc()
    )
    over = (
        select(traversal.c.id, number.label("number"))
        .where(
            among(tx, traversal.c.stack_id, stack_ids),
            traversal.c.status != TraversalStatus.RUNNING,
        )
        .subquery("ended")
    )
    last = (
        select(func.max(traversal.c.id).label("id"))
        .where(among(tx, traversal.c.stack_id, stack_ids), traversal.c.action != Action.CHECK)
        .group_by(traversal.c.stack_id)
        .subquery("last")
    )
    query = (
        select(traversal.c.stack_id, traversal.c.id)
        .select_from(over)
        .join(traversal, traversal.c.id == over.c.id)
        .join(stack, stack.c.id == traversal.c.stack_id)
        .outerjoin(last, last.c.id == traversal.c.id)
        .where(
            over.c.number > keep,
            stack.c.live == 1,
            traversal.c.ended_at <= tx.now - age,
            traversal.c.id != func.coalesce(stack.c.traversal_id, 0),
            last.c.id.is_(None),
            ~_has_nodes(),
        )
        .order_by(traversal.c.stack_id, traversal.c.id)
    )
    return [(row.stack_id, row.id) for row in tx.execute(query.limit(limit))]


def count_events(tx: Transaction, stack_id: int, traversal_ids: Sequence[int]) -> int:
    """How many events some traversals of a stack have."""
    query = select(func.count()).where(
        event.c.stack_id == stack_id, among(tx, event.c.traversal_id, traversal_ids)
    )
    return int(tx.execute(query).scalar_one())


def list_events(
    tx: Transaction, stack_id: int, traversal_ids: Sequence[int], after: int, limit: int
) -> list[int]:
    """The events of some traversals of a stack, by id; those with a higher one."""
    query = select(event.c.id).where(
        event.c.stack_id == stack_id,
        event.c.id > after,
        among(tx, event.c.traversal_id, traversal_ids),
    )
    return list(tx.execute(query.order_by(event.c.id).limit(limit)).scalars())


def lock_ended(tx: Transaction, ids: Sequence[int]) -> bool:
    """Lock traversals that are over until the transaction ends. False: others have locked or
    deleted some of them."""
    query = select(traversal.c.id).where(
        among(tx, traversal.c.id, ids), traversal.c.status != TraversalStatus.RUNNING
    )
    locked = query.order_by(traversal.c.id).with_for_update(skip_locked=True)
    return len(tx.execute(locked).scalars().all()) == len(ids)


def delete_events(tx: Transaction, ids: Sequence[int]) -> int:
    """Delete events, and return how many there were."""
    return int(tx.execute(delete(event).where(among(tx, event.c.id, ids))).rowcount)


def delete_traversals(tx: Transaction, ids: Sequence[int]) -> int:
    """Delete the summaries of traversals, and return how many there were."""
    return int(tx.execute(delete(traversal).where(among(tx, traversal.c.id, ids))).rowcount)


# -- versions


def list_crowded(tx: Transaction, stack_ids: Sequence[int], age: float) -> list[int]:
    """The live stacks that may have a version that nothing refers to: one that never completed,
    and that is neither wanted nor was it wanted before."""
    query = (
        select(template.c.stack_id)
        .join(stack, stack.c.id == template.c.stack_id)
        .where(
            among(tx, template.c.stack_id, stack_ids),
            stack.c.live == 1,
            template.c.completed_at.is_(None),
            template.c.created_at <= tx.now - age,
            template.c.id != func.coalesce(stack.c.template_id, 0),
            template.c.id != func.coalesce(stack.c.previous_template_id, 0),
        )
    )
    return sorted(tx.execute(query.distinct()).scalars())


def lock_live(tx: Transaction, stack_id: int) -> bool:
    """Lock a live stack until the transaction ends. False: it is deleted, or others have locked
    it."""
    query = select(stack.c.id).where(stack.c.id == stack_id, stack.c.live == 1)
    return tx.execute(query.with_for_update(skip_locked=True)).first() is not None


def list_used(tx: Transaction, stack_id: int) -> list[int | None]:
    """The versions that a stack, and those of its traversals that somebody works on, refer to."""
    row = select(stack.c.template_id, stack.c.previous_template_id, stack.c.completed_template_id)
    own: Any = tx.execute(row.where(stack.c.id == stack_id)).one()
    query = select(traversal.c.template_id, traversal.c.from_template_id).where(
        traversal.c.stack_id == stack_id,
        or_(traversal.c.status == TraversalStatus.RUNNING, _has_nodes()),
    )
    return [*own, *(one for found in tx.execute(query) for one in found)]


def _has_nodes() -> ColumnElement[bool]:
    # not EXISTS, for which MariaDB would read the nodes of all traversals, and sort them
    node = select(sync_point.c.node).where(sync_point.c.traversal_id == traversal.c.id).limit(1)
    return node.scalar_subquery().is_not(None)
