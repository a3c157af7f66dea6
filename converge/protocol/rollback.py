"""The version that a rollback goes to: the same one, however often it is repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from converge.errors import BadInput, NotFound
from converge.model import Action, Status
from converge.sql import templates, traversals
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction

#: The "version" for a rollback that deletes all resources.
EMPTY: Literal["empty"] = "empty"


@dataclass(frozen=True, slots=True)
class Target:
    """:ivar template_id: the template to go to, None for no resources.
    :ivar reached: a rollback has already brought the stack there: there is nothing to do.
    """

    template_id: int | None
    reached: bool = False


def check_version(version: object) -> None:
    """Check the version that a rollback is given.

    :raises BadInput: it is not a number from 1, :data:`EMPTY` or None.
    """
    if version is None or version == EMPTY or (type(version) is int and version >= 1):
        return
    raise BadInput(f"version must be a number from 1, {EMPTY!r} or None, not {version!r}")


def choose_target(tx: Transaction, stack: StackRow, version: int | str | None) -> Target:
    """Choose where a rollback that a person asks for goes.

    :param stack: the stack's row, locked.
    :param version: a number, ``"empty"``, or None for the version before.
    :raises NotFound: there is no such version, or none to go back to.
    """
    if version == EMPTY:
        return Target(None)
    if version is not None:
        return Target(templates.find_version(tx, stack.id, int(version)))
    action, wanted, completed = stack.action, stack.template_id, stack.completed_template_id
    if action is Action.CHECK:
        # a check does not change where the stack is going
        action = traversals.find_last_action(tx, stack.id)
    if stack.status is Status.COMPLETE and wanted == completed:
        if action is Action.ROLLBACK:
            return Target(wanted, reached=True)
        number = templates.get_version_number(tx, wanted)
        earlier = None if number is None else templates.find_last_completed(tx, stack.id, number)
        if earlier is None:
            raise NotFound(_no_earlier(tx, stack, number))
        return Target(earlier)
    if action is Action.ROLLBACK and (wanted is not None or completed is None):
        return Target(wanted)
    return Target(last_good(stack))


def last_good(stack: StackRow) -> int | None:
    """The template that a stack goes back to if it is not COMPLETE: the one that completed last;
    if none ever did, the one wanted before; None if there was none."""
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
