"""Adopting: a thing that is there already becomes a resource, as if converge had made it.

What is recorded is what the template says of it. Its type's ``read`` is asked first, outside of any
transaction: where the real thing differs, the resource has drifted, and the next update mends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converge.awaiting import Doing, run_plain
from converge.errors import BadInput, Conflict, Gone, UnresolvedReference, did_you_mean
from converge.hiding import Secrets
from converge.model import Action, Json, Physical, Status
from converge.protocol.call import check_physical_id, invoke, storable
from converge.protocol.decide import unknown_type
from converge.protocol.drift import Drift, compare, describe, masked
from converge.protocol.marks import mark_attributes, mark_properties, secret_values, with_marks
from converge.protocol.settings import DIRECTORY, SECRETS, is_external
from converge.protocol.start import check_rest
from converge.resources.resource_type import Context, ResourceType, check_real, supports
from converge.resources.secret_sources import read_secret
from converge.sql import events, resources, stacks, templates
from converge.sql.resources import ResourceRow
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text
from converge.template import (
    Definitions,
    Template,
    check_properties,
    resolve_properties,
    with_defaults,
)
from converge.template.elsewhere import put_in, secret_references
from converge.wait import Wait

#: The action in the event.
ADOPT = "ADOPT"


@dataclass(frozen=True, slots=True)
class Adopted:
    """A thing that is a stack's resource now.

    :ivar id: the resource's number.
    :ivar differs: what is not as the template says, in words; None if nothing is.
    :ivar was_read: whether its type could look at it.
    """

    id: int
    name: str
    type: str
    physical_id: str
    differs: str | None
    was_read: bool


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is to be recorded.

    :ivar requires: names of the resources that it requires.
    """

    name: str
    type: str
    physical_id: str
    properties: Mapping[str, Json]
    settings: Mapping[str, Json] | None
    attributes: Mapping[str, Json]
    drift: Drift
    was_read: bool
    requires: Sequence[str]


@dataclass(frozen=True, slots=True)
class Present:
    """What there is of a stack.

    :ivar definitions: what its own template wants.
    :ivar directory: where relative paths of that start.
    """

    rows: Sequence[ResourceRow]
    definitions: Definitions
    directory: str | None


def read_present(tx: Transaction, name: str) -> Present:
    """What there is of a stack.

    :raises NotFound: there is no such stack.
    """
    stack = stacks.get_stack(tx, name)
    rows = resources.list_resources(tx, stack.id)
    if stack.template_id is None:
        return Present(rows, Definitions.of({}), None)
    row = templates.get_template(tx, stack.template_id)
    definitions = Template.from_store(row.body).definitions(row.parameters, name)
    return Present(rows, definitions, templates.get_directory(tx, stack.template_id))


def look(
    stack: str,
    present: Present,
    name: str,
    physical_id: str,
    types: Mapping[str, ResourceType],
) -> Adoption:
    """Look at a thing, and work out what is to be recorded of it.

    :param stack: the stack's name.
    :param present: what there is of it, with what is wanted of it.
    :param name: the resource's name.
    :raises BadInput: the template does not name it, or says what cannot be; or there is no such
        thing.
    """
    check_physical_id(physical_id)
    rows, definitions, directory = present.rows, present.definitions, present.directory
    if name not in definitions:
        raise BadInput(
            f"the template has no resource {name!r}{did_you_mean(name, definitions)}; name it "
            "there as it is to be, and adopt it with that file: --template FILE"
        )
    definition = definitions[name]
    if is_external(definition.settings):
        raise BadInput(
            f"resource {name!r} has an external_id, so it is used and never touched; to have it "
            "changed and deleted with the stack, write its properties instead"
        )
    if definition.type not in types:
        raise BadInput(unknown_type(definition.type, types))
    resource_type = types[definition.type]
    if resource_type.nests:
        raise BadInput(
            f"resource {name!r} is a nested stack, which converge makes itself; what another stack "
            "has is taken over one by one: `converge move`"
        )
    if resource_type.adopt_property is not None:
        setting = f"{resource_type.adopt_property}: true"
        raise BadInput(
            f"type {definition.type!r} touches only what it has made itself; write `{setting}` "
            f"among the properties of {name!r} and update the stack: that takes over what is there"
        )
    there = {
        row.name: Physical(row.physical_id, row.attributes)
        for row in rows
        if row.physical_id is not None and row.replaced_by is None
    }

    def lookup(other: str) -> Physical:
        if other not in there:
            raise UnresolvedReference(
                f"resource {name!r} refers to {other!r}, which is not there yet: bring that about "
                f"first, with --target {other}"
            )
        return there[other]

    try:
        resolved = resolve_properties(definition.properties, lookup)
        properties = storable("properties", dict(with_defaults(resource_type, resolved)))
        check_properties(definition.type, resource_type, properties)
        settings = dict(resolve_properties(definition.settings, lookup))
    except UnresolvedReference as error:
        raise BadInput(str(error)) from error
    elsewhere = sorted(set(secret_references(dict(definition.properties))))
    if elsewhere:
        settings[SECRETS] = elsewhere
    if (resource_type.relative_paths or elsewhere) and directory is not None:
        settings[DIRECTORY] = directory
    known = [
        value for row in rows for value in secret_values(row.settings, attributes=row.attributes)
    ]
    marked = mark_properties(resource_type, properties, known)
    attributes: Mapping[str, Json] = {}
    drift: Drift = {}
    if supports(resource_type, "read"):
        secrets = {one: read_secret(one, directory) for one in elsewhere}
        context = Context(
            stack,
            name,
            physical_id=physical_id,
            properties=put_in(properties, secrets),
            directory=directory if resource_type.relative_paths else None,
        )
        attributes, drift = run_plain(
            _read(resource_type, context, properties, marked, secrets, known)
        )
    secret = mark_attributes(resource_type, attributes, known)
    return Adoption(
        name,
        definition.type,
        physical_id,
        properties,
        with_marks(settings, properties=marked, attributes=secret) or None,
        attributes,
        drift,
        supports(resource_type, "read"),
        definition.requires,
    )


def _read(
    resource_type: ResourceType,
    context: Context,
    properties: Mapping[str, Json],
    marked: Sequence[str],
    secrets: Mapping[str, str],
    known: Sequence[Json],
) -> Doing[tuple[Mapping[str, Json], Drift]]:
    """The attributes of the real thing, and what differs of it."""
    try:
        found = check_real((yield from invoke(resource_type, "read", context, context.physical_id)))
    except Gone as error:
        reason = f": {error}" if str(error) else ""
        raise BadInput(f"there is nothing to adopt as {context.name!r}{reason}") from error
    except Wait as error:
        raise BadInput(f"{context.physical_id!r} cannot be looked at yet; try later") from error
    real = storable("properties", dict(found.properties))
    hidden = {*marked, *mark_properties(resource_type, real, ())}
    drift = compare(properties, real, hidden, secrets)
    shown = Secrets([*secrets.values(), *known])
    attributes = shown.hide_in_json(storable("attributes", dict(found.attributes or {})))
    return attributes, masked(drift, properties, shown)


def adopt(tx: Transaction, name: str, adoption: Adoption) -> Adopted | None:
    """Record a thing as a resource of a stack at rest.

    :param name: the stack's name.
    :returns: None if it was recorded before.
    :raises NotFound: there is no such stack.
    :raises Conflict: something is being done to the stack, or it has such a resource.
    """
    stack = stacks.lock_stack(tx, name)
    what = f"resource {adoption.name!r}"
    check_rest(stack, f"adopt {what}")
    rows = resources.list_resources(tx, stack.id, lock=True)
    mine = [row for row in rows if row.name == adoption.name]
    for row in mine:
        if (row.type, row.physical_id) == (adoption.type, adoption.physical_id):
            return None
        if row.status is not Status.INIT:
            made = "something was begun" if row.physical_id is None else f"{row.physical_id!r}"
            raise Conflict(
                f"stack {name!r} has {what} already: {made}; if that is to stay in the world and "
                f"go from the stack, say `converge forget {name} {adoption.name}` first"
            )
    for row in rows:
        if (row.type, row.physical_id) == (adoption.type, adoption.physical_id):
            raise Conflict(
                f"stack {name!r} has {adoption.physical_id!r} already, as resource {row.name!r}; "
                "to give it another name, say `converge move`"
            )
    for row in mine:
        # nothing was made of it
        resources.delete_unlocked(tx, row, [other for other in rows if other is not row])
    ids = {row.name: row.id for row in rows if row.replaced_by is None}
    differs = describe(adoption.drift) if adoption.drift else None
    values: dict[str, Any] = {
        "type": adoption.type,
        "physical_id": adoption.physical_id,
        "properties": dict(adoption.properties),
        "attributes": dict(adoption.attributes),
        "settings": None if adoption.settings is None else dict(adoption.settings),
        "requires": sorted(ids[one] for one in adoption.requires if one in ids),
    }
    if differs is None:
        values |= {"action": Action.CREATE, "status": Status.COMPLETE}
    else:
        # as a check leaves it that finds this
        found = {"drift": adoption.drift, "reason": fit_text(differs)}
        values |= {"action": Action.CHECK, "status": Status.FAILED, **found}
    id_ = resources.insert_adopted(tx, stack.id, adoption.name, values)
    told = f"id {adoption.physical_id!r}" + ("" if differs is None else f"; {differs}")
    events.insert_events(
        tx,
        [
            {
                "stack_id": stack.id,
                "traversal_id": stack.traversal_id,
                "resource": adoption.name,
                "action": ADOPT,
                "status": Status.COMPLETE,
                "reason": fit_text(told),
            }
        ],
    )
    return Adopted(
        id_, adoption.name, adoption.type, adoption.physical_id, differs, adoption.was_read
    )
