"""Arriving: ended nodes are taken off the counts of their successors.

A node for which nothing is to be done (see :mod:`converge.protocol.basis`) is passed over when the
last of what it waits for arrives, and arrives at its own successors in the same transaction. So an
update of a large stack in which little changes goes through most of its nodes many at a time,
without a claim. What is too much for one transaction becomes READY, and whoever finds it there
passes over it instead of claiming it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from converge.model import Kind, NodeState
from converge.protocol.work import Outcome, Result
from converge.sql import claimable, node_moves, resources, sync_points, traversals
from converge.sql.sync_points import Key, LockedNode, SyncPointRow
from converge.sql.transaction import Transaction

#: So many nodes at most are passed over in one transaction, so that it is short; and so many while
#: the engine works for several stacks.
PASSED = 10_000
PASSED_BESIDE = 64


class Arrival(NamedTuple):
    """A node that ended, and how."""

    outcome: Outcome
    node: LockedNode

    @property
    def taints(self) -> bool:
        """Whether its successors are not to be done: it failed, or was not done itself."""
        return self.outcome.result is not Result.DONE or self.node.tainted

    def settles(self, successor: LockedNode) -> bool:
        """Whether nothing has changed in what a successor looks at. What its work locked has a new
        epoch; a cleanup looks only whether its own version was replaced."""
        is_blind = successor.kind is Kind.CLEANUP or not self.outcome.work.locked
        return not self.taints and is_blind


def arrive(tx: Transaction, arrivals: Sequence[Arrival], most: int = PASSED) -> list[LockedNode]:
    """Take ended nodes off their successors' counts, and pass over those for which nothing is to
    be done.

    The successors are locked in key order, after all else. Those of nodes that are passed over are
    not waited for: a node whose successors another transaction has locked becomes READY instead.

    :param most: so many are passed over at most.
    :returns: the nodes that were passed over.
    """
    # those of nodes that ran when their traversal was halted have changed since they were claimed
    nodes = [end.node for end in arrivals]
    counts = Counter((node.traversal_id, one) for node in nodes for one in node.successors)
    rows = sync_points.lock_nodes(tx, counts)
    settled: Counter[Key] = Counter()
    tainted: set[Key] = set()
    # what needs no resource type, an engine that is there can do: this one
    lanes: dict[Key, int] = {}
    for end in arrivals:
        node, taints = end.node, end.taints
        for successor in node.successors:
            key = (node.traversal_id, successor)
            row = rows[key]
            if taints and not row.tainted:
                tainted.add(key)
            if row.unsettled is not None and end.settles(row):
                settled[key] += 1
            if (taints or row.tainted) and not row.always:
                lanes[key] = node.lane
    node_moves.taint(tx, sorted(tainted))
    passed = _pass_over(tx, counts, settled, rows, most)
    served = {node.traversal_id: node.lane for node in nodes}
    lanes |= {key: served[key[0]] for key in counts if rows[key].kind is Kind.STACK}
    _write(tx, passed, counts, settled, rows, lanes)
    return passed


def pass_ready(
    tx: Transaction, engine_id: int, nodes: Sequence[SyncPointRow], most: int = PASSED
) -> tuple[set[Key], set[Key]]:
    """Pass over those of some READY nodes for which nothing is to be done. If they are many, there
    may be more of them in their traversal, and these are passed over, too.

    Nothing is waited for: a node whose successors another transaction has locked stays READY.

    :param nodes: READY nodes that the transaction has locked.
    :param most: so many are passed over at most.
    :returns: the nodes that were passed over; and those of the given ones that are left for the
        next time, as they are too many.
    """
    found = [node for node in nodes if node.is_settled and not node.tainted]
    if not found:
        return set(), set()
    keys = {node.key for node in found}
    if 2 * len(found) > len(nodes) and len(found) < most:
        keys |= claimable.find_settled(tx, found[-1].traversal_id, found[-1].lane, most)
    tried = sorted(keys)[:most]
    locked = sync_points.lock_nodes(tx, tried, skip_locked=True)
    # others may have taken some of them meanwhile
    rows = {key: row for key, row in locked.items() if row.state is NodeState.READY}
    counts: Counter[Key] = Counter()
    settled = Counter(dict.fromkeys(rows, 0))
    passed = _pass_over(tx, counts, settled, rows, most)
    served = {node.traversal_id: node.lane for node in found}
    lanes = {key: served[key[0]] for key in counts if rows[key].kind is Kind.STACK}
    _write(tx, passed, counts, settled, rows, lanes)
    for traversal_id, count in sorted(Counter(node.traversal_id for node in passed).items()):
        traversals.add_progress(tx, traversal_id, engine_id, count, 0, 0)
    return {node.key for node in passed}, {node.key for node in found}.difference(tried)


def _write(
    tx: Transaction,
    passed: Sequence[LockedNode],
    counts: Counter[Key],
    settled: Counter[Key],
    rows: dict[Key, LockedNode],
    lanes: dict[Key, int],
) -> None:
    over = {node.key for node in passed}
    for state in (NodeState.WAITING, NodeState.READY):
        node_moves.pass_nodes(tx, state, [node.key for node in passed if node.state is state])
    left = {key: count for key, count in counts.items() if key not in over}
    node_moves.arrive(tx, left, rows, lanes, settled)


def _pass_over(
    tx: Transaction,
    counts: Counter[Key],
    settled: Counter[Key],
    rows: dict[Key, LockedNode],
    most: int,
) -> list[LockedNode]:
    """Find which nodes can be passed over.

    :param counts: how many predecessors of each node arrive; those that are passed over are added.
    :param settled: how many of these have not changed; likewise.
    :param rows: these nodes, locked; more are added.
    """

    def find(keys: Iterable[Key]) -> Sequence[LockedNode]:
        """Those that nothing is to be done for, with the first that arrive."""
        return _leave_replaced(
            tx,
            [
                row
                for key in sorted(keys)
                if (row := rows[key]).pending == counts[key]
                and row.unsettled == settled[key]
                and not row.tainted
            ],
        )

    passed: list[LockedNode] = []
    found: Sequence[LockedNode] = find(settled)
    while found and len(passed) < most:
        found = found[: most - len(passed)]
        after = {row.key: [(row.traversal_id, one) for one in row.successors] for row in found}
        wanted = {key for keys in after.values() for key in keys}
        rows |= sync_points.lock_nodes(tx, wanted - rows.keys(), skip_locked=True)
        reached: set[Key] = set()
        for row in found:
            if all(key in rows for key in after[row.key]):
                passed.append(row)
                counts.update(after[row.key])
                settled.update(key for key in after[row.key] if rows[key].unsettled is not None)
                reached.update(after[row.key])
        found = find(reached)
    return passed


def _leave_replaced(tx: Transaction, nodes: Sequence[LockedNode]) -> Sequence[LockedNode]:
    """These nodes but the cleanups of versions that were replaced. The updates before a cleanup are
    over, so it does not change any more which these are."""
    ids = [node.resource_id for node in nodes if node.kind is Kind.CLEANUP]
    replaced = resources.find_replaced(tx, [id_ for id_ in ids if id_ is not None])
    if not replaced:
        return nodes
    return [
        node for node in nodes if node.kind is not Kind.CLEANUP or node.resource_id not in replaced
    ]
