"""Replacing: another row takes the place of a resource, or, where the old one is to go first, the
same row is made that of the new one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from converge.errors import StaleLock
from converge.model import Action, Json, NodeState, Status
from converge.protocol.complete import as_before, is_mine, make_event, row_of
from converge.protocol.decide import Decision, Operation, Outcome, Result, Work
from converge.sql import events, resources, scopes, sync_points, transitions
from converge.sql.database import Transaction


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
    old = row_of(work)
    if node is None or not is_mine(node, work, engine_id):
        raise StaleLock(f"the replacement of {old.name!r} is no longer held by this engine")
    ends = node.state is NodeState.SUPERSEDED or node.tainted
    decision = then or work.decision
    is_gone = (
        decision.operation is not Operation.DELETE or work.decision.operation is Operation.DELETE
    )
    if decision.wanted is not None and is_gone:
        return _clear(tx, engine_id, work, decision.wanted, ends=ends)
    if ends:
        return Outcome(work, Result.SKIPPED, as_before(old))
    if decision.operation is Operation.DELETE:
        return _delete_first(tx, engine_id, work, decision)
    new_id = resources.insert_replacement(
        tx, old, work.wanted_type, engine_id, work.requires, work.node.mark
    )
    locked = resources.lock_resources(tx, [old.id, new_id])
    resources.release(
        tx, engine_id, [(old.id, old.epoch, as_before(old) | {"replaced_by": new_id})]
    )
    transitions.point_at(tx, engine_id, node, new_id)
    # it may have taken steps before it asked for this
    scopes.delete_scopes(tx, scopes.find_resource_scopes(tx, [old.id]))
    if locked[old.id].blocking:
        transitions.unblock(tx, [old.id])
    events.insert_events(tx, [make_event(work, "REPLACED", f"resource {new_id} takes its place")])
    work.node.resource_id = new_id
    new = locked[new_id]
    new.status = Status.INIT
    return Work(
        traversal=work.traversal,
        node=work.node,
        row=new,
        decision=Decision(Operation.CREATE, work.decision.properties),
        requires=work.requires,
        locked=True,
    )


def _delete_first(tx: Transaction, engine_id: int, work: Work, decision: Decision) -> Work:
    """Note that a resource is deleted before its replacement is made: from now on it is no whole
    thing, whatever becomes of the work."""
    old = row_of(work)
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
    old = row_of(work)
    found = resources.lock_resources(tx, [old.id]).get(old.id)
    if found is None or found.token != old.token:
        # this was committed before, and the reply was lost
        raise StaleLock(f"resource {old.name!r} was already deleted for its replacement")
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
    if work.decision.operation is Operation.DELETE:
        reason = "before its replacement is made"
        events.insert_events(tx, [make_event(work, Status.COMPLETE, reason)])
    if ends:
        return Outcome(work, Result.SKIPPED, values)
    resources.write_locked(tx, engine_id, old.id, old.epoch, old.mark, **values)
    row = dataclasses.replace(old, **(values | {"status": Status.INIT}))
    decision = Decision(Operation.CREATE, properties)
    return dataclasses.replace(work, row=row, decision=decision)
