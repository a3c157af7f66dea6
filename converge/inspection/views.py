"""What people are shown: read only, indexed, and bounded by what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converge.errors import BadInput, NotFound, UnresolvedReference
from converge.graph import Graph
from converge.hiding import Secrets
from converge.model import Action, Json, NodeState, Physical, Status, TraversalStatus
from converge.protocol.secrets import read_secrets
from converge.sql import engines, resources, stacks, templates, traversals
from converge.sql import events as event_rows
from converge.sql import held as held_nodes
from converge.sql.database import Transaction
from converge.sql.resources import ResourceRow
from converge.sql.stacks import StackRow
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


def show(tx: Transaction, name: str, *, reveal: bool = False) -> dict[str, Any]:
    """A stack with its progress, resources and outputs.

    :param reveal: show the values of hidden parameters, too.
    """
    row = stacks.get_stack(tx, name)
    found = resources.list_resources(tx, row.id)
    best = current_versions(found)
    names = {one.id: one.name for one in found}
    over = row.status is not Status.IN_PROGRESS
    secrets = Secrets(()) if reveal else read_secrets(tx, row.id)
    shown = secrets.hide_in_json
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
                "status": shown_status(one, over=over),
                "action": one.action,
                "reason": one.reason,
                "physical_id": shown(one.physical_id),
                "properties": shown(one.properties),
                "attributes": shown(one.attributes),
                "requires": sorted({names[key] for key in one.requires if key in names}),
            }
            for one in sorted(best.values(), key=lambda one: one.id)
        },
        "outputs": shown(_outputs(tx, row, best)),
        "unchecked": _unchecked(tx, row),
    }


def _unchecked(tx: Transaction, row: StackRow) -> list[str]:
    if row.action is not Action.CHECK or row.traversal_id is None:
        return []
    return event_rows.list_unchecked(tx, row.id, row.traversal_id)


def current_versions(found: list[ResourceRow]) -> dict[str, ResourceRow]:
    """For each name its current version: not one that has been replaced, nor a replacement that is
    no longer wanted."""
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


def shown_status(one: ResourceRow, *, over: bool) -> str:
    """The status to show. INIT is internal: the resource will be created, or never was. One whose
    engine died while the traversal was being stopped has failed."""
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
    template = Template.from_store(version.body)
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
    """The nodes whose handlers are running, oldest first."""
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
        for one in held_nodes.list_held(tx, row.traversal_id, limit=1000)[0]
        if one.state is NodeState.RUNNING and one.resource is not None
    ]


def events(tx: Transaction, name: str, after: int | None, limit: int) -> list[dict[str, Any]]:
    """The events of a stack, oldest first."""
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
    return Template.from_store(templates.get_template(tx, row.template_id).body).graph()


def traversal_graph(tx: Transaction, name: str) -> Graph[str]:
    """The graph of the current traversal."""
    edges = stacks.get_edges(tx, stacks.get_stack(tx, name).id)
    return Graph() if edges is None else Graph.from_bytes(edges)


def list_engines(tx: Transaction, *, ended: bool, limit: int) -> list[dict[str, Any]]:
    """The engines, by id; see :meth:`converge.Store.engines`."""
    held = held_nodes.list_in_hand(tx, limit)
    states = (engines.ALIVE, engines.STOPPED, engines.DEAD) if ended else (engines.ALIVE,)
    rows = {row.id: row for row in engines.list_engines(tx, states)}
    # an engine that has ended and still holds something must be seen
    rows.update(engines.get_engines(tx, held.keys() - rows.keys()))
    now = held_nodes.read_clock(tx)
    answers = []
    for _, row in sorted(rows.items()):
        count, nodes = held.get(row.id, (0, []))
        left = row.expires_at - now
        answers.append(
            {
                "id": row.id,
                "host": row.host,
                "pid": row.pid,
                "state": "EXPIRED" if row.state == engines.ALIVE and left <= 0 else row.state,
                "started": row.started_at,
                "lease": row.lease,
                "lease_seconds": left,
                "nodes": count,
                "holds": [
                    {
                        "stack": one.stack,
                        "traversal": one.traversal_id,
                        "resource": one.resource,
                        "kind": one.kind,
                        "since_seconds": max(0.0, one.since),
                    }
                    for one in nodes
                ],
            }
        )
    return answers
