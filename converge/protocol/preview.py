"""What a traversal would do, and why: a pure function of its plan.

Each node is decided as when it runs, by the same function, but before anything is done. What a
reference to a changed resource will give is not known by then. So each update is decided twice:
as if all such values stayed as they are, and as if they all became others. What both decisions
have in common is certain, the rest may be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from converge.errors import BadInput, UnresolvedReference
from converge.model import Action, Json, Kind, Physical, ResourceDefinition, Status, same
from converge.protocol.decide import decide_delete, decide_replace, decide_wanted, unknown_type
from converge.protocol.differences import Difference, Pending, fill, list_differences, names_in
from converge.protocol.drift import describe, drift_of, is_gone, real_properties
from converge.protocol.marks import secrets_of
from converge.protocol.plan import Node, Plan
from converge.protocol.settings import (
    EXTERNAL_ID,
    TRIGGERS,
    is_external,
    is_managed,
    is_ordered,
    managed_reason,
    retains,
    runs_always,
)
from converge.protocol.work import Decision, Operation
from converge.resources.resource_type import (
    Context,
    How,
    Planned,
    ResourceType,
    plan_change,
    supports,
)
from converge.sql.resources import ResourceRow
from converge.template import Definitions, resolve, with_defaults
from converge.template.definitions import dump_definition
from converge.template.elsewhere import secret_references
from converge.template.functions import function_of
from converge.template.properties import property_problems, unmet
from converge.template.values import LITERAL

LOG = logging.getLogger(__name__)


#: Why something happens that nothing else asks for.
RUNS_ALWAYS = "it runs always"


class Verb(StrEnum):
    """What happens to a resource."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"
    #: it goes, and what it stands for is left in place
    LEAVE = "leave"
    #: it is there already, and is used as it is
    USE = "use"
    #: it gets another name, and stays as it is
    MOVE = "move"
    #: its new properties are stored, and nothing is called
    NOTE = "note"
    NOTHING = "nothing"
    #: it cannot be done
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one resource.

    :ivar sure: whether it happens for certain; otherwise it may be less, or nothing.
    :ivar may_replace: an update may become a replacement.
    :ivar deletes_first: a replacement deletes the old one before it makes the new one.
    :ivar leaves_old: a replacement, if it comes to that, leaves the old one in place.
    :ivar moved_from: the name that it had until now, if it gets another one.
    :ivar reason: why, in words; None where the differences say it.
    :ivar differences: the properties that change, by name; of a create, all.
    :ivar waits_for: the resources whose results it depends on.
    :ivar resource_id: the number of its row, None if it has none yet.
    """

    name: str
    type: str
    verb: Verb
    sure: bool = True
    may_replace: bool = False
    deletes_first: bool = False
    leaves_old: bool = False
    moved_from: str | None = None
    reason: str | None = None
    physical_id: str | None = None
    differences: Sequence[Difference] = ()
    waits_for: Sequence[str] = ()
    resource_id: int | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a resource as references see it.

    :ivar whole: whether it has no other attributes than these.
    """

    physical_id: str | None
    attributes: Mapping[str, Json] = field(default_factory=dict)
    whole: bool = False


class Foresight:
    """What the nodes of a plan will do.

    :ivar secrets: values that came up, and are not to be shown.
    :ivar nested: the properties of nested stacks, resolved, by name.
    """

    def __init__(
        self,
        stack: str,
        plan: Plan,
        definitions: Definitions,
        rows: Mapping[int, ResourceRow],
        types: Mapping[str, ResourceType],
        directory: str | None = None,
        moved: Mapping[str, str] | None = None,
    ) -> None:
        """:param stack: the stack's name.
        :param rows: the existing resources that have a node, or that such a one refers to, by id.
        :param directory: where relative paths in the template start.
        :param moved: the old names of those that get another one, by the new name; the rows have
            their new ones.
        """
        self.secrets: list[Json] = secrets_of(rows.values())
        self.nested: dict[str, Mapping[str, Json]] = {}
        self._stack = stack
        self._plan = plan
        self._definitions = definitions
        self._rows = rows
        self._types = types
        self._directory = directory
        self._moved = moved or {}
        self._known: dict[str, _Known] = {}
        # what has secrets that are kept elsewhere: only engines read them
        self._elsewhere: set[str] = set()

    def changes(self) -> Iterator[Change]:
        """Each change, in the order of the nodes. What needs no node is left out, and so is what
        was never made."""
        for name, row in self._untouched():
            self._known[name] = _as_it_is(row)
            if name in self._moved:
                change = Change(name, row.type, Verb.NOTHING, physical_id=row.physical_id)
                yield self._with_name(replace(change, resource_id=row.id))
        for node in self._plan.nodes():
            if node.name is None or node.done:
                continue
            if node.kind is Kind.UPDATE:
                yield self._with_name(
                    self._update(node.name, self._rows.get(node.resource_id or 0))
                )
            elif not node.keep and (gone := self._cleanup(node)) is not None:
                yield gone

    def _with_name(self, change: Change) -> Change:
        """A change that tells of a new name, too."""
        if change.name not in self._moved:
            return change
        verb = Verb.MOVE if change.verb is Verb.NOTHING else change.verb
        return replace(change, verb=verb, moved_from=self._moved[change.name])

    def _untouched(self) -> Iterator[tuple[str, ResourceRow]]:
        unchanged = self._plan.unchanged
        for row in self._rows.values():
            if row.name in unchanged and row.id in self._plan.kept:
                yield row.name, row

    # -- what goes

    def _cleanup(self, node: Node) -> Change | None:
        row = self._rows[node.resource_id or 0]
        if row.status is Status.INIT:
            return None
        decision = decide_delete(row, self._types)
        reason = "it is no longer wanted"
        if row.name in self._definitions:
            reason = "another version of it stays"
        if decision.operation is Operation.DROP:
            reason = "nothing was made of it"
        verb = Verb.DELETE
        if decision.operation is Operation.DROP and decision.reason is not None:
            verb, reason = Verb.LEAVE, f"{reason}, and {decision.reason.partition(': ')[2]}"
        if decision.operation is Operation.FAIL:
            verb, reason = Verb.FAIL, decision.reason or ""
        return Change(
            row.name,
            row.type,
            verb,
            reason=reason,
            physical_id=row.physical_id,
            resource_id=row.id,
        )

    # -- what comes, or stays

    def _update(self, name: str, row: ResourceRow | None) -> Change:
        definition = self._definitions[name]
        # until more is known of it
        self._known[name] = _Known(None)
        if any(secret_references(dict(definition.properties))):
            self._elsewhere.add(name)
        change = Change(name, definition.type, Verb.CREATE)
        if row is not None:
            change = replace(change, physical_id=row.physical_id, resource_id=row.id)
        resource_type = self._types.get(definition.type)
        if resource_type is None:
            return _fails(change, unknown_type(definition.type, self._types))
        if is_external(definition.settings):
            return self._used(change, definition, row)
        try:
            resolved = {key: self._resolve(each) for key, each in definition.properties.items()}
            wanted = with_defaults(resource_type, resolved)
            settings = {key: self._resolve(each) for key, each in definition.settings.items()}
        except (UnresolvedReference, BadInput) as error:
            return _fails(change, str(error))
        for message in _mistakes(definition.type, resource_type, wanted):
            return _fails(change, message)
        declared = resource_type.schema or {}
        self.secrets += [
            each for key, each in wanted.items() if key in declared and declared[key].secret
        ]
        change = replace(change, waits_for=names_in([wanted, settings.get(TRIGGERS)]))
        if resource_type.nests:
            self.nested[name] = wanted
        if row is None:
            return self._created(change, resource_type, wanted)
        body = dump_definition(definition)
        filled, as_before = fill(wanted, row.properties), fill(settings, row.settings or {})
        least = decide_wanted(body, row, filled, as_before, self._types)
        most = decide_wanted(body, row, wanted, settings, self._types)
        if most.operation is Operation.FAIL:
            return _fails(change, most.reason or "it cannot be replaced")
        if most.operation is Operation.CREATE:
            reason = None if row.status is Status.INIT else "its create has not completed"
            return self._created(replace(change, reason=reason), resource_type, wanted)
        differences = list_differences(resource_type, real_properties(row), wanted)
        change = replace(
            change,
            differences=differences,
            verb=_VERBS[most.operation],
            leaves_old=retains(body, row) or self._holds(body, row, wanted),
        )
        if change.verb is Verb.NOTHING:
            return self._kept(change, row)
        if change.verb is Verb.UPDATE:
            sure = least.operation is Operation.UPDATE
            again = runs_always(settings)
            if again and not differences:
                change = replace(change, reason=RUNS_ALWAYS)
            change = replace(change, sure=sure)
            return self._updated(change, resource_type, body, row, wanted, again=again)
        if _VERBS[least.operation] is Verb.UPDATE:
            return replace(change, verb=Verb.UPDATE, may_replace=True)
        sure = _VERBS[least.operation] is Verb.REPLACE
        reason = _why_replaced(resource_type, definition, row, wanted, settings)
        change = replace(change, sure=sure, reason=reason)
        return self._replaced(change, resource_type, most, wanted)

    def _used(
        self, change: Change, definition: ResourceDefinition, row: ResourceRow | None
    ) -> Change:
        """What is there already."""
        if row is not None and is_managed(row):
            return _fails(change, managed_reason(row.name))
        external_id = str(definition.settings[EXTERNAL_ID])
        if row is not None and row.status is Status.COMPLETE and row.physical_id == external_id:
            return self._kept(change, row)
        self._known[change.name] = _Known(external_id)
        reason = None
        if row is not None and row.physical_id not in (None, external_id):
            reason = f"instead of {row.physical_id}"
        return replace(change, verb=Verb.USE, physical_id=external_id, reason=reason)

    def _holds(
        self, body: Mapping[str, Json], row: ResourceRow, wanted: Mapping[str, Json]
    ) -> bool:
        """Whether the old one stays if it is replaced, as what is not touched depends on it."""
        if row.id not in self._plan.held:
            return False
        return decide_replace(body, row, wanted, self._types).operation is not Operation.DELETE

    def _created(
        self, change: Change, resource_type: ResourceType, wanted: Mapping[str, Json]
    ) -> Change:
        self._foretell(change, resource_type, wanted)
        return replace(change, differences=list_differences(resource_type, {}, wanted))

    def _kept(self, change: Change, row: ResourceRow) -> Change:
        self._known[change.name] = _as_it_is(row)
        verb = Verb.NOTE if change.differences else Verb.NOTHING
        return replace(change, verb=verb, sure=True, leaves_old=False)

    def _updated(
        self,
        change: Change,
        resource_type: ResourceType,
        body: Mapping[str, Json],
        row: ResourceRow,
        wanted: Mapping[str, Json],
        *,
        again: bool,
    ) -> Change:
        """An update, as far as the properties decide. Its type may know more."""
        if row.status is not Status.COMPLETE:
            drift = drift_of(row)
            reason = describe(drift) if drift else f"its {row.action} is {row.status}"
            change = replace(change, reason=reason)
        if change.waits_for:
            # a type with a plan may say of the values to come that they change nothing
            sure = change.sure and not supports(resource_type, "plan")
            return replace(change, sure=sure, may_replace=True)
        planned = self._ask(change, resource_type, wanted, row)
        if planned is None:
            return replace(change, may_replace=True)
        if planned.how == How.REPLACE:
            reason = planned.reason or "the plan of its type says so"
            change = replace(change, verb=Verb.REPLACE, reason=reason)
            decision = decide_replace(body, row, wanted, self._types)
            return self._replaced(change, resource_type, decision, wanted)
        if planned.how == How.NOTHING and row.status is Status.COMPLETE and not again:
            return self._kept(change, row)
        self._known[change.name] = _Known(row.physical_id, planned.attributes)
        return replace(change, leaves_old=False)

    def _replaced(
        self,
        change: Change,
        resource_type: ResourceType,
        decision: Decision,
        wanted: Mapping[str, Json],
    ) -> Change:
        if decision.operation is Operation.FAIL:
            return _fails(change, decision.reason or "it cannot be replaced")
        if change.sure:
            self._foretell(change, resource_type, wanted)
        return replace(change, deletes_first=decision.operation is Operation.DELETE)

    def _foretell(
        self, change: Change, resource_type: ResourceType, wanted: Mapping[str, Json]
    ) -> None:
        """Note what is known of a resource that is yet to be made."""
        planned = None if change.waits_for else self._ask(change, resource_type, wanted, None)
        if planned is not None:
            self._known[change.name] = _Known(planned.physical_id, planned.attributes)

    def _ask(
        self,
        change: Change,
        resource_type: ResourceType,
        wanted: Mapping[str, Json],
        row: ResourceRow | None,
    ) -> Planned | None:
        context = Context(
            self._stack,
            change.name,
            physical_id=None if row is None else row.physical_id,
            properties={} if row is None else row.properties,
            attributes={} if row is None else row.attributes,
            directory=self._directory if resource_type.relative_paths else None,
        )
        try:
            planned = plan_change(
                resource_type, context, wanted, None if row is None else real_properties(row)
            )
        except Exception:
            # an engine reports it, as a failure of the update; of a plan, it is no more than a
            # change of which nothing is known
            LOG.warning("the plan of resource %r failed", change.name, exc_info=True)
            return None
        if planned is not None and change.name in self._elsewhere:
            return replace(planned, attributes={}, physical_id=None)
        if planned is not None:
            hidden = set(resource_type.secret_attributes)
            self.secrets += [each for key, each in planned.attributes.items() if key in hidden]
        return planned

    # -- values

    def _resolve(self, value: Json) -> Json:
        """A value with all that is known before the start; the rest is :class:`Pending`."""
        if isinstance(value, list):
            return [self._resolve(part) for part in value]
        if not isinstance(value, dict):
            return value
        if function_of(value) is None:
            return {key: self._resolve(part) for key, part in value.items()}
        names = frozenset(self._waits(value))
        return Pending(names) if names else resolve(value, self._look_up)

    def _waits(self, value: Json) -> Iterator[str]:
        """The resources whose results are needed to evaluate a value, and are not known."""
        parts = value if isinstance(value, list) else ()
        if isinstance(value, dict):
            function = function_of(value)
            if function is not None and function[0] == LITERAL:
                return
            if function is not None and function[0] in ("get_resource", "get_attr"):
                yield from self._waits_of(*function)
            parts = list(value.values())
        for part in parts:
            yield from self._waits(part)

    def _waits_of(self, function: str, argument: Json) -> Iterator[str]:
        target, *keys = argument if isinstance(argument, list) and argument else [argument]
        if not isinstance(target, str):
            # which one is known when it is evaluated: any of them
            yield from (name for name, known in self._known.items() if not known.whole)
            return
        known = self._known.get(target)
        if known is None or known.whole:
            return
        if function == "get_resource" and known.physical_id is not None:
            return
        if function == "get_attr" and keys and keys[0] in known.attributes:
            return
        yield target

    def _look_up(self, name: str) -> Physical:
        known = self._known.get(name)
        if known is None or (known.whole and known.physical_id is None):
            raise UnresolvedReference(f"resource {name!r} has no physical id yet")
        return Physical(known.physical_id or "", known.attributes)


_VERBS: Mapping[Operation, Verb] = {
    Operation.NOTHING: Verb.NOTHING,
    Operation.UPDATE: Verb.UPDATE,
    Operation.REPLACE: Verb.REPLACE,
    Operation.DELETE: Verb.REPLACE,
}


def _as_it_is(row: ResourceRow) -> _Known:
    return _Known(row.physical_id, row.attributes, whole=True)


def _fails(change: Change, reason: str) -> Change:
    return replace(change, verb=Verb.FAIL, sure=True, reason=reason)


def _mistakes(
    type_name: str, resource_type: ResourceType, properties: Mapping[str, Json]
) -> Iterator[str]:
    """What is wrong with the properties, as far as they are known."""
    given = {
        name: () if isinstance(value, Pending) else (type(value),)
        for name, value in properties.items()
    }
    for _, message in property_problems(type_name, resource_type, given):
        yield message
    for name, declared in (resource_type.schema or {}).items():
        if declared.constraints and name in properties and not names_in(properties[name]):
            for message in unmet(declared, properties[name]):
                yield f"property {name!r} of type {type_name!r}: {message}"


def _why_replaced(
    resource_type: ResourceType,
    definition: ResourceDefinition,
    row: ResourceRow,
    wanted: Mapping[str, Json],
    settings: Mapping[str, Json],
) -> str:
    if row.action is Action.REPLACE:
        return "its delete for a replacement has begun"
    if is_external(row.settings):
        return "it had an external_id"
    if row.type != definition.type:
        return f"its type was {row.type}"
    if is_gone(row):
        return describe(drift_of(row) or {})
    if is_ordered(row.settings):
        return "it was asked for"
    before = row.settings or {}
    if {TRIGGERS} <= before.keys() & settings and not same(before[TRIGGERS], settings[TRIGGERS]):
        return "its triggers change"
    if runs_always(settings) and same(real_properties(row), dict(wanted)):
        return f"{RUNS_ALWAYS}, and type {definition.type} has no update"
    if not supports(resource_type, "update"):
        return f"type {definition.type} has no update"
    fixed = [
        name
        for name, declared in (resource_type.schema or {}).items()
        if declared.immutable and not same(real_properties(row).get(name), wanted.get(name))
    ]
    return f"{', '.join(fixed)} cannot be changed in place"
