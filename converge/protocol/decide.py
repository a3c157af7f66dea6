"""Deciding what an engine does for a node: a pure function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from converge.errors import BadInput, UnresolvedReference, did_you_mean
from converge.model import Action, Json, Kind, Physical, Replacing, ResourceDefinition, Status, same
from converge.protocol.drift import is_gone, real_properties
from converge.protocol.marks import (
    mark_attributes,
    mark_properties,
    marked_attributes,
    secret_values,
    with_marks,
)
from converge.protocol.settings import (
    DIRECTORY,
    SECRETS,
    TRIGGERS,
    is_external,
    is_managed,
    is_ordered,
    is_protected,
    is_retained,
    managed_reason,
    protected_reason,
    retained_reason,
    retains,
    runs_always,
)
from converge.protocol.work import Decision, Operation, Work
from converge.resources.resource_type import ResourceType, can_check, supports
from converge.retry import RetryPolicy
from converge.template import check_properties, resolve_properties, with_defaults
from converge.template.definitions import load_definition
from converge.template.elsewhere import secret_references

if TYPE_CHECKING:
    from converge.sql.resources import Input, ResourceRow
    from converge.sql.sync_points import SyncPointRow
    from converge.sql.traversals import TraversalRow


def decide(
    traversal: TraversalRow,
    node: SyncPointRow,
    row: ResourceRow | None,
    inputs: Mapping[str, Input],
    types: Mapping[str, ResourceType],
) -> Decision:
    """Decide what to do for a node.

    :param row: its resource, None if that is gone.
    :param inputs: the resources that its references name, by name.
    :param types: the resource types of this engine, by name.
    """
    if node.kind is Kind.STACK:
        return Decision(Operation.FINISH)
    if node.is_stopped:
        return Decision(Operation.SKIP)
    if node.is_settled and node.kind is Kind.UPDATE:
        return Decision(Operation.NOTHING)
    if node.deaths >= _deaths_allowed(traversal, node, row, types):
        return Decision(Operation.FAIL, reason=f"{node.deaths} engines died while working on it")
    if node.kind is Kind.CLEANUP:
        return _decide_cleanup(node, row, inputs, types)
    if row is None:
        return Decision(Operation.FAIL, reason="its row no longer exists in the database")
    if traversal.action is Action.CHECK:
        resource_type = types.get(row.type)
        if resource_type is None:
            return _miss(types, row.type)
        if row.status is not Status.COMPLETE and row.action is not Action.CHECK:
            # its properties are not known for sure, and a check must not make it look healthy
            return Decision(Operation.FAIL, reason=row.reason or f"its {row.action} never finished")
        can = supports(resource_type, "read")
        if not is_external(row.settings):
            can = can or can_check(resource_type, row.properties)
        operation = Operation.CHECK if can else Operation.NOTHING
        return Decision(operation, row.properties)
    return _decide_update(traversal, node, row, inputs, types)


def _deaths_allowed(
    traversal: TraversalRow,
    node: SyncPointRow,
    row: ResourceRow | None,
    types: Mapping[str, ResourceType],
) -> int:
    name = "" if row is None else row.type
    if node.kind is Kind.UPDATE and traversal.action is not Action.CHECK and node.definition:
        name = node.definition["type"]
    resource_type = types.get(name)
    return (RetryPolicy() if resource_type is None else resource_type.retry).deaths


def _decide_cleanup(
    node: SyncPointRow,
    row: ResourceRow | None,
    inputs: Mapping[str, Input],
    types: Mapping[str, ResourceType],
) -> Decision:
    if row is None or (node.keep and row.replaced_by is None):
        return Decision(Operation.NOTHING)
    decision = decide_delete(row, types)
    if decision.operation is not Operation.DELETE:
        return decision
    properties = _delete_properties(node, row, inputs, types[row.type])
    return replace(decision, properties=properties)


def decide_delete(row: ResourceRow, types: Mapping[str, ResourceType]) -> Decision:
    """Decide how a resource is deleted that is no longer wanted."""
    if row.status is Status.INIT:
        return Decision(Operation.DROP)
    if is_protected(row.settings):
        return Decision(Operation.FAIL, reason=protected_reason(row.name, "deleted"))
    if is_retained(row.settings):
        return Decision(Operation.DROP, reason=retained_reason(row))
    resource_type = types.get(row.type)
    if resource_type is None:
        return _miss(types, row.type)
    if row.physical_id is None and not supports(resource_type, "find"):
        return Decision(Operation.DROP)
    return Decision(Operation.DELETE, row.properties)


def _delete_properties(
    node: SyncPointRow,
    row: ResourceRow,
    inputs: Mapping[str, Input],
    resource_type: ResourceType,
) -> Mapping[str, Json]:
    """The properties to delete a resource with: the wanted ones, if they differ from its own only
    in how it is deleted."""
    if node.definition is None:
        return row.properties
    wanted = load_definition(node.definition)
    try:
        resolved = resolve_properties(wanted.properties, _lookup_in(inputs))
        properties = with_defaults(resource_type, resolved)
        check_properties(wanted.type, resource_type, properties)
    except (UnresolvedReference, BadInput):
        return row.properties
    is_same = _differ_in_delete_only(resource_type, row.properties, properties)
    return properties if is_same else row.properties


def _differ_in_delete_only(
    resource_type: ResourceType, one: Mapping[str, Json], other: Mapping[str, Json]
) -> bool:
    """Whether properties are the same except for those that only delete uses."""
    of_delete = resource_type.delete_properties
    if not of_delete:
        return False
    left, right = (
        {name: value for name, value in each.items() if name not in of_delete}
        for each in (one, other)
    )
    return same(left, right)


def _changes_immutable(
    resource_type: ResourceType, before: Mapping[str, Json], after: Mapping[str, Json]
) -> bool:
    """Whether a property differs that cannot be changed in place."""
    return any(
        declared.immutable and not same(before.get(name), after.get(name))
        for name, declared in (resource_type.schema or {}).items()
    )


def _lookup_in(inputs: Mapping[str, Input]) -> Callable[[str], Physical]:
    def lookup(name: str) -> Physical:
        found = inputs.get(name)
        if found is None or found.physical_id is None:
            raise UnresolvedReference(f"resource {name!r} has no physical id yet")
        return Physical(found.physical_id, found.attributes)

    return lookup


def _decide_update(
    traversal: TraversalRow,
    node: SyncPointRow,
    row: ResourceRow,
    inputs: Mapping[str, Input],
    types: Mapping[str, ResourceType],
) -> Decision:
    if node.definition is None:
        return Decision(Operation.FAIL, reason="its row has no definition")
    definition = load_definition(node.definition)
    resource_type = types.get(definition.type)
    if resource_type is None:
        return _miss(types, definition.type)
    if is_external(definition.settings):
        if is_managed(row):
            return Decision(Operation.FAIL, reason=managed_reason(row.name))
        return Decision(Operation.READ, settings=_with_directory(traversal, definition))

    try:
        resolved = resolve_properties(definition.properties, _lookup_in(inputs))
        properties = with_defaults(resource_type, resolved)
        check_properties(definition.type, resource_type, properties)
        settings = resolve_properties(definition.settings, _lookup_in(inputs))
    except (UnresolvedReference, BadInput) as error:
        return Decision(Operation.FAIL, reason=str(error))
    decision = decide_wanted(node.definition, row, properties, settings, types)
    before = row.settings or {}
    elsewhere = sorted(set(secret_references(dict(definition.properties))))
    if elsewhere:
        settings[SECRETS] = elsewhere
    secrets = [value for one in inputs.values() for value in input_secrets(one)]
    marked = mark_properties(resource_type, properties, secrets)
    attributes: Sequence[str] = ()
    if decision.operation is Operation.NOTHING:
        # what was made stays where it was made
        settings |= {key: before[key] for key in (DIRECTORY,) if key in before}
        attributes = mark_attributes(resource_type, row.attributes, ())
        attributes = sorted({*attributes, *marked_attributes(before)})
    elif (resource_type.relative_paths or elsewhere) and traversal.directory is not None:
        settings[DIRECTORY] = traversal.directory
    settings = with_marks(settings, properties=marked, attributes=attributes)
    return replace(decision, settings=settings) if settings or before else decision


def _with_directory(traversal: TraversalRow, wanted: ResourceDefinition) -> dict[str, Json]:
    """The settings of what is there already; its id may be a relative path."""
    settings = dict(wanted.settings)
    if traversal.directory is not None:
        settings[DIRECTORY] = traversal.directory
    return settings


def input_secrets(one: Input) -> list[Json]:
    """The values of a required resource that are secret, of those that references see."""
    return secret_values(one.settings, attributes=one.attributes)


def decide_wanted(
    wanted: Mapping[str, Json],
    row: ResourceRow,
    properties: Mapping[str, Json],
    settings: Mapping[str, Json],
    types: Mapping[str, ResourceType],
) -> Decision:
    """Decide what an update node does, once it is known what is wanted.

    :param wanted: the definition, as JSON.
    :param properties: the wanted properties, resolved.
    :param settings: its settings, likewise.
    """
    type_name = str(wanted["type"])
    resource_type = types[type_name]
    untouched = row.status is Status.INIT
    if row.action is Action.REPLACE:
        # its delete has begun, so it is broken, whatever is wanted now
        return decide_replace(wanted, row, properties, types)
    if (row.type != type_name or is_external(row.settings)) and not untouched:
        return decide_replace(wanted, row, properties, types)
    if untouched or (row.action is Action.CREATE and row.status is not Status.COMPLETE):
        return Decision(Operation.CREATE, properties)
    if is_ordered(row.settings) or _is_triggered(row, settings):
        return decide_replace(wanted, row, properties, types)
    if is_gone(row):
        # what takes its place has a token of its own, and what depends on it follows
        return decide_replace(wanted, row, properties, types)
    if row.status is Status.COMPLETE and not runs_always(settings):
        if same(row.properties, properties):
            return Decision(Operation.NOTHING, row.properties)
        if _differ_in_delete_only(resource_type, row.properties, properties):
            return Decision(Operation.NOTHING, properties)
    if supports(resource_type, "update") and not _changes_immutable(
        resource_type, real_properties(row), properties
    ):
        return Decision(Operation.UPDATE, properties)
    return decide_replace(wanted, row, properties, types)


def _is_triggered(row: ResourceRow, settings: Mapping[str, Json]) -> bool:
    """Whether the value of the resource's ``triggers`` has changed. To have some at all is no
    change: nothing is replaced because its template says for the first time when it should be."""
    before = row.settings or {}
    return (
        TRIGGERS in before
        and TRIGGERS in settings
        and not same(before[TRIGGERS], settings[TRIGGERS])
    )


def decide_replace(
    wanted: Mapping[str, Json],
    row: ResourceRow,
    properties: Mapping[str, Json],
    types: Mapping[str, ResourceType],
) -> Decision:
    """Decide how a resource is replaced.

    :param wanted: the definition of the replacement, as JSON.
    :param properties: the properties of the replacement.
    """
    if is_protected(row.settings):
        return Decision(Operation.FAIL, reason=protected_reason(row.name, "replaced"))
    # what is left in place is not deleted first
    if retains(wanted, row) or not _deletes_first(wanted, row, types):
        return Decision(Operation.REPLACE, properties)
    resource_type = types.get(row.type)
    if resource_type is None:
        # the engine that deletes the old one makes the new one
        return _miss(types, row.type, str(wanted["type"]))
    if row.physical_id is None and not supports(resource_type, "find"):
        # nothing was made that could be in the way of the replacement
        return Decision(Operation.REPLACE, properties, wanted=properties)
    is_same = row.type == wanted["type"] and _differ_in_delete_only(
        resource_type, row.properties, properties
    )
    return Decision(Operation.DELETE, properties if is_same else row.properties, wanted=properties)


def _deletes_first(
    wanted: Mapping[str, Json], row: ResourceRow, types: Mapping[str, ResourceType]
) -> bool:
    """Whether the old resource is deleted before its replacement is made."""
    if row.action is Action.REPLACE:
        return True
    said = wanted.get("replace")
    if said is not None:
        return bool(said == Replacing.DELETE_FIRST)
    asked = (types.get(name) for name in (row.type, wanted["type"]))
    return any(one is not None and one.replace == Replacing.DELETE_FIRST for one in asked)


def _miss(types: Mapping[str, ResourceType], *needed: str) -> Decision:
    """This engine cannot do it; one that has all of these types can."""
    missing = tuple(sorted(set(needed)))
    return Decision(Operation.FAIL, reason=unknown_type(needed[0], types), missing=missing)


def unknown_type(name: str, types: Mapping[str, ResourceType]) -> str:
    """That the type is not among these, in words."""
    return f"this engine has no resource type {name!r}{did_you_mean(name, types)}"


def new_settings(work: Work, attributes: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings to write, if they differ from those of the row.

    :param attributes: which attributes are secret, if they were made anew.
    """
    wanted = work.decision.settings
    if attributes:
        wanted = with_marks(wanted, attributes=attributes)
    if wanted is None or work.row is None or same(dict(wanted), work.row.settings or {}):
        return {}
    return {"settings": dict(wanted) or None}


def is_as_before(work: Work) -> bool:
    """Whether a work that finds nothing to do leaves the resource the same for what requires it.
    Then the resource is not locked, and at most its basis is noted."""
    row = work.row
    if row is None or work.traversal.action is Action.CHECK or work.node.is_settled:
        return True
    return (
        work.decision.properties is row.properties
        and work.requires == sorted(row.requires)
        and row.reason is None
        and row.drift is None
        and not new_settings(work)
    )
