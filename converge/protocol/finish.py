"""Finishing: a traversal ends, and its rollback starts if its intent says so."""

from __future__ import annotations

from typing import Any

from converge.errors import NotFound, StaleLock
from converge.model import Action, NodeState, OnFailure, Status, TraversalStatus
from converge.protocol.asked import Asked
from converge.protocol.complete import is_mine
from converge.protocol.draft import Draft, draft_version
from converge.protocol.handover import wake_outer
from converge.protocol.request import Intent
from converge.protocol.rollback import last_good
from converge.protocol.start import start
from converge.protocol.work import Work
from converge.sql import events, readers, stacks, sync_points, templates, traversals
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.sql.traversals import TraversalRow
from converge.sql.types import REASON_LENGTH, fit_text

#: How many resources a reason names.
_NAMED = 10


def may_roll_back(work: Work) -> bool:
    """Whether the end of a traversal, the work of the stack's own node, may start a rollback."""
    return work.traversal.on_failure is OnFailure.ROLLBACK and work.node.tainted


def draft_rollback(tx: Transaction, work: Work) -> Draft | None:
    """Plan that rollback; None if a newer traversal has begun, which may have deleted the version
    that it would go to."""
    stack = stacks.get_stack_by_id(tx, work.traversal.stack_id)
    if stack.traversal_id != work.traversal.id:
        return None
    try:
        return draft_version(tx, stack, Action.ROLLBACK, last_good(stack))
    except NotFound:
        # it has begun since the stack was read
        return None


def finish(tx: Transaction, engine_id: int, work: Work, draft: Draft | None = None) -> None:
    """End a traversal: the work of the stack's own node.

    :param draft: of the rollback that this may start.
    :raises StaleLock: this engine no longer holds the node.
    """
    stack = stacks.lock_stack_by_id(tx, work.traversal.stack_id)
    node = sync_points.lock_nodes(tx, [work.node.key]).get(work.node.key)
    if node is None or not is_mine(node, work, engine_id) or node.state is not NodeState.RUNNING:
        raise StaleLock(
            f"engine {engine_id} no longer holds the last node of traversal {work.traversal.id}"
        )
    traversal = traversals.get_traversal(tx, work.traversal.id)
    end_traversal(tx, stack, traversal, tainted=node.tainted, draft=draft)


def end_traversal(
    tx: Transaction,
    stack: StackRow,
    traversal: TraversalRow,
    *,
    tainted: bool,
    draft: Draft | None = None,
) -> None:
    """End the current traversal of a locked stack; start its rollback if its intent says so.

    :param draft: of that rollback.
    """
    status, reason = TraversalStatus.COMPLETE, traversal.reason
    if traversal.halted is not None:
        status = TraversalStatus(traversal.halted)
    elif tainted:
        status = TraversalStatus.FAILED
        reason = _what_failed(tx, traversal)
    if traversal.action is Action.CHECK and traversal.halted is None:
        reason = _with_found(tx, traversal, reason)
    asked = Asked.load(traversal.asked)
    if status is TraversalStatus.COMPLETE and reason is None:
        reason = asked.remark
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
    # what was left as it was is still to be brought about
    is_whole = not asked.target
    if status is TraversalStatus.COMPLETE and traversal.action is not Action.CHECK and is_whole:
        completed = traversal.template_id
        values["completed_template_id"] = completed
        if completed is not None:
            templates.set_completed(tx, completed)
        if traversal.action is Action.DELETE:
            values |= {"live": None, "template_id": None, "edges": None}
    stacks.update_stack(tx, stack.id, **values)
    wake_outer(tx, stack)
    gone = status is TraversalStatus.COMPLETE and traversal.action is Action.DELETE
    if gone:
        readers.delete_reads(tx, stack.id)
    used = () if gone else (stack.template_id, stack.previous_template_id, completed)
    keep = 0 if gone else templates.KEPT_VERSIONS
    templates.delete_versions(tx, templates.list_unused(tx, stack.id, used, keep))
    events.prune_events(tx, stack.id)
    if (
        status is TraversalStatus.FAILED
        and traversal.on_failure is OnFailure.ROLLBACK
        and completed != traversal.template_id
        # a failed rollback with no completed version would go back to what it left
        and not (traversal.action is Action.ROLLBACK and completed is None)
    ):
        why = fit_text(f"rolled back: {reason}")
        start(
            tx,
            stack,
            Action.ROLLBACK,
            last_good(stack),
            # whoever asked for it asked for the rollback, too
            Intent(actor=traversal.actor),
            draft=draft,
            reason=why,
            trace=traversal.trace,
        )


def _with_found(tx: Transaction, traversal: TraversalRow, reason: str | None) -> str | None:
    """The reason of a check, with the resources that have drifted and those that it did not
    check."""
    key = (traversal.stack_id, traversal.id)
    drifted = events.list_with_status(tx, *key, Status.DRIFTED)
    unchecked = events.list_with_status(tx, *key, events.UNCHECKED)
    have = "it has" if len(unchecked) == 1 else "they have"
    for what, names in (
        ("drifted", drifted),
        (f"not checked, because {have} no check", unchecked),
    ):
        if not names:
            continue
        some = ", ".join(map(repr, names[:_NAMED]))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        found = f"{what}: {some}{more}"
        room = REASON_LENGTH - len(found) - 2
        if reason is None or room < 0:
            reason = fit_text(found)
        else:
            reason = f"{fit_text(reason, room)}; {found}"
    return reason


def _what_failed(tx: Transaction, traversal: TraversalRow) -> str:
    failures = events.list_failures(tx, traversal.stack_id, traversal.id, limit=1)
    if not failures:
        return "a resource failed"
    name, reason = failures[0]
    count = traversals.sum_progress(tx, traversal.id)["failed"]
    more = f" (and {count - 1} more failed)" if count > 1 else ""
    return fit_text(f"resource {name!r}: {reason}", REASON_LENGTH - len(more)) + more
