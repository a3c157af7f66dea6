"""Completing: what became of the work is written, and arrives at the successors.

Many completions share one transaction. Each is valid only while its node still is this
engine's, at the epoch of its claim; of a stale one nothing is written.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from converge.errors import StaleLock
from converge.model import Action, Json, Kind, OnFailure, State, Status, TraversalStatus
from converge.rollback import last_good
from converge.start import Intent, start
from converge.store import (
    events,
    node_moves,
    resources,
    scopes,
    stacks,
    sync_points,
    templates,
    traversals,
)
from converge.store.database import Transaction
from converge.store.resources import ResourceRow
from converge.store.stacks import StackRow
from converge.store.sync_points import Key, NodeState
from converge.store.traversals import TraversalRow
from converge.store.types import REASON_LENGTH, text
from converge.work import HANDLED, Decision, Outcome, Result, Step, Work

#: How many resources a reason names.
_NAMED = 10

_ENDS = {
    Result.DONE: State.DONE,
    Result.FAILED: State.FAILED,
    Result.SKIPPED: State.SKIPPED,
}


def halts(outcome: Outcome) -> bool:
    """Whether this outcome ends its traversal: it needs :func:`complete_failure`."""
    return (
        outcome.result is Result.FAILED
        and outcome.work.traversal.on_failure is not OnFailure.CONTINUE
        and outcome.work.traversal.action is not Action.CHECK
    )


def complete(tx: Transaction, engine_id: int, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Write a group of outcomes, in one transaction.

    Locks are taken in this order: the nodes and their successors by key, the resources by
    id. The only key that can come later is a stack's own node, which has the highest number
    of its traversal.

    :returns: the stale ones: nothing was written of them, as another engine has the work.
    """
    stale: list[Outcome] = []
    rows = _lock_with_successors(tx, outcomes)
    valid = []
    for outcome in outcomes:
        node = rows.get(outcome.work.node.key)
        if node is not None and _is_mine(node, outcome.work, engine_id):
            valid.append((outcome, node))
        else:
            stale.append(outcome)
    locked = resources.lock_states(tx, (_row(o.work).id for o, _ in valid if o.work.locked))
    kept = []
    for outcome, node in valid:
        row = locked.get(_row(outcome.work).id) if outcome.work.locked else None
        if outcome.work.locked and (
            row is None
            or (row.engine_id, row.epoch, row.mark)
            != (engine_id, _row(outcome.work).epoch, _row(outcome.work).mark)
        ):
            stale.append(outcome)
        else:
            kept.append((outcome, node))
    _write_nodes(tx, engine_id, kept)
    _write_resources(tx, engine_id, kept)
    _arrive(tx, kept, rows)
    _count(tx, engine_id, kept)
    events.insert_events(
        tx, [event for outcome, _ in kept if (event := _event(outcome)) is not None]
    )
    node_moves.unblock(tx, sorted(row.id for row in locked.values() if row.blocking))
    return stale


def _row(work: Work) -> ResourceRow:
    assert work.row is not None
    return work.row


def _is_mine(node: NodeState, work: Work, engine_id: int) -> bool:
    return (
        node.engine_id == engine_id
        and node.epoch == work.node.epoch
        and node.mark == work.node.mark
        and node.state in (State.RUNNING, State.SUPERSEDED)
    )


def _lock_with_successors(tx: Transaction, outcomes: Sequence[Outcome]) -> dict[Key, NodeState]:
    keys: set[Key] = set()
    for outcome in outcomes:
        node = outcome.work.node
        keys.add(node.key)
        if outcome.result in _ENDS:
            keys.update((node.traversal_id, successor) for successor in node.successors)
    rows = sync_points.lock_nodes(tx, keys)
    # a halted traversal's running nodes were led to the stack's node after their claim, and
    # have no further attempt
    late = {
        (key[0], successor)
        for outcome in outcomes
        if (key := outcome.work.node.key) in rows and (outcome.result in _ENDS or rows[key].tainted)
        for successor in rows[key].successors
    } - rows.keys()
    if late:
        rows.update(sync_points.lock_nodes(tx, late))
    return rows


def _write_nodes(
    tx: Transaction, engine_id: int, kept: Sequence[tuple[Outcome, NodeState]]
) -> None:
    ends: dict[State, list[NodeState]] = {}
    superseded = []
    for outcome, node in kept:
        if node.state is State.SUPERSEDED:
            superseded.append(node.key)
            continue
        if outcome.result in (Result.RETRY, Result.HANDED_BACK):
            if outcome.result is Result.RETRY and node.tainted:
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
                )
                continue
        ends.setdefault(_ENDS[outcome.result], []).append(node)
    for state, nodes in ends.items():
        node_moves.end_nodes(tx, engine_id, nodes, state)
    sync_points.delete_nodes(tx, superseded)


def _write_resources(
    tx: Transaction, engine_id: int, kept: Sequence[tuple[Outcome, NodeState]]
) -> None:
    written = []
    deleted = []
    for outcome, node in kept:
        if not outcome.work.locked:
            continue
        row = _row(outcome.work)
        if outcome.deleted:
            deleted.append(row)
            continue
        values = outcome.values
        if outcome.result is Result.HANDED_BACK and not outcome.started:
            values = _as_before(row)
        elif outcome.result is Result.RETRY and node.state is State.SUPERSEDED:
            values = values | {"status": Status.FAILED}
        written.append((row.id, row.epoch, values))
    resources.release(tx, engine_id, written)
    resources.delete_locked(tx, engine_id, deleted)
    spent = [row.id for row in deleted]
    spent += [
        _row(outcome.work).id
        for outcome, node in kept
        if outcome.work.locked and _is_spent(outcome, node) and _may_have_steps(outcome)
    ]
    scopes.delete_scopes(tx, scopes.find_resource_scopes(tx, spent))


def _is_spent(outcome: Outcome, node: NodeState) -> bool:
    """Whether nobody will ask for the steps of any work on a resource again.

    A create goes on in a later traversal, everything else in a later attempt only.
    """
    step = outcome.work.decision.step
    if step not in HANDLED:
        return False
    over = outcome.result in _ENDS or node.state is State.SUPERSEDED
    return outcome.result is Result.DONE or (over and step is not Step.CREATE)


def _may_have_steps(outcome: Outcome) -> bool:
    """Whether a work, or an earlier one on its resource, can have recorded any; most have not,
    and are not asked about."""
    work = outcome.work
    return (
        outcome.stepped
        or work.node.attempts > 1
        or _row(work).status not in (Status.INIT, Status.COMPLETE)
    )


def _arrive(
    tx: Transaction,
    kept: Sequence[tuple[Outcome, NodeState]],
    rows: Mapping[Key, NodeState],
) -> None:
    counts: Counter[Key] = Counter()
    tainted: set[Key] = set()
    for outcome, node in kept:
        if node.state is State.SUPERSEDED or outcome.result not in _ENDS:
            continue
        taints = outcome.result is not Result.DONE or node.tainted
        for successor in node.successors:
            key = (node.traversal_id, successor)
            counts[key] += 1
            if taints and not rows[key].tainted:
                tainted.add(key)
    node_moves.taint(tx, sorted(tainted))
    node_moves.arrive(tx, counts, rows)


def _count(tx: Transaction, engine_id: int, kept: Sequence[tuple[Outcome, NodeState]]) -> None:
    counts: dict[int, Counter[Result]] = {}
    for outcome, node in kept:
        if node.state is not State.SUPERSEDED and outcome.result in _ENDS:
            counts.setdefault(node.traversal_id, Counter())[outcome.result] += 1
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
    step = work.decision.step
    if work.row is None or outcome.result is Result.HANDED_BACK:
        return None
    if outcome.result is Result.DONE and step in (Step.NOTHING, Step.DROP):
        if work.traversal.action is not Action.CHECK:
            return None
        return _make_event(work, events.UNCHECKED, f"type {work.row.type!r} has no check")
    status: str = Status.COMPLETE
    reason = outcome.reason
    if outcome.result is Result.FAILED:
        status = Status.FAILED
    elif outcome.result is Result.SKIPPED:
        status = "SKIPPED"
    elif outcome.result is Result.RETRY:
        status = "RETRY"
        attempt = f"attempt {work.node.attempts} of {outcome.max_attempts}"
        reason = f"{attempt}, again in {outcome.wait:g} s: {reason}"
    return _make_event(work, status, reason)


def _make_event(work: Work, status: str, reason: str | None) -> dict[str, Any]:
    verbs = {
        Step.CREATE: Action.CREATE,
        Step.DELETE: Action.DELETE,
        Step.DROP: Action.DELETE,
        Step.CHECK: Action.CHECK,
    }
    cleanup = Action.DELETE if work.node.kind is Kind.CLEANUP else Action.UPDATE
    row = _row(work)
    if work.traversal.action is Action.CHECK:
        cleanup = Action.CHECK
    elif work.node.kind is Kind.UPDATE and row.status is Status.INIT:
        cleanup = Action.CREATE
    return {
        "stack_id": work.traversal.stack_id,
        "traversal_id": work.traversal.id,
        "resource": row.name,
        "action": verbs.get(work.decision.step, cleanup),
        "status": status,
        "reason": None if reason is None else text(reason),
    }


def _as_before(row: ResourceRow) -> dict[str, Any]:
    """The columns that a claim changed, as they were."""
    return {"action": row.action, "status": row.status, "requires": row.requires}


def replace(
    tx: Transaction, engine_id: int, work: Work, then: Decision | None = None
) -> Work | Outcome:
    """Insert the replacement of a work's resource and point its node at it.

    The old version is healthy again, and is deleted at its own cleanup node. Where it is to go
    first, it is deleted by the next work on the same node, and the one after that makes the new
    one in its row.

    :param then: how, where an update asked for it.
    :returns: the work on the replacement; or, if the traversal was superseded or halted
        meanwhile, the outcome to write, which leaves the old version as it was.
    :raises StaleLock: the work is not this engine's any more.
    """
    node = sync_points.lock_nodes(tx, [work.node.key]).get(work.node.key)
    old = _row(work)
    if node is None or not _is_mine(node, work, engine_id):
        raise StaleLock(f"the replacement of {old.name!r} is not this engine's work any more")
    ends = node.state is State.SUPERSEDED or node.tainted
    decision = then or work.decision
    is_gone = decision.step is not Step.DELETE or work.decision.step is Step.DELETE
    if decision.wanted is not None and is_gone:
        return _clear(tx, engine_id, work, decision.wanted, ends=ends)
    if ends:
        return Outcome(work, Result.SKIPPED, _as_before(old))
    if decision.step is Step.DELETE:
        return _delete_first(tx, engine_id, work, decision)
    new_id = resources.insert_replacement(
        tx, old, work.wanted_type, engine_id, work.requires, work.node.mark
    )
    locked = resources.lock_resources(tx, [old.id, new_id])
    resources.release(
        tx, engine_id, [(old.id, old.epoch, _as_before(old) | {"replaced_by": new_id})]
    )
    node_moves.point_at(tx, engine_id, node, new_id)
    # it may have taken steps before it asked for this
    scopes.delete_scopes(tx, scopes.find_resource_scopes(tx, [old.id]))
    if locked[old.id].blocking:
        node_moves.unblock(tx, [old.id])
    events.insert_events(tx, [_make_event(work, "REPLACED", f"resource {new_id} takes its place")])
    work.node.resource_id = new_id
    new = locked[new_id]
    new.status = Status.INIT
    return Work(
        traversal=work.traversal,
        node=work.node,
        row=new,
        decision=Decision(Step.CREATE, work.decision.properties),
        requires=work.requires,
        locked=True,
    )


def _delete_first(tx: Transaction, engine_id: int, work: Work, decision: Decision) -> Work:
    """Note that a resource is deleted before its replacement is made: from now on it is no whole
    thing, whatever becomes of the work."""
    old = _row(work)
    marks = {"action": Action.REPLACE, "status": Status.IN_PROGRESS}
    resources.write_locked(tx, engine_id, old.id, old.epoch, old.mark, **marks)
    row = dataclasses.replace(old, action=Action.REPLACE, status=Status.IN_PROGRESS)
    return dataclasses.replace(work, row=row, decision=decision)


def _clear(
    tx: Transaction, engine_id: int, work: Work, properties: Mapping[str, Json], *, ends: bool
) -> Work | Outcome:
    """Make the row of a resource that was deleted that of the one to be made in its place.

    :param properties: those of the new one.
    :param ends: the traversal makes nothing more.
    :returns: the work that makes it, or the outcome to write.
    :raises StaleLock: it was done before.
    """
    old = _row(work)
    found = resources.lock_resources(tx, [old.id]).get(old.id)
    if found is None or found.token != old.token:
        # this was committed before, and the reply was lost
        raise StaleLock(f"resource {old.name!r} has been made room for already")
    scopes.delete_scopes(tx, scopes.find_resource_scopes(tx, [old.id]))
    values: dict[str, Any] = {
        "action": Action.CREATE,
        "status": Status.INIT if ends else Status.IN_PROGRESS,
        "type": work.wanted_type,
        "token": str(uuid4()),
        "reason": None,
        "template_id": None,
        "physical_id": None,
        "properties": {},
        "attributes": {},
        "requires": list(work.requires),
    }
    if work.decision.step is Step.DELETE:
        reason = "before its replacement is made"
        events.insert_events(tx, [_make_event(work, Status.COMPLETE, reason)])
    if ends:
        return Outcome(work, Result.SKIPPED, values)
    resources.write_locked(tx, engine_id, old.id, old.epoch, old.mark, **values)
    row = dataclasses.replace(old, **(values | {"status": Status.INIT}))
    decision = Decision(Step.CREATE, properties)
    return dataclasses.replace(work, row=row, decision=decision)


def complete_failure(tx: Transaction, engine_id: int, outcome: Outcome) -> list[Outcome]:
    """Write a failure that ends its traversal: nothing new starts, what runs goes on to its end."""
    work = outcome.work
    stack = stacks.lock_stack_by_id(tx, work.traversal.stack_id)
    if stack.traversal_id == work.traversal.id:
        nodes = sync_points.lock_traversal_nodes(tx, work.traversal.id, sync_points.LIVE)
        own = next((node for node in nodes if node.node == work.node.node), None)
        if own is not None and _is_mine(own, work, engine_id):
            _halt(tx, work.traversal, nodes, TraversalStatus.FAILED, failure_reason(outcome))
    return complete(tx, engine_id, [outcome])


def failure_reason(outcome: Outcome) -> str:
    """Why a traversal failed: the resource that failed first."""
    name = outcome.work.row.name if outcome.work.row is not None else "stack"
    return text(f"resource {name!r}: {outcome.reason}")


def _halt(
    tx: Transaction,
    traversal: TraversalRow,
    nodes: Sequence[NodeState],
    outcome: TraversalStatus,
    reason: str,
) -> bool:
    """Let nothing new start; the stack's node waits for what is running and nothing else.

    :param nodes: the live nodes of the traversal, locked, as is the stack's row.
    :returns: False if it was halted or over before.
    """
    if not traversals.halt_traversal(tx, traversal.id, outcome, reason):
        return False
    stack_node = next(node for node in nodes if node.kind is Kind.STACK)
    others = [node for node in nodes if node.kind is not Kind.STACK]
    idle = [node.key for node in others if node.state is not State.RUNNING]
    node_moves.skip_nodes(tx, idle)
    running = [node.key for node in others if node.state is State.RUNNING]
    node_moves.lead_to_stack(tx, running, stack_node.key)
    if idle:
        # engine 0 stands for whoever is no engine
        traversals.add_progress(tx, traversal.id, 0, 0, 0, len(idle))
    return True


def halt(tx: Transaction, traversal_id: int, outcome: TraversalStatus, reason: str) -> bool:
    """Halt a running traversal from outside: a cancel, or its deadline.

    Where nothing is running, the traversal ends at once.

    :returns: False if it was halted or over before.
    """
    traversal = traversals.get_traversal(tx, traversal_id)
    stack = stacks.lock_stack_by_id(tx, traversal.stack_id)
    if stack.traversal_id != traversal_id:
        return False
    nodes = sync_points.lock_traversal_nodes(tx, traversal_id, sync_points.LIVE)
    if not _halt(tx, traversal, nodes, outcome, reason):
        return False
    if not any(node.state is State.RUNNING and node.kind is not Kind.STACK for node in nodes):
        _end(tx, stack, traversals.get_traversal(tx, traversal_id), tainted=True)
    return True


def finish(tx: Transaction, engine_id: int, work: Work) -> None:
    """The stack's own node: end the traversal.

    :raises StaleLock: it is not this engine's work any more.
    """
    stack = stacks.lock_stack_by_id(tx, work.traversal.stack_id)
    node = sync_points.lock_nodes(tx, [work.node.key]).get(work.node.key)
    if node is None or not _is_mine(node, work, engine_id) or node.state is not State.RUNNING:
        raise StaleLock(f"the end of traversal {work.traversal.id} is not this engine's work")
    _end(tx, stack, traversals.get_traversal(tx, work.traversal.id), tainted=node.tainted)


def _end(tx: Transaction, stack: StackRow, traversal: TraversalRow, *, tainted: bool) -> None:
    """End the current traversal of a locked stack, and start its rollback if that is its intent."""
    status, reason = TraversalStatus.COMPLETE, traversal.reason
    if traversal.halted is not None:
        status = TraversalStatus(traversal.halted)
    elif tainted:
        status = TraversalStatus.FAILED
        reason = _what_failed(tx, traversal)
    if traversal.action is Action.CHECK and traversal.halted is None:
        reason = _with_unchecked(tx, traversal, reason)
    traversals.end_traversal(tx, traversal.id, status, reason)
    sync_points.delete_traversal_nodes(tx, traversal.id)
    events.insert_events(
        tx,
        [
            {
                "stack_id": stack.id,
                "traversal_id": traversal.id,
                "resource": None,
                "action": traversal.action,
                "status": status,
                "reason": reason,
            }
        ],
    )
    values: dict[str, Any] = {"status": Status(status), "reason": reason}
    completed = stack.completed_template_id
    if status is TraversalStatus.COMPLETE and traversal.action is not Action.CHECK:
        completed = traversal.template_id
        values["completed_template_id"] = completed
        if completed is not None:
            templates.set_completed(tx, completed)
        if traversal.action is Action.DELETE:
            values |= {"live": None, "template_id": None, "edges": None}
    stacks.update_stack(tx, stack.id, **values)
    gone = status is TraversalStatus.COMPLETE and traversal.action is Action.DELETE
    templates.delete_unused(
        tx,
        stack.id,
        () if gone else (stack.template_id, stack.previous_template_id, completed),
        keep=0 if gone else templates.KEPT_VERSIONS,
    )
    events.prune_events(tx, stack.id)
    if (
        status is TraversalStatus.FAILED
        and traversal.on_failure is OnFailure.ROLLBACK
        and completed != traversal.template_id
        # what was wanted before a rollback is what it was to lead away from
        and not (traversal.action is Action.ROLLBACK and completed is None)
    ):
        why = text(f"rolled back: {reason}")
        start(tx, stack, Action.ROLLBACK, last_good(stack), Intent(), reason=why)


def _with_unchecked(tx: Transaction, traversal: TraversalRow, reason: str | None) -> str | None:
    """The reason of a check, with what it did not look at."""
    names = events.list_unchecked(tx, traversal.stack_id, traversal.id)
    if not names:
        return reason
    some = ", ".join(map(repr, names[:_NAMED]))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    have = "its type has" if len(names) == 1 else "their types have"
    unchecked = f"not looked at, as {have} no check: {some}{more}"
    room = REASON_LENGTH - len(unchecked) - 2
    return text(unchecked) if reason is None or room < 0 else f"{text(reason, room)}; {unchecked}"


def _what_failed(tx: Transaction, traversal: TraversalRow) -> str:
    failures = events.list_failures(tx, traversal.stack_id, traversal.id, limit=1)
    if not failures:
        return "a resource failed"
    name, reason = failures[0]
    count = traversals.sum_progress(tx, traversal.id)["failed"]
    more = f" (and {count - 1} more failed)" if count > 1 else ""
    return text(f"resource {name!r}: {reason}", REASON_LENGTH - len(more)) + more
