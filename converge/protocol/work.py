"""What an engine does for a node: the decision, the work, and the outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from converge.model import Json
from converge.reserved import work_scope_name

if TYPE_CHECKING:
    from converge.sql.resources import ResourceRow
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
