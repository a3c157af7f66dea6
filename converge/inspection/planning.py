"""What a request would do to a stack, before it is made: the same draft as its start makes, and
what each of its nodes would do."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from converge.canonical import load
from converge.errors import BadInput, Conflict
from converge.hiding import STARS, Secrets
from converge.model import Action, Json, Status, check_name
from converge.protocol import answer
from converge.protocol.asked import Asked, list_ordered, read_asked, with_order, without_order
from converge.protocol.differences import Difference, Pending
from converge.protocol.draft import Draft, draft_first
from converge.protocol.nest import inner_name, inner_template
from converge.protocol.outputs import read_source, refuse_readers
from converge.protocol.preview import Change, Foresight, Verb
from converge.protocol.request import Intent, Wanted, work_out
from converge.protocol.rollback import choose_target
from converge.protocol.secrets import read_secrets
from converge.protocol.settings import PROTECT
from converge.protocol.start import refuse_clashes
from converge.resources import load_types
from converge.resources.resource_type import ResourceType
from converge.sql import resources, stacks, templates
from converge.sql.nested import find_inner
from converge.sql.resources import ResourceRow
from converge.sql.transaction import Transaction
from converge.template import Template
from converge.template.keys import STACK
from converge.template.nesting import body_of
from converge.template.outputs import KEY, Source

#: What brings a nested stack about.
_MAKING = (Verb.CREATE, Verb.UPDATE, Verb.REPLACE)


@dataclass(frozen=True, slots=True)
class Read:
    """An output of another stack, and what it was when this one was last started.

    :ivar before: None if it was not read then.
    """

    stack: str
    output: str
    before: Json
    after: Json


@dataclass(frozen=True, slots=True)
class Preview:
    """What would happen to a stack.

    :ivar stack: its name.
    :ivar action: CREATE, UPDATE, ROLLBACK or DELETE.
    :ivar traversal: the id of its current traversal, 0 if the stack does not exist: hand it to
        the request as ``expected``, and only what was shown is done.
    :ivar busy: what is being done to it now, which would be superseded; None if nothing is.
    :ivar changes: in the order of the traversal; what stays as it is, is left out.
    :ivar unchanged: how many resources stay as they are.
    :ivar left: how many are not touched, whatever is wanted of them.
    :ivar reads: what was read of other stacks.
    :ivar nested: what would happen in nested stacks, by the names of their resources; those of
        which that is known only while they are brought about are left out.
    """

    stack: str
    action: str
    traversal: int
    busy: str | None
    changes: tuple[Change, ...]
    unchanged: int
    left: int = 0
    reads: tuple[Read, ...] = ()
    nested: Mapping[str, Preview] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.changes)

    @property
    def counts(self) -> dict[str, int]:
        """How many resources are to be created, updated, and so on: certain changes by their
        verbs, the others as ``may update`` and ``may replace``; the unchanged at last."""
        found = Counter(str(one.verb) if one.sure else f"may {one.verb}" for one in self.changes)
        order = [*map(str, Verb), *(f"may {verb}" for verb in Verb)]
        counts = {name: found[name] for name in order if found[name]}
        counts["unchanged"] = self.unchanged
        return counts | ({"left": self.left} if self.left else {})

    @property
    def failures(self) -> list[Change]:
        """Those that cannot be done."""
        own = [one for one in self.changes if one.verb is Verb.FAIL]
        return own + [one for each in self.nested.values() for one in each.failures]

    def to_dict(self) -> dict[str, Any]:
        """The preview as a JSON object. What is not known yet is a text such as ``(after NAME)``,
        and the names are in ``waits_for``."""
        return {
            "name": self.stack,
            "action": self.action,
            "traversal": self.traversal,
            "busy": self.busy,
            "counts": self.counts,
            "reads": [dataclasses.asdict(one) for one in self.reads],
            "changes": [_change_to_dict(one) for one in self.changes],
            "nested": {name: one.to_dict() for name, one in self.nested.items()},
        }


def preview_new(
    name: str,
    template: Template,
    *,
    parameters: Mapping[str, Any] | None = None,
    types: Mapping[str, ResourceType] | None = None,
    replace: Collection[str] = (),
    target: Collection[str] = (),
) -> Preview:
    """What would happen if a stack were created where there is none; no database is needed. See
    :meth:`converge.Store.plan`.

    :raises BadInput: the name, the template or a parameter is wrong; or nothing is wanted of what
        is to be replaced.
    """
    check_name("stack", name)
    known = {**load_types(), **(types or {})}
    wanted = work_out(name, template, parameters, known)
    hidden = template.hidden_values(load(wanted.parameters))
    return _preview_first(None, name, wanted, hidden, known, replace, target)


def _preview_first(
    tx: Transaction | None,
    name: str,
    wanted: Wanted,
    hidden: Collection[Json],
    types: Mapping[str, ResourceType],
    replace: Collection[str] = (),
    target: Collection[str] = (),
) -> Preview:
    """What would happen if a stack were created where there is none.

    :param tx: None: there is no database.
    """
    draft = draft_first(wanted.definitions, target)
    list_ordered(draft, Asked(), replace)
    foresight = Foresight(name, draft.plan, draft.definitions, {}, types, wanted.directory)
    changes = list(foresight.changes())
    others = [*hidden, *_plain(foresight.secrets)]
    secrets = Secrets(others)
    looks = _Nested(tx, name, foresight.nested, others, types, wanted.directory)
    changes, nested = looks.look(changes)
    masked = tuple(_masked(one, secrets) for one in changes)
    left = len(draft.plan.left)
    return Preview(name, Action.CREATE, 0, None, masked, 0, left, nested=nested)


@dataclass(frozen=True, slots=True)
class _Nested:
    """The nested stacks of a stack that is looked at.

    :ivar tx: None: there is no database.
    :ivar stack: the name of the outer stack.
    :ivar properties: of the nested stacks, resolved, by name.
    :ivar hidden: what the outer stack knows that is secret.
    :ivar directory: where relative paths of the outer stack start.
    """

    tx: Transaction | None
    stack: str
    properties: Mapping[str, Mapping[str, Json]]
    hidden: Sequence[Json]
    types: Mapping[str, ResourceType]
    directory: str | None

    def look(self, changes: Sequence[Change]) -> tuple[list[Change], dict[str, Preview]]:
        """The changes of the outer stack, and what happens in the nested stacks."""
        found: list[Change] = []
        nested: dict[str, Preview] = {}
        for change in changes:
            try:
                inner = self._look(change)
            except (BadInput, Conflict) as error:
                # so it would end, too
                change = dataclasses.replace(change, verb=Verb.FAIL, reason=str(error))
                inner = None
            found.append(change)
            if inner is not None:
                nested[change.name] = inner
        return found, nested

    def _look(self, change: Change) -> Preview | None:
        row = None
        if self.tx is not None and change.type == STACK and change.resource_id is not None:
            row = find_inner(self.tx, change.resource_id)
        if change.verb is Verb.DELETE and row is not None and self.tx is not None:
            return preview_delete(self.tx, row.name, self.types)
        properties = self.properties.get(change.name)
        if change.verb not in _MAKING or properties is None or as_json(properties) != properties:
            return None
        body = body_of(properties)
        if body is None:
            return None
        if change.verb is Verb.REPLACE:
            row = None
        name = inner_name(self.stack, change.name) if row is None else row.name
        template, given = inner_template(properties, self.directory)
        wanted = work_out(name, template, given, self.types, read=self._read)
        hidden = [*self.hidden, *template.hidden_values(load(wanted.parameters))]
        if row is None or self.tx is None:
            return _preview_first(self.tx, name, wanted, hidden, self.types)
        return preview_wanted(self.tx, name, wanted, hidden, self.types)

    def _read(self, name: str) -> Source:
        if self.tx is None:
            raise BadInput(f"there is no stack {name!r}")
        return read_source(self.tx, name)


def preview_wanted(
    tx: Transaction,
    name: str,
    wanted: Wanted,
    hidden: Collection[Json],
    types: Mapping[str, ResourceType],
    unprotect: Collection[str] = (),
    intent: Intent | None = None,
) -> Preview:
    """What would happen if a stack were created or updated.

    :param hidden: the values of the hidden parameters.
    :param intent: what else is asked for.
    :raises BadInput: something is asked for of a resource that is not wanted.
    """
    intent = Intent() if intent is None else intent
    row = stacks.find_stack(tx, name)
    draft = answer.draft_wanted(tx, name, wanted, intent)
    action = Action.CREATE if row is None else Action.UPDATE
    before = Asked() if row is None else read_asked(tx, row)
    ordered = list_ordered(draft, before, intent.replace)
    directory = wanted.directory
    found = _preview(tx, name, action, draft, types, hidden, directory, unprotect, ordered)
    reads = wanted.definitions.reads
    if not reads:
        return found
    known: Mapping[str, Json] = {}
    secrets = Secrets(hidden)
    if row is not None:
        secrets = read_secrets(tx, row.id, hidden)
        if row.template_id is not None:
            known = templates.get_parameters(tx, row.template_id)
    return dataclasses.replace(found, reads=tuple(_reads(reads, known.get(KEY, {}), secrets)))


def _reads(
    reads: Mapping[str, Json], before: Mapping[str, Json], secrets: Secrets
) -> Iterator[Read]:
    for stack, source in sorted(reads.items()):
        known = before.get(stack, {}).get("outputs", {})
        for output, given in sorted(source["outputs"].items()):
            old = known.get(output, {}).get("value")
            shown = secrets.hide_in_json
            yield Read(stack, output, shown(old), shown(given["value"]))


def preview_rollback(
    tx: Transaction,
    name: str,
    version: int | Literal["empty"] | None,
    types: Mapping[str, ResourceType],
    unprotect: Collection[str] = (),
) -> Preview:
    """What would happen if a stack were rolled back.

    :raises NotFound: there is no such stack or version, or none to go back to.
    """
    row = stacks.get_stack(tx, name)
    target = choose_target(tx, row, version).template_id
    directory = None if target is None else templates.get_directory(tx, target)
    draft = answer.draft_rollback(tx, name, version, row.outer_resource_id)
    return _preview(tx, name, Action.ROLLBACK, draft, types, (), directory, unprotect)


def preview_delete(
    tx: Transaction,
    name: str,
    types: Mapping[str, ResourceType],
    unprotect: Collection[str] = (),
    despite: Collection[str] = (),
) -> Preview:
    """What would happen if a stack were deleted.

    :raises NotFound: there is no such stack.
    :raises Conflict: others read its outputs.
    """
    row = stacks.get_stack(tx, name)
    draft = answer.draft_delete(tx, name)
    if draft is not None:
        refuse_readers(tx, row, despite)
    return _preview(tx, name, Action.DELETE, draft, types, (), None, unprotect)


def _preview(
    tx: Transaction,
    name: str,
    action: Action,
    draft: Draft | None,
    types: Mapping[str, ResourceType],
    hidden: Iterable[Json],
    directory: str | None,
    unprotect: Collection[str],
    ordered: Collection[int] = (),
) -> Preview:
    row = stacks.find_stack(tx, name)
    changes: list[Change] = []
    nested: Mapping[str, Preview] = {}
    secrets = Secrets(())
    unchanged = 0
    if draft is not None:
        refuse_clashes(name, draft)
        ids = {node.resource_id for node in draft.plan.nodes() if node.resource_id is not None}
        moves = draft.renaming.moves
        moved = {one.new: one.old for one in moves.values() if one.made}
        rows = resources.read_resources(tx, ids | moves.keys())
        for one in rows.values():
            one.name = draft.renaming.name(one.id, one.name)
            if one.name in unprotect:
                one.settings = _without_protection(one)
            if one.id in ordered:
                one.settings = with_order(one.settings)
            if action is Action.ROLLBACK:
                one.settings = without_order(one.settings)
        foresight = Foresight(name, draft.plan, draft.definitions, rows, types, directory, moved)
        for change in foresight.changes():
            if change.verb is Verb.NOTHING:
                unchanged += 1
            else:
                changes.append(change)
        unchanged += len(draft.plan.unchanged - moved.keys())
        others = [*hidden, *_plain(foresight.secrets)]
        looks = _Nested(tx, name, foresight.nested, others, types, directory)
        changes, nested = looks.look(changes)
        secrets = Secrets(others) if row is None else read_secrets(tx, row.id, others)
    busy = row is not None and row.status is Status.IN_PROGRESS
    return Preview(
        name,
        action,
        0 if row is None else row.traversal_id or 0,
        row.action if busy and row is not None else None,
        tuple(_masked(one, secrets) for one in changes),
        unchanged,
        0 if draft is None else len(draft.plan.left),
        nested=nested,
    )


def _without_protection(row: ResourceRow) -> dict[str, Json]:
    return {key: value for key, value in (row.settings or {}).items() if key != PROTECT}


def _plain(values: Iterable[Json]) -> Iterator[Json]:
    """Those of which all is known."""
    return (value for value in values if as_json(value) == value)


def _masked(change: Change, secrets: Secrets) -> Change:
    """A change without secrets."""
    shown = secrets.hide_in_json
    differences = (
        dataclasses.replace(one, before=shown(one.before), after=shown(one.after))
        for one in change.differences
    )
    return dataclasses.replace(
        change,
        differences=tuple(map(_without_secret, differences)),
        physical_id=shown(change.physical_id),
        reason=None if change.reason is None else secrets.hide(change.reason),
    )


def _without_secret(one: Difference) -> Difference:
    """A difference whose values are not shown if its type declares it secret."""
    if not one.secret:
        return one
    before, after = (None if value is None else STARS for value in (one.before, one.after))
    return dataclasses.replace(one, before=before, after=after)


def _change_to_dict(change: Change) -> dict[str, Any]:
    return {
        "resource": change.name,
        "type": change.type,
        "action": change.verb,
        "sure": change.sure,
        "may_replace": change.may_replace,
        "deletes_first": change.deletes_first,
        "leaves_old": change.leaves_old,
        "moved_from": change.moved_from,
        "reason": change.reason,
        "physical_id": change.physical_id,
        "waits_for": list(change.waits_for),
        "properties": {
            one.name: {"before": one.before, "after": as_json(one.after), "sure": one.sure}
            for one in change.differences
        },
    }


def as_json(value: Json) -> Json:
    """A value with a text for each part that is not known yet."""
    if isinstance(value, Pending):
        return str(value)
    if isinstance(value, Mapping):
        return {key: as_json(part) for key, part in value.items()}
    if isinstance(value, list):
        return [as_json(part) for part in value]
    return value
