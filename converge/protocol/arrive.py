"""Arriving: ended nodes are taken off the counts of their successors.

A node for which nothing is to be done (see :mod:`converge.protocol.basis`) is passed over when the
last of what it waits for arrives, and arrives at its own successors in the same transaction. So an
update of a large stack in which little changes goes through most of its nodes many at a time,
without a claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from converge.model import Kind
from converge.protocol.decide import Outcome, Result
from converge.sql import node_moves, sync_points
from converge.sql.sync_points import Key, LockedNode
from converge.sql.transaction import Transaction

#: So many nodes at most are passed over in one transaction, so that it is short. What is left
#: is READY, and goes on from its claim.
PASSED = 5_000


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
        epoch; but to delete one version changes nothing for what is left of another."""
        both = self.node.kind is Kind.CLEANUP and successor.kind is Kind.CLEANUP
        return not self.taints and (both or not self.outcome.work.locked)


def arrive(tx: Transaction, arrivals: Sequence[Arrival]) -> list[LockedNode]:
    """Take ended nodes off their successors' counts, and pass over those for which nothing is to
    be done.

    The successors are locked in key order, after all else. Those of nodes that are passed over are
    not waited for: a node whose successors another transaction has locked becomes READY instead.

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
    passed = _pass_over(tx, counts, settled, rows)
    served = {node.traversal_id: node.lane for node in nodes}
    lanes |= {key: served[key[0]] for key in counts if rows[key].kind is Kind.STACK}
    node_moves.pass_nodes(tx, passed)
    over = {node.key for node in passed}
    left = {key: count for key, count in counts.items() if key not in over}
    node_moves.arrive(tx, left, rows, lanes, settled)
    return passed


def _pass_over(
    tx: Transaction, counts: Counter[Key], settled: Counter[Key], rows: dict[Key, LockedNode]
) -> list[LockedNode]:
    """Find which nodes can be passed over.

    :param counts: how many predecessors of each node arrive; those that are passed over are added.
    :param settled: how many of these have not changed; likewise.
    :param rows: these nodes, locked; more are added.
    """

    def find(keys: Iterable[Key]) -> list[LockedNode]:
        """Those that nothing is to be done for, with the first that arrive."""
        return [
            row
            for key in sorted(keys)
            if (row := rows[key]).pending == counts[key]
            and row.unsettled == settled[key]
            and not row.tainted
        ]

    passed: list[LockedNode] = []
    found = find(settled)
    while found and len(passed) < PASSED:
        found = found[: PASSED - len(passed)]
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
