"""What a node waits for, found from the node on: of a traversal with a million nodes, only some
are read.

A row has its node's successors, and an update's also those before it (``requires``). For people.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from sqlalchemy import Select, select

from converge.model import Kind, NodeState
from converge.sql.batch import among
from converge.sql.schema import resource as resource_table
from converge.sql.schema import sync_point
from converge.sql.sync_points import LIVE, is_in
from converge.sql.transaction import Transaction

#: Nodes that are read at most, one after the other.
SCANNED = 10_000
#: Steps back at most, from so many nodes at once, where there are more to be read.
STEPS = 100
_WIDTH = 8
#: After how many that wait for nothing no more are looked for.
_ENDS = 32
#: Nodes that are looked at in each step of a search.
_PROBES = 32


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A node that another node waits for.

    :ivar direct: whether the other node waits for it directly, not through nodes in between.
    """

    node: int
    kind: Kind
    state: NodeState
    resource: str | None
    direct: bool


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What a node waits for.

    :ivar found: predecessors that are outstanding: direct ones; and of those before them, ones
        that wait for nothing themselves; by number.
    :ivar more: how many more it directly waits for, which were not found.
    """

    found: list[Predecessor]
    more: int


def list_outstanding(tx: Transaction, traversal_id: int, node: int) -> Outstanding:
    """What a node waits for directly, and what that waits for in the end.

    In a large traversal not everything is found: the ends are looked for where the work began,
    and of what a cleanup waits for only what is near.
    """
    mine: Any = tx.execute(
        select(sync_point.c.kind, sync_point.c.pending, sync_point.c.requires).where(
            sync_point.c.traversal_id == traversal_id, sync_point.c.node == node
        )
    ).one()
    if node <= SCANNED or mine.kind != Kind.UPDATE:
        found = _scan(tx, traversal_id, node)
    else:
        found = _walk(tx, traversal_id, mine.requires)
    found.sort(key=lambda one: one.node)
    return Outstanding(found, mine.pending - sum(one.direct for one in found))


def _live(traversal_id: int) -> Select[Any]:
    return (
        select(
            sync_point.c.node,
            sync_point.c.kind,
            sync_point.c.state,
            sync_point.c.requires,
            sync_point.c.successors,
            resource_table.c.name,
        )
        .outerjoin_from(sync_point, resource_table, resource_table.c.id == sync_point.c.resource_id)
        .where(sync_point.c.traversal_id == traversal_id, is_in(*LIVE))
    )


def _predecessor(row: Any, direct: bool) -> Predecessor:
    return Predecessor(row.node, Kind(row.kind), NodeState(row.state), row.name, direct)


def _scan(tx: Transaction, traversal_id: int, node: int) -> list[Predecessor]:
    """Read the live nodes before a node, from the last one on."""
    query = _live(traversal_id).where(sync_point.c.node < node)
    # successors have higher numbers, so each is read before what it waits for
    behind = {node}
    found = []
    for row in tx.execute(query.order_by(sync_point.c.node.desc()).limit(SCANNED)):
        if behind.isdisjoint(row.successors):
            continue
        behind.add(row.node)
        direct = node in row.successors
        if direct or row.state != NodeState.WAITING:
            found.append(_predecessor(row, direct))
    return found


def _walk(tx: Transaction, traversal_id: int, requires: Collection[int]) -> list[Predecessor]:
    """Go back from an update, to the lowest numbers first: there the work began."""
    seen = set(requires)
    found = []
    waiting: list[tuple[int, list[int]]] = []
    following: Iterable[int] = requires
    for step in range(STEPS):
        query = _live(traversal_id).where(among(tx, sync_point.c.node, following))
        for row in tx.execute(query):
            if row.state == NodeState.WAITING:
                heappush(waiting, (row.node, row.requires))
            if step == 0 or row.state != NodeState.WAITING:
                found.append(_predecessor(row, step == 0))
        taken = [heappop(waiting)[1] for _ in range(min(_WIDTH, len(waiting)))]
        following = {number for numbers in taken for number in numbers} - seen
        seen |= following
        if not taken or len(found) - len(requires) > _ENDS:
            break
    return found


def list_nodes_of(
    tx: Transaction, traversal_id: int, resource_ids: Collection[int], count: int, *, first: bool
) -> list[int]:
    """The numbers of the nodes of some resources; where one is an update that is not over, perhaps
    only that.

    :param count: of nodes in the traversal.
    :param first: whether it is the first of its stack, in which there are only updates.
    """
    searched = (_search(tx, traversal_id, id_, count, first) for id_ in resource_ids)
    found = [number for number in searched if number is not None]
    if found:
        return found
    query = select(sync_point.c.node).where(
        sync_point.c.traversal_id == traversal_id, among(tx, sync_point.c.resource_id, resource_ids)
    )
    return list(tx.execute(query.order_by(sync_point.c.node)).scalars())


def _search(
    tx: Transaction, traversal_id: int, resource_id: int, count: int, first: bool
) -> int | None:
    """The update of a resource, if the updates come first, in the order of their resources' ids:
    that of a first start, and mostly that of those after it. An index that finds each node would
    have to be written at each of its moves."""
    start, end = 0, count
    while start < end:
        step = max(1, (end - start) // _PROBES)
        query = select(sync_point.c.node, sync_point.c.resource_id, sync_point.c.state).where(
            sync_point.c.traversal_id == traversal_id,
            among(tx, sync_point.c.node, range(start, end, step)),
            sync_point.c.kind == Kind.UPDATE,
        )
        last = -1
        rows: Any = tx.execute(query.order_by(sync_point.c.node))
        for number, id_, state in rows:
            if id_ == resource_id:
                return int(number) if first or state in LIVE else None
            if id_ > resource_id:
                break
            last = number
        if last < 0 or step == 1:
            return None
        start, end = last + 1, min(end, last + step)
    return None
