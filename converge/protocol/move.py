"""Giving a resource another name: its row gets it, and all stays as it is."""

from __future__ import annotations

from dataclasses import dataclass

from converge.errors import BadInput, Conflict, NotFound, did_you_mean
from converge.model import Status, check_name
from converge.protocol.renaming import remember
from converge.protocol.start import moved_event
from converge.sql import events, resources, stacks
from converge.sql.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Moved:
    """A resource that has another name now.

    :ivar id: its number.
    :ivar name: the new name.
    :ivar physical_id: None if it is not known.
    """

    id: int
    name: str
    type: str
    physical_id: str | None


def move(tx: Transaction, name: str, old: str, new: str) -> Moved | None:
    """Give a resource of a stack at rest another name.

    :param name: the stack's name.
    :returns: the resource; None if it has had that name before this.
    :raises NotFound: there is no such stack or resource.
    :raises Conflict: the stack, or the resource, is being worked on; or another one has the name.
    :raises BadInput: it cannot be a name.
    """
    check_name("resource", new)
    if old == new:
        raise BadInput(f"resource {old!r} is called so already; give it another name")
    stack = stacks.lock_stack(tx, name)
    if stack.status is Status.IN_PROGRESS:
        raise Conflict(
            f"stack {name!r} is busy with its {stack.action}; wait for it to end, or stop it "
            f"with `converge cancel {name}`, before you move resource {old!r}"
        )
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
    for row in versions:
        if row.engine_id is not None:
            raise Conflict(
                f"engine {row.engine_id} is still working on resource {old!r}; "
                "wait for it to finish"
            )
    # rows of which nothing was made yet go; they get the old name
    for row in rows:
        if row.name in (old, new):
            other = new if row.name == old else old
            resources.rename_unlocked(tx, row.id, other, remember(row.former, row.name, other))
    events.insert_events(tx, [moved_event(stack.id, stack.traversal_id, old, new)])
    row = versions[-1]
    return Moved(row.id, new, row.type, row.physical_id)
