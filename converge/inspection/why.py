"""Why something makes no progress: what it waits for, who holds that, and what is stuck.

Read only, and bounded by what is shown. Every answer is a dictionary; the keys are described
at :meth:`converge.Store.why`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from converge import formats
from converge.errors import NotFound, did_you_mean
from converge.inspection.limited import Limited
from converge.inspection.pools import Pools
from converge.model import Action, Kind, NodeState, Status
from converge.sql import (
    engines,
    node_views,
    resource_views,
    resources,
    stacks,
    templates,
    traversals,
)
from converge.sql import events as event_rows
from converge.sql.engines import EngineRow
from converge.sql.loading import read_clock
from converge.sql.node_views import NodeView
from converge.sql.outstanding import Predecessor, list_nodes_of, list_outstanding
from converge.sql.resource_views import ResourceView, Wanted
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.wait import waits_until

#: The most answers.
LIMIT = 100
#: Seconds after which a READY node is stuck, if engines are alive and could take it.
LONG = 60.0
#: How many names, or causes, one message has.
_NAMED = 3

Answer = dict[str, Any]


def why(tx: Transaction, name: str, resource: str | None = None) -> list[Answer]:
    """What a stack or one of its resources waits for, and what failed."""
    row = stacks.get_stack(tx, name, any_format=True)
    one = None if resource is None else _find_resource(tx, row, resource)
    if row.status is Status.IN_PROGRESS and row.traversal_id is not None:
        answers = _why_waiting(tx, row, row.traversal_id, resource)
    elif resource is not None:
        answers = [_why_resource(row, resource, one)]
    else:
        return _why_ended(tx, row)
    if resource is not None:
        traceback = None if one is None else resources.get_traceback(tx, one.id)
        answers = [answer | {"traceback": traceback} for answer in answers]
    return answers


def _find_resource(tx: Transaction, row: StackRow, name: str) -> ResourceView | None:
    """A resource of a stack; None if it is wanted and there is none.

    :raises NotFound: it is not wanted either.
    """
    wanted = Wanted(row.id, row.status is not Status.IN_PROGRESS)
    for one in resource_views.list_current(tx, wanted, names=[name]):
        return one
    known = _wanted_names(tx, row)
    if name not in known:
        hint = did_you_mean(name, known | resource_views.list_names(tx, row.id))
        raise NotFound(f"stack {row.name!r} has no resource {name!r}{hint}")
    return None


def _wanted_names(tx: Transaction, row: StackRow) -> set[str]:
    if row.template_id is None or row.format > formats.KNOWN:
        return set()
    return set(templates.get_template(tx, row.template_id).body.get("resources") or {})


# A traversal that runs


def _why_waiting(
    tx: Transaction, row: StackRow, traversal_id: int, resource: str | None
) -> list[Answer]:
    if resource is None:
        nodes, more = node_views.list_traversal_nodes(tx, traversal_id, LIMIT)
    else:
        nodes, more = _list_nodes_of(tx, row, traversal_id, resource), 0
    shown = [one for one in nodes if one.state not in _OVER] or nodes
    if resource is not None:
        # a cleanup waits for its own update; leave that out
        shown = [one for one in shown if one.kind is Kind.UPDATE] or shown
    else:
        # the stack's own node waits for all the others
        shown = [
            one for one in shown if one.kind is not Kind.STACK or one.state != NodeState.WAITING
        ]
    describer = NodeDescriber(tx, shown)
    answers = []
    if resource is None:
        answers += _why_stopping(tx, row, traversal_id)
    for one in shown:
        if one.state is NodeState.WAITING:
            answers.append(_why_node_waits(tx, one))
        else:
            answers.append(describer.answer(one))
    if not answers:
        what = "" if resource is None else f" of resource {resource!r}"
        message = f"traversal {traversal_id} is running, but has no node{what} to work on"
        answers.append(_answer(row.name, traversal_id, resource, row.status, message))
    return answers + _and_more(row.name, more)


def _list_nodes_of(
    tx: Transaction, row: StackRow, traversal_id: int, resource: str
) -> list[NodeView]:
    """The nodes of a resource, longest held first."""
    traversal = traversals.get_traversal(tx, traversal_id)
    ids = resource_views.list_ids(tx, row.id, resource)
    first = traversal.action is Action.CREATE
    numbers = list_nodes_of(tx, traversal_id, ids, traversal.total, first=first)
    nodes = node_views.list_nodes(tx, traversal_id, numbers)
    return sorted(nodes, key=lambda one: -one.since)


_OVER = (NodeState.DONE, NodeState.FAILED, NodeState.SKIPPED)


def _why_stopping(tx: Transaction, row: StackRow, traversal_id: int) -> list[Answer]:
    traversal = traversals.get_traversal(tx, traversal_id)
    if traversal.halted is None:
        return []
    message = f"the {row.action} is being stopped, and will be {traversal.halted}"
    if traversal.reason:
        message += f": {traversal.reason}"
    return [_answer(row.name, traversal_id, None, row.status, message, reason=traversal.reason)]


def _why_node_waits(tx: Transaction, one: NodeView) -> Answer:
    """A node that waits for others, and what holds those up in the end."""
    outstanding = list_outstanding(tx, one.traversal_id, one.node)
    direct = [other for other in outstanding.found if other.direct]
    # direct predecessors come first
    ends = sorted(
        (other for other in outstanding.found if other.state is not NodeState.WAITING),
        key=lambda other: not other.direct,
    )
    causes = node_views.list_nodes(tx, one.traversal_id, (end.node for end in ends[:_NAMED]))
    causes.sort(key=lambda cause: not any(cause.node == other.node for other in direct))
    describer = NodeDescriber(tx, causes)
    message = f"{_what(one)} waits for {_names(direct, outstanding.more)}"
    simple = len(direct) + outstanding.more == len(ends) == 1 and ends[0].direct
    if simple and causes[0].state is NodeState.RUNNING:
        message += f", which {describer.holder_of(causes[0])}"
    else:
        message += "".join(f"; {describer.message(cause)}" for cause in causes)
        if len(ends) > len(causes):
            message += f"; and for {len(ends) - len(causes)} more"
    answer = _answer(
        one.stack, one.traversal_id, one.resource, one.state, message, one.kind, one.reason
    )
    answer["waits_for"] = [other.resource for other in direct]
    for cause in causes:
        if cause.state in (NodeState.RUNNING, NodeState.BLOCKED):
            answer |= describer.facts(cause)
            break
    return answer


def _names(nodes: Sequence[Predecessor], others: int) -> str:
    listed = [
        repr(one.resource) if one.kind is not Kind.CLEANUP else f"the cleanup of {one.resource!r}"
        for one in nodes[:_NAMED]
    ]
    more = len(nodes) - len(listed) + others
    if more > 0:
        listed.append(f"{more} more" if listed else _count(more, "other"))
    return " and ".join(filter(None, (", ".join(listed[:-1]), *listed[-1:]))) or "nothing"


# A traversal that is over


def _why_resource(row: StackRow, resource: str, one: ResourceView | None) -> Answer:
    status = Status.CANCELLED if one is None else one.status
    reason = None if one is None else one.reason
    message = f"resource {resource!r} is {status}"
    if reason:
        message += f": {reason}"
    elif status == Status.CANCELLED:
        message = f"resource {resource!r} was not created: the {row.action} is {row.status}"
    return _answer(row.name, row.traversal_id, resource, status, message, reason=reason)


def _why_ended(tx: Transaction, row: StackRow) -> list[Answer]:
    failures: list[tuple[str, str | None]] = []
    if row.traversal_id is not None and row.status is Status.FAILED:
        failures = event_rows.list_failures(tx, row.id, row.traversal_id, limit=LIMIT)
    message = f"the {row.action} is {row.status}"
    # if the reason is that of a resource, the answer about the resource has it
    if row.reason and not any(
        row.reason.startswith(f"resource {name!r}: ") for name, _ in failures
    ):
        message += f": {row.reason}"
    answers = [_answer(row.name, row.traversal_id, None, row.status, message, reason=row.reason)]
    for name, reason in failures:
        message = f"resource {name!r} failed: {reason}"
        answers.append(
            _answer(row.name, row.traversal_id, name, Status.FAILED, message, reason=reason)
        )
    return answers


# The whole database


def stuck(tx: Transaction, limit: int = LIMIT) -> list[Answer]:
    """What makes no progress in any stack.

    :param limit: answers at most; one more says how many were left out.
    """
    found: list[tuple[NodeView, str]] = []
    keys = set()
    more = 0
    pools = Pools(tx)
    ready = (
        node_views.list_unclaimed(tx, LONG, limit + 1)
        if pools.alive
        else node_views.list_due(tx, limit + 1)
    )
    for (nodes, others), note in (
        (node_views.list_abandoned(tx, limit + 1), "; it is not recovered yet"),
        (node_views.list_past_timeout(tx, limit + 1), "; that is longer than its timeout"),
        (node_views.list_blocked(tx, limit + 1), ""),
        (ready, ""),
    ):
        more += others
        for one in nodes:
            if (one.traversal_id, one.node) not in keys:
                keys.add((one.traversal_id, one.node))
                found.append((one, note))
    overdue = node_views.list_overdue(tx, limit)
    answers = [_why_overdue(one) for one in overdue]
    shown = found[: limit - len(overdue)]
    describer = NodeDescriber(tx, [one for one, _ in shown], pools)
    for one, note in shown:
        answer = describer.answer(one)
        answer["message"] = f"stack {one.stack!r}: {answer['message']}{note}"
        answers.append(answer)
    return answers + _and_more(None, more + len(found) - len(shown))


def _why_overdue(one: node_views.Overdue) -> Answer:
    message = f"stack {one.stack!r}: the {one.action} should have ended {_span(one.late)} ago"
    message += (
        ", but no engine has noticed"
        if one.halted is None
        else f"; it will be {one.halted} when the running handlers have ended"
    )
    return _answer(one.stack, one.traversal_id, None, NodeState.RUNNING, message, reason=one.reason)


# One node in words


class NodeDescriber:
    """Describes nodes; what it needs to know is read once for all of them.

    :param pools: the engines that are alive, if they are known already.
    """

    def __init__(self, tx: Transaction, nodes: Iterable[NodeView], pools: Pools | None = None):
        nodes = list(nodes)
        blocked = (one.resource_id or 0 for one in nodes if one.state is NodeState.BLOCKED)
        self._workers = node_views.list_lock_holders(tx, blocked)
        told = [*nodes, *self._workers.values()]
        ids = {engine for one in told for engine in (one.engine_id, one.holder) if engine}
        self._engines: Mapping[int, EngineRow] = engines.get_engines(tx, ids)
        self._now = read_clock(tx)
        self._pools = Pools(tx) if pools is None else pools
        self._limited = Limited(tx)

    def answer(self, one: NodeView) -> Answer:
        """The answer about a node that does not wait for others."""
        message = self.message(one)
        answer = _answer(
            one.stack, one.traversal_id, one.resource, one.state, message, one.kind, one.reason
        )
        if one.state in (NodeState.RUNNING, NodeState.READY):
            answer |= {"attempt": one.attempt, "deaths": one.deaths}
            if one.max_attempts is not None:
                answer["max_attempts"] = max(0, one.max_attempts - one.deaths)
        if one.state is NodeState.READY:
            course = self._pools.course(one.lane)
            answer |= {
                "ready_in_seconds": one.wait,
                "queue": course.queue,
                "types": list(course.types),
                "engines": self._pools.count(one.lane),
            }
            if one.limit_id:
                answer |= self._limited.facts(one.limit_id)
        if one.waits:
            answer["waiting_seconds"] = max(0.0, one.since)
        return answer | self.facts(one)

    def facts(self, one: NodeView) -> Answer:
        """The engine that holds it, or what blocks it."""
        if one.state is NodeState.BLOCKED:
            other = self._workers.get(one.resource_id or 0)
            if other is not None:
                return {"blocked_by": other.traversal_id, **self.facts(other)}
        engine_id = one.holder if one.state is NodeState.BLOCKED else one.engine_id
        if not engine_id:
            return {}
        facts: Answer = {"engine": engine_id}
        if one.engine_id:
            facts["since_seconds"] = max(0.0, one.since)
        row = self._engines.get(engine_id)
        if row is not None:
            facts |= {"host": row.host, "lease_seconds": row.expires_at - self._now}
        return facts

    def message(self, one: NodeView) -> str:
        """What a node does or waits for, as a sentence."""
        what = _what(one)
        if one.state in (NodeState.RUNNING, NodeState.SUPERSEDED):
            held_for = f"for {_span(one.since)}, attempt {one.attempt}"
            engine, lease = self._engine(one.engine_id), self._lease(one.engine_id)
            message = f"{what} is held by {engine} ({held_for}){lease}"
        elif one.waits:
            message = f"{what} waits" + (f": {one.reason}" if one.reason else "")
            until = waits_until(one.wait)
            again = f"until {until}" if until else f"looked at again in {_span(one.wait)}"
            message += f" (for {_span(one.since)}; {again})"
        elif one.state is NodeState.READY and one.limit_id:
            message = f"{what} has been ready for {_span(-one.wait)} and "
            message += self._limited.tell(one.limit_id)
        elif one.state is NodeState.READY and one.wait > 0:
            message = f"{what} will be retried in {_span(one.wait)}{_retry(one)}"
        elif one.state is NodeState.READY:
            message = f"{what} has been ready for {_span(-one.wait)} and "
            message += self._pools.tell_wait(one.lane)
        elif one.state is NodeState.BLOCKED:
            message = f"{what} is blocked{self._blocked_by(one)}"
        elif one.state is NodeState.FAILED:
            return f"{what} failed" + (f": {one.reason}" if one.reason else "")
        elif one.state is NodeState.SKIPPED:
            return f"{what} is skipped: the traversal is stopping, or what it requires failed"
        else:
            return f"{what} is {one.state.lower()}"
        if one.deaths:
            message += f"; {_count(one.deaths, 'engine')} died while working on it"
        return message

    def holder_of(self, one: NodeView) -> str:
        """Who holds a node, as the rest of a sentence that ``which`` begins."""
        engine, lease = self._engine(one.engine_id), self._lease(one.engine_id)
        return f"{engine} has held for {_span(one.since)}{lease}"

    def _blocked_by(self, one: NodeView) -> str:
        other = self._workers.get(one.resource_id or 0)
        if other is not None:
            what = f"{other.kind} of {other.resource!r}"
            return f" by traversal {other.traversal_id}'s {what}, which {self.holder_of(other)}"
        if one.holder is not None:
            return f" by {self._engine(one.holder)}, which holds its lock{self._lease(one.holder)}"
        return ", but its resource is free; the next round of recovery makes it ready"

    def _engine(self, engine_id: int | None) -> str:
        row = self._engines.get(engine_id or 0)
        return f"engine {engine_id}" + ("" if row is None else f" on {row.host}")

    def _lease(self, engine_id: int | None) -> str:
        row = self._engines.get(engine_id or 0)
        if row is None:
            return ", which is not in the database"
        if row.state != engines.ALIVE:
            return "; that engine has " + ("stopped" if row.state == engines.STOPPED else "died")
        left = row.expires_at - self._now
        return (
            f"; its lease ends in {_span(left)}"
            if left > 0
            else f"; its lease ended {_span(left)} ago"
        )


def _what(one: NodeView) -> str:
    if one.kind is Kind.STACK:
        return "the end of the traversal"
    what = f"resource {one.resource!r}"
    if one.kind is Kind.CLEANUP:
        what = f"the cleanup of {what}"
    return (
        f"the superseded {one.kind} of {one.resource!r}"
        if one.state is NodeState.SUPERSEDED
        else what
    )


def _retry(one: NodeView) -> str:
    retry = f"retry {one.attempt}"
    if one.max_attempts is not None:
        retry += f" of {max(one.attempt, one.max_attempts - one.deaths - 1)}"
    return f" ({retry})" + (f"; it failed: {one.reason}" if one.reason else "")


def _answer(
    stack: str,
    traversal: int | None,
    resource: str | None,
    state: str,
    message: str,
    kind: str | None = None,
    reason: str | None = None,
) -> Answer:
    return {
        "stack": stack,
        "traversal": traversal,
        "resource": resource,
        "kind": kind,
        "state": state,
        "reason": reason,
        "message": message,
    }


def _and_more(stack: str | None, more: int) -> list[Answer]:
    if more <= 0:
        return []
    count = f"{more} or more" if more >= node_views.COUNTED else str(more)
    answer = dict.fromkeys(("stack", "traversal", "resource", "kind", "state", "reason"))
    return [{**answer, "stack": stack, "message": f"and {count} more", "more": more}]


def _span(seconds: float) -> str:
    """A length of time, to the second at most."""
    seconds = abs(seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
