"""Where a rollback goes: to the same place, however often it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from converge.errors import BadInput, NotFound
from converge.model import Action, Status
from converge.sql import templates, traversals
from converge.sql.database import Transaction
from converge.sql.stacks import StackRow

#: What a rollback is given as its version to delete all resources.
EMPTY: Literal["empty"] = "empty"


@dataclass(frozen=True, slots=True)
class Target:
    """:ivar template_id: the version to go to, None for nothing.
    :ivar reached: the stack is there, by a rollback that is over: there is nothing to do.
    """

    template_id: int | None
    reached: bool = False


def check_version(version: object) -> None:
    """Whether this can be the version that a rollback is given.

    :raises BadInput: it cannot.
    """
    if version is None or version == EMPTY or (type(version) is int and version >= 1):
        return
    raise BadInput(f"version must be a number from 1, {EMPTY!r} or None, not {version!r}")


def choose_target(tx: Transaction, stack: StackRow, version: int | str | None) -> Target:
    """Where a rollback that a person asks for is to go.

    :param stack: its row, locked.
    :param version: a number, ``"empty"``, or None: back to what was there before.
    :raises NotFound: there is no such version, or none to go back to.
    """
    if version == EMPTY:
        return Target(None)
    if version is not None:
        return Target(templates.find_version(tx, stack.id, int(version)))
    action, wanted, completed = stack.action, stack.template_id, stack.completed_template_id
    if action is Action.CHECK:
        # it has changed nothing about where the stack is going
        action = traversals.last_action(tx, stack.id)
    if stack.status is Status.COMPLETE and wanted == completed:
        if action is Action.ROLLBACK:
            return Target(wanted, reached=True)
        number = templates.version_of(tx, wanted)
        earlier = None if number is None else templates.last_completed(tx, stack.id, number)
        if earlier is None:
            raise NotFound(_no_earlier(tx, stack, number))
        return Target(earlier)
    if action is Action.ROLLBACK and (wanted is not None or completed is None):
        return Target(wanted)
    return Target(last_good(stack))


def last_good(stack: StackRow) -> int | None:
    """Where a stack goes back to that is not COMPLETE: to the version that completed last; if none
    ever did, to the one wanted before; if there was none, to nothing."""
    if stack.completed_template_id is not None:
        return stack.completed_template_id
    return stack.previous_template_id


def _no_earlier(tx: Transaction, stack: StackRow, number: int | None) -> str:
    kept = ", ".join(map(str, templates.list_versions(tx, stack.id)))
    return (
        f"stack {stack.name!r} is COMPLETE at version {number}, and no earlier version completed "
        f"that it could go back to; kept versions: {kept}. To delete all its resources, say so: "
        f"`converge rollback {stack.name} --to empty`, or version={EMPTY!r}"
    )
