"""Halting a traversal: nothing new starts, and what runs continues to its end."""

from __future__ import annotations

from collections.abc import Sequence

from converge.model import Action, Kind, NodeState, OnFailure, TraversalStatus
from converge.protocol.complete import complete, is_mine
from converge.protocol.decide import Outcome, Result
from converge.protocol.finish import end_traversal
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
            halt_locked(tx, work.traversal, nodes, TraversalStatus.FAILED, failure_reason(outcome))
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
) -> bool:
    """Skip all nodes that do not run; the stack's node then waits only for those that do.

    :param nodes: the live nodes of the traversal, locked; so is the stack's row.
    :param outcome: the status with which the traversal will end.
    :param reason: why it is halted.
    :returns: whether it was halted; false if it was halted before, or has ended.
    """
    if not traversals.halt_traversal(tx, traversal.id, outcome, reason):
        return False
    stack_node = next(node for node in nodes if node.kind is Kind.STACK)
    others = [node for node in nodes if node.kind is not Kind.STACK]
    idle = [node.key for node in others if node.state is not NodeState.RUNNING]
    node_moves.skip_nodes(tx, idle)
    limits.free_idle(tx, traversal.id)
    running = [node.key for node in others if node.state is NodeState.RUNNING]
    node_moves.lead_to_stack(tx, running, stack_node.key)
    if idle:
        # as engine 0, as the caller need not be an engine
        traversals.add_progress(tx, traversal.id, 0, 0, 0, len(idle))
    return True


def halt(tx: Transaction, traversal_id: int, outcome: TraversalStatus, reason: str) -> bool:
    """Halt a running traversal from outside: a cancel, or its deadline.

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
    if not halt_locked(tx, traversal, nodes, outcome, reason):
        return False
    if not any(node.state is NodeState.RUNNING and node.kind is not Kind.STACK for node in nodes):
        end_traversal(tx, stack, traversals.get_traversal(tx, traversal_id), tainted=True)
    return True
