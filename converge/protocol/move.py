"""Giving a resource another name, or another stack: its row gets it, and the thing stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from converge.errors import BadInput, Conflict, NotFound, did_you_mean
from converge.model import Status, check_name
from converge.protocol.renaming import remember
from converge.protocol.start import check_rest, moved_event
from converge.sql import events, resources, stacks
from converge.sql.resources import ResourceRow
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text


@dataclass(frozen=True, slots=True)
class Moved:
    """A resource that has another name now.

    :ivar id: its number.
    :ivar name: the new name.
    :ivar physical_id: None if it is not known.
    :ivar stack_id: the number of its stack.
    """

    id: int
    name: str
    type: str
    physical_id: str | None
    stack_id: int


def move(tx: Transaction, name: str, old: str, new: str, to: str | None = None) -> Moved | None:
    """Give a resource of a stack at rest another name, or take it into another stack at rest.

    :param name: the stack's name.
    :param to: the other stack's name; None: its own.
    :returns: the resource; None if it has had that name before this.
    :raises NotFound: there is no such stack or resource.
    :raises Conflict: a stack, or the resource, is being worked on; or another one has the name.
    :raises BadInput: it cannot be a name.
    """
    check_name("resource", new)
    if to is not None and to != name:
        return _move_over(tx, name, old, to, new)
    if old == new:
        raise BadInput(f"resource {old!r} is called so already; give it another name")
    stack = stacks.lock_stack(tx, name)
    check_rest(stack, f"move resource {old!r}")
    rows = resources.list_resources(tx, stack.id, lock=True)
    versions = [row for row in rows if row.name == old]
    there = [row for row in rows if row.name == new and row.status is not Status.INIT]
    if not versions:
        if any(old in (row.former or ()) for row in there):
            return None
        names = [row.name for row in rows]
        raise NotFound(f"stack {name!r} has no resource {old!r}{did_you_mean(old, names)}")
    if there:
        raise Conflict(f"stack {name!r} has a resource {new!r} already; give {old!r} another name")
    _check_free(versions, old)
    # rows of which nothing was made yet go; they get the old name
    for row in rows:
        if row.name in (old, new):
            other = new if row.name == old else old
            resources.rename_unlocked(tx, row.id, other, remember(row.former, row.name, other))
    events.insert_events(tx, [moved_event(stack.id, stack.traversal_id, old, new)])
    row = versions[-1]
    return Moved(row.id, new, row.type, row.physical_id, stack.id)


def _check_free(versions: Sequence[ResourceRow], name: str) -> None:
    for row in versions:
        if row.engine_id is not None:
            raise Conflict(
                f"engine {row.engine_id} is still working on resource {name!r}; "
                "wait for it to finish"
            )


def _move_over(tx: Transaction, name: str, old: str, to: str, new: str) -> Moved | None:
    """Take a resource into another stack."""
    # in the order of their ids, so that two who move to and fro do not wait for each other
    ids = sorted(stacks.get_stack(tx, one).id for one in (name, to))
    locked = {row.name: row for row in (stacks.lock_stack_by_id(tx, id_) for id_ in ids)}
    source, target = locked[name], locked[to]
    for stack in (source, target):
        if not stack.live:
            raise NotFound(f"there is no stack {stack.name!r}: it was deleted meanwhile")
        check_rest(stack, f"move resource {old!r}")
    rows = resources.list_resources(tx, source.id, lock=True)
    versions = [row for row in rows if row.name == old]
    beside = resources.list_resources(tx, target.id, lock=True)
    there = [row for row in beside if row.name == new]
    came = _came_from(name, old)
    if not versions:
        if there and any(one["reason"] == came for one in _moves_of(tx, target, new)):
            return None
        names = [row.name for row in rows]
        raise NotFound(f"stack {name!r} has no resource {old!r}{did_you_mean(old, names)}")
    if any(row.status is not Status.INIT for row in there):
        raise Conflict(f"stack {to!r} has a resource {new!r} already; give {old!r} another name")
    made = [row for row in versions if row.status is not Status.INIT]
    if len(made) != 1:
        several = "has several versions: end what was begun, with `converge up`"
        what = several if made else "was never made; name it in the other stack's file only"
        raise Conflict(f"resource {old!r} of stack {name!r} cannot be moved, as it {what}")
    _check_free(versions, old)
    (row,) = made
    for other in (*there, *(one for one in versions if one is not row)):
        # nothing was made of it
        mine = beside if other in there else rows
        resources.delete_unlocked(tx, other, [one for one in mine if one is not other])
    resources.move_unlocked(tx, row, target.id, new, [one for one in rows if one is not row])
    stacks.update_stack(tx, target.id, format=max(source.format, target.format))
    went = moved_event(source.id, source.traversal_id, new, old)
    went["reason"] = fit_text(f"it is {new!r} of stack {to!r} now")
    arrived = moved_event(target.id, target.traversal_id, old, new)
    events.insert_events(tx, [went, arrived | {"reason": came}])
    return Moved(row.id, new, row.type, row.physical_id, target.id)


def _came_from(stack: str, resource: str) -> str:
    return fit_text(f"it was {resource!r} of stack {stack!r}")


def _moves_of(tx: Transaction, stack: StackRow, resource: str) -> list[dict[str, Any]]:
    found = events.list_events(tx, stack.id)
    return [one for one in found if (one["resource"], one["action"]) == (resource, events.MOVE)]
