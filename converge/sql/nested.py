"""Stacks that belong to resources of other stacks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Select, func, literal_column, or_, select, update

from converge import formats
from converge.model import NodeState, Status, TraversalStatus
from converge.sql import stacks
from converge.sql.batch import among
from converge.sql.schema import resource, stack, sync_point, traversal
from converge.sql.stacks import StackRow
from converge.sql.sync_points import Key, is_in
from converge.sql.transaction import Transaction
from converge.wait import FOREVER, FOREVER_INNER


class Outer(NamedTuple):
    """What a stack belongs to.

    :ivar resource: the name of the resource.
    :ivar stack: the name of its stack.
    """

    stack_id: int
    stack: str
    resource_id: int
    resource: str


def find_inner(tx: Transaction, resource_id: int) -> StackRow | None:
    """The live stack of a resource."""
    query = select(stack.c.id).where(stack.c.outer_resource_id == resource_id, stack.c.live == 1)
    found = tx.execute(query.order_by(stack.c.id.desc()).limit(1)).scalar_one_or_none()
    return None if found is None else stacks.get_stack_by_id(tx, found)


def find_outer(tx: Transaction, row: StackRow) -> Outer | None:
    """What a stack belongs to; None if it is one of its own."""
    if row.outer_resource_id is None:
        return None
    query = (
        select(stack.c.id, stack.c.name, resource.c.id, resource.c.name)
        .join_from(resource, stack, stack.c.id == resource.c.stack_id)
        .where(resource.c.id == row.outer_resource_id)
    )
    found: Any = tx.execute(query).one_or_none()
    return None if found is None else Outer(*found)


def get_inner_names(tx: Transaction, resource_ids: Collection[int]) -> dict[int, str]:
    """The names of the live stacks of these resources, by the resource's id."""
    if not resource_ids:
        return {}
    mine = among(tx, stack.c.outer_resource_id, resource_ids), stack.c.live == 1
    query = select(stack.c.outer_resource_id, stack.c.name).where(*mine).order_by(stack.c.id)
    return {row.outer_resource_id: row.name for row in tx.execute(query)}


def release_inner(tx: Transaction, resource_ids: Collection[int]) -> list[int]:
    """Make the live stacks of these resources stacks of their own.

    :returns: their ids.
    """
    mine = among(tx, stack.c.outer_resource_id, resource_ids), stack.c.live == 1
    found = list(tx.execute(select(stack.c.id).where(*mine).order_by(stack.c.id)).scalars())
    if found:
        freed = update(stack).where(among(tx, stack.c.id, found), stack.c.live == 1)
        tx.execute(freed.values(outer_resource_id=None))
    return found


def lock_waiting(tx: Transaction, resource_id: int) -> Key | None:
    """Lock a resource that a stack belongs to.

    :returns: the node whose handler waits for that stack, or once waited; None if there is none.
    """
    query = select(resource.c.waiting_traversal, resource.c.waiting_node).where(
        resource.c.id == resource_id
    )
    found: Any = tx.execute(query.with_for_update()).one_or_none()
    return None if found is None or None in found else (found[0], found[1])


def list_over(tx: Transaction, stack_ids: Iterable[int]) -> set[int]:
    """Those of these stacks of which nothing is in progress, and those that are gone."""
    wanted = set(stack_ids)
    query = select(stack.c.id).where(
        among(tx, stack.c.id, wanted), stack.c.status == Status.IN_PROGRESS
    )
    return wanted - set(tx.execute(query).scalars())


def list_left_running(tx: Transaction, limit: int, outer: int | None = None) -> list[int]:
    """The ids of stacks in progress that belong to a stack of which nothing is in progress, or
    nothing new may start.

    :param outer: the id of that stack; None: of any.
    """
    query = _left_running()
    if outer is not None:
        query = query.where(resource.c.stack_id == outer)
    return list(tx.execute(query.limit(limit)).scalars())


def _left_running() -> Select[Any]:
    # by what runs: the plain column would lead through all that belong to others
    outer_resource_id = func.coalesce(stack.c.outer_resource_id, 0)
    other = stack.alias("outer_stack")
    of_other = traversal.alias("outer_traversal")
    return (
        select(stack.c.id)
        .join_from(traversal, stack, stack.c.id == traversal.c.stack_id)
        .join(resource, resource.c.id == outer_resource_id)
        .join(other, other.c.id == resource.c.stack_id)
        .outerjoin(of_other, of_other.c.id == other.c.traversal_id)
        .where(
            # as a literal: of any status, PostgreSQL thinks that half of the traversals have it
            traversal.c.status == literal_column(f"'{TraversalStatus.RUNNING}'"),
            traversal.c.halted.is_(None),
            stack.c.traversal_id == traversal.c.id,
            stack.c.format <= formats.KNOWN,
            or_(other.c.status != Status.IN_PROGRESS, of_other.c.halted.is_not(None)),
        )
    )


def is_left_running(tx: Transaction, stack_id: int) -> bool:
    """Whether :func:`list_left_running` has a stack that is locked."""
    return tx.execute(_left_running().where(stack.c.id == stack_id)).first() is not None


def list_unwoken(tx: Transaction, limit: int) -> list[Key]:
    """Nodes whose handlers wait for a stack of which nothing is in progress."""
    # counted: of an EXISTS, MariaDB makes a list of all stacks in progress
    running = select(func.count()).where(
        stack.c.outer_resource_id == sync_point.c.resource_id,
        stack.c.status == Status.IN_PROGRESS,
    )
    query = select(sync_point.c.traversal_id, sync_point.c.node).where(
        is_in(NodeState.READY),
        # no other handler waits for as long
        sync_point.c.due_at > tx.now + (FOREVER + FOREVER_INNER) / 2,
        sync_point.c.due_at <= tx.now + FOREVER_INNER,
        sync_point.c.waiting_since.is_not(None),
        running.scalar_subquery() == 0,
    )
    return [(row.traversal_id, row.node) for row in tx.execute(query.limit(limit))]
