"""Completing: outcomes are written, and arrive at the successors of their nodes.

Many outcomes share one transaction. An outcome is valid only while this engine still holds its
node, at the epoch of its claim; nothing of a stale outcome is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from converge.model import Action, Json, Kind, NodeState, Status
from converge.protocol.arrive import PASSED, Arrival, arrive
from converge.protocol.handover import release
from converge.protocol.limits import SPENT
from converge.protocol.put_off import PutOff, put_off
from converge.protocol.work import HANDLED, Operation, Outcome, Result, Work
from converge.sql import events, limits, node_moves, resource_locks, scopes, sync_points, traversals
from converge.sql.resources import ResourceRow
from converge.sql.sync_points import LockedNode
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text
from converge.template.keys import STACK

_ENDS = {
    Result.DONE: NodeState.DONE,
    Result.FAILED: NodeState.FAILED,
    Result.SKIPPED: NodeState.SKIPPED,
}


def complete(
    tx: Transaction, engine_id: int, outcomes: Sequence[Outcome], most_passed: int = PASSED
) -> list[Outcome]:
    """Write a group of outcomes, in one transaction.

    Rows are locked in this order: the nodes by key, their resources by id, and at last the nodes'
    successors by key. Other engines complete nodes that have the same successors: these are locked
    for as short as possible. Who locks a whole traversal by key cannot hold one of these successors
    and wait for one of these nodes: a node has a lower number than its successors.

    :param most_passed: how many nodes are passed over at most.
    :returns: the stale outcomes, of which nothing was written: this engine lost their nodes.
    """
    stale: list[Outcome] = []
    rows = sync_points.lock_nodes(tx, (outcome.work.node.key for outcome in outcomes))
    valid = []
    for outcome in outcomes:
        node = rows.get(outcome.work.node.key)
        if node is not None and is_mine(node, outcome.work, engine_id):
            valid.append((outcome, node))
        else:
            stale.append(outcome)
    locked = resource_locks.lock_states(tx, (row_of(o.work).id for o, _ in valid if o.work.locked))
    kept = []
    for outcome, node in valid:
        row = locked.get(row_of(outcome.work).id) if outcome.work.locked else None
        if outcome.work.locked and (
            row is None
            or (row.engine_id, row.epoch, row.mark)
            != (engine_id, row_of(outcome.work).epoch, row_of(outcome.work).mark)
        ):
            stale.append(outcome)
        else:
            kept.append((outcome, node))
    _write_nodes(tx, engine_id, kept)
    _write_resources(tx, engine_id, kept)
    events.insert_events(
        tx, [event for outcome, _ in kept if (event := _event(outcome)) is not None]
    )
    node_moves.unblock(tx, sorted(row.id for row in locked.values() if row.blocking))
    ended = [
        Arrival(outcome, node)
        for outcome, node in kept
        if node.state is not NodeState.SUPERSEDED and outcome.result in _ENDS
    ]
    _count(tx, engine_id, ended, arrive(tx, ended, most_passed))
    return stale


def row_of(work: Work) -> ResourceRow:
    """The resource of a work that has one."""
    assert work.row is not None
    return work.row


def is_mine(node: LockedNode, work: Work, engine_id: int) -> bool:
    """Whether an engine still holds a node by the claim that a work came from."""
    return (
        node.engine_id == engine_id
        and node.epoch == work.node.epoch
        and node.mark == work.node.mark
        and node.state in (NodeState.RUNNING, NodeState.SUPERSEDED)
    )


def _write_nodes(
    tx: Transaction, engine_id: int, kept: Sequence[tuple[Outcome, LockedNode]]
) -> None:
    ends: dict[NodeState, list[LockedNode]] = {}
    superseded = []
    waiting = []
    for outcome, node in kept:
        if node.state is NodeState.SUPERSEDED:
            superseded.append(node.key)
            continue
        if outcome.result is Result.WAIT:
            if not node.is_stopped:
                note = make_event(outcome.work, events.WAITING, outcome.reason)
                waiting.append(PutOff(outcome, node, note))
                continue
            # its traversal was halted meanwhile: it is not called again
            outcome.result = Result.SKIPPED
            outcome.values |= _unfinished(outcome)
        if outcome.result in (Result.RETRY, Result.HANDED_BACK):
            if outcome.result is Result.RETRY and node.is_stopped:
                # its traversal was halted meanwhile: no further attempt
                outcome.result = Result.FAILED
                outcome.values["status"] = Status.FAILED
            else:
                node_moves.requeue_node(
                    tx,
                    engine_id,
                    node,
                    outcome.wait,
                    max_attempts=outcome.max_attempts,
                    uncounted=outcome.result is Result.HANDED_BACK,
                    definition=_with_spent(outcome),
                )
                continue
        ends.setdefault(_ENDS[outcome.result], []).append(node)
    for state, nodes in ends.items():
        node_moves.end_nodes(tx, engine_id, nodes, state)
    put_off(tx, engine_id, waiting)
    sync_points.delete_nodes(tx, superseded)
    # what its handler waits for goes on outside: then it keeps its places
    going_on = {one.node.key for one in waiting}
    placed = (node.key for outcome, node in kept if outcome.work.placed)
    limits.free_places(tx, [key for key in placed if key not in going_on])


def _unfinished(outcome: Outcome) -> dict[str, Any]:
    """What becomes of a resource whose handler would have waited. A check has changed nothing."""
    is_check = outcome.work.decision.operation is Operation.CHECK
    return {} if is_check else {"status": Status.FAILED}


def _with_spent(outcome: Outcome) -> Json:
    """The definition of a node that is retried, if it must remember how much of its deadline is
    over."""
    definition = outcome.work.node.definition
    if outcome.spent is None or definition is None:
        return None
    return {**definition, SPENT: outcome.spent}


def _write_resources(
    tx: Transaction, engine_id: int, kept: Sequence[tuple[Outcome, LockedNode]]
) -> None:
    written = []
    deleted = []
    noted = []
    for outcome, node in kept:
        if not outcome.work.locked:
            is_noted = outcome.work.decision.operation is Operation.NOTHING and outcome.values
            if is_noted and node.state is not NodeState.SUPERSEDED:
                row = row_of(outcome.work)
                noted.append((row.id, row.epoch, outcome.values))
            continue
        row = row_of(outcome.work)
        if outcome.deleted:
            deleted.append(row)
            continue
        values = outcome.values
        if outcome.result is Result.HANDED_BACK and not outcome.started:
            values = as_before(row)
        elif outcome.result is Result.RETRY and node.state is NodeState.SUPERSEDED:
            values = values | {"status": Status.FAILED}
        elif outcome.result is Result.WAIT and node.state is NodeState.SUPERSEDED:
            values = values | _unfinished(outcome)
        written.append((row.id, row.epoch, values))
    resource_locks.release_locks(tx, engine_id, written)
    resource_locks.note_unchanged(tx, noted)
    resource_locks.delete_locked(tx, engine_id, deleted)
    release(tx, [row.id for row in deleted if row.type == STACK], "it was left in place")
    spent = [row.id for row in deleted]
    spent += [
        row_of(outcome.work).id
        for outcome, node in kept
        if outcome.work.locked and _is_spent(outcome, node) and _may_have_steps(outcome)
    ]
    scopes.delete_scopes(tx, scopes.find_resource_scopes(tx, spent))


def _is_spent(outcome: Outcome, node: LockedNode) -> bool:
    """Whether the recorded steps of all work on a resource are no longer needed.

    A create is resumed even in a later traversal; all other work only in a later attempt.
    """
    operation = outcome.work.decision.operation
    if operation not in HANDLED:
        return False
    over = outcome.result in _ENDS or node.state is NodeState.SUPERSEDED
    return outcome.result is Result.DONE or (over and operation is not Operation.CREATE)


def _may_have_steps(outcome: Outcome) -> bool:
    """Whether this or earlier work on the resource may have recorded steps. Most has not, which
    saves a query."""
    work = outcome.work
    return (
        outcome.stepped
        or work.node.attempts > 1
        or work.node.note_id is not None
        or row_of(work).status not in (Status.INIT, Status.COMPLETE)
    )


def _count(
    tx: Transaction,
    engine_id: int,
    ended: Sequence[Arrival],
    passed: Sequence[LockedNode],
) -> None:
    counts: dict[int, Counter[Result]] = {}
    for outcome, node in ended:
        counts.setdefault(node.traversal_id, Counter())[outcome.result] += 1
    for node in passed:
        counts[node.traversal_id][Result.DONE] += 1
    for traversal_id, count in sorted(counts.items()):
        traversals.add_progress(
            tx,
            traversal_id,
            engine_id,
            count[Result.DONE],
            count[Result.FAILED],
            count[Result.SKIPPED],
        )


def _event(outcome: Outcome) -> dict[str, Any] | None:
    work = outcome.work
    operation = work.decision.operation
    if work.row is None or outcome.result in (Result.HANDED_BACK, Result.WAIT):
        return None
    if outcome.result is Result.DONE and operation is Operation.DROP and outcome.reason:
        return make_event(work, events.RETAINED, outcome.reason)
    if outcome.result is Result.DONE and operation in (Operation.NOTHING, Operation.DROP):
        if work.traversal.action is not Action.CHECK:
            return None
        return make_event(work, events.UNCHECKED, "it has no check")
    status: str = Status.COMPLETE
    reason = outcome.reason
    if outcome.result is Result.FAILED:
        status = Status.FAILED
    elif outcome.drifted:
        status = Status.DRIFTED
    elif outcome.result is Result.SKIPPED:
        status = "SKIPPED"
    elif outcome.result is Result.RETRY:
        status = "RETRY"
        attempt = f"attempt {work.node.attempts} of {outcome.max_attempts}"
        reason = f"{attempt}, again in {outcome.wait:g} s: {reason}"
    return make_event(work, status, reason)


def make_event(work: Work, status: str, reason: str | None) -> dict[str, Any]:
    """An event about the resource of a work."""
    verbs: dict[Operation, str] = {
        Operation.CREATE: Action.CREATE,
        Operation.DELETE: Action.DELETE,
        Operation.DROP: Action.DELETE,
        Operation.CHECK: Action.CHECK,
        Operation.READ: events.USE,
    }
    action: str = Action.DELETE if work.node.kind is Kind.CLEANUP else Action.UPDATE
    row = row_of(work)
    if work.traversal.action is Action.CHECK:
        action = Action.CHECK
    elif work.node.kind is Kind.UPDATE and row.status is Status.INIT:
        action = Action.CREATE
    return {
        "stack_id": work.traversal.stack_id,
        "traversal_id": work.traversal.id,
        "resource": row.name,
        "action": verbs.get(work.decision.operation, action),
        "status": status,
        "reason": None if reason is None else fit_text(reason),
    }


def as_before(row: ResourceRow) -> dict[str, Any]:
    """The columns that a claim changed, as they were."""
    return {"action": row.action, "status": row.status, "requires": row.requires}
