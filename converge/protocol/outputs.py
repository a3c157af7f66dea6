"""Outputs of stacks: what they are worth now, and who reads them.

A stack that reads outputs of another one keeps that from being deleted. The start that reads locks
the other's row, shared, before it notes that; a delete looks for readers when it has locked the row
for itself: so one of the two sees the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from converge.errors import BadInput, Conflict, NotFound, UnresolvedReference, did_you_mean
from converge.model import Json, Physical, Status
from converge.protocol.marks import secrets_of
from converge.protocol.secrets import read_secrets
from converge.sql import readers, resource_views, stacks, templates
from converge.sql.resource_views import ResourceView, Wanted
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.template import Definitions, Template, resolve
from converge.template.functions import references
from converge.template.outputs import Given, Source
from converge.template.template import VARIES
from converge.template.values import Spot

#: How many readers a message names.
_NAMED = 10


def read_outputs(
    tx: Transaction, row: StackRow
) -> tuple[dict[str, Json], dict[str, str], list[ResourceView]]:
    """The outputs of a stack.

    :returns: their values, None where there is none yet; why not, of those; and the resources that
        they are made from.
    """
    if row.template_id is None:
        return {}, {}, []
    version = templates.get_outline(tx, row.template_id)
    if not version.body.get("outputs"):
        return {}, {}, []
    if version.body.get(VARIES):
        # which resources there are is said among them
        template = Template.from_store(templates.get_template(tx, row.template_id).body)
    else:
        template = Template.outputs_from_store(version.body)
    values = template.output_values(version.parameters, row.name)
    anything = Wanted(row.id, row.status is not Status.IN_PROGRESS)
    found = {one.name for one in references(list(values.values()), Spot()) if one.name is not None}
    named = resource_views.list_current(tx, anything, names=found)
    best = {one.name: one for one in named}

    def lookup(name: str) -> Physical:
        one = best.get(name)
        if one is None or one.physical_id is None:
            raise UnresolvedReference(f"resource {name!r} has not been created")
        return Physical(one.physical_id, one.attributes)

    outputs: dict[str, Json] = {}
    lacks: dict[str, str] = {}
    for name, value in values.items():
        try:
            outputs[name] = resolve(value, lookup)
        except (UnresolvedReference, BadInput) as error:
            outputs[name] = None
            lacks[name] = str(error)
    return outputs, lacks, named


def read_source(tx: Transaction, name: str) -> Source:
    """The outputs of a stack, for another one that reads them.

    :raises BadInput: there is no such stack, or it was never COMPLETE.
    """
    try:
        row = stacks.get_stack(tx, name)
    except NotFound as error:
        rest = "" if str(error).endswith("?") else "; bring it about first"
        raise BadInput(f"{error}{rest}") from None
    if row.template_id is None:
        raise BadInput(
            f"nothing is wanted of stack {name!r}: its {row.action} is {row.status}; its outputs "
            "can be read when it is there again"
        )
    if row.completed_template_id is None:
        raise BadInput(
            f"stack {name!r} was never COMPLETE: its {row.action} is {row.status}; its outputs can "
            "be read when it is"
        )
    outputs, lacks, named = read_outputs(tx, row)
    secrets = read_secrets(tx, row.id, secrets_of(named))
    given = {
        key: Given(value, tuple(secrets.found_in(value)), lacks.get(key))
        for key, value in outputs.items()
    }
    return Source(row.id, given)


def note_reads(
    tx: Transaction, stack: StackRow, definitions: Definitions, *, lenient: bool
) -> None:
    """Note what a stack reads from now on.

    :param stack: its row, locked.
    :param lenient: what it reads may be gone: it was read for an earlier version.
    :raises Conflict: what it has read was deleted meanwhile.
    """
    readers.delete_reads(tx, stack.id)
    reads = definitions.reads
    if not reads:
        return
    there = readers.lock_sources(tx, [source["id"] for source in reads.values()])
    for name, source in reads.items():
        if source["id"] not in there and not lenient:
            raise Conflict(f"stack {name!r} was deleted while its outputs were read; try again")
    readers.insert_reads(
        tx,
        stack.id,
        (
            (source["id"], output)
            for source in reads.values()
            if source["id"] in there
            for output in source["outputs"]
        ),
    )


def refuse_readers(tx: Transaction, stack: StackRow, despite: Collection[str]) -> None:
    """Refuse to delete a stack that others read.

    :param stack: its row, locked.
    :param despite: names of readers that do not matter.
    :raises Conflict: there are others.
    :raises BadInput: one of these reads nothing of it.
    """
    found = readers.list_readers(tx, stack.id)
    for name in despite:
        if name not in found:
            raise BadInput(
                f"stack {name!r} reads no output of stack {stack.name!r}{did_you_mean(name, found)}"
            )
    others = {name: outputs for name, outputs in found.items() if name not in despite}
    if others:
        first = next(iter(others))
        raise Conflict(
            f"nothing was started: other stacks read outputs of stack {stack.name!r}: "
            f"{describe_reads(others)}; delete them first, or, if they can do without it, say so: "
            f"--despite {first}, or despite=[{first!r}]"
        )


def describe_reads(reads: Mapping[str, Collection[str]]) -> str:
    """Stacks with outputs, in words: ``'app' (vpc, zone), 'shop' (vpc)``."""
    shown = [f"{name!r} ({', '.join(outputs)})" for name, outputs in reads.items()]
    return ", ".join(shown[:_NAMED]) + (", ..." if len(shown) > _NAMED else "")
