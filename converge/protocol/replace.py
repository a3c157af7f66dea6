"""Replacing a resource: the replacement has a new row; or, if the old resource is deleted first,
the same row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from converge.errors import StaleLock
from converge.model import Action, Json, NodeState, Status, make_token
from converge.protocol.complete import as_before, is_mine, make_event, row_of
from converge.protocol.settings import DELETION_POLICY, RETAIN, retains
from converge.protocol.work import Decision, Operation, Outcome, Result, Work
from converge.sql import events, node_moves, resource_locks, resources, scopes, sync_points
from converge.sql.transaction import Transaction


def replace(
    tx: Transaction, engine_id: int, work: Work, then: Decision | None = None
) -> Work | Outcome:
    """Insert the replacement of a work's resource, and point its node at the replacement.

    The old version gets back its state from before the claim, and is deleted by its own cleanup
    node. If it is to be deleted first, the next work on the same node deletes it, and the one after
    that makes the replacement in its row.

    :param then: how to replace it, if an update asked for that.
    :returns: the next work on the node; or, if the traversal was superseded or halted meanwhile,
        the outcome to write, which leaves the old version as it was.
    :raises StaleLock: this engine no longer holds the node.
    """
    node = sync_points.lock_nodes(tx, [work.node.key]).get(work.node.key)
    old = row_of(work)
    if node is None or not is_mine(node, work, engine_id):
        raise StaleLock(f"engine {engine_id} no longer holds the replacement of {old.name!r}")
    ends = node.state is NodeState.SUPERSEDED or node.is_stopped
    decision = then or work.decision
    is_gone = (
        decision.operation is not Operation.DELETE or work.decision.operation is Operation.DELETE
    )
    if decision.wanted is not None and is_gone:
        return _reset_row(tx, engine_id, work, decision.wanted, ends=ends)
    if ends:
        return Outcome(work, Result.SKIPPED, as_before(old))
    if decision.operation is Operation.DELETE:
        return _delete_first(tx, engine_id, work, decision)
    new_id = resources.insert_replacement(
        tx, old, work.wanted_type, engine_id, work.requires, work.node.mark
    )
    locked = resources.lock_resources(tx, [old.id, new_id])
    values = as_before(old) | {"replaced_by": new_id}
    if retains(work.node.definition, old):
        # its cleanup node does not see what the new template says of it
        values["settings"] = {**(old.settings or {}), DELETION_POLICY: RETAIN}
    resource_locks.release_locks(tx, engine_id, [(old.id, old.epoch, values)])
    node_moves.point_at(tx, engine_id, node, new_id)
    # the update may have recorded steps before it asked for a replacement
    scopes.delete_scopes(tx, scopes.find_resource_scopes(tx, [old.id]))
    if locked[old.id].blocking:
        node_moves.unblock(tx, [old.id])
    events.insert_events(tx, [make_event(work, "REPLACED", f"resource {new_id} takes its place")])
    work.node.resource_id = new_id
    new = locked[new_id]
    new.status = Status.INIT
    return Work(
        traversal=work.traversal,
        node=work.node,
        row=new,
        decision=Decision(
            Operation.CREATE, work.decision.properties, settings=work.decision.settings
        ),
        requires=work.requires,
        inputs=work.inputs,
        secrets=work.secrets,
        locked=True,
        placed=work.placed,
    )


def _delete_first(tx: Transaction, engine_id: int, work: Work, decision: Decision) -> Work:
    """Mark a resource as being deleted before its replacement is made: from now on it counts as
    broken, however the work ends."""
    old = row_of(work)
    marks = {"action": Action.REPLACE, "status": Status.IN_PROGRESS}
    resource_locks.write_locked(tx, engine_id, old.id, old.epoch, old.mark, **marks)
    row = dataclasses.replace(old, action=Action.REPLACE, status=Status.IN_PROGRESS)
    return dataclasses.replace(work, row=row, decision=decision)


def _reset_row(
    tx: Transaction, engine_id: int, work: Work, properties: Mapping[str, Json], *, ends: bool
) -> Work | Outcome:
    """Reset the row of a deleted resource, so that its replacement can be made in it.

    :param properties: the properties of the replacement.
    :param ends: the traversal was superseded or halted.
    :returns: the work that makes the replacement, or the outcome to write.
    :raises StaleLock: the row was reset before.
    """
    old = row_of(work)
    found = resources.lock_resources(tx, [old.id]).get(old.id)
    if found is None or found.token != old.token:
        # committed before, but the reply was lost
        raise StaleLock(f"resource {old.name!r} was already deleted for its replacement")
    scopes.delete_scopes(tx, scopes.find_resource_scopes(tx, [old.id]))
    values: dict[str, Any] = {
        "action": Action.CREATE,
        "status": Status.INIT if ends else Status.IN_PROGRESS,
        "type": work.wanted_type,
        "token": make_token(),
        "reason": None,
        "template_id": None,
        "physical_id": None,
        "properties": {},
        "attributes": {},
        "requires": list(work.requires),
        "settings": None,
    }
    if work.decision.operation is Operation.DELETE:
        reason = "before its replacement is made"
        events.insert_events(tx, [make_event(work, Status.COMPLETE, reason)])
    if ends:
        return Outcome(work, Result.SKIPPED, values)
    resource_locks.write_locked(tx, engine_id, old.id, old.epoch, old.mark, **values)
    row = dataclasses.replace(old, **(values | {"status": Status.INIT}))
    decision = Decision(Operation.CREATE, properties, settings=work.decision.settings)
    return dataclasses.replace(work, row=row, decision=decision)
