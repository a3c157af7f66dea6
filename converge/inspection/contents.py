"""What people are shown of a stack that its templates say: what is in it, and its graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converge.errors import BadInput, UnresolvedReference
from converge.graph import Graph
from converge.hiding import Secrets
from converge.inspection.views import count_nodes, current_versions, shown_status
from converge.model import Action, Json, Physical, Status
from converge.protocol.secrets import read_secrets
from converge.sql import events, resources, stacks, templates
from converge.sql.database import Transaction
from converge.sql.resources import ResourceRow
from converge.sql.stacks import StackRow
from converge.template import Template, resolve


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
        "version": templates.get_version_number(tx, row.template_id),
        "progress": count_nodes(tx, row),
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
    return events.list_unchecked(tx, row.id, row.traversal_id)


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
