"""Calling a handler: from a claimed work to its outcome, outside any transaction."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from converge.awaiting import Doing, is_cancelled
from converge.canonical import dump, load
from converge.errors import BadInput, Cancelled, Drifted, Gone, Replace, Veto, comes_from
from converge.hiding import Secrets
from converge.model import Action, Json, Kind, Physical, Status
from converge.protocol.basis import make_basis
from converge.protocol.decide import decide_replace, new_settings
from converge.protocol.drift import Drift, compare, gone, real_properties, said
from converge.protocol.drift import describe as describe_drift
from converge.protocol.limits import SPENT, Limits, limits_of, settings_of
from converge.protocol.marks import (
    mark_attributes,
    mark_properties,
    marked_properties,
    secret_values,
    with_marks,
)
from converge.protocol.outcomes import failed_attempt, failure, handed_back, put_off, without_drift
from converge.protocol.policy import Policy, propose, refused
from converge.protocol.settings import DIRECTORY, EXTERNAL_ID, SECRETS, is_external, runs_always
from converge.protocol.work import HANDLED, Operation, Outcome, Result, Work
from converge.reasons import describe, format_traceback
from converge.resources.asynchronous import AsyncContext
from converge.resources.resource_type import (
    Context,
    How,
    Nested,
    Real,
    Receive,
    ResourceType,
    can_check,
    check_over,
    check_real,
    is_async,
    plan_change,
    supports,
)
from converge.resources.secret_sources import read_secret
from converge.sql.types import PHYSICAL_ID_LENGTH, fit_text
from converge.template import check_properties
from converge.template.elsewhere import put_in
from converge.wait import Wait

if TYPE_CHECKING:
    from converge.journal import Scope
    from converge.sql.resources import ResourceRow

#: The largest properties or attributes of one resource, in characters of JSON.
VALUE_LENGTH = 4 * 1024 * 1024


def make_context(
    work: Work,
    record: Callable[[str | None], None] | None,
    limits: Limits,
    journal: Callable[[], Scope] | None = None,
    receive: Receive | None = None,
    nest: Nested | None = None,
) -> Context:
    """The context for a work's handler.

    :param record: stores a physical id at once.
    :param journal: opens the journal's scope of the work.
    :param receive: waits for a signal.
    :param nest: the resource's stack, if it is a nested one.
    """
    row = work.row
    assert row is not None
    # the template may have changed how it is deleted
    deletes = work.decision.operation is Operation.DELETE
    properties = work.decision.properties if deletes else row.properties
    return Context(
        work.traversal.stack,
        row.name,
        attempt=work.node.attempts,
        token=_token(work),
        resource_token=row.token,
        # the mark is 0 for a stack that is older than marks
        stack_token=f"{work.traversal.stack_id}-{work.traversal.stack_mark:x}",
        physical_id=row.physical_id,
        properties=properties,
        attributes=row.attributes,
        timeout=limits.call,
        waited=limits.waited,
        directory=settings_of(work).get(DIRECTORY),
        failures=work.failures,
        record=record,
        journal=journal,
        receive=receive,
        nest=nest,
    )


def _token(work: Work) -> str:
    """The token of a work, the same for all its attempts. A create or delete of a row has one
    token; an update or check has one for each traversal."""
    row = work.row
    assert row is not None
    if work.decision.operation is Operation.CREATE:
        return row.token
    root = uuid.UUID(row.token)
    if work.decision.operation is Operation.DELETE:
        return str(uuid.uuid5(root, "delete"))
    # the mark is 0 for a traversal that is older than marks
    traversal = work.traversal.mark or work.traversal.id
    return str(uuid.uuid5(root, f"{work.decision.operation} {traversal}"))


def calling(
    work: Work,
    types: Mapping[str, ResourceType],
    context: Context | None,
    origin: object = None,
    policy: Policy | None = None,
) -> Doing[Outcome]:
    """Do what was decided, and return the outcome. It raises nothing, and asks for what ``async
    def`` handlers return to be awaited.

    :param context: required for operations in :data:`~converge.protocol.work.HANDLED`.
    :param origin: the database. If an error of it passes through the handler, the work is handed
        back and has not failed.
    :param policy: is asked first, and may refuse.
    """
    operation = work.decision.operation
    if operation in HANDLED:
        assert work.row is not None
        assert context is not None
        started = time.monotonic()
        try:
            if policy is not None:
                policy(propose(work))
            return (yield from _call(work, types, context))
        except Veto as veto:
            return refused(work, str(veto))
        except Replace:
            if operation is Operation.UPDATE:
                then = decide_replace(
                    work.node.definition, work.row, work.decision.properties, types
                )
                if then.operation is Operation.FAIL:
                    return failure(work, then.reason or "it cannot be replaced")
                then = replace(then, settings=work.decision.settings)
                return Outcome(work, Result.REPLACE, then=then)
            return failure(
                work, f"Replace cannot be raised by {operation}; only update can ask for it"
            )
        except Wait as wait:
            limits = limits_of(work, types[work.type_name])
            return put_off(work, limits, wait, time.monotonic() - started)
        except BaseException as error:
            if origin is not None and comes_from(error, origin):
                return handed_back(work, describe(error))
            if context.interrupted:
                return handed_back(work)
            # BaseException: a handler that calls sys.exit() must not end the engine's thread
            limits = limits_of(work, types[work.type_name])
            seconds = time.monotonic() - started
            trace = format_traceback(error)
            if context.cancel_reason is not None and is_cancelled(error):
                error = Cancelled(context.cancel_reason)
            return failed_attempt(work, limits, describe(error), error, seconds, trace)
    if operation is Operation.REPLACE:
        return Outcome(work, Result.REPLACE)
    if operation is Operation.SKIP:
        return Outcome(work, Result.SKIPPED)
    if operation is Operation.FAIL:
        return failure(work, work.decision.reason or "cannot be done")
    if operation is Operation.DROP:
        reason = work.decision.reason
        return Outcome(work, Result.DONE, deleted=True, reason=reason, raw=reason is not None)
    node = work.node
    if work.row is None or node.kind is not Kind.UPDATE or work.traversal.action is Action.CHECK:
        return Outcome(work, Result.DONE)
    values: dict[str, Any] = {}
    if not node.is_settled:
        values = {"template_id": work.traversal.template_id, "basis": _basis(work)}
    if work.locked:
        values |= {"requires": work.requires, "reason": None}
        if work.decision.properties is not work.row.properties:
            # only properties that its delete uses have changed
            try:
                values["properties"] = storable("properties", dict(work.decision.properties))
            except BadInput as error:
                return failure(work, str(error))
        values |= new_settings(work)
    return Outcome(work, Result.DONE, values)


def _basis(work: Work) -> str:
    wanted = work.node.definition
    if SPENT in wanted:
        wanted = {name: value for name, value in wanted.items() if name != SPENT}
    assert work.row is not None
    return make_basis(dump(wanted), (work.row.id, work.row.epoch), work.inputs)


def _marks(
    work: Work, resource_type: ResourceType, attributes: Mapping[str, Json]
) -> Sequence[str]:
    """Which attributes are secret, of those that a handler left."""
    row = work.row
    assert row is not None
    secrets = secret_values(work.decision.settings, work.decision.properties)
    # what an update left as it is may have been made of what is no longer known
    secrets += secret_values(row.settings, attributes=row.attributes)
    secrets += work.secrets
    return mark_attributes(resource_type, attributes, secrets)


def invoke(handler: ResourceType, method: str, context: Context, *args: Any) -> Doing[Any]:
    """Call a method of a resource type, and return what it returned when its work was done.

    :raises Wait: it asks to be called again.
    """
    function: Any = getattr(handler, method)
    if is_async(handler, method):
        made = yield function(AsyncContext(context), *args)
    else:
        made = function(context, *args)
    check_over(made, method)
    return made


def _call(work: Work, types: Mapping[str, ResourceType], context: Context) -> Doing[Outcome]:
    row = work.row
    assert row is not None
    handler: Any = types[work.type_name]
    properties = work.decision.properties
    operation = work.decision.operation
    secrets = _read_secrets(work, context)
    # from here on, whatever the handler says of them is masked
    work.secrets = [*work.secrets, *secrets.values()]
    context.properties = put_in(context.properties, secrets)
    if operation is Operation.DELETE:
        physical_id = row.physical_id
        if physical_id is None:
            # find() looks for what the create made, by the token of the create
            context.token, token = row.token, context.token
            found = yield from invoke(handler, "find", context)
            context.token = token
            physical_id = None if found is None else _physical(found, None, context).id
        if physical_id is not None:
            context.physical_id = physical_id
            yield from invoke(handler, "delete", context, physical_id)
        if work.decision.wanted is not None:
            return Outcome(work, Result.REPLACE)
        return Outcome(work, Result.DONE, deleted=True)
    if operation is Operation.READ or (operation is Operation.CHECK and is_external(row.settings)):
        return (yield from _read(work, handler, context))
    if operation is Operation.CHECK:
        return (yield from _check(work, handler, context, secrets))
    # before the call: the handler may change the mapping
    reached = storable("properties", dict(properties))
    given = put_in(properties, secrets)
    if secrets:
        check_properties(work.wanted_type, handler, given)
    if operation is Operation.CREATE:
        made = yield from invoke(handler, "create", context, given)
        physical = _physical(made, None, context)
    else:
        previous = put_in(real_properties(row), secrets)
        again = runs_always(work.decision.settings)
        made = yield from _update(handler, context, row, given, previous, again=again)
        assert row.physical_id is not None
        physical = _physical(made, Physical(row.physical_id, row.attributes), context)
    attributes = storable("attributes", dict(physical.attributes))
    if secrets:
        attributes = Secrets(secrets.values()).hide_in_json(attributes)
    values: dict[str, Any] = {
        "action": Action.CREATE if operation is Operation.CREATE else Action.UPDATE,
        "status": Status.COMPLETE,
        "reason": None,
        "physical_id": physical.id,
        "properties": reached,
        "attributes": attributes,
        "requires": work.requires,
        "template_id": work.traversal.template_id,
        "basis": _basis(work),
        **without_drift(row),
        **new_settings(work, _marks(work, handler, attributes)),
    }
    return Outcome(work, Result.DONE, values)


def _check(
    work: Work, handler: Any, context: Context, secrets: Mapping[str, str]
) -> Doing[Outcome]:
    """Look at the real thing, and compare it with what it was made to be. Its type may know more
    than what can be compared."""
    row = work.row
    assert row is not None
    assert row.physical_id is not None
    given = put_in(row.properties, secrets)
    drift: Drift = {}
    if supports(handler, "read"):
        context.properties = given
        try:
            found = yield from invoke(handler, "read", context, row.physical_id)
            real = check_real(found).properties
            declared = mark_properties(handler, real, ())
            known = {*marked_properties(row.settings), *declared}
            drift = compare(row.properties, storable("properties", dict(real)), known, secrets)
        except Gone as error:
            drift = gone(str(error))
    if not drift and can_check(handler, row.properties):
        try:
            yield from invoke(handler, "check", context, row.physical_id, given)
        except Drifted as error:
            drift = said(str(error))
    if not drift:
        values: dict[str, Any] = {"reason": None, "status": Status.COMPLETE}
        return Outcome(work, Result.DONE, values | without_drift(row))
    reason = describe_drift(drift)
    values = {"reason": reason, "action": Action.CHECK, "status": Status.FAILED, "drift": drift}
    return Outcome(work, Result.DONE, values, reason=reason, drifted=True, raw=True)


def _read(work: Work, handler: ResourceType, context: Context) -> Doing[Outcome]:
    """Look at what is there already.

    :raises BadInput: there is none.
    """
    row = work.row
    assert row is not None
    is_check = work.decision.operation is Operation.CHECK
    settings = (row.settings if is_check else work.decision.settings) or {}
    external_id = settings[EXTERNAL_ID]
    check_physical_id(external_id)
    context.physical_id = external_id
    found = Real()
    if supports(handler, "read"):
        try:
            found = check_real((yield from invoke(handler, "read", context, external_id)))
        except Gone as error:
            raise BadInput(f"its external_id names nothing: {error or 'it is gone'}") from error
    values: dict[str, Any] = {"reason": None, "status": Status.COMPLETE}
    if is_check:
        return Outcome(work, Result.DONE, values)
    attributes = storable("attributes", dict(found.attributes or {}))
    secret = mark_attributes(handler, attributes, ())
    wanted = with_marks(work.decision.settings, attributes=secret)
    values |= {
        "action": Action.CREATE,
        "physical_id": external_id,
        "properties": {},
        "attributes": attributes,
        "requires": work.requires,
        "template_id": work.traversal.template_id,
        "basis": _basis(work),
        "settings": wanted,
    }
    return Outcome(work, Result.DONE, values)


def _read_secrets(work: Work, context: Context) -> Mapping[str, str]:
    """The secrets that are kept elsewhere, by their references.

    :raises BadInput: one that is wanted cannot be read. What there was may be deleted without one.
    """
    operation = work.decision.operation
    wanted = set(settings_of(work).get(SECRETS, ()))
    known = {*((work.row and work.row.settings) or {}).get(SECRETS, ())}
    found = {}
    for reference in sorted(wanted | known):
        try:
            found[reference] = read_secret(reference, context.directory)
        except BadInput:
            if reference in wanted and operation is not Operation.DELETE:
                raise
    return found


def _update(
    handler: Any,
    context: Context,
    row: ResourceRow,
    properties: Mapping[str, Json],
    previous: Mapping[str, Json],
    *,
    again: bool,
) -> Doing[object]:
    """Bring a resource to other properties, as its type's plan says.

    :param again: also if they are not others.
    :raises Replace: it is to be replaced.
    :raises BadInput: it asks for a replacement, and its plan has said that it needs none.
    """
    planned = plan_change(handler, context, properties, previous)
    if planned is not None and planned.how == How.REPLACE:
        raise Replace(planned.reason or "its plan says so")
    # what failed half-way is not as its last properties say
    is_same = planned is not None and planned.how == How.NOTHING and not again
    if is_same and row.status is Status.COMPLETE:
        return None
    try:
        made = yield from invoke(handler, "update", context, row.physical_id, properties, previous)
    except Replace as error:
        if planned is None:
            raise
        why = f" ({error})" if str(error) else ""
        raise BadInput(
            f"update asks for a replacement{why}, but the plan of its type said that it is updated "
            "in place, so nothing was replaced: a plan must know, or return None"
        ) from error
    return made


def _physical(made: object, before: Physical | None, context: Context) -> Physical:
    """Check what a handler returned.

    :param before: the physical resource before an update.
    :raises BadInput: it cannot be stored.
    """
    if made is None:
        made = before or Physical(context.physical_id or context.token)
    elif isinstance(made, str):
        made = Physical(made, before.attributes if before else {})
    if not isinstance(made, Physical):
        raise BadInput(
            "a handler must return converge.Physical, a physical id, or None, "
            f"not {type(made).__name__}"
        )
    check_physical_id(made.id)
    if not isinstance(made.attributes, Mapping):
        raise BadInput(f"attributes must be a mapping, not {type(made.attributes).__name__}")
    return made


def check_physical_id(physical_id: object) -> None:
    """Check that a physical id can be stored in every database.

    :raises BadInput: it cannot.
    """
    if not isinstance(physical_id, str):
        raise BadInput(f"a physical id must be a string, not {type(physical_id).__name__}")
    if not 0 < len(physical_id) <= PHYSICAL_ID_LENGTH:
        raise BadInput(
            f"a physical id must have 1 to {PHYSICAL_ID_LENGTH} characters, not {len(physical_id)}"
        )
    if fit_text(physical_id, PHYSICAL_ID_LENGTH) != physical_id:
        raise BadInput("a physical id must not have NUL or surrogate characters")


def storable(what: str, value: Json) -> Json:
    try:
        stored = dump(value)
        size = len(stored)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"the {what} cannot be stored as JSON: {error}") from error
    if size > VALUE_LENGTH:
        raise BadInput(
            f"the {what} have {size} characters as JSON; at most {VALUE_LENGTH} can be stored"
        )
    # a copy: the handler, or a thread that it left behind, may still change its own
    return load(stored)
