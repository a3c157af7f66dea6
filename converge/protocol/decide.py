"""What an engine does for a node: the decision, a pure function, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from converge.errors import BadInput, UnresolvedReference, did_you_mean
from converge.model import (
    Action,
    Json,
    Kind,
    Physical,
    Replacing,
    ResourceDefinition,
    Status,
    same,
)
from converge.protocol.drift import is_gone, real_properties
from converge.protocol.marks import (
    mark_attributes,
    mark_properties,
    marked_attributes,
    secret_values,
    with_marks,
)
from converge.reserved import work_scope_name
from converge.resources.resource_type import ResourceType, can_check, supports
from converge.retry import RetryPolicy
from converge.template import check_properties, resolve_properties, with_defaults
from converge.template.definitions import load_definition
from converge.template.elsewhere import secret_references

if TYPE_CHECKING:
    from converge.sql.resources import Input, ResourceRow
    from converge.sql.survey import ResourceHead
    from converge.sql.sync_points import SyncPointRow
    from converge.sql.traversals import TraversalRow


class Operation(StrEnum):
    """What to do for a node."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"
    CHECK = "check"
    #: it is there already: what it is, is read, and it is never touched
    READ = "read"
    #: only the row is deleted: nothing real was ever made, or it is left in place
    DROP = "drop"
    #: the resource is as it should be
    NOTHING = "nothing"
    #: a predecessor failed, or the traversal was halted
    SKIP = "skip"
    FAIL = "fail"
    #: the stack's own node: the traversal ends
    FINISH = "finish"


#: The keys of settings that decide something here: what replaces a resource when it changes, and
#: where its relative paths start.
TRIGGERS = "triggers"
PROTECT = "protect"
#: The key of the mark of a row that is to be replaced because somebody asked for it.
ORDERED = "replace"
DIRECTORY = "directory"
#: The key of the policy that leaves in place what a resource stands for, and its value for that.
DELETION_POLICY = "deletion_policy"
RETAIN = "retain"
#: The key of the id of what is there already, and is never touched.
EXTERNAL_ID = "external_id"
#: The key for when a resource runs, and its value for what runs after failures, too.
RUNS = "runs"
ALWAYS = "always"
#: The key for the secrets that are kept elsewhere: see :mod:`converge.template.elsewhere`.
SECRETS = "get_secret"
#: Operations that call a handler; all others are done at once.
HANDLED = frozenset(
    {Operation.CREATE, Operation.UPDATE, Operation.DELETE, Operation.CHECK, Operation.READ}
)


@dataclass(frozen=True, slots=True)
class Decision:
    """:ivar properties: the resolved properties, if any.
    :ivar reason: why it fails, if it does; or why only its row is deleted.
    :ivar wanted: the properties of the replacement, if the old resource is deleted first and the
        replacement is made in its row.
    :ivar settings: what the template says of it besides; None leaves the row's as they are.
    :ivar missing: the types that an engine needs that can do it, if this one has not all of them.
    """

    operation: Operation
    properties: Mapping[str, Json] = field(default_factory=dict)
    reason: str | None = None
    wanted: Mapping[str, Json] | None = None
    settings: Mapping[str, Json] | None = None
    missing: tuple[str, ...] = ()


@dataclass(slots=True)
class Work:
    """A claimed node, with everything that its handler needs.

    :ivar row: the resource as it was before the claim, but with the epoch and mark of the claim.
    :ivar requires: ids of the resources that it will really depend on.
    :ivar inputs: id and epoch of each of these.
    :ivar secrets: values of these that are secret.
    :ivar locked: whether the claim locked the resource.
    :ivar placed: whether it holds places of limits.
    :ivar failures: what has failed before, if it runs all the same: reasons by name.
    """

    traversal: TraversalRow
    node: SyncPointRow
    row: ResourceRow | None
    decision: Decision
    requires: list[int]
    locked: bool = False
    inputs: Sequence[tuple[int, int]] = ()
    secrets: Sequence[Json] = ()
    placed: bool = False
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def scope(self) -> str:
        """The name of this work's scope in the journal."""
        assert self.row is not None
        operation = self.decision.operation
        # a create is the same work in every traversal, with the same token
        return work_scope_name(
            self.row.id, operation, None if operation is Operation.CREATE else self.traversal.id
        )

    @property
    def key_namespace(self) -> UUID:
        """The namespace of the idempotency keys of its steps. It is random: ids are used again
        after the database lost its last seconds."""
        assert self.row is not None
        token = UUID(self.row.token)
        if self.decision.operation is Operation.CREATE:
            return token
        # the mark is 0 for a traversal that is older than marks
        traversal = self.traversal.mark or self.traversal.id
        return uuid5(token, f"{self.decision.operation} {traversal}")

    @property
    def wanted_type(self) -> str:
        """The name of the resource type that an update node wants."""
        return str(self.node.definition["type"])

    @property
    def type_name(self) -> str:
        """The name of the resource type whose handler is called."""
        if self.decision.operation in (Operation.CREATE, Operation.UPDATE, Operation.READ):
            return self.wanted_type
        return "" if self.row is None else self.row.type


class Result(StrEnum):
    """How a work ended."""

    DONE = "DONE"
    FAILED = "FAILED"
    RETRY = "RETRY"
    SKIPPED = "SKIPPED"
    REPLACE = "REPLACE"
    HANDED_BACK = "HANDED_BACK"
    #: its handler is called again later, which is no retry
    WAIT = "WAIT"


@dataclass(slots=True)
class Outcome:
    """:ivar values: columns of the resource to write.
    :ivar deleted: the resource is gone.
    :ivar started: the work was handed back after its handler was called, which may have done
        something.
    :ivar reason: why it failed, or how far it is, if it waits.
    :ivar wait: seconds until its handler is called again.
    :ivar seconds: how long the call took, of a handler that waits.
    :ivar signal: the name of the signal that its handler waits for.
    :ivar inner: the id of the nested stack that its handler waits for.
    :ivar max_attempts: after how many attempts a retry is given up.
    :ivar spent: seconds of the node's deadline that are over once it is retried; None if it has
        none.
    :ivar drifted: a check found that the resource is not what it was made to be.
    :ivar stepped: the handler used the journal's scope of its work.
    :ivar then: how to replace the resource, if an update asked for that.
    :ivar raw: its texts may contain secrets, or be too long for their columns.
    """

    work: Work
    result: Result
    values: dict[str, Any] = field(default_factory=dict)
    deleted: bool = False
    started: bool = False
    reason: str | None = None
    wait: float = 0.0
    seconds: float = 0.0
    signal: str | None = None
    inner: int | None = None
    max_attempts: int | None = None
    spent: float | None = None
    drifted: bool = False
    stepped: bool = False
    then: Decision | None = None
    raw: bool = False


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


def is_protected(settings: Mapping[str, Json] | None) -> bool:
    """Whether a resource with these settings is neither deleted nor replaced."""
    return bool((settings or {}).get(PROTECT))


def protected_reason(name: str, what: str) -> str:
    """Why a protected resource is not deleted or replaced, and what would do it.

    :param what: what it is not.
    """
    return (
        f"it is protected, so it is not {what}; if that is meant, say so: --unprotect {name}, or "
        f"unprotect=[{name!r}]"
    )


def is_retained(settings: Mapping[str, Json] | None) -> bool:
    """Whether what a resource with these settings stands for is left in place when it goes."""
    return (settings or {}).get(DELETION_POLICY) == RETAIN or is_external(settings)


def is_external(settings: Mapping[str, Json] | None) -> bool:
    """Whether a resource with these settings was there before, and is never touched."""
    return EXTERNAL_ID in (settings or {})


def is_managed(row: ResourceRow | ResourceHead) -> bool:
    """Whether converge has made, or begun to make, what a resource stands for."""
    return row.status is not Status.INIT and not is_external(row.settings)


def managed_reason(name: str) -> str:
    """Why a resource that converge has made is not given an external id."""
    return (
        f"resource {name!r} was made by converge, and would be deleted for what its external_id "
        "names; if it is the same thing, or stays, let converge forget it first: `converge forget`"
    )


def retained_reason(row: ResourceRow) -> str:
    """Why a resource is left in place, and which thing that is."""
    if is_external(row.settings):
        return f"left in place, id {row.physical_id!r}: it has an external_id"
    return f"left in place, id {row.physical_id!r}: its {DELETION_POLICY} is {RETAIN}"


def retains(wanted: Mapping[str, Json], row: ResourceRow) -> bool:
    """Whether what a resource stands for is left in place when it is replaced: it was made so, or
    the new template says so. What is half made or half deleted is nobody's loss.

    :param wanted: the definition of the replacement, as JSON.
    """
    is_half = row.action is Action.REPLACE or (
        row.action is Action.CREATE and row.status is not Status.COMPLETE
    )
    return is_retained(row.settings) or (not is_half and is_retained(wanted.get("settings")))


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


def runs_always(settings: Mapping[str, Json] | None) -> bool:
    """Whether a resource with these settings runs whether those before it failed or not, and in
    each traversal that comes to it."""
    return (settings or {}).get(RUNS) == ALWAYS


def is_ordered(settings: Mapping[str, Json] | None) -> bool:
    """Whether somebody asked for a replacement of a resource with these settings."""
    return bool((settings or {}).get(ORDERED))


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
