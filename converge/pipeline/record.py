"""The first part of a batch: messages are parsed, and recorded in one transaction.

Here duplicates are found, before the sinks, which cannot. In the same transaction the deliveries to
the sinks begin, so that a notification is either recorded with all that is to be done for it, or
not at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from converge.crash_points import Commit
from converge.errors import StoreError
from converge.pipeline.items import Event, Item, to_json_list
from converge.pipeline.letters import letter_of_message
from converge.pipeline.notification import (
    Message,
    Notification,
    Reason,
    Refused,
    is_storable,
    parse,
)
from converge.pipeline.pipeline import Made, Pipeline
from converge.pipeline.work import BatchResult, Guard, Work
from converge.sql import dead_letters, deliveries, notifications
from converge.sql.database import Database
from converge.sql.deliveries import DeliveryState
from converge.sql.faults import is_refused
from converge.sql.transaction import Transaction

#: Which partition an item of a sink belongs to.
Partition: TypeAlias = Callable[[str, Item], int]

#: Characters that the value of a trait may have in the store: an index holds no more.
TRAIT_LENGTH = 255


@dataclass(slots=True)
class Prepared:
    """A message that is a notification, and what it gives.

    :ivar parts: what goes where: items by sink and partition.
    :ivar stored: whether its event goes into the store.
    """

    message: Message
    notification: Notification
    made: Made
    parts: dict[tuple[str, int], list[Item]]
    problems: list[Refused] = field(default_factory=list)
    stored: bool = True


@dataclass(slots=True)
class Recorded:
    """What a batch has begun.

    :ivar works: what is to be done now, in the order of the messages.
    """

    result: BatchResult
    works: list[Work]


def prepare(
    pipeline: Pipeline,
    messages: Sequence[Message],
    now: float,
    partition: Partition | None = None,
) -> tuple[list[Prepared], list[dict[str, Any]]]:
    """Parse messages. Pure.

    :returns: notifications, each once, and the dead letters of what is none.
    """
    prepared: dict[str, Prepared] = {}
    letters: list[dict[str, Any]] = []
    for message in messages:
        try:
            notification = parse(message, now, pipeline.limits)
        except Refused as refused:
            letters.append(letter_of_message(message, refused))
            continue
        if notification.message_id in prepared:
            continue
        made = pipeline.make(notification)
        parts: dict[tuple[str, int], list[Item]] = {}
        for sink, items in pipeline.select(made).items():
            for item in items:
                share = 0 if partition is None else partition(sink, item)
                parts.setdefault((sink, share), []).append(item)
        one = Prepared(message, notification, made, parts, list(made.problems))
        if made.event is not None:
            check_event(one, made.event)
        prepared[notification.message_id] = one
    return list(prepared.values()), letters


def check_event(one: Prepared, event: Event) -> None:
    """Find out before the store does what it would refuse."""
    for trait in event.traits:
        if len(trait.name) > TRAIT_LENGTH:
            what = f"the name {trait.name[:40]!r}... of a trait"
        elif trait.type == "text" and len(str(trait.value)) > TRAIT_LENGTH:
            what = f"trait {trait.name}"
        elif trait.type == "text" and not is_storable(str(trait.value)):
            one.problems.append(
                Refused(
                    Reason.REJECTED, f"trait {trait.name} has a character that cannot be stored"
                )
            )
            one.stored = False
            return
        else:
            continue
        one.problems.append(
            Refused(Reason.REJECTED, f"{what} is longer than {TRAIT_LENGTH} characters")
        )
        one.stored = False
        return


def record(
    database: Database,
    prepared: Sequence[Prepared],
    letters: Sequence[dict[str, Any]],
    *,
    guard: Guard | None = None,
    keep_items: bool = False,
) -> Recorded:
    """Record notifications and dead letters, and begin the deliveries.

    :param keep_items: store what is delivered, so that another process can go on without the
        message.
    :raises StoreError: the store cannot be used; nothing is recorded.
    """
    try:
        return _record(database, prepared, letters, guard, keep_items)
    except StoreError as error:
        if not is_refused(error):
            raise
        if len(prepared) > 1:
            # one of them is to blame
            middle = len(prepared) // 2
            first = record(database, prepared[:middle], letters, guard=guard, keep_items=keep_items)
            second = record(database, prepared[middle:], (), guard=guard, keep_items=keep_items)
            _add(first.result, second.result)
            return Recorded(first.result, first.works + second.works)
        if not prepared or not prepared[0].stored:
            raise
        prepared[0].stored = False
        prepared[0].problems.append(Refused(Reason.REJECTED, str(error)))
        return record(database, prepared, letters, guard=guard, keep_items=keep_items)


def _add(result: BatchResult, more: BatchResult) -> None:
    for name in ("recorded", "duplicates", "resumed", "refused", "rejected"):
        setattr(result, name, getattr(result, name) + getattr(more, name))


def _record(
    database: Database,
    prepared: Sequence[Prepared],
    letters: Sequence[dict[str, Any]],
    guard: Guard | None,
    keep_items: bool,
) -> Recorded:
    token = secrets.token_hex(16)
    rows = [_row(one) for one in prepared]

    def write(tx: Transaction) -> Recorded:
        if guard is not None:
            guard(tx)
        known = notifications.insert_notifications(tx, rows, token) if rows else {}
        fresh = [one for one in prepared if known[one.notification.message_id][1]]
        traits = [
            row for one in fresh for row in trait_rows(one, known[one.notification.message_id][0])
        ]
        if traits:
            notifications.insert_traits(tx, traits)
        begun = [row for one in fresh for row in _deliveries(one, keep_items)]
        if begun:
            deliveries.insert_deliveries(tx, begun)
        rejected = [
            letter_of_message(one.message, refused, one.notification)
            for one in fresh
            for refused in one.problems
        ]
        dead_letters.record_letters(tx, [*letters, *rejected], token)
        # of the fresh, and of those that a process has died with
        under_way = deliveries.list_deliveries(tx, known) if known else []
        return _recorded(prepared, {one.notification.message_id for one in fresh}, under_way)

    def happened(tx: Transaction, done: Recorded) -> bool:
        return (
            notifications.was_recorded(tx, token)
            if done.result.recorded
            else not letters or dead_letters.has_token(tx, token)
        )

    done = database.transact(write, Commit.NOTIFICATIONS, happened=happened)
    done.result.refused = len(letters)
    return done


def _recorded(
    prepared: Sequence[Prepared], fresh: set[str], rows: Sequence[deliveries.DeliveryRow]
) -> Recorded:
    result = BatchResult(recorded=len(fresh))
    result.rejected = sum(
        len(one.problems) for one in prepared if one.notification.message_id in fresh
    )
    by_origin: dict[str, list[deliveries.DeliveryRow]] = {}
    for row in rows:
        by_origin.setdefault(row.origin, []).append(row)
    works = []
    for one in prepared:
        message_id = one.notification.message_id
        held = [row for row in by_origin.get(message_id, ()) if row.state == DeliveryState.HELD]
        if message_id not in fresh:
            if held:
                result.resumed += 1
            else:
                result.duplicates += 1
        for row in held:
            work = Work.of(row, _items_of(one, row))
            work.event_type = one.notification.event_type
            works.append(work)
    return Recorded(result, works)


def _items_of(one: Prepared, row: deliveries.DeliveryRow) -> Sequence[Item]:
    """What a message gives to a delivery. One that was begun when there was another number of
    partitions, or none, has what was not stored of it from all of them."""
    if (row.sink, row.share) in one.parts:
        return one.parts[row.sink, row.share]
    return [item for (sink, _), items in one.parts.items() if sink == row.sink for item in items]


def _row(one: Prepared) -> dict[str, Any]:
    notification = one.notification
    return {
        "message_id": notification.message_id,
        "event_type": notification.event_type,
        "publisher_id": notification.publisher_id,
        "priority": notification.priority,
        "at": notification.at,
        "is_event": int(one.made.event is not None and one.stored),
    }


def trait_rows(one: Prepared, notification_id: int) -> list[dict[str, Any]]:
    """The traits of an event as rows."""
    if one.made.event is None or not one.stored:
        return []
    return [
        {
            "notification_id": notification_id,
            "name": trait.name,
            "type": trait.type,
            "text": str(trait.value),
            "number": None if isinstance(trait.value, str) else float(trait.value),
        }
        for trait in one.made.event.traits
    ]


def _deliveries(one: Prepared, keep_items: bool) -> list[dict[str, Any]]:
    return [
        {
            "origin": one.notification.message_id,
            "sink": sink,
            "share": share,
            "state": DeliveryState.HELD.value,
            "position": 0,
            "step": None,
            "next_at": None,
            "items": to_json_list(items) if keep_items else None,
        }
        for (sink, share), items in one.parts.items()
    ]
