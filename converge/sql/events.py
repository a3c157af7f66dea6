"""What happened, for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select

from converge.model import Status
from converge.sql.batch import InsertMany, among, types_of
from converge.sql.schema import event, traversal
from converge.sql.transaction import Transaction

#: The events of so many traversals of a stack are kept, the newest.
KEPT_TRAVERSALS = 10
#: The status of a resource that a check did not look at.
UNCHECKED = "UNCHECKED"
#: The status of a resource whose handler waits; the reason says how far it is.
WAITING = "WAITING"
#: The status of a resource that went, while what it stood for was left in place.
RETAINED = "RETAINED"
#: The action of a resource that is there already.
USE = "USE"
#: The action of a resource that gets another name.
MOVE = "MOVE"
_GIVEN = ("stack_id", "traversal_id", "resource", "action", "status", "reason")


_INSERT = InsertMany(
    event,
    types_of(event, *_GIVEN),
    lambda row, now: {**row, "at": now},
)


def insert_events(tx: Transaction, events: Sequence[dict[str, Any]]) -> None:
    """Append events; each has stack_id, traversal_id, resource, action, status and reason."""
    _INSERT.execute(tx, events)
    tx.news.changed.update(one["stack_id"] for one in events)


_INSERT_NOTES = InsertMany(
    event,
    types_of(event, *_GIVEN),
    lambda row, now: {**row, "at": now},
    returning=("id", *_GIVEN),
)


def replace_notes(
    tx: Transaction, old: Sequence[int], events: Sequence[dict[str, Any]]
) -> list[int]:
    """Append events that say how far something is, and delete those before them.

    :param old: the ids of those before.
    :returns: the id of each event.
    """
    if old:
        tx.execute(delete(event).where(among(tx, event.c.id, old), event.c.status == WAITING))
    if not events:
        return []
    found: dict[tuple[Any, ...], list[int]] = {}
    for row in _INSERT_NOTES.execute(tx, events):
        found.setdefault(tuple(row[1:]), []).append(row[0])
    tx.news.changed.update(one["stack_id"] for one in events)
    # those that are all the same can take each other's place
    return [found[tuple(one[name] for name in _GIVEN)].pop() for one in events]


def list_events(
    tx: Transaction,
    stack_id: int,
    after: int | None = None,
    limit: int = 1000,
    since: float | datetime | None = None,
) -> list[dict[str, Any]]:
    """A stack's events, oldest first, each with the actor of its traversal.

    :param after: only events with a higher id.
    :param limit: the most events: the first after ``after``; without it, the newest.
    :param since: only those that came after the last one that is older than this: so many seconds
        ago, or a time.
    """
    query = (
        select(*event.c, traversal.c.actor)
        .outerjoin(traversal, traversal.c.id == event.c.traversal_id)
        .where(event.c.stack_id == stack_id)
    )
    if since is not None:
        query = query.where(event.c.id > _find_last_before(tx, stack_id, since))
    if after is not None:
        newer = query.where(event.c.id > after).order_by(event.c.id).limit(limit)
        return [dict(row._mapping) for row in tx.execute(newer)]
    rows = tx.execute(query.order_by(event.c.id.desc()).limit(limit)).all()
    return [dict(row._mapping) for row in reversed(rows)]


def _find_last_before(tx: Transaction, stack_id: int, since: float | datetime) -> int:
    """The last event before a time; 0 if there is none. From the newest on, it looks at no more
    events than come after it."""
    start = since.timestamp() if isinstance(since, datetime) else tx.now - since
    query = select(event.c.id).where(event.c.stack_id == stack_id, event.c.at < start)
    found = tx.execute(query.order_by(event.c.id.desc()).limit(1)).scalar_one_or_none()
    return found or 0


def list_failures(
    tx: Transaction, stack_id: int, traversal_id: int, limit: int
) -> list[tuple[str, str | None]]:
    """The resources that failed first in a traversal, each with its reason."""
    query = (
        select(event.c.resource, event.c.reason)
        .where(
            event.c.stack_id == stack_id,
            event.c.traversal_id == traversal_id,
            event.c.status == Status.FAILED,
            event.c.resource.is_not(None),
        )
        .order_by(event.c.id)
    )
    return [(row.resource, row.reason) for row in tx.execute(query.limit(limit))]


def list_with_status(tx: Transaction, stack_id: int, traversal_id: int, status: str) -> list[str]:
    """The resources of which events of a traversal have this status, by name."""
    query = select(event.c.resource).where(
        event.c.stack_id == stack_id,
        event.c.traversal_id == traversal_id,
        event.c.status == status,
        event.c.resource.is_not(None),
    )
    return sorted(set(tx.execute(query).scalars()))


def has_event(tx: Transaction, stack_id: int, resource: str, action: str) -> bool:
    """Whether a kept event says that this happened to a resource of a stack."""
    query = select(event.c.id).where(
        event.c.stack_id == stack_id, event.c.resource == resource, event.c.action == action
    )
    return tx.execute(query.limit(1)).first() is not None


def prune_events(tx: Transaction, stack_id: int) -> None:
    """Delete the events of all but the newest traversals of a stack."""
    query = select(traversal.c.id).where(traversal.c.stack_id == stack_id)
    oldest = tx.execute(
        query.order_by(traversal.c.id.desc()).offset(KEPT_TRAVERSALS - 1).limit(1)
    ).scalar_one_or_none()
    if oldest is not None:
        tx.execute(delete(event).where(event.c.stack_id == stack_id, event.c.traversal_id < oldest))
