"""Notifications that were received, and their traits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    String,
    and_,
    any_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.types import ARRAY

from converge.sql.batch import InsertMany, among, types_of
from converge.sql.schema import delivery, notification, trait
from converge.sql.transaction import Transaction

_INSERT = InsertMany(
    notification,
    types_of(
        notification, "message_id", "event_type", "publisher_id", "priority", "at", "is_event"
    ),
    lambda row, now: {**row, "recorded_at": now, "token": bindparam("token", type_=String(32))},
    skip_existing=True,
)
_INSERT_TRAITS = InsertMany(
    trait,
    types_of(trait, "notification_id", "name", "type", "text", "number"),
    lambda row, now: {**row},
)


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as it is in the database.

    :ivar at: when it was sent, ``recorded_at``: when it came here; seconds since 1970.
    :ivar traits: (type, text) by name.
    """

    id: int
    message_id: str
    event_type: str
    publisher_id: str
    priority: str
    at: float
    recorded_at: float
    traits: Mapping[str, tuple[str, str]]


def is_one_of(tx: Transaction, what: ColumnElement[Any], texts: Iterable[str]) -> Any:
    """The condition that a text column has one of these values."""
    listed = sorted(set(texts))
    if tx.dialect == "postgresql":
        # one parameter: the driver parses every text with many of them anew
        return what == any_(cast(bindparam(None, listed, unique=True), ARRAY(String)))
    if listed:
        # padded, so that few different statements are compiled
        listed += listed[-1:] * ((1 << (len(listed) - 1).bit_length()) - len(listed))
    return what.in_(listed)


def read_clock(tx: Transaction) -> float:
    """The time: seconds since 1970."""
    return float(tx.execute(select(tx.now)).scalar_one())


def insert_notifications(
    tx: Transaction, rows: Sequence[Mapping[str, Any]], token: str
) -> dict[str, tuple[int, bool]]:
    """Record notifications; those that were recorded before are left as they are.

    :param rows: each with message_id, event_type, publisher_id, priority, at and is_event.
    :param token: of the batch, random.
    :returns: by message id: the id of the row, and whether it is new.
    """
    query = select(notification.c.message_id, notification.c.id, notification.c.token)
    known: dict[str, tuple[int, bool]] = {}
    # in one order, so that two batches do not wait for each other
    left = sorted(rows, key=lambda row: str(row["message_id"]))
    while left:
        _INSERT.execute(tx, left, token=token)
        found = tx.execute(
            query.where(
                is_one_of(tx, notification.c.message_id, (row["message_id"] for row in left))
            )
        )
        known |= {row.message_id: (row.id, row.token == token) for row in found}
        # one that was there, and was pruned between the two statements, is not there now
        left = [row for row in left if row["message_id"] not in known]
    return known


def insert_traits(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record traits: each with notification_id, name, type, text and number."""
    _INSERT_TRAITS.execute(tx, rows)


def was_recorded(tx: Transaction, token: str) -> bool:
    """Whether a batch has recorded a notification."""
    query = select(notification.c.id).where(notification.c.token == token)
    return tx.execute(query.limit(1)).first() is not None


def list_events(
    tx: Transaction,
    types: Sequence[str],
    traits: Sequence[tuple[str, str, str]],
    *,
    after: int = 0,
    since: float | None = None,
    until: float | None = None,
    limit: int = 100,
) -> list[EventRow]:
    """Events in the order in which they were recorded.

    :param types: event types; ``*`` stands for any text.
    :param traits: (name, comparison, value): all must hold; ``=`` compares texts, all others
        numbers.
    :param after: only those with a higher id.
    :param since: only those that were sent then or later, ``until``: before; seconds since 1970.
    """
    conditions = [notification.c.is_event == 1, notification.c.id > after]
    if types:
        # at least one must match
        chosen: Any = None
        for one in types:
            met = _is_type(one)
            chosen = met if chosen is None else chosen | met
        conditions.append(chosen)
    if since is not None:
        conditions.append(notification.c.at >= since)
    if until is not None:
        conditions.append(notification.c.at < until)
    for name, comparison, value in traits:
        own = trait.alias()
        conditions.append(
            exists(
                select(own.c.notification_id).where(
                    own.c.notification_id == notification.c.id,
                    own.c.name == name,
                    _compared(own, comparison, value),
                )
            )
        )
    query = select(notification).where(and_(*conditions)).order_by(notification.c.id).limit(limit)
    found = tx.execute(query).all()
    told = _list_traits(tx, [row.id for row in found])
    return [
        EventRow(
            row.id,
            row.message_id,
            row.event_type,
            row.publisher_id,
            row.priority,
            row.at,
            row.recorded_at,
            told.get(row.id, {}),
        )
        for row in found
    ]


def _is_type(pattern: str) -> Any:
    if "*" not in pattern:
        return notification.c.event_type == pattern
    escaped = pattern.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return notification.c.event_type.like(escaped.replace("*", "%"), escape="/")


def _compared(own: Any, comparison: str, value: str) -> Any:
    if comparison == "=":
        return own.c.text == value
    number = float(value)
    return {
        "<": own.c.number < number,
        "<=": own.c.number <= number,
        ">": own.c.number > number,
        ">=": own.c.number >= number,
    }[comparison]


def _list_traits(tx: Transaction, ids: Sequence[int]) -> dict[int, dict[str, tuple[str, str]]]:
    if not ids:
        return {}
    query = select(trait.c.notification_id, trait.c.name, trait.c.type, trait.c.text)
    found: dict[int, dict[str, tuple[str, str]]] = {}
    for row in tx.execute(query.where(among(tx, trait.c.notification_id, ids))):
        found.setdefault(row.notification_id, {})[row.name] = (row.type, row.text)
    return found


def _is_old(tx: Transaction, age: float) -> ColumnElement[bool]:
    """That a notification was sent so many seconds ago, and is not on its way any more."""
    on_its_way = select(delivery.c.id).where(delivery.c.origin == notification.c.message_id)
    return and_(notification.c.at < tx.now - age, ~on_its_way.exists())


def count_old(tx: Transaction, age: float) -> int:
    """How many notifications were sent so many seconds ago, and are not on their way any more."""
    query = select(func.count()).select_from(notification).where(_is_old(tx, age))
    return int(tx.execute(query).scalar_one())


def lock_old(tx: Transaction, age: float, limit: int) -> list[int]:
    """Notifications that were sent so many seconds ago, and are not on their way any more: the
    first ones, locked until the transaction ends. Those that others have locked are passed over."""
    query = select(notification.c.id).where(_is_old(tx, age)).order_by(notification.c.at)
    locked = query.limit(limit).with_for_update(skip_locked=True)
    return list(tx.execute(locked).scalars())


def delete_notifications(tx: Transaction, ids: Sequence[int]) -> int:
    """Delete notifications with their traits, and return how many there were."""
    tx.execute(delete(trait).where(among(tx, trait.c.notification_id, ids)))
    return int(tx.execute(delete(notification).where(among(tx, notification.c.id, ids))).rowcount)


def find_notification(tx: Transaction, message_id: str) -> tuple[int, bool] | None:
    """The id of a notification, and whether it is an event; None if there is none."""
    query = select(notification.c.id, notification.c.is_event)
    row = tx.execute(query.where(notification.c.message_id == message_id)).first()
    return None if row is None else (row.id, bool(row.is_event))


def become_event(tx: Transaction, notification_id: int) -> bool:
    """Make an event of a notification that is none; whether it was none."""
    done = tx.execute(
        update(notification)
        .where(notification.c.id == notification_id, notification.c.is_event == 0)
        .values(is_event=1)
    )
    return done.rowcount == 1
