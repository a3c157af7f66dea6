"""Starting a traversal: one transaction, which can also be the host's own.

The stack's row is locked first, so the second of two callers sees what the first one started. A
process that dies before the commit leaves nothing; after it, any engine can claim the nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from converge import formats, tracing
from converge.errors import BadInput, Conflict, did_you_mean
from converge.model import Action, Kind, OnFailure, Status, TraversalStatus, make_mark
from converge.protocol.asked import list_ordered, read_asked, with_order, without_order
from converge.protocol.draft import Draft, check_size, draft_version, fits
from converge.protocol.outputs import note_reads
from converge.protocol.placing import Placing
from converge.protocol.plan import Node, Plan
from converge.protocol.request import Intent
from converge.protocol.settings import PROTECT, is_managed, is_ordered, is_protected, managed_reason
from converge.sql import (
    events,
    limits,
    node_moves,
    resources,
    stacks,
    survey,
    sync_points,
    templates,
    traversals,
)
from converge.sql.stacks import StackRow
from converge.sql.survey import ResourceHead
from converge.sql.sync_points import NewSyncPoint
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text
from converge.template import Definitions


@dataclass(frozen=True, slots=True)
class Started:
    """:ivar traversal: the id of the new traversal.
    :ivar superseded: the id of the running traversal that it superseded, if any.
    """

    traversal: int
    superseded: int | None


def check_expected(stack: StackRow, expected: int | None) -> None:
    """Check that a stack's current traversal is the one that the caller expects.

    :raises Conflict: it is another one.
    """
    if expected is not None and expected != stack.traversal_id:
        raise Conflict(
            f"stack {stack.name!r} is at traversal {stack.traversal_id}, not at {expected}: "
            "another client has started one since; look at the stack, then try again"
        )


def check_rest(stack: StackRow, before: str) -> None:
    """Check that nothing is being done to a stack.

    :param before: what is to be done to it, in words.
    :raises Conflict: something is.
    """
    if stack.status is Status.IN_PROGRESS:
        raise Conflict(
            f"stack {stack.name!r} is busy with its {stack.action}; wait for it to end, or stop it "
            f"with `converge cancel {stack.name}`, before you {before}"
        )


def start(
    tx: Transaction,
    stack: StackRow,
    action: Action,
    template_id: int | None,
    intent: Intent,
    *,
    definitions: Definitions | None = None,
    draft: Draft | None = None,
    expected: int | None = None,
    versions: int | None = None,
    reason: str | None = None,
    unprotect: Collection[str] = (),
    trace: str | None = None,
) -> Started:
    """Start a traversal, and supersede the running one.

    :param stack: the stack's row, locked.
    :param template_id: the template to reach, None for no resources.
    :param definitions: the resources that it wants, if the caller has them.
    :param draft: what was planned before the stack was locked.
    :param expected: the id of the current traversal, if the caller insists on it.
    :param versions: the stack's new count of versions, if it changes.
    :param reason: why it starts, if nobody asked for it.
    :param unprotect: names of protected resources that may be deleted or replaced.
    :raises Conflict: the current traversal is not the expected one, or it would delete a protected
        resource.
    :raises BadInput: there is no resource of a name in ``unprotect``.
    :param trace: the span that led to it; None: the caller's.
    :raises Conflict: the current traversal is not the expected one.
    """
    check_expected(stack, expected)
    before = read_asked(tx, stack)
    superseded = supersede(tx, stack)
    survey.lock_held(tx, stack.id)
    if action is Action.ROLLBACK and draft is not None and draft.target != template_id:
        # another version has become the one to go back to
        draft = None
    if draft is None or not fits(tx, stack, draft):
        # what nobody asked for cannot be refused
        if draft is not None and reason is None:
            check_size(stack, len(draft.heads), len(draft.definitions))
        draft = draft_version(
            tx,
            stack,
            action,
            template_id,
            definitions,
            replaced=intent.replace,
            target=intent.target,
            locked=True,
        )
    planned, definitions = draft.plan, draft.definitions
    queue = stack.queue if intent.queue is None else intent.queue
    priority = stack.priority if intent.priority is None else intent.priority
    # older versions of its template stay as they are
    needed = formats.ALWAYS if definitions.always() else formats.WRITTEN
    needed = formats.OUTPUTS if definitions.reads else needed
    format_ = max(stack.format, needed)
    if action not in (Action.CHECK, Action.DELETE):
        note_reads(tx, stack, definitions, lenient=action is Action.ROLLBACK)
    placing = Placing(tx, queue, priority, format_, definitions, draft.heads)
    if action is not Action.CHECK:
        # what nobody asked for cannot be refused; its nodes are
        _heed_protection(tx, stack, draft, unprotect, refuse=reason is None)
        if reason is None:
            _refuse_takeover(stack, draft)
            refuse_clashes(stack.name, draft)
    ordered = list_ordered(draft, before, intent.replace)
    _mark_ordered(tx, stack, draft, ordered, clear=action is Action.ROLLBACK)
    ids = resources.insert_resources(tx, stack.id, planned.new, map(definitions.type, planned.new))
    if action is not Action.CHECK:
        node_moves.cancel_superseded(tx, _list_dying(draft))
    kept = [one for one in draft.heads if one.id in planned.kept and one.name not in planned.left]
    resources.forget_replacement(tx, [one.id for one in kept if one.replaced_by is not None])
    if action is not Action.CHECK and len(kept) < len(draft.heads):
        going = {one.name for one in draft.heads if one.id not in planned.kept}
        resources.recall_replacement(tx, [one.id for one in kept if one.name in going])
    version = templates.get_version_number(tx, template_id)
    mark = make_mark()
    traversal_id = traversals.insert_traversal(
        tx,
        timeout=intent.timeout,
        mark=mark,
        stack_id=stack.id,
        action=action,
        reason=reason,
        from_template_id=stack.template_id,
        template_id=template_id,
        from_version=templates.get_version_number(tx, stack.template_id),
        version=version,
        on_failure=OnFailure(intent.on_failure),
        node_timeout=intent.node_timeout,
        total=len(planned) - 1,
        trace=tracing.current() if trace is None else trace,
        asked=None if action is Action.ROLLBACK else before.then(intent, draft).dump(),
        actor=intent.actor,
    )
    # what it protects no longer, or marks, its nodes must see
    visited = {*unprotect, *(one.name for one in draft.heads if one.id in ordered)}
    sync_points.insert_sync_points(
        tx,
        traversal_id,
        (_sync_point(node, ids, placing, visited) for node in planned.nodes()),
        mark,
    )
    previous = stack.previous_template_id if template_id == stack.template_id else stack.template_id
    stacks.update_stack(
        tx,
        stack.id,
        action=action,
        status=Status.IN_PROGRESS,
        previous_template_id=previous,
        reason=reason,
        template_id=template_id,
        traversal_id=traversal_id,
        edges=planned.graph_to_bytes(),
        queue=queue,
        priority=priority,
        format=format_,
        versions=stack.versions if versions is None else versions,
    )
    told = [_started_event(stack, traversal_id, action, version, superseded, planned, reason)]
    events.insert_events(tx, [*told, *_rename(tx, stack, traversal_id, draft)])
    return Started(traversal_id, superseded)


def _heed_protection(
    tx: Transaction, stack: StackRow, draft: Draft, unprotect: Collection[str], *, refuse: bool
) -> None:
    """Refuse to delete what is protected, and take the protection from what is named."""
    names = {one.name for one in draft.heads}
    for name in unprotect:
        if name not in names:
            raise BadInput(
                f"stack {stack.name!r} has no resource {name!r} to unprotect"
                f"{did_you_mean(name, names)}"
            )
    unchanged = draft.plan.unchanged
    named = {one.id: one.name for one in draft.heads if one.name in unprotect}
    planned = draft.plan
    going = {
        one.id: one.name
        for one in draft.heads
        if one.id not in planned.kept and one.name not in planned.left
    }
    settings = resources.list_settings(tx, named | going)
    protected = {id_: found for id_, found in settings.items() if is_protected(found)}
    held = sorted({going[id_] for id_ in protected if id_ in going and id_ not in named})
    if held and refuse:
        shown = ", ".join(map(repr, held[:20])) + (", ..." if len(held) > 20 else "")
        raise Conflict(
            f"nothing was started: it would delete what is protected in stack {stack.name!r}: "
            f"{shown}; if that is meant, say so: --unprotect {held[0]}, or unprotect=[{held[0]!r}]"
        )
    for id_, found in protected.items():
        # its node, if it has one, protects it again if the template does
        if id_ in named and named[id_] not in unchanged:
            rest = {key: value for key, value in found.items() if key != PROTECT}
            resources.write_settings(tx, id_, rest)


def _refuse_takeover(stack: StackRow, draft: Draft) -> None:
    """Refuse to delete what converge has made for something that is there already."""
    externals = set(draft.definitions.externals())
    for one in draft.heads if externals else ():
        if one.name in externals and is_managed(one) and one.id in draft.plan.kept:
            raise Conflict(
                f"nothing was started in stack {stack.name!r}: {managed_reason(one.name)}"
            )


def _mark_ordered(
    tx: Transaction, stack: StackRow, draft: Draft, ordered: Collection[int], *, clear: bool
) -> None:
    """Mark what is to be replaced because somebody asked for it.

    :param clear: take such marks away: what is rolled back is as it was.
    :raises Conflict: it is protected.
    """
    old = [one.id for one in draft.heads if clear and is_ordered(one.settings)]
    settings = resources.list_settings(tx, [*ordered, *old])
    names = {one.id: one.name for one in draft.heads}
    for id_ in sorted(ordered):
        if is_protected(settings.get(id_)):
            name = names[id_]
            raise Conflict(
                f"nothing was started: resource {name!r} of stack {stack.name!r} is protected, so "
                f"it is not replaced; if that is meant, say so: --unprotect {name}, or "
                f"unprotect=[{name!r}]"
            )
        resources.write_settings(tx, id_, with_order(settings.get(id_)))
    for id_ in old:
        resources.write_settings(tx, id_, without_order(settings.get(id_)))


def refuse_clashes(stack: str, draft: Draft) -> None:
    """Refuse to give resources names that others have.

    :raises Conflict: it is to be done.
    """
    for old, new in draft.renaming.clashes:
        raise Conflict(
            f"nothing was started: in stack {stack!r}, {old!r} cannot become {new!r}, as moved "
            f"says: there is a resource {new!r} already; remove {old!r} from moved, or let "
            f"converge forget one of the two: `converge forget {stack} NAME`"
        )


def _rename(
    tx: Transaction, stack: StackRow, traversal_id: int, draft: Draft
) -> list[dict[str, Any]]:
    """Give resources their new names.

    :returns: the events about it.
    """
    moves = sorted(draft.renaming.moves.items())
    resources.rename_resources(tx, [(id_, one.new, one.former) for id_, one in moves])
    # several versions of one resource are one to people
    made = dict.fromkeys((one.old, one.new) for _, one in moves if one.made)
    return [moved_event(stack.id, traversal_id, old, new) for old, new in made]


def moved_event(stack_id: int, traversal_id: int | None, old: str, new: str) -> dict[str, Any]:
    """The event about a resource that got another name."""
    return {
        "stack_id": stack_id,
        "traversal_id": traversal_id,
        "resource": new,
        "action": events.MOVE,
        "status": Status.COMPLETE,
        "reason": fit_text(f"it was {old!r}"),
    }


def _list_dying(draft: Draft) -> list[int]:
    """The resources that an older traversal works on and this one deletes or replaces."""

    def dies(one: ResourceHead) -> bool:
        wanted = draft.definitions
        kept = one.id in draft.plan.kept and one.name in wanted
        return not kept or wanted.type(one.name) != one.type

    held = (one for one in draft.heads if one.engine_id is not None)
    return [one.id for one in held if one.name not in draft.plan.left and dies(one)]


def supersede(tx: Transaction, stack: StackRow) -> int | None:
    """End the running traversal of a locked stack, as a newer one is about to start.

    :returns: its id, None if none was running.
    """
    # trust the locked row: a host's older snapshot may still show an ended traversal as running
    if stack.traversal_id is None or stack.status is not Status.IN_PROGRESS:
        return None
    current = traversals.get_traversal(tx, stack.traversal_id)
    if current.status is not TraversalStatus.RUNNING:
        return None
    sync_points.lock_traversal_nodes(tx, current.id, sync_points.LIVE)
    node_moves.supersede_nodes(tx, current.id)
    limits.free_idle(tx, current.id)
    traversals.end_traversal(tx, current.id, TraversalStatus.SUPERSEDED, current.reason)
    return current.id


def _sync_point(
    node: Node, new_ids: Mapping[str, int], placing: Placing, visited: Collection[str]
) -> NewSyncPoint:
    resource_id = node.resource_id
    if node.kind is Kind.UPDATE and resource_id is None:
        assert node.name is not None
        resource_id = new_ids[node.name]
    return NewSyncPoint(
        node.number,
        node.kind,
        resource_id,
        node.keep,
        node.pending,
        node.definition,
        node.requires,
        node.successors,
        node.done,
        placing.lane(node),
        node.always,
        _unsettled(node, visited),
    )


def _unsettled(node: Node, visited: Collection[str]) -> int | None:
    """How many predecessors may yet give a node something to do; None: it has something to do.

    :param visited: names of resources whose updates look at them whatever they are.
    """
    is_visited = node.kind is Kind.UPDATE and node.name in visited
    return node.pending if node.passable and not is_visited else None


def _started_event(
    stack: StackRow,
    traversal_id: int,
    action: Action,
    version: int | None,
    superseded: int | None,
    planned: Plan,
    reason: str | None,
) -> dict[str, Any]:
    parts = [f"traversal {traversal_id}", f"{len(planned) - 1} nodes"]
    if planned.unchanged:
        parts.append(f"{len(planned.unchanged)} unchanged")
    if planned.left:
        parts.append(f"{len(planned.left)} left as they are")
    if version is not None:
        parts.insert(0, f"version {version}")
    if superseded is not None:
        parts.append(f"supersedes traversal {superseded}")
    if reason is not None:
        parts.append(reason)
    return {
        "stack_id": stack.id,
        "traversal_id": traversal_id,
        "resource": None,
        "action": action,
        "status": Status.IN_PROGRESS,
        "reason": fit_text(", ".join(parts)),
    }
