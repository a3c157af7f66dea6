"""What becomes of a request: one transaction each, which can also be the host's own.

It starts something, goes on with what is running already, or is done; or another caller was
faster, and it is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from converge import formats
from converge.errors import BadInput, Conflict, NotFound
from converge.model import DEFAULT_QUEUE, Action, Status, TraversalStatus
from converge.protocol.asked import read_asked
from converge.protocol.draft import Draft, Version, draft_first, draft_version, fits, make_draft
from converge.protocol.handover import refuse_inner
from converge.protocol.outputs import refuse_readers
from converge.protocol.request import Intent, Kept, Wanted
from converge.protocol.rollback import Target, choose_target
from converge.protocol.start import Started, check_expected, start
from converge.sql import stacks, templates, traversals
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.sql.types import SOURCE_LENGTH, fit_text


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request.

    :ivar outcome: started, superseded, resumed or done; see :class:`~converge.stack.Stack`.
    :ivar superseded: the id of the traversal that was superseded, if any.
    """

    stack_id: int
    outcome: str
    superseded: int | None = None


# what can be planned before the stack is locked: the requests below take it as their draft; there
# is none of a request that, as it looks, only goes on with what is running


def draft_wanted(tx: Transaction, name: str, wanted: Wanted, intent: Intent) -> Draft:
    """Plan to create a stack or update it."""
    row = stacks.find_stack(tx, name)
    if row is None:
        return draft_first(wanted.definitions, intent.target)

    def version() -> Version:
        stored = row.template_id if _is_wanted(tx, row, wanted) else None
        return Version(stored, wanted.body, wanted.parameters)

    return make_draft(
        tx,
        row,
        Action.UPDATE,
        wanted.definitions,
        version,
        replaced=intent.replace,
        target=intent.target,
    )


def draft_bringing_about(
    tx: Transaction, name: str, wanted: Wanted, intent: Intent
) -> Draft | None:
    """Plan to create a stack or update it, unless a traversal to what is wanted is running."""
    row = stacks.find_stack(tx, name)
    if row is not None and _is_coming_about(tx, row, wanted, intent):
        return None
    return draft_wanted(tx, name, wanted, intent)


def read_kept(tx: Transaction, name: str) -> Kept:
    """The parameters of the version that a stack is to be at; none if there is no such stack."""
    row = stacks.find_stack(tx, name)
    if row is None or not row.live or row.template_id is None:
        return Kept(None, {})
    return Kept(row.template_id, templates.get_outline(tx, row.template_id).parameters)


def draft_rollback(
    tx: Transaction, name: str, version: int | str | None, resource_id: int | None = None
) -> Draft | None:
    """Plan to bring a stack back to an earlier version."""
    row = stacks.get_stack(tx, name)
    refuse_inner(tx, row, resource_id)
    target = choose_target(tx, row, version)
    if target.reached or _is_going_back(tx, row, target):
        return None
    return draft_version(tx, row, Action.ROLLBACK, target.template_id)


def draft_delete(tx: Transaction, name: str) -> Draft | None:
    """Plan to delete all resources of a stack."""
    row = stacks.find_stack(tx, name)
    if row is None or _is_running(tx, row, Action.DELETE):
        return None
    return draft_version(tx, row, Action.DELETE, None)


# requests


# that of a nested stack is made in the name of the resource that it belongs to: resource_id


def create(
    tx: Transaction,
    name: str,
    wanted: Wanted,
    intent: Intent,
    draft: Draft | None,
    *,
    resource_id: int | None = None,
) -> Answer:
    """Insert a stack, and start to create it.

    :raises Conflict: there is one of that name.
    """
    row = stacks.insert_stack(tx, name)
    if resource_id is not None:
        stacks.update_stack(tx, row.id, outer_resource_id=resource_id, format=formats.NESTED)
        row = replace(row, outer_resource_id=resource_id, format=formats.NESTED)
    return _start_wanted(tx, row, Action.CREATE, wanted, intent, draft)


def update(
    tx: Transaction,
    name: str,
    wanted: Wanted,
    intent: Intent,
    draft: Draft | None,
    expected: int | None,
    unprotect: Collection[str] = (),
) -> Answer:
    """Start to bring a stack to what is wanted of it.

    :raises NotFound: there is no such stack.
    :raises Conflict: the current traversal is not the expected one.
    """
    row = stacks.lock_stack(tx, name)
    refuse_inner(tx, row)
    return _start_wanted(tx, row, Action.UPDATE, wanted, intent, draft, expected, unprotect)


def bring_about(
    tx: Transaction,
    name: str,
    wanted: Wanted,
    intent: Intent,
    draft: Draft | None,
    *,
    source: str | None,
    any_source: bool,
    expected: int | None = None,
    unprotect: Collection[str] = (),
    resource_id: int | None = None,
) -> Answer:
    """Create a stack or update it, unless a traversal to what is wanted is running, or nothing
    differs from it.

    :param source: the file that the template is from, None if it is not to be remembered.
    :param any_source: whether the stack may be from another file.
    :param expected: the current traversal, 0 for none, if the caller insists on it.
    :raises BadInput: it is from another one, and may not.
    :raises Conflict: the current traversal is not the expected one.
    """
    row, new = stacks.take_stack(tx, name)
    refuse_inner(tx, row, resource_id)
    if expected != 0 or not new:
        check_expected(row, expected)
    if source is not None:
        _remember_source(tx, row, source, any_source=any_source)
    if new:
        return _start_wanted(tx, row, Action.CREATE, wanted, intent, draft)
    if _is_coming_about(tx, row, wanted, intent):
        return Answer(row.id, "resumed")
    if draft is not None and not intent.replace and _is_done(tx, row, wanted, intent, draft):
        _remember_place(tx, row, intent)
        return Answer(row.id, "done")
    return _start_wanted(tx, row, Action.UPDATE, wanted, intent, draft, unprotect=unprotect)


def roll_back(
    tx: Transaction,
    name: str,
    version: int | str | None,
    intent: Intent,
    draft: Draft | None,
    expected: int | None,
    unprotect: Collection[str] = (),
    *,
    resource_id: int | None = None,
) -> Answer:
    """Start to bring a stack back to an earlier version.

    :param version: as :func:`~converge.protocol.rollback.choose_target` takes it.
    :raises NotFound: there is no such stack or version, or none to go back to.
    :raises Conflict: the current traversal is not the expected one.
    """
    row = stacks.lock_stack(tx, name)
    refuse_inner(tx, row, resource_id)
    check_expected(row, expected)
    target = choose_target(tx, row, version)
    if target.reached:
        return Answer(row.id, "done")
    if _is_going_back(tx, row, target):
        return Answer(row.id, "resumed")
    started = start(
        tx, row, Action.ROLLBACK, target.template_id, intent, draft=draft, unprotect=unprotect
    )
    return _started(row, started)


def delete(
    tx: Transaction,
    name: str,
    intent: Intent,
    draft: Draft | None,
    expected: int | None,
    unprotect: Collection[str] = (),
    despite: Collection[str] = (),
    *,
    resource_id: int | None = None,
) -> Answer:
    """Start to delete a stack and all its resources.

    :param despite: names of stacks that read its outputs, and do not matter.
    :raises NotFound: there never was such a stack.
    :raises Conflict: the current traversal is not the expected one, or others read its outputs.
    """
    try:
        row = stacks.lock_stack(tx, name)
    except NotFound:
        last = stacks.find_last_stack(tx, name)
        if last is None or last.live:
            raise
        check_expected(last, expected)
        return Answer(last.id, "done")
    refuse_inner(tx, row, resource_id)
    check_expected(row, expected)
    if _is_running(tx, row, Action.DELETE):
        return Answer(row.id, "resumed")
    refuse_readers(tx, row, despite)
    return _started(
        row,
        start(tx, row, Action.DELETE, None, intent, draft=draft, unprotect=unprotect),
    )


def check(
    tx: Transaction,
    name: str,
    intent: Intent,
    expected: int | None,
    *,
    resource_id: int | None = None,
) -> Answer:
    """Start to look at the real things of a stack.

    :raises NotFound: there is no such stack.
    :raises Conflict: another traversal is running, or the current one is not the expected one.
    """
    row = stacks.lock_stack(tx, name)
    refuse_inner(tx, row, resource_id)
    check_expected(row, expected)
    if _is_running(tx, row, Action.CHECK):
        return Answer(row.id, "resumed")
    if row.status is Status.IN_PROGRESS:
        raise Conflict(
            f"stack {name!r} is busy with its {row.action}; check it when that has ended"
        )
    return _started(row, start(tx, row, Action.CHECK, row.template_id, intent))


def cancel(tx: Transaction, name: str) -> Answer:
    """End the running traversal of a stack.

    :raises NotFound: there is no such stack.
    :raises Conflict: nothing is running, or it is a nested one.
    """
    # here, as nothing else that is asked for needs it, nor what it imports
    from converge.protocol.halt import halt

    row = stacks.lock_stack(tx, name)
    refuse_inner(tx, row)
    if _is_cancelled(tx, row):
        return Answer(row.id, "resumed" if row.status is Status.IN_PROGRESS else "done")
    done = row.traversal_id is not None and halt(
        tx, row.traversal_id, TraversalStatus.CANCELLED, "cancelled by request"
    )
    if not done:
        raise Conflict(
            f"stack {name!r} has nothing to cancel: its {row.action} is {row.status}"
            if row.status is not Status.IN_PROGRESS
            else f"stack {name!r} is being stopped already"
        )
    return Answer(row.id, "started")


# whether a commit without a reply has happened


def was_started(tx: Transaction, traversal: int | None, mark: int | None) -> bool:
    """Whether the start of a traversal was committed.

    :param mark: the random number beside its id.
    """
    found = traversals.get_traversals(tx, [traversal or 0])
    return any(row.mark == mark for row in found.values())


def was_cancelled(tx: Transaction, traversal: int | None, mark: int | None) -> bool:
    """Whether the cancel of a traversal was committed.

    :param mark: the random number beside its id.
    """
    found = traversals.get_traversals(tx, [traversal or 0])
    return any(
        row.mark == mark and row.halted == TraversalStatus.CANCELLED for row in found.values()
    )


# helpers


def _start_wanted(
    tx: Transaction,
    row: StackRow,
    action: Action,
    wanted: Wanted,
    intent: Intent,
    draft: Draft | None,
    expected: int | None = None,
    unprotect: Collection[str] = (),
) -> Answer:
    if wanted.keeps is not None and wanted.keeps.template_id != row.template_id:
        raise Conflict(
            f"stack {row.name!r} was changed by another client while its parameters were read, to "
            "keep them; try again"
        )
    template_id, versions = _store_wanted(tx, row, wanted)
    started = start(
        tx,
        row,
        action,
        template_id,
        intent,
        definitions=wanted.definitions,
        draft=draft,
        expected=expected,
        versions=versions,
        unprotect=unprotect,
    )
    return _started(row, started)


def _store_wanted(tx: Transaction, row: StackRow, wanted: Wanted) -> tuple[int, int]:
    """Store what is wanted, unless it is the stack's wanted version already.

    :returns: the template's id, and the stack's new count of versions.
    """
    if row.template_id is not None and _is_wanted(tx, row, wanted):
        return row.template_id, row.versions
    version = row.versions + 1
    made = templates.insert_template(
        tx, row.id, version, wanted.body, wanted.parameters, wanted.directory
    )
    return made, version


def _is_wanted(tx: Transaction, row: StackRow, wanted: Wanted) -> bool:
    """Whether this is the stack's wanted version."""
    if row.template_id is None:
        return False
    if templates.get_texts(tx, row.template_id) != (wanted.body, wanted.parameters):
        return False
    # the same text in another folder means other files
    directory = wanted.directory
    return directory is None or templates.get_directory(tx, row.template_id) == directory


def _started(row: StackRow, started: Started) -> Answer:
    outcome = "started" if started.superseded is None else "superseded"
    return Answer(row.id, outcome, started.superseded)


def _is_running(tx: Transaction, row: StackRow, *actions: Action) -> bool:
    """Whether one of these is being done to a stack, and is not being stopped."""
    if row.action not in actions or row.status is not Status.IN_PROGRESS:
        return False
    if row.traversal_id is None:
        # inserted by the host's transaction, which went on after its start failed
        return False
    return traversals.get_traversal(tx, row.traversal_id).halted is None


def _is_coming_about(tx: Transaction, row: StackRow, wanted: Wanted, intent: Intent) -> bool:
    """Whether a traversal to what is wanted is running, in the wanted queue and priority."""
    return (
        intent.queue in (None, row.queue or DEFAULT_QUEUE)
        and intent.priority in (None, row.priority)
        and _is_running(tx, row, Action.CREATE, Action.UPDATE)
        and _is_wanted(tx, row, wanted)
        and _is_asked(tx, row, intent)
    )


def _is_asked(tx: Transaction, row: StackRow, intent: Intent) -> bool:
    """Whether what is running was asked for the same by name."""
    asked = read_asked(tx, row)
    replaces = set(asked.replace).issuperset(intent.replace)
    return replaces and set(asked.target) == set(intent.target)


def _is_done(tx: Transaction, row: StackRow, wanted: Wanted, intent: Intent, draft: Draft) -> bool:
    """Whether a stack was brought to what is wanted, and all of it is as it was left.

    :param draft: what was planned to bring it there.
    """
    return (
        row.action in (Action.CREATE, Action.UPDATE)
        and row.status is Status.COMPLETE
        and (bool(intent.target) or row.template_id == row.completed_template_id)
        # only the stack's own node
        and len(draft.plan) == 1
        and not draft.renaming.moves
        and _is_wanted(tx, row, wanted)
        and fits(tx, row, draft)
    )


def _remember_place(tx: Transaction, row: StackRow, intent: Intent) -> None:
    """Note the queue and the priority for what is done to a stack later."""
    queue = row.queue if intent.queue is None else intent.queue
    priority = row.priority if intent.priority is None else intent.priority
    if (queue, priority) != (row.queue, row.priority):
        stacks.update_stack(tx, row.id, queue=queue, priority=priority)


def _is_going_back(tx: Transaction, row: StackRow, target: Target) -> bool:
    """Whether a rollback to this target is running."""
    return row.template_id == target.template_id and _is_running(tx, row, Action.ROLLBACK)


def _is_cancelled(tx: Transaction, row: StackRow) -> bool:
    if row.status is not Status.IN_PROGRESS or row.traversal_id is None:
        return row.status is Status.CANCELLED
    return traversals.get_traversal(tx, row.traversal_id).halted == TraversalStatus.CANCELLED


def _remember_source(tx: Transaction, row: StackRow, source: str, *, any_source: bool) -> None:
    kept = fit_text(source, SOURCE_LENGTH)
    if row.source == kept:
        return
    if row.source is not None and not any_source:
        raise BadInput(
            f"stack {row.name!r} was made from {row.source}, not from {kept}; if this is to take "
            f"its place, as when the file was moved, say so: --stack {row.name}, or any_source; "
            "if not, give it another name: --stack NAME"
        )
    stacks.update_stack(tx, row.id, source=kept)
