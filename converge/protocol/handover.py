"""What passes between a nested stack and the resource that it belongs to.

The resource's row is locked where the stack ends, and where a handler is about to wait for that. So
either the handler finds that nothing is in progress, or the end finds the handler waiting.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from converge.errors import Conflict
from converge.model import Status
from converge.sql import events, nested, node_moves, stacks
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text

#: The action in the event.
RELEASE = "RELEASE"


def wake_outer(tx: Transaction, stack: StackRow) -> None:
    """Have the handler called that waits for a stack, as nothing of that is in progress any more.

    :param stack: its row, locked.
    """
    if stack.outer_resource_id is None:
        return
    key = nested.lock_waiting(tx, stack.outer_resource_id)
    if key is not None:
        node_moves.wake_node(tx, key)


def wake_nodes(tx: Transaction, keys: Collection[tuple[int, int]]) -> int:
    """Have handlers called whose wake-ups were lost."""
    for key in sorted(keys):
        node_moves.wake_node(tx, key)
    return len(keys)


def refuse_inner(tx: Transaction, stack: StackRow, resource_id: int | None = None) -> None:
    """Refuse to start or stop something of a nested stack: that is done through its outer one.

    :param resource_id: the resource in whose name it is done; None: somebody asks for it.
    :raises Conflict: it is a nested one of another.
    """
    if stack.outer_resource_id is None or stack.outer_resource_id == resource_id:
        return
    outer = nested.find_outer(tx, stack)
    if outer is not None:
        raise Conflict(
            f"stack {stack.name!r} belongs to resource {outer.resource!r} of stack "
            f"{outer.stack!r}: change, stop or delete it there"
        )


def release(tx: Transaction, resource_ids: Collection[int], why: str) -> None:
    """Let the nested stacks of resources that converge forgets be stacks of their own.

    :param resource_ids: of the type of nested stacks.
    """
    if not resource_ids:
        return
    notes: list[dict[str, Any]] = []
    for stack_id in nested.release_inner(tx, resource_ids):
        row = stacks.get_stack_by_id(tx, stack_id)
        notes.append(
            {
                "stack_id": row.id,
                "traversal_id": row.traversal_id,
                "resource": None,
                "action": RELEASE,
                "status": Status.COMPLETE,
                "reason": fit_text(f"it is a stack of its own now: {why}"),
            }
        )
    events.insert_events(tx, notes)
