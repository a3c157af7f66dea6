"""What a template says of a resource besides its properties: what replaces it, whether it is
deleted, or never touched, how often it is tried, how long it may take, which engines work on it,
and whether it runs after failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from converge.errors import BadInput
from converge.model import Json, check_name, check_seconds
from converge.template.functions import function_of, references
from converge.template.keys import ALWAYS, POLICIES, RETRY
from converge.template.values import Document, Spot, hint, kind, show

#: A changed value replaces the resource.
TRIGGERS = "triggers"
#: Which engines work on it.
QUEUE = "queue"
#: Whether it runs although what it depends on has failed.
RUNS = "runs"
#: Their values must be known before a start.
LIMITS = ("retry", "timeout", "deadline", QUEUE, RUNS)
#: It is neither deleted nor replaced. Likewise.
PROTECT = "protect"
#: Whether what it stands for is deleted with it. Likewise.
DELETION_POLICY = "deletion_policy"
RETAIN = "retain"
#: It is this thing that is there already, and is never touched. Likewise.
EXTERNAL_ID = "external_id"
#: The keys of a resource that say something of what converge makes itself.
_OF_MANAGED = (
    "properties",
    "depends_on",
    "replace",
    TRIGGERS,
    PROTECT,
    DELETION_POLICY,
    RUNS,
)
_OF_HEAT = (DELETION_POLICY, EXTERNAL_ID)
_SNAPSHOT = ("snapshot", "Snapshot")
_KEYS = frozenset((TRIGGERS, PROTECT, DELETION_POLICY, EXTERNAL_ID, *LIMITS))


def settings_in(body: Mapping[str, Json]) -> dict[str, Json]:
    """The settings among the keys of a resource; functions in them are not evaluated yet."""
    if _KEYS.isdisjoint(body):
        return {}
    return {key: body[key] for key in sorted(_KEYS) if body.get(key) is not None}


def check_settings(document: Document, what: object, body: Mapping[str, Json], spot: Spot) -> None:
    """Check the settings among the keys of a resource.

    :param what: the resource, for messages.
    :raises TemplateError: if one is wrong.
    """
    found = settings_in(body)
    if not found:
        return
    for key in (PROTECT, *LIMITS):
        for reference in references(found.get(key), spot.child(key)):
            if reference.function != "get_param":
                message = f"{key} of {what} must be known before anything is made: it can refer to "
                raise document.error(f"{message}parameters only", reference.spot)
    if body.get(RUNS) is not None:
        _check_references(document, what, body, spot)
    # what Heat accepts can be drawn
    found = {key: value for key, value in found.items() if key not in _OF_HEAT}
    try:
        normalize(found)
    except BadInput as error:
        key = str(error).partition(" ")[0].partition(".")[0].rstrip(":")
        raise document.error(f"{what}: {error}", spot.child(key)) from None


def _check_references(
    document: Document, what: object, body: Mapping[str, Json], spot: Spot
) -> None:
    """Refuse that what runs after failures refers to what may not be there then.

    :raises TemplateError: if it does.
    """
    for key in ("properties", TRIGGERS):
        for reference in references(body.get(key), spot.child(key)):
            if reference.function in ("get_resource", "get_attr"):
                name = "another resource" if reference.name is None else repr(reference.name)
                raise document.error(
                    f"{what} runs always, also if {name} was never made, so its {key} cannot refer "
                    "to that; name it in depends_on",
                    reference.spot,
                )


def heat_problems(what: object, body: Mapping[str, Json], spot: Spot) -> Iterator[tuple[str, Spot]]:
    """What is wrong with the settings that Heat has, too: messages with their places.

    :param what: the resource, for messages.
    :param body: all its keys.
    """
    for key in _OF_HEAT:
        value, place = body.get(key), spot.child(key)
        if value is None:
            continue
        for reference in references(value, place):
            if reference.function != "get_param":
                message = f"{key} of {what} must be known before anything is made: it can refer to "
                yield f"{message}parameters only", reference.spot
        try:
            normalize({key: value})
        except BadInput as error:
            yield f"{what}: {error}", place
    for key in _OF_MANAGED if body.get(EXTERNAL_ID) is not None else ():
        if body.get(key):
            message = f"{what} has an external_id, so it is used as it is, and cannot have {key}; "
            yield f"{message}remove one of the two", spot.child(key)


def normalize(settings: Mapping[str, Json]) -> dict[str, Json]:
    """Settings in the form in which engines take them. What is still a function is left as it is.

    :raises BadInput: if one is wrong; the message starts with its key.
    """
    normal = dict(settings)
    for key in ("timeout", "deadline"):
        if key in normal and function_of(normal[key]) is None:
            check_seconds(key, normal[key])
    if QUEUE in normal and function_of(normal[QUEUE]) is None:
        try:
            check_name(QUEUE, normal[QUEUE])
        except BadInput as error:
            raise BadInput(f"queue: {error}") from None
    if RUNS in normal and function_of(normal[RUNS]) is None and normal[RUNS] != ALWAYS:
        raise BadInput(
            f"{RUNS} must be {ALWAYS}, not {show(normal[RUNS])}; what is to run only if nothing "
            "before it failed has none"
        )
    if "retry" in normal and function_of(normal["retry"]) is None:
        normal["retry"] = _retry(normal["retry"])
    if PROTECT in normal and function_of(normal[PROTECT]) is None:
        if not isinstance(normal[PROTECT], bool):
            raise BadInput(f"{PROTECT} must be true or false, not {show(normal[PROTECT])}")
        if not normal[PROTECT]:
            del normal[PROTECT]
    if DELETION_POLICY in normal and function_of(normal[DELETION_POLICY]) is None:
        normal[DELETION_POLICY] = _policy(normal[DELETION_POLICY])
        if normal[DELETION_POLICY] != RETAIN:
            del normal[DELETION_POLICY]
    if EXTERNAL_ID in normal and function_of(normal[EXTERNAL_ID]) is None:
        value = normal[EXTERNAL_ID]
        if not isinstance(value, str) or not value:
            quoted = f'; write "{value}"' if type(value) in (int, float) else ""
            raise BadInput(
                f"{EXTERNAL_ID} must be a text, the id of what is there, not {show(value)}{quoted}"
            )
    return normal


def _policy(value: Json) -> str:
    if value in _SNAPSHOT:
        raise BadInput(
            f"{DELETION_POLICY} {value} is not supported; with {RETAIN} it is left in place, and a "
            "snapshot can be made by hand"
        )
    if not isinstance(value, str) or value not in POLICIES:
        known = " or ".join(POLICIES[:2])
        raise BadInput(f"{DELETION_POLICY} must be {known}, not {show(value)}")
    return value.lower()


def _retry(value: Json) -> dict[str, Json]:
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"attempts": value}
    if not isinstance(value, dict):
        known = ", ".join(RETRY.known)
        raise BadInput(
            f"retry must be a number of attempts, or a mapping of {known}, not {kind(value)}"
        )
    for key, each in value.items():
        if key not in RETRY.known:
            raise BadInput(f"retry has no key {show(key)}{hint(key, RETRY.known)}")
        if function_of(each) is not None:
            continue
        if key == "attempts":
            if type(each) is not int or each < 1:
                raise BadInput(f"retry.attempts must be a whole number from 1, not {show(each)}")
        elif type(each) is bool or each != 0:
            check_seconds(f"retry.{key}", each)
    return dict(value)
