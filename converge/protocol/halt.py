"""Halting a traversal: nothing new starts, and what runs continues to its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from converge.model import Action, Kind, NodeState, OnFailure, TraversalStatus
from converge.protocol.complete import complete, is_mine
from converge.protocol.finish import end_traversal
from converge.protocol.work import Outcome, Result
from converge.sql import limits, node_moves, stacks, sync_points, traversals
from converge.sql.sync_points import LockedNode
from converge.sql.transaction import Transaction
from converge.sql.traversals import TraversalRow
from converge.sql.types import fit_text


def halts(outcome: Outcome) -> bool:
    """Whether an outcome halts its traversal, and is written by :func:`complete_failure`."""
    return (
        outcome.result is Result.FAILED
        and outcome.work.traversal.on_failure is not OnFailure.CONTINUE
        and outcome.work.traversal.action is not Action.CHECK
    )


def complete_failure(tx: Transaction, engine_id: int, outcome: Outcome) -> list[Outcome]:
    """Write a failure and halt its traversal.

    :returns: the stale outcomes, as :func:`~converge.protocol.complete.complete` does.
    """
    work = outcome.work
    stack = stacks.lock_stack_by_id(tx, work.traversal.stack_id)
    if stack.traversal_id == work.traversal.id:
        nodes = sync_points.lock_traversal_nodes(tx, work.traversal.id, sync_points.LIVE)
        own = next((node for node in nodes if node.node == work.node.node), None)
        if own is not None and is_mine(own, work, engine_id):
            reason = failure_reason(outcome)
            halt_locked(tx, work.traversal, nodes, TraversalStatus.FAILED, reason, whole=False)
    return complete(tx, engine_id, [outcome])


def failure_reason(outcome: Outcome) -> str:
    """Why a traversal failed: the resource that failed first."""
    name = outcome.work.row.name if outcome.work.row is not None else "stack"
    return fit_text(f"resource {name!r}: {outcome.reason}")


def halt_locked(
    tx: Transaction,
    traversal: TraversalRow,
    nodes: Sequence[LockedNode],
    outcome: TraversalStatus,
    reason: str,
    *,
    whole: bool = True,
) -> bool:
    """Skip all nodes that do not run; the stack's node then waits only for those that do.

    :param nodes: the live nodes of the traversal, locked; so is the stack's row.
    :param outcome: the status with which the traversal will end.
    :param reason: why it is halted.
    :param whole: skip also what would run after a failure. Otherwise that still comes, after what
        runs now and would have come before it.
    :returns: whether it was halted; false if it was halted before, or has ended.
    """
    stack_node = next(node for node in nodes if node.kind is Kind.STACK)
    others = [node for node in nodes if node.kind is not Kind.STACK]
    always = [] if whole else [node for node in others if node.always]
    if not traversals.halt_traversal(
        tx, traversal.id, outcome, reason, goes_on=bool(always), again=whole
    ):
        return False
    running = [node for node in others if node.state is NodeState.RUNNING]
    coming = [node for node in always if node.state is not NodeState.RUNNING]
    keys = {node.key for node in coming}
    idle = [
        node.key for node in others if node.state is not NodeState.RUNNING and node.key not in keys
    ]
    node_moves.skip_nodes(tx, idle)
    limits.free_idle(tx, traversal.id)
    if whole:
        node_moves.forget_always(tx, [node.key for node in running if node.always])
    left = sorted([*running, *coming], key=lambda node: node.key)
    order = Shortened(nodes, left, coming, stack_node)
    for successors, led in order.groups():
        node_moves.lead(tx, [node.key for node in led], successors)
    node_moves.wait_for(tx, stack_node.key, order.pending(stack_node))
    waiting = {node.key: node for node in coming if node.state is NodeState.WAITING}
    counts = {key: node.pending - order.pending(node) for key, node in waiting.items()}
    node_moves.arrive(tx, counts, waiting)
    if idle:
        # as engine 0, as the caller need not be an engine
        traversals.add_progress(tx, traversal.id, 0, 0, 0, len(idle))
    return True


class Shortened:
    """The order of what is left of a traversal, when all between was taken out: each node comes
    before those that came after it, and the stack's own node after all.

    :param nodes: all nodes that there were, in key order: each before its successors.
    :param left: those that are left, in key order.
    :param coming: those of them that are still to start.
    :param stack_node: the stack's own.
    """

    def __init__(
        self,
        nodes: Sequence[LockedNode],
        left: Sequence[LockedNode],
        coming: Sequence[LockedNode],
        stack_node: LockedNode,
    ) -> None:
        self._left = left
        self._coming = coming
        self._stack = stack_node
        places = {node.node: 1 << place for place, node in enumerate(coming)}
        # of each node, the bits of the coming ones that follow it with nothing left between
        self._follow: dict[int, int] = {}
        for node in reversed(nodes) if coming else ():
            bits = 0
            for successor in node.successors:
                bits |= places.get(successor) or self._follow.get(successor, 0)
            self._follow[node.node] = bits
        self._pending = Counter(
            number for node in left for number in self._successors(self._bits(node))
        )

    def pending(self, node: LockedNode) -> int:
        """How many nodes one waits for."""
        return self._pending[node.node]

    def groups(self) -> Iterator[tuple[list[int], list[LockedNode]]]:
        """The numbers of the successors, and the nodes that have them."""
        by_bits: dict[int, list[LockedNode]] = {}
        for node in self._left:
            by_bits.setdefault(self._bits(node), []).append(node)
        for bits, nodes in by_bits.items():
            yield self._successors(bits), nodes

    def _bits(self, node: LockedNode) -> int:
        return self._follow.get(node.node, 0)

    def _successors(self, bits: int) -> list[int]:
        found = []
        while bits:
            lowest = bits & -bits
            found.append(self._coming[lowest.bit_length() - 1].node)
            bits ^= lowest
        return found or [self._stack.node]


def halt(tx: Transaction, traversal_id: int, outcome: TraversalStatus, reason: str) -> bool:
    """Halt a running traversal from outside: a cancel, or its deadline. That stops also what runs
    after a failure.

    If nothing runs, the traversal ends at once.

    :param outcome: the status with which the traversal will end.
    :param reason: why it is halted.
    :returns: whether it was halted; false if it was halted before, or has ended.
    """
    traversal = traversals.get_traversal(tx, traversal_id)
    stack = stacks.lock_stack_by_id(tx, traversal.stack_id)
    if stack.traversal_id != traversal_id:
        return False
    nodes = sync_points.lock_traversal_nodes(tx, traversal_id, sync_points.LIVE)
    if not nodes:
        return False
    if any(node.always for node in nodes):
        before = traversals.get_traversal(tx, traversal_id)
        if before.halted is not None:
            reason = fit_text(f"{reason}; before that, {before.reason}")
    if not halt_locked(tx, traversal, nodes, outcome, reason):
        return False
    if not any(node.state is NodeState.RUNNING and node.kind is not Kind.STACK for node in nodes):
        end_traversal(tx, stack, traversals.get_traversal(tx, traversal_id), tainted=True)
    return True
