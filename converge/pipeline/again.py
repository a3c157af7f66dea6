"""Dead letters that got to no sink are tried again from the start, when a person asks for it."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converge.crash_points import Commit
from converge.pipeline.batch import deliver
from converge.pipeline.items import Item, make_id, to_json_list
from converge.pipeline.letters import KEPT, letter_of_message
from converge.pipeline.notification import Message, Reason, Refused, parse
from converge.pipeline.pipeline import Made, Pipeline
from converge.pipeline.record import Prepared, check_event, record, trait_rows
from converge.pipeline.work import LEASE, BatchResult, Work
from converge.sql import dead_letters, deliveries, notifications
from converge.sql.database import Database, repeatable
from converge.sql.dead_letters import DeadLetter
from converge.sql.deliveries import DeliveryRow, DeliveryState
from converge.sql.transaction import Transaction

if TYPE_CHECKING:
    from converge.store import Store

#: Dead letters that one sweep tries.
BATCH = 100


def retry_letters(store: Store, pipeline: Pipeline, now: float, result: BatchResult) -> None:
    """Try those again that a person asked for. What succeeds is no dead letter any more; what fails
    is counted once more, and waits for the person.

    :param result: it is added to.
    """
    database = store.database
    found = database.read(lambda tx: dead_letters.list_asked(tx, BATCH))
    for letter in found:
        works, over = _retry(database, pipeline, letter, now, result)
        deliver(store, pipeline, works, result, now=now)
        if over:
            # not before: as long as it is there, the next sweep goes on where this one dies
            _drop(database, letter)


def _retry(
    database: Database, pipeline: Pipeline, letter: DeadLetter, now: float, result: BatchResult
) -> tuple[list[Work], bool]:
    """:returns: what is to be delivered, and whether the letter is dropped then."""
    message = _message(letter)
    try:
        _check_whole(letter)
        # its timestamp was in order or not when it came
        notification = parse(message, letter.first_at, pipeline.limits)
    except Refused as refused:
        result.refused += 1
        _record_again(database, letter, letter_of_message(message, refused))
        return [], False
    made = pipeline.make(notification)
    one = Prepared(message, notification, made, {}, list(made.problems))
    if made.event is not None:
        check_event(one, made.event)
    if letter.origin is not None:
        return _complete(database, pipeline, letter, one, now, result), False
    for sink, items in pipeline.select(made).items():
        one.parts[sink, 0] = items
    done = record(database, [one], ())
    result.recorded += done.result.recorded
    result.rejected += done.result.rejected
    return done.works, True


def _complete(
    database: Database,
    pipeline: Pipeline,
    letter: DeadLetter,
    one: Prepared,
    now: float,
    result: BatchResult,
) -> list[Work]:
    """Add to a notification what was refused of it before."""
    wrong = [refused for refused in one.problems if refused.definition == letter.step]
    if wrong:
        result.rejected += 1
        row = letter_of_message(one.message, wrong[0], one.notification)
        _record_again(database, letter, row)
        return []
    event, samples = one.made.event, one.made.samples
    if letter.step is not None:
        event = None
        body = one.notification.as_body()
        samples = tuple(pipeline.meters.make(one.notification, body, letter.step)[0])
    else:
        samples = ()
    parts: dict[str, list[Item]] = {}
    # what only the store had refused has gone to the sinks
    if letter.reason != Reason.REJECTED:
        parts = pipeline.select(Made(event, samples, ()))
    return _add(database, letter, one, parts, now, stores=event is not None)


def _add(
    database: Database,
    letter: DeadLetter,
    one: Prepared,
    parts: dict[str, list[Item]],
    now: float,
    *,
    stores: bool,
) -> list[Work]:
    origin = make_id(one.notification.message_id, "again", letter.id)
    rows = [
        {
            "origin": origin,
            "sink": sink,
            "share": 0,
            "state": DeliveryState.DUE.value,
            "position": 0,
            "step": None,
            "next_at": now + LEASE,
            "items": to_json_list(items),
        }
        for sink, items in parts.items()
    ]

    def write(tx: Transaction) -> list[DeliveryRow]:
        if not dead_letters.delete_letters(tx, [letter.id]):
            # another sweep was faster
            return []
        known = notifications.find_notification(tx, one.notification.message_id)
        if stores and known is not None and notifications.become_event(tx, known[0]):
            notifications.insert_traits(tx, trait_rows(one, known[0]))
        deliveries.insert_deliveries(tx, rows)
        return deliveries.list_deliveries(tx, [origin])

    def happened(tx: Transaction, begun: Sequence[DeliveryRow]) -> bool:
        return not dead_letters.list_letters(tx, dead_letters.Filter(ids=[letter.id]))

    begun = database.transact(write, Commit.LETTERS, happened=happened)
    return [Work.of(row) for row in begun]


def _check_whole(letter: DeadLetter) -> None:
    """:raises Refused: only a part of the body was kept."""
    raw: Any = letter.raw
    if "size" in raw:
        raise Refused(
            Reason(letter.reason),
            f"only the first {KEPT:,} of its {raw['size']:,} bytes were kept, so it cannot be "
            "tried again; have it sent again, and drop this",
        )


def _message(letter: DeadLetter) -> Message:
    raw: Any = letter.raw
    body = b64decode(raw["base64"]) if "base64" in raw else str(raw.get("text", ""))
    return Message(body, letter.headers, raw.get("priority"), raw.get("id"), raw.get("at"))


def _record_again(database: Database, letter: DeadLetter, row: dict[str, Any]) -> None:
    row["digest"] = letter.digest

    def write(tx: Transaction) -> None:
        dead_letters.record_letters(tx, [row], "")

    database.transact(write, Commit.LETTERS, happened=repeatable)


def _drop(database: Database, letter: DeadLetter) -> None:
    database.transact(
        lambda tx: dead_letters.delete_letters(tx, [letter.id]),
        Commit.LETTERS,
        happened=repeatable,
    )
