"""The plan of a start, made before its stack is locked.

To plan a million nodes takes half a minute, for which nobody must wait. So the resources are read
and the nodes planned first; the start uses that plan if it finds the same resources when it has
locked the stack, and makes another one if it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from converge import collection
from converge.errors import BadInput, Conflict, did_you_mean
from converge.model import Action, Physical
from converge.protocol.basis import find_settled, is_made_by
from converge.protocol.plan import (
    Existing,
    Plan,
    compared,
    contested,
    plan,
    plan_check,
    with_required,
)
from converge.protocol.renaming import Renaming, find_renaming
from converge.sql import survey, templates
from converge.sql.stacks import StackRow
from converge.sql.survey import NOTHING, Fingerprint, ResourceHead
from converge.sql.transaction import Transaction
from converge.template import Definitions, Template

#: Resources, there and wanted, for which a locked stack is planned at most: a server ends a
#: transaction that stands still for as long as more of them take.
LIMIT = 200_000


class Version(NamedTuple):
    """What the wanted resources are from, as it is stored.

    :ivar template_id: None if it is not stored yet.
    :ivar body: canonical JSON, as are the parameters.
    """

    template_id: int | None
    body: str
    parameters: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan, and what it was made from.

    :ivar fingerprint: of the resources that there are; None if it would not show every change.
    :ivar previous: the id of the template that was wanted before.
    :ivar definitions: the wanted resources, by name.
    :ivar heads: the resources that there are.
    :ivar renaming: the new names of some of these; in ``heads`` they have them already.
    :ivar target: the id of the version that it goes to, if that is stored.
    """

    previous: int | None
    fingerprint: Fingerprint | None
    definitions: Definitions
    heads: Sequence[ResourceHead]
    plan: Plan
    renaming: Renaming = field(default_factory=Renaming)
    target: int | None = None


def draft_first(definitions: Definitions, target: Collection[str] = ()) -> Draft:
    """The draft for a stack that does not exist yet.

    :param target: see :func:`make_draft`.
    """
    with collection.paused():
        only = touched(definitions, target)
        return Draft(None, NOTHING, definitions, (), plan(definitions, [], only=only))


def touched(definitions: Definitions, target: Collection[str]) -> set[str] | None:
    """The names of the resources that may be touched; None: all.

    :param target: those that were named; none: all.
    :raises BadInput: nothing of such a name is wanted.
    """
    for name in target:
        if name not in definitions:
            raise BadInput(
                f"there is no resource {name!r} in the template to be the target"
                f"{did_you_mean(name, definitions)}"
            )
    return with_required(definitions.graph, target) if target else None


def make_draft(
    tx: Transaction,
    stack: StackRow,
    action: Action,
    definitions: Definitions,
    version: Callable[[], Version | None],
    *,
    replaced: Collection[str] = (),
    target: Collection[str] = (),
    locked: bool = False,
) -> Draft:
    """Read what there is of a stack, and plan.

    :param version: gives what the definitions are from, None if nothing is wanted. It is called
        only where there are several versions of a resource.
    :param replaced: names of resources that are to be replaced whatever is wanted of them.
    :param target: names of those that are touched, with what they require; none: all.
    :param locked: whether the transaction has locked the stack.
    """
    # of a locked stack, nobody asks later whether it has changed
    fingerprint = None if locked else survey.get_fingerprint(tx, stack.id)
    heads = survey.list_heads(tx, stack.id, locked=locked)
    renaming = Renaming() if action is Action.CHECK else find_renaming(definitions, heads)
    if renaming.moves:
        heads = [replace(one, name=renaming.name(one.id, one.name)) for one in heads]
    with collection.paused():
        existing = [_existing(head) for head in heads]
    if action is Action.CHECK:
        planned = plan_check(definitions, existing)
    else:
        details = survey.list_contents(tx, compared(existing, definitions), locked=locked)
        wanted = version() if details else None
        alike: Collection[int] = ()
        if any(head.id in details for head in heads if head.engine_id is not None):
            # a handler that still runs can record what it made, which changes no epoch
            fingerprint = None
        if details:
            existing = [
                _filled(one, head, details.get(one.id), definitions, tx.blind)
                for one, head in zip(existing, heads, strict=True)
            ]
        if wanted is not None:
            alike = templates.list_alike(tx, contested(existing), *wanted[1:])
        with collection.paused():
            settled = find_settled(definitions, heads, tx.blind, replaced)
            planned = plan(
                definitions,
                existing,
                wanted=None if wanted is None else wanted.template_id,
                previous=stack.template_id,
                alike=alike,
                unchanged=settled.unchanged,
                passable=settled.passable,
                only=touched(definitions, target),
            )
    return Draft(stack.template_id, fingerprint, definitions, heads, planned, renaming)


def draft_version(
    tx: Transaction,
    stack: StackRow,
    action: Action,
    template_id: int | None,
    definitions: Definitions | None = None,
    *,
    replaced: Collection[str] = (),
    target: Collection[str] = (),
    locked: bool = False,
) -> Draft:
    """:func:`make_draft` for a version that is stored.

    :param template_id: None if nothing is wanted.
    :param definitions: the resources that it wants, if the caller has them.
    """

    def version() -> Version | None:
        if template_id is None:
            return None
        return Version(template_id, *templates.get_texts(tx, template_id))

    if definitions is None:
        definitions = _load_definitions(tx, stack, template_id)
    draft = make_draft(
        tx, stack, action, definitions, version, replaced=replaced, target=target, locked=locked
    )
    return replace(draft, target=template_id)


def fits(tx: Transaction, stack: StackRow, draft: Draft) -> bool:
    """Whether a draft is what would be made now.

    :param stack: the stack's row, locked; so are the resources that an engine holds.
    """
    return (
        stack.template_id == draft.previous
        and survey.get_fingerprint(tx, stack.id) == draft.fingerprint
    )


def check_size(stack: StackRow, there: int, wanted: int) -> None:
    """Refuse to plan while the stack is locked, if that would take too long.

    :raises Conflict: there are too many resources.
    """
    if there + wanted > LIMIT:
        raise Conflict(
            f"stack {stack.name!r} changed while its {there + wanted} resources were planned, and "
            f"they are too many to be planned while it is locked: let its {stack.action} end, or "
            f"stop it with `converge cancel {stack.name}`, and try again"
        )


def _load_definitions(tx: Transaction, stack: StackRow, template_id: int | None) -> Definitions:
    """The resources that a template wants; none for None."""
    if template_id is None:
        return Definitions.of({})
    row = templates.get_template(tx, template_id, newest=True)
    return Template.from_store(row.body).definitions(row.parameters, stack.name)


def _existing(head: ResourceHead) -> Existing:
    return Existing(
        id=head.id,
        name=head.name,
        type=head.type,
        action=head.action,
        status=head.status,
        template_id=head.template_id,
        requires=tuple(head.requires),
    )


def _filled(
    one: Existing,
    head: ResourceHead,
    content: survey.Content | None,
    definitions: Definitions,
    blind: Callable[[str], str],
) -> Existing:
    if content is None:
        return one
    physical_id = content.physical_id
    return replace(
        one,
        as_wanted=one.name in definitions
        and is_made_by(head.basis, definitions.text(one.name), blind),
        properties=content.properties,
        physical=None if physical_id is None else Physical(physical_id, content.attributes),
    )
