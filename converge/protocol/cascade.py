"""Stopping what is nested in a stack that was stopped.

It is a transaction of its own for each, after that of the outer stack: who ends a nested stack
locks it first and a row of its outer one next, so nobody may do it the other way round. What a
death leaves running, a sweep stops.
"""

from __future__ import annotations

from functools import partial

from converge.crash_points import Commit
from converge.model import TraversalStatus
from converge.protocol.halt import halt
from converge.sql import nested, stacks
from converge.sql.database import Database, repeatable
from converge.sql.faults import Locked
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text

#: How many nested stacks one round stops.
BATCH = 1000


def stop_nested(database: Database, outer: int | None = None) -> int:
    """Stop the nested stacks of stacks of which nothing is in progress, or nothing new may start;
    and those nested in them.

    :param outer: the id of the one stack that was stopped; None: all that there are.
    :returns: how many were stopped.
    :raises StoreError: the database cannot be used.
    """
    stopped = 0
    todo = [outer]
    while todo:
        within = todo.pop()
        for stack_id in database.read(partial(nested.list_left_running, limit=BATCH, outer=within)):
            try:
                stopped += database.transact(
                    partial(_stop, stack_id=stack_id),
                    Commit.NEST_STOP,
                    happened=repeatable,
                    wait_for_locks=False,
                )
            except Locked:
                # a sweep comes to it
                continue
            todo.append(stack_id)
    return stopped


def _stop(tx: Transaction, stack_id: int) -> bool:
    stack = stacks.lock_stack_by_id(tx, stack_id)
    found = nested.find_outer(tx, stack)
    if stack.traversal_id is None or found is None:
        return False
    if not nested.is_left_running(tx, stack_id):
        # another traversal of the outer stack has begun
        return False
    reason = fit_text(f"its outer stack {found.stack!r} was stopped")
    return halt(tx, stack.traversal_id, TraversalStatus.CANCELLED, reason)
