"""Forgetting a resource: its row is deleted, and what it stands for stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converge.errors import BadInput, Conflict, NotFound, did_you_mean
from converge.model import Status
from converge.protocol.handover import release
from converge.protocol.start import check_rest
from converge.sql import events, resources, scopes, stacks
from converge.sql.resources import ResourceRow
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text
from converge.template.keys import STACK

#: The action in the event.
FORGET = "FORGET"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A resource that a stack has forgotten.

    :ivar id: its number, as in the events.
    :ivar physical_id: the physical resource, which converge no longer manages; None if it was
        never known.
    :ivar action: what was last done to it.
    :ivar status: the status of that action.
    """

    id: int
    name: str
    type: str
    physical_id: str | None
    action: str
    status: str


def forget(tx: Transaction, name: str, resource: str, number: int | None) -> Forgotten | None:
    """Let a stack forget a resource.

    :param name: the stack's name.
    :param resource: the resource's name.
    :param number: the id of one of its versions; needed if there are several.
    :returns: the resource; None if the stack has already forgotten it.
    :raises NotFound: there is no such stack, resource or version.
    :raises Conflict: the stack, or the resource, is being worked on.
    :raises BadInput: there are several versions, and ``number`` is None.
    """
    stack = stacks.lock_stack(tx, name)
    check_rest(stack, f"forget resource {resource!r}")
    rows = resources.list_resources(tx, stack.id, lock=True)
    named = [row for row in rows if row.name == resource]
    # a row whose resource was never made does not count as a version
    versions = [row for row in named if row.status is not Status.INIT] or named
    if number is not None:
        versions = [row for row in named if row.id == number]
    if not versions:
        if events.has_event(tx, stack.id, resource, FORGET):
            return None
        names = [row.name for row in rows]
        raise NotFound(
            f"resource {resource!r} has no version {number}; there are {_listed(named)}"
            if named
            else f"stack {name!r} has no resource {resource!r}{did_you_mean(resource, names)}"
        )
    if len(versions) > 1:
        raise BadInput(
            f"resource {resource!r} has several versions: {_listed(versions)}; say which one: "
            f"--id {versions[0].id}, say, or id={versions[0].id}"
        )
    (row,) = versions
    if row.engine_id is not None:
        raise Conflict(
            f"engine {row.engine_id} is still working on resource {resource!r}; "
            "wait for it to finish"
        )
    resources.delete_unlocked(tx, row, [other for other in rows if other is not row])
    scopes.delete_scopes(tx, scopes.find_resource_scopes(tx, [row.id]))
    if row.type == STACK:
        release(tx, [row.id], f"stack {name!r} has forgotten resource {resource!r}")
    events.insert_events(
        tx,
        [
            {
                "stack_id": stack.id,
                "traversal_id": stack.traversal_id,
                "resource": resource,
                "action": FORGET,
                "status": Status.COMPLETE,
                "reason": fit_text(f"forgotten, not deleted: {_described(row)}"),
            }
        ],
    )
    return Forgotten(row.id, row.name, row.type, row.physical_id, row.action, row.status)


def _listed(rows: Sequence[ResourceRow]) -> str:
    return "; ".join(map(_described, rows))


def _described(row: ResourceRow) -> str:
    made = "no physical id" if row.physical_id is None else f"physical id {row.physical_id!r}"
    return f"{row.id} (type {row.type!r}, {made}, {row.action} {row.status})"
