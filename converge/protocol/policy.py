"""A policy: what an engine asks before each call of a handler, and what may refuse it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from converge.model import Json, Status
from converge.protocol.work import Outcome, Result, Work


@dataclass(frozen=True, slots=True)
class Proposal:
    """A call of a handler that is about to be made.

    :ivar stack: the stack's name.
    :ivar resource: the resource's name.
    :ivar type: the name of its type.
    :ivar operation: ``create``, ``update``, ``delete``, ``check`` or ``read``.
    :ivar action: what is being done to the stack: ``CREATE``, ``UPDATE``, ``ROLLBACK``, ``DELETE``
        or ``CHECK``.
    :ivar traversal: the id of the traversal.
    :ivar attempt: which attempt of its node it is, from 1.
    :ivar physical_id: the physical id known so far, None if there is none.
    :ivar properties: what it would be brought to; those that it has, if it would be deleted or
        checked. What ``get_secret`` refers to is not read.
    :ivar previous: the properties that it was last brought to.
    """

    stack: str
    resource: str
    type: str
    operation: str
    action: str
    traversal: int
    attempt: int
    physical_id: str | None
    properties: Mapping[str, Json]
    previous: Mapping[str, Json]


#: Returns if a handler may be called, else raises :class:`~converge.Veto`.
Policy = Callable[[Proposal], object]


def propose(work: Work) -> Proposal:
    """What is proposed for a work."""
    row = work.row
    assert row is not None
    return Proposal(
        stack=work.traversal.stack,
        resource=row.name,
        type=work.type_name,
        operation=str(work.decision.operation),
        action=str(work.traversal.action),
        traversal=work.traversal.id,
        attempt=work.node.attempts,
        physical_id=row.physical_id,
        properties=work.decision.properties,
        previous=row.properties,
    )


def refused(work: Work, reason: str) -> Outcome:
    """The outcome of a work that the policy refused: a failure, without another attempt. A healthy
    resource stays healthy, as nothing was done to it."""
    row = work.row
    assert row is not None
    reason = f"refused by the policy: {reason}"
    values: dict[str, Any] = {"reason": reason, "action": row.action, "status": row.status}
    if row.status is Status.COMPLETE:
        values["requires"] = row.requires
    else:
        values["status"] = Status.FAILED
    return Outcome(work, Result.FAILED, values, reason=reason, raw=True)
