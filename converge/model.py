"""The vocabulary: enums, the tables of allowed moves, and the frozen records.

A row's state changes only along the moves declared here. The store's guarded
updates and the tests both read these tables.
"""

from __future__ import annotations

import os
import secrets
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from converge.errors import BadInput, with_article

#: A value that can be stored as JSON.
Json = Any

S = TypeVar("S", bound=str)

NAME_LENGTH = 255
#: After this many deaths of those that had claimed it, a node or an action is a suspect, and is
#: claimed with no other suspect: what is held beside the one that kills would be suspected, too.
SUSPECT_DEATHS = 2
#: The queue of all that names none, and of the engines that are given none.
DEFAULT_QUEUE = "default"
#: The highest priority; its negative is the lowest.
MOST_PRIORITY = 100
#: The default database, and its file.
DEFAULT_FILE = "converge.db"
DEFAULT_URL = f"sqlite:///{DEFAULT_FILE}"


class Action(StrEnum):
    """What a traversal is for, or what is being done to a resource."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    ROLLBACK = "ROLLBACK"
    DELETE = "DELETE"
    CHECK = "CHECK"
    #: of a resource only: the old one is deleted before the new one is created
    REPLACE = "REPLACE"


class Status(StrEnum):
    """The status of an action on a stack or a resource."""

    INIT = "INIT"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    #: of a resource only, as it is shown: a check found that it is not what it was made to be
    DRIFTED = "DRIFTED"
    #: likewise: it is its turn later, or its handler is called again later
    WAITING = "WAITING"
    #: likewise: it was to be made, and its traversal ended before that
    SKIPPED = "SKIPPED"


#: Those that resources are shown with: INIT is internal, and only a stack is CANCELLED.
SHOWN_STATUSES = (
    Status.IN_PROGRESS,
    Status.WAITING,
    Status.COMPLETE,
    Status.DRIFTED,
    Status.FAILED,
    Status.SKIPPED,
)


class TraversalStatus(StrEnum):
    """The status of a traversal."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SUPERSEDED = "SUPERSEDED"


class EngineState(StrEnum):
    """The state of an engine."""

    ALIVE = "ALIVE"
    STOPPED = "STOPPED"
    DEAD = "DEAD"


class Kind(StrEnum):
    """What a node does."""

    UPDATE = "update"
    CLEANUP = "cleanup"
    STACK = "stack"


class LimitKind(StrEnum):
    """What a limit is of."""

    TYPE = "type"
    STACK = "stack"
    #: of the author's: what a resource type's ``limits`` names
    KEY = "key"


class NodeState(StrEnum):
    """The state of a sync point."""

    WAITING = "WAITING"
    READY = "READY"
    RUNNING = "RUNNING"
    BLOCKED = "BLOCKED"
    DONE = "DONE"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    SUPERSEDED = "SUPERSEDED"


class OnFailure(StrEnum):
    """What a traversal does when a node has failed for good."""

    STOP = "stop"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


#: Allowed moves of a sync point. A row that is not in a source state is not moved.
SYNC_POINT_MOVES: Mapping[NodeState, frozenset[NodeState]] = {
    # to READY: its last predecessor arrived; to DONE: likewise, and there is nothing to do; to
    # SKIPPED: the traversal was halted
    NodeState.WAITING: frozenset({NodeState.READY, NodeState.DONE, NodeState.SKIPPED}),
    # to DONE: there turned out to be nothing to do
    NodeState.READY: frozenset(
        {NodeState.RUNNING, NodeState.BLOCKED, NodeState.DONE, NodeState.SKIPPED}
    ),
    # to READY: a retry, or its engine died; to WAITING: a stack node that found work still running
    NodeState.RUNNING: frozenset(
        {
            NodeState.DONE,
            NodeState.FAILED,
            NodeState.SKIPPED,
            NodeState.READY,
            NodeState.WAITING,
            NodeState.SUPERSEDED,
        }
    ),
    NodeState.BLOCKED: frozenset({NodeState.READY, NodeState.SKIPPED}),
    NodeState.DONE: frozenset(),
    NodeState.FAILED: frozenset(),
    NodeState.SKIPPED: frozenset(),
    NodeState.SUPERSEDED: frozenset(),
}

#: Allowed moves of a traversal.
TRAVERSAL_MOVES: Mapping[TraversalStatus, frozenset[TraversalStatus]] = {
    TraversalStatus.RUNNING: frozenset(set(TraversalStatus) - {TraversalStatus.RUNNING}),
    TraversalStatus.COMPLETE: frozenset(),
    TraversalStatus.FAILED: frozenset(),
    TraversalStatus.CANCELLED: frozenset(),
    TraversalStatus.SUPERSEDED: frozenset(),
}


#: Allowed moves of a stack's status.
STACK_MOVES: Mapping[Status, frozenset[Status]] = {
    # to itself: a newer traversal takes the place of the running one
    Status.IN_PROGRESS: frozenset(
        {Status.IN_PROGRESS, Status.COMPLETE, Status.FAILED, Status.CANCELLED}
    ),
    Status.COMPLETE: frozenset({Status.IN_PROGRESS}),
    Status.FAILED: frozenset({Status.IN_PROGRESS}),
    Status.CANCELLED: frozenset({Status.IN_PROGRESS}),
}

#: Allowed moves of an engine; one that lost its lease goes on as another.
ENGINE_MOVES: Mapping[EngineState, frozenset[EngineState]] = {
    EngineState.ALIVE: frozenset({EngineState.STOPPED, EngineState.DEAD}),
    EngineState.STOPPED: frozenset(),
    EngineState.DEAD: frozenset(),
}


def sources_of(moves: Mapping[S, frozenset[S]], target: S) -> list[S]:
    """The states from which a table of moves leads to this one: what the guard of an update asks
    for.

    :raises ValueError: none does.
    """
    found = [source for source, targets in moves.items() if target in targets]
    if not found:
        raise ValueError(f"nothing may become {target}")
    return found


def check_move(moves: Mapping[S, frozenset[S]], target: S, *sources: S) -> S:
    """Give a state back that rows in these states are moved to.

    :raises ValueError: the table of moves does not allow it.
    """
    for source in sources:
        if target not in moves[source]:
            raise ValueError(f"what is {source} may not become {target}")
    return target


class Replacing(StrEnum):
    """In which order a resource is replaced by a new one."""

    #: the new one is made, what depends on it is pointed at it, and then the old one is deleted
    CREATE_FIRST = "create_first"
    #: the old one is deleted before the new one is made: there can be only one
    DELETE_FIRST = "delete_first"


@dataclass(frozen=True, slots=True)
class ResourceDefinition:
    """The desired state of one resource: parameters filled in, references to others still open.

    :ivar type: the name of its resource type.
    :ivar properties: JSON value in which ``get_resource``, ``get_attr`` and the functions
        around them are not evaluated yet.
    :ivar requires: names of the resources that must come first, sorted.
    :ivar replace: in which order it is replaced; None leaves it to the type.
    :ivar settings: what else is said of it, by key: ``triggers``, in which references are not
        evaluated yet, ``retry``, ``timeout``, ``deadline``.
    """

    type: str
    properties: Mapping[str, Json] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    replace: Replacing | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Physical:
    """A real thing that a resource type made.

    :param id: how the outside world knows it, at most 1,024 characters.
    :param attributes: a JSON object that other resources can refer to with ``get_attr``.
    """

    id: str
    attributes: Mapping[str, Json] = field(default_factory=dict)


def same(one: Json, other: Json) -> bool:
    """Whether two JSON values are equal, and of equal types: 1, 1.0 and true all differ."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def make_mark() -> int:
    """A random number that is stored beside an id: after a database is restored from an older copy,
    ids are given again, marks are not."""
    return secrets.randbits(63)


def make_token() -> str:
    """A random UUID. ``uuid4()`` takes three times as long, and a start needs one a resource."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


def check_name(what: str, name: object) -> str:
    """Check a name of a stack or resource, and give it back.

    :raises BadInput: unless it is a string of 1 to 255 printable characters that neither
        starts nor ends with a space. (All three databases store such names alike.)
    """
    if not isinstance(name, str):
        raise BadInput(
            f"the name of {with_article(what)} must be a string, not {type(name).__name__}"
        )
    shown = name if len(name) <= 60 else name[:57] + "..."
    if not name:
        raise BadInput(f"the name of {with_article(what)} must not be empty")
    if len(name) > NAME_LENGTH:
        raise BadInput(
            f"{what} name {shown!r} has {len(name)} characters; at most {NAME_LENGTH} are allowed"
        )
    for character in "" if name.isascii() and name.isprintable() else name:
        if unicodedata.category(character) in {"Cc", "Cs", "Cn", "Zl", "Zp"}:
            raise BadInput(
                f"{what} name {shown!r} has the unprintable character {character!r}; "
                "use printable characters only"
            )
    if name != name.strip():
        raise BadInput(f"{what} name {shown!r} must not start or end with white space")
    return name


def check_queues(queues: Iterable[str] | None) -> tuple[str, ...]:
    """Check the names of the queues that an engine serves, and give them back, sorted.

    :param queues: None: only the default one.
    :raises BadInput: there is none, or one cannot be a name.
    """
    if queues is None:
        return (DEFAULT_QUEUE,)
    if isinstance(queues, str):
        raise BadInput(f"queues must be several names, such as [{queues!r}], not a string")
    named = tuple(sorted({check_name("queue", one) for one in queues}))
    if not named:
        raise BadInput("queues must name a queue; None is for the default one alone")
    return named


def check_priority(priority: object) -> int:
    """Check a priority, and give it back.

    :raises BadInput: unless it is a whole number from -100 to 100.
    """
    if type(priority) is not int or abs(priority) > MOST_PRIORITY:
        raise BadInput(
            f"priority must be a whole number from {-MOST_PRIORITY} to {MOST_PRIORITY}, "
            f"not {priority!r}"
        )
    return priority


def check_seconds(what: str, seconds: object, least: float = 0.0) -> float:
    """Check a length of time, and give it back.

    :param least: the least that makes sense; 0 itself never does.
    :raises BadInput: unless it is a finite number of seconds, positive and at least that.
    """
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 0 < seconds < float("inf")
        or seconds < least
    ):
        bound = f" of at least {least:g}" if least else ""
        raise BadInput(f"{what} must be a positive number{bound} of seconds, not {seconds!r}")
    return float(seconds)


def check_age(what: str, seconds: object) -> float:
    """Check an age, and give it back.

    :raises BadInput: unless it is a finite number of seconds, 0 or more.
    """
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 0 <= seconds < float("inf")
    ):
        raise BadInput(f"{what} must be a number of seconds, 0 or more, not {seconds!r}")
    return float(seconds)


def is_name(name: object) -> bool:
    """Whether a stack or resource can have this name."""
    try:
        check_name("stack", name)
    except BadInput:
        return False
    return True
