"""What people are shown of a stack that its templates say: what is in it, and its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from converge.graph import Graph
from converge.hiding import Secrets
from converge.inspection.views import count_nodes, find_actor
from converge.model import SHOWN_STATUSES, Action, Json, Status
from converge.protocol.drift import shown_drift
from converge.protocol.marks import secrets_of, without_secrets
from converge.protocol.outputs import read_outputs
from converge.protocol.secrets import read_secrets
from converge.sql import events, nested, readers, resource_views, stacks, templates
from converge.sql.resource_views import ResourceView, Wanted
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.template import Template
from converge.template.keys import STACK
from converge.template.outputs import KEY


def show(
    tx: Transaction,
    name: str,
    *,
    reveal: bool = False,
    limit: int | None = None,
    after: str | None = None,
    status: Collection[str] = (),
    type: Collection[str] = (),
) -> dict[str, Any]:
    """A stack with its progress, resources and outputs; see :meth:`converge.Store.show`."""
    row = stacks.get_stack(tx, name)
    wanted = Wanted(row.id, row.status is not Status.IN_PROGRESS, status, type, after)
    counted = resource_views.count_current(tx, wanted)
    counts: Counter[str] = Counter()
    found = 0
    for one in counted:
        counts[one.status] += one.count
        if not (one.passed or (status and one.status not in status)) and (
            not type or one.type in type
        ):
            found += one.count
    page = resource_views.list_current(tx, wanted, limit)
    required = {key for one in page for key in one.requires}
    names = {one.id: one.name for one in page}
    inner = nested.get_inner_names(tx, [one.id for one in page if one.type == STACK])
    names |= resource_views.get_names(tx, required - names.keys())
    outputs, _, sources = read_outputs(tx, row)
    marked = secrets_of((*page, *sources))
    secrets = Secrets(()) if reveal else read_secrets(tx, row.id, marked)
    shown = secrets.hide_in_json

    def contents(one: ResourceView) -> dict[str, Json]:
        found = (one.properties, one.attributes)
        properties, attributes = found if reveal else without_secrets(one.settings, *found)
        return {
            "properties": shown(properties),
            "attributes": shown(attributes),
            "drift": shown(shown_drift(one, reveal=reveal)),
        }

    return {
        "name": row.name,
        "action": row.action,
        "status": row.status,
        "reason": row.reason,
        "traversal": row.traversal_id,
        "actor": find_actor(tx, row),
        "version": templates.get_version_number(tx, row.template_id),
        "progress": count_nodes(tx, row),
        "counts": {one: counts[one] for one in SHOWN_STATUSES if one in counts},
        "resources": {
            one.name: {
                "type": one.type,
                "status": one.status,
                "action": one.action,
                "reason": one.reason,
                "physical_id": shown(one.physical_id),
                **contents(one),
                "requires": sorted({names[key] for key in one.requires if key in names}),
            }
            for one in page
        },
        "more": max(0, found - len(page)),
        "outputs": shown(outputs),
        "reads": _reads(tx, row),
        "read_by": readers.list_readers(tx, row.id),
        "unchecked": _unchecked(tx, row),
        "outer": _outer(tx, row),
        "nested": {one.name: inner[one.id] for one in page if one.id in inner},
    }


def show_outputs(tx: Transaction, name: str) -> dict[str, Json]:
    """The outputs of a stack; see :meth:`converge.Store.outputs`."""
    row = stacks.get_stack(tx, name)
    outputs, _, sources = read_outputs(tx, row)
    if not outputs:
        return {}
    shown: dict[str, Json] = read_secrets(tx, row.id, secrets_of(sources)).hide_in_json(outputs)
    return shown


def _outer(tx: Transaction, row: StackRow) -> dict[str, str] | None:
    """What a nested stack belongs to."""
    found = nested.find_outer(tx, row)
    return None if found is None else {"stack": found.stack, "resource": found.resource}


def _reads(tx: Transaction, row: StackRow) -> dict[str, list[str]]:
    """The outputs of other stacks that its version was made with."""
    if row.template_id is None:
        return {}
    parameters = templates.get_parameters(tx, row.template_id)
    return {name: sorted(one["outputs"]) for name, one in sorted(parameters.get(KEY, {}).items())}


def _unchecked(tx: Transaction, row: StackRow) -> list[str]:
    if row.action is not Action.CHECK or row.traversal_id is None:
        return []
    return events.list_with_status(tx, row.id, row.traversal_id, events.UNCHECKED)


def list_statuses(
    tx: Transaction, name: str, status: Collection[str], names: Collection[str] | None
) -> dict[str, str]:
    """The status of each resource, by name; see :meth:`converge.Store.statuses`."""
    row = stacks.get_stack(tx, name)
    wanted = Wanted(row.id, row.status is not Status.IN_PROGRESS, status)
    return resource_views.list_statuses(tx, wanted, names)


def graph(tx: Transaction, name: str) -> Graph[str]:
    """The graph of the wanted resources."""
    row = stacks.get_stack(tx, name)
    if row.template_id is None:
        return Graph()
    version = templates.get_template(tx, row.template_id)
    return Template.from_store(version.body).graph_with(version.parameters, row.name)


def traversal_graph(tx: Transaction, name: str) -> Graph[str]:
    """The graph of the current traversal."""
    edges = stacks.get_edges(tx, stacks.get_stack(tx, name).id)
    return Graph() if edges is None else Graph.from_bytes(edges)
