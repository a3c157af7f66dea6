"""What people look at: read only, indexed, and bounded by what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converge.errors import BadInput, NotFound, UnresolvedReference, did_you_mean
from converge.graph import Graph
from converge.model import Json, Kind, Physical, State, Status, TraversalStatus
from converge.store import engines, resources, stacks, templates, traversals
from converge.store import events as event_rows
from converge.store import held as held_nodes
from converge.store.database import Transaction
from converge.store.resources import ResourceRow
from converge.store.stacks import StackRow
from converge.template import Template, resolve


def list_stacks(tx: Transaction) -> list[dict[str, Any]]:
    """The live stacks, by name."""
    return [
        {
            "name": row.name,
            "action": row.action,
            "status": row.status,
            "reason": row.reason,
            "version": version,
            "created": row.created_at,
            "updated": row.updated_at,
        }
        for row, version in stacks.list_stacks(tx)
    ]


def show(tx: Transaction, name: str) -> dict[str, Any]:
    """A stack with its progress, resources and outputs."""
    row = stacks.get_stack(tx, name)
    found = resources.list_resources(tx, row.id)
    best = _current_versions(found)
    names = {one.id: one.name for one in found}
    over = row.status is not Status.IN_PROGRESS
    return {
        "name": row.name,
        "action": row.action,
        "status": row.status,
        "reason": row.reason,
        "traversal": row.traversal_id,
        "version": templates.version_of(tx, row.template_id),
        "progress": _progress(tx, row),
        "resources": {
            one.name: {
                "type": one.type,
                "status": _shown_status(one, over=over),
                "action": one.action,
                "reason": one.reason,
                "physical_id": one.physical_id,
                "properties": one.properties,
                "attributes": one.attributes,
                "requires": sorted({names[key] for key in one.requires if key in names}),
            }
            for one in sorted(best.values(), key=lambda one: one.id)
        },
        "outputs": _outputs(tx, row, best),
    }


def _current_versions(found: list[ResourceRow]) -> dict[str, ResourceRow]:
    """Of each name the version that stands for it: not one that has been replaced, nor a
    replacement that is not wanted any more."""
    replaced_by = {one.id: one.replaced_by for one in found}

    def rank(one: ResourceRow) -> tuple[bool, bool, int]:
        unwanted = one.replaces in replaced_by and replaced_by[one.replaces] != one.id
        return one.replaced_by is None, not unwanted, one.id

    best: dict[str, ResourceRow] = {}
    for one in found:
        other = best.get(one.name)
        if other is None or rank(one) > rank(other):
            best[one.name] = one
    return best


def _shown_status(one: ResourceRow, *, over: bool) -> str:
    """INIT is of the inside: it will still come about, or it never did. What an engine died on
    while the traversal was being stopped has failed."""
    if one.status is Status.INIT:
        return Status.CANCELLED if over else Status.IN_PROGRESS
    if over and one.status is Status.IN_PROGRESS and one.engine_id is None:
        return Status.FAILED
    return one.status


def _outputs(tx: Transaction, row: StackRow, best: Mapping[str, ResourceRow]) -> dict[str, Json]:
    """The template's outputs; None for one that has no value yet."""
    if row.template_id is None:
        return {}
    version = templates.get_template(tx, row.template_id)
    template = Template.from_dict(version.body)
    values = template.output_values(version.parameters, row.name)

    def lookup(name: str) -> Physical:
        one = best.get(name)
        if one is None or one.physical_id is None:
            raise UnresolvedReference(f"resource {name!r} has no physical id")
        return Physical(one.physical_id, one.attributes)

    outputs: dict[str, Json] = {}
    for name, value in values.items():
        try:
            outputs[name] = resolve(value, lookup)
        except (UnresolvedReference, BadInput):
            outputs[name] = None
    return outputs


def progress(tx: Transaction, name: str) -> dict[str, int]:
    """The counts of the current traversal's nodes."""
    return _progress(tx, stacks.get_stack(tx, name))


def _progress(tx: Transaction, row: StackRow) -> dict[str, int]:
    if row.traversal_id is None:
        return {"total": 0, "done": 0, "running": 0, "failed": 0, "skipped": 0}
    traversal = traversals.get_traversal(tx, row.traversal_id)
    if traversal.status is TraversalStatus.RUNNING:
        counts = traversals.sum_progress(tx, traversal.id)
        running = held_nodes.count_running(tx, traversal.id)
    else:
        counts = {name: getattr(traversal, name) for name in ("done", "failed", "skipped")}
        running = 0
    return {
        "total": traversal.total,
        "done": counts["done"],
        "running": running,
        "failed": counts["failed"],
        "skipped": counts["skipped"],
    }


def running(tx: Transaction, name: str) -> list[dict[str, Any]]:
    """What is being worked on, oldest first."""
    row = stacks.get_stack(tx, name)
    if row.traversal_id is None:
        return []
    return [
        {
            "resource": one.resource,
            "kind": one.kind,
            "engine": one.engine_id,
            "since_seconds": max(0.0, one.since),
        }
        for one in held_nodes.list_held(tx, row.traversal_id, limit=1000)
        if one.state is State.RUNNING and one.resource is not None
    ]


def events(tx: Transaction, name: str, after: int | None, limit: int) -> list[dict[str, Any]]:
    """What happened, oldest first."""
    row = stacks.find_last_stack(tx, name)
    if row is None:
        stacks.get_stack(tx, name)
        raise NotFound(f"there is no stack {name!r}")
    return [
        {
            "id": one["id"],
            "time": one["at"],
            "traversal": one["traversal_id"],
            "resource": one["resource"],
            "action": one["action"],
            "status": one["status"],
            "reason": one["reason"],
        }
        for one in event_rows.list_events(tx, row.id, after, limit)
    ]


def graph(tx: Transaction, name: str) -> Graph[str]:
    """The graph of the wanted resources."""
    row = stacks.get_stack(tx, name)
    if row.template_id is None:
        return Graph()
    return Template.from_dict(templates.get_template(tx, row.template_id).body).graph()


def traversal_graph(tx: Transaction, name: str) -> Graph[str]:
    """The graph of the current traversal."""
    edges = stacks.get_edges(tx, stacks.get_stack(tx, name).id)
    return Graph() if edges is None else Graph.from_bytes(edges)


def why(tx: Transaction, name: str, resource: str | None) -> list[dict[str, Any]]:
    """What a stack or a resource waits for.

    Each answer has ``resource``, ``kind``, ``state``, ``message``, and where they apply
    ``waits_for`` (names), ``engine``, ``host``, ``since_seconds``, ``lease_seconds`` and
    ``reason``.
    """
    row = stacks.get_stack(tx, name)
    best = _current_versions(resources.list_resources(tx, row.id)) if resource else {}
    if resource is not None and resource not in best:
        known = _wanted_names(tx, row) | best.keys()
        if resource not in known:
            hint = did_you_mean(resource, known)
            raise NotFound(f"stack {name!r} has no resource {resource!r}{hint}")
    answers: list[dict[str, Any]] = []
    if row.status is Status.IN_PROGRESS and row.traversal_id is not None:
        answers += _why_waiting(tx, row.traversal_id, resource)
    else:
        answers += _why_ended(tx, row, resource, best)
    return answers


def _wanted_names(tx: Transaction, row: StackRow) -> set[str]:
    if row.template_id is None:
        return set()
    return set(templates.get_template(tx, row.template_id).body.get("resources") or {})


def _why_waiting(tx: Transaction, traversal_id: int, resource: str | None) -> list[dict[str, Any]]:
    held = held_nodes.list_held(tx, traversal_id, limit=100, resource=resource)
    alive = engines.get_engines(tx, {one.engine_id for one in held if one.engine_id is not None})
    now = held_nodes.read_clock(tx)
    answers = []
    for one in held:
        if one.resource is None and resource is None and one.state is State.WAITING:
            continue
        what = {
            Kind.UPDATE: f"resource {one.resource!r}",
            Kind.CLEANUP: f"the cleanup of resource {one.resource!r}",
            Kind.STACK: "the end of the traversal",
        }[one.kind]
        answer: dict[str, Any] = {
            "resource": one.resource,
            "kind": one.kind,
            "state": one.state,
            "reason": one.reason,
        }
        if one.state is State.RUNNING:
            engine = alive.get(one.engine_id or 0)
            message = f"{what} is held by engine {one.engine_id}"
            answer |= {"engine": one.engine_id, "since_seconds": one.since}
            if engine is not None:
                left = engine.expires_at - now
                answer |= {"host": engine.host, "lease_seconds": left}
                ends = f"ends in {left:.0f} s" if left > 0 else f"ended {-left:.0f} s ago"
                message += f" on {engine.host}, whose lease {ends},"
            message += f" since {one.since:.0f} s, attempt {one.attempts}"
        elif one.state is State.READY and one.wait > 0:
            message = f"{what} is tried again in {one.wait:.0f} s, after attempt {one.attempts}"
            if one.reason:
                message += f" failed: {one.reason}"
        elif one.state is State.READY:
            message = f"{what} is ready and waits for a free engine"
        elif one.state is State.BLOCKED:
            message = (
                f"{what} is blocked: engine {one.holder} still works on it for an older traversal"
            )
            answer["engine"] = one.holder
        else:
            waits_for = held_nodes.list_outstanding(tx, traversal_id, one.node, limit=20)
            answer["waits_for"] = [name for name, _ in waits_for]
            listed = ", ".join(f"{name or 'the stack'} ({state})" for name, state in waits_for)
            message = f"{what} waits for {listed}"
        answers.append(answer | {"message": message})
    return answers


def _why_ended(
    tx: Transaction, row: StackRow, resource: str | None, best: Mapping[str, ResourceRow]
) -> list[dict[str, Any]]:
    if resource is not None:
        one = best.get(resource)
        status = Status.CANCELLED if one is None else _shown_status(one, over=True)
        message = f"resource {resource!r} is {status}"
        if one is not None and one.reason:
            message += f": {one.reason}"
        elif status is Status.CANCELLED:
            message = f"resource {resource!r} was not created: the {row.action} is {row.status}"
        reason = None if one is None else one.reason
        return [{"resource": resource, "state": status, "reason": reason, "message": message}]
    message = f"the {row.action} is {row.status}"
    if row.reason:
        message += f": {row.reason}"
    answers = [{"resource": None, "state": row.status, "reason": row.reason, "message": message}]
    if row.traversal_id is not None and row.status is Status.FAILED:
        for name, reason in event_rows.list_failures(tx, row.id, row.traversal_id, limit=100):
            answers.append(
                {
                    "resource": name,
                    "state": Status.FAILED,
                    "reason": reason,
                    "message": f"resource {name!r} failed: {reason}",
                }
            )
    return answers
