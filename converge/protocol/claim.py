"""Claiming: an engine takes READY nodes, each with the lock on its resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converge.model import SUSPECT_DEATHS, Action, Kind, Status, make_mark
from converge.protocol.decide import Decision, Operation, Work, decide, input_secrets
from converge.resources.resource_type import ResourceType
from converge.sql import node_moves, resources, sync_points, traversals
from converge.sql.resources import ResourceRow
from converge.sql.sync_points import SyncPointRow
from converge.sql.transaction import Transaction
from converge.sql.traversals import TraversalRow

#: Operations for which the lock on the resource is taken.
_LOCKING = frozenset(
    {
        Operation.CREATE,
        Operation.UPDATE,
        Operation.REPLACE,
        Operation.DELETE,
        Operation.CHECK,
        Operation.DROP,
    }
)

_STATES = {
    Operation.CREATE: (Action.CREATE, Status.IN_PROGRESS),
    Operation.UPDATE: (Action.UPDATE, Status.IN_PROGRESS),
    Operation.DELETE: (Action.DELETE, Status.IN_PROGRESS),
    Operation.DROP: (Action.DELETE, Status.IN_PROGRESS),
}


def claim(
    tx: Transaction,
    engine_id: int,
    limit: int,
    types: Mapping[str, ResourceType],
    known: dict[int, TraversalRow],
    *,
    suspect: bool = True,
    mark: int | None = None,
) -> list[Work]:
    """Claim up to ``limit`` nodes in the order in which they became ready.

    A node whose resource an older traversal still has locked becomes BLOCKED; it is READY again
    when that lock is released. A node on which several engines died is a suspect, and at most one
    is claimed at a time: otherwise nodes held beside it would be suspected, too.

    :param types: the resource types of this engine.
    :param known: traversals read before, by id; new ones are added. Their intent never changes.
    :param suspect: whether a suspect may be claimed.
    :param mark: the mark of the engine's registration.
    """
    free, rows = _lock_free(tx, engine_id, limit, suspect=suspect, mark=mark)
    if not free:
        return []
    # a node has its traversal's mark until its first claim; later, the traversal is read again
    unknown = {
        node.traversal_id
        for node in free
        if (seen := known.get(node.traversal_id)) is None or seen.mark != node.mark
    }
    if unknown:
        known.update(traversals.get_traversals(tx, unknown))
    claim_mark = make_mark()
    node_moves.start_nodes(tx, engine_id, [node.key for node in free], claim_mark)
    found = resources.list_inputs(
        tx,
        (
            (node.traversal_id, required)
            for node in free
            if not node.tainted
            for required in node.requires
        ),
    )
    works = []
    locks = []
    for node in free:
        node.epoch += 1
        node.attempts += 1
        node.mark = claim_mark
        row = rows.get(node.resource_id) if node.resource_id is not None else None
        inputs = [
            found[node.traversal_id, required]
            for required in node.requires
            if (node.traversal_id, required) in found
        ]
        decision = decide(
            known[node.traversal_id], node, row, {one.name: one for one in inputs}, types
        )
        work = Work(
            traversal=known[node.traversal_id],
            node=node,
            row=row,
            decision=decision,
            requires=sorted(one.id for one in inputs),
            inputs=[(one.id, one.epoch) for one in inputs],
            secrets=[value for one in inputs for value in input_secrets(one)],
            locked=_needs_lock(node, row, decision),
        )
        if work.locked:
            locks.append(_lock(work))
        works.append(work)
    resources.take_locks(tx, engine_id, locks, claim_mark)
    return works


def is_suspect(node: SyncPointRow) -> bool:
    """Whether a node may be what kills engines."""
    return node.deaths >= SUSPECT_DEATHS


def _lock_ready(
    tx: Transaction, engine_id: int, limit: int, *, suspect: bool, mark: int | None
) -> list[SyncPointRow]:
    """Lock READY nodes, at most one of them a suspect."""
    nodes = sync_points.lock_ready(tx, engine_id, limit, mark=mark)
    suspects = [node for node in nodes if is_suspect(node)]
    put_off = {node.key for node in suspects[1 if suspect else 0 :]}
    left = [node for node in nodes if node.key not in put_off]
    if put_off and len(left) < limit:
        # fill up with others: suspects that are put off must not take their places
        seen = {node.key for node in left}
        others = sync_points.lock_ready(tx, engine_id, limit, SUSPECT_DEATHS - 1, mark)
        left += [node for node in others if node.key not in seen][: limit - len(left)]
    return left


def _lock_free(
    tx: Transaction, engine_id: int, limit: int, *, suspect: bool, mark: int | None
) -> tuple[list[SyncPointRow], dict[int, ResourceRow]]:
    """Lock the oldest READY nodes whose resources are free, and those resources.

    Nodes whose resource is locked become BLOCKED, and younger nodes take their places.
    """
    while True:
        nodes = _lock_ready(tx, engine_id, limit, suspect=suspect, mark=mark)
        rows = resources.lock_resources(
            tx, (node.resource_id for node in nodes if node.resource_id is not None)
        )
        free: list[SyncPointRow] = []
        held: dict[int, list[SyncPointRow]] = {}
        taken: set[int] = set()
        for node in nodes:
            row = rows.get(node.resource_id) if node.resource_id is not None else None
            if row is None or node.tainted:
                free.append(node)
            elif row.engine_id is not None:
                held.setdefault(row.id, []).append(node)
            elif row.id not in taken:
                taken.add(row.id)
                free.append(node)
        node_moves.block_nodes(tx, [node.key for blocked in held.values() for node in blocked])
        resources.set_blocking(tx, sorted(held))
        if free or not held:
            return free, rows


def _needs_lock(node: SyncPointRow, row: ResourceRow | None, decision: Decision) -> bool:
    if row is None:
        return False
    # an update that finds nothing to change still writes the resource's requires and template
    return decision.operation in _LOCKING or (
        node.kind is Kind.UPDATE and decision.operation in (Operation.NOTHING, Operation.FAIL)
    )


def _lock(work: Work) -> dict[str, Any]:
    """The new columns of a work's resource. In the work, only epoch and mark of the row change."""
    row = work.row
    assert row is not None
    action, status = _STATES.get(work.decision.operation, (row.action, row.status))
    if work.decision.wanted is not None:
        action = Action.REPLACE
    requires = row.requires
    type_ = row.type
    if work.decision.operation in (Operation.CREATE, Operation.UPDATE):
        # old and new: until the work is done, it may depend on both
        requires = sorted({*row.requires, *work.requires})
        type_ = work.wanted_type
    lock = {
        "id": row.id,
        "epoch": row.epoch,
        "action": action,
        "status": status,
        "type": type_,
    }
    if requires != row.requires:
        lock["requires"] = requires
    row.epoch += 1
    row.mark = work.node.mark
    return lock
