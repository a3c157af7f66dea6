"""How long a handler may take and how often it is called: the resource type says it, and the
template can say otherwise for a resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from converge.model import Json
from converge.protocol.work import Operation, Work
from converge.resources.resource_type import ResourceType
from converge.retry import RetryPolicy

#: The key of a node's definition for the seconds that its earlier attempts, and the waits after
#: them, took; only kept where there is a deadline.
SPENT = "spent"
# what is left of a deadline is never nothing: a handler is called, and told at once
_LEAST = 0.001


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a work.

    :ivar timeout: seconds that one attempt may take, None for no limit. That is one call, or, if
        its handler waits, all of them with the waits between them.
    :ivar deadline: seconds for all attempts of a node and the waits between them, None for no
        limit.
    :ivar spent: how many of these were over before this attempt.
    :ivar waited: seconds that this attempt has taken before this call.
    """

    retry: RetryPolicy
    timeout: float | None
    deadline: float | None
    spent: float
    waited: float = 0.0

    @property
    def call(self) -> float | None:
        """Seconds that the next call may take, None for no limit."""
        left = self.left
        return None if left is None else max(left, _LEAST)

    @property
    def left(self) -> float | None:
        """Seconds until the attempt must be over; 0 or less: it should be. None for no limit."""
        ends = [self.timeout] if self.timeout is not None else []
        ends += [self.deadline - self.spent] if self.deadline is not None else []
        return min(ends) - self.waited if ends else None


def settings_of(work: Work) -> Mapping[str, Json]:
    """What the template says of a work's resource besides its properties."""
    decision = work.decision
    if decision.operation in (Operation.CREATE, Operation.UPDATE, Operation.READ):
        return decision.settings or {}
    return (work.row.settings if work.row is not None else None) or {}


def limits_of(work: Work, resource_type: ResourceType) -> Limits:
    """The limits of a work that calls a handler of this type."""
    settings = settings_of(work)
    retry = settings.get("retry")
    of_node = None if resource_type.nests else work.traversal.node_timeout
    timeouts = (settings.get("timeout", resource_type.timeout), of_node)
    return Limits(
        retry=replace(resource_type.retry, **retry) if retry else resource_type.retry,
        timeout=min((one for one in timeouts if one is not None), default=None),
        deadline=settings.get("deadline"),
        spent=(work.node.definition or {}).get(SPENT, 0.0),
        waited=work.node.waited,
    )
