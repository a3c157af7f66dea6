"""Dead letters: how they are made, listed, tried again and dropped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from converge.canonical import dump
from converge.crash_points import Commit
from converge.errors import BadInput, NotFound
from converge.pipeline.items import to_json_list
from converge.pipeline.notification import Message, Notification, Reason, Refused, raw_text
from converge.pipeline.work import Work
from converge.reasons import describe
from converge.sql import dead_letters, deliveries
from converge.sql.database import repeatable
from converge.sql.dead_letters import DeadLetter, Filter
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text

if TYPE_CHECKING:
    from converge.sql.database import HasDatabase

__all__ = ["DeadLetter", "DeadLetters", "Filter", "letter_of_message", "letter_of_work"]

#: Bytes of a body that a dead letter keeps.
KEPT = 256 * 1024
ALL = Filter()
#: Dead letters in one transaction.
BATCH = 500


def letter_of_message(
    message: Message, refused: Refused, notification: Notification | None = None
) -> dict[str, Any]:
    """The row of a message that was refused, or of a notification of which something was.

    :param notification: None if it is no notification.
    """
    raw = raw_text(message, KEPT)
    # what a source has said in its place, so that it can be tried again
    beside = {
        "id": message.fallback_id,
        "at": message.fallback_time,
        "priority": message.priority,
    }
    event_type = None if notification is None else notification.event_type
    origin = None if notification is None else notification.message_id
    # of one notification several things can be refused
    what = dump(raw) if notification is None else f"{origin}\0{refused}"
    return {
        "digest": _digest(refused.reason if notification is not None else "message", what),
        "reason": refused.reason.value,
        "message": fit_text(refused),
        "raw": raw | {name: value for name, value in beside.items() if value is not None},
        "headers": _headers(message.headers),
        "origin": origin,
        "event_type": event_type,
        "sink": None,
        "step": refused.definition,
        "delivery_id": None,
    }


def letter_of_work(work: Work, step: str) -> dict[str, Any]:
    """The row of a delivery that failed for good.

    :param step: the name of the stage at which it failed.
    """
    error = work.error
    return {
        "digest": _digest("step", work.origin, work.sink, step, work.share),
        "reason": Reason.STEP.value,
        "message": fit_text("" if error is None else describe(error, place=False)),
        "raw": {"items": to_json_list(work.items)},
        "headers": {},
        "origin": work.origin,
        "event_type": work.event_type,
        "sink": work.sink,
        "step": step,
        "delivery_id": work.id,
    }


def _digest(*parts: object) -> str:
    text = "\0".join(map(str, parts))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    try:
        dump(dict(headers))
    except (TypeError, ValueError, RecursionError):
        return {str(key): str(value)[:1000] for key, value in headers.items()}
    return dict(headers)


class DeadLetters:
    """The dead letters of a store, for a person.

    :param store: a :class:`~converge.Store`.
    """

    def __init__(self, store: HasDatabase) -> None:
        self._database = store.database

    def list(
        self,
        chosen: Filter = ALL,
        *,
        after: int = 0,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """Dead letters, the oldest first.

        :param after: only those with a higher id.
        """
        return self._database.read(
            lambda tx: dead_letters.list_letters(tx, chosen, after=after, limit=limit)
        )

    def show(self, id: int) -> DeadLetter:
        """A dead letter.

        :raises NotFound: there is none with this id.
        """
        found = self.list(Filter(ids=[id]), limit=1)
        if not found:
            raise NotFound(f"there is no dead letter {id}")
        return found[0]

    def retry(self, chosen: Filter, *, limit: int) -> int:
        """Ask for dead letters to be tried again by the next sweep of an agent: a delivery at the
        step that failed, all else from the start. What succeeds is no dead letter any more.

        :param limit: the most, the oldest first.
        :returns: how many.
        :raises BadInput: the filter names nothing.
        """

        def ask(tx: Transaction) -> list[int]:
            found = dead_letters.lock_letters(tx, chosen, limit)
            steps = [one for one in found if one.delivery_id is not None]
            deliveries.ready_failed(tx, [one.delivery_id for one in steps if one.delivery_id])
            dead_letters.delete_letters(tx, [one.id for one in steps])
            others = [one.id for one in found if one.delivery_id is None]
            dead_letters.ask_for_retry(tx, others)
            return [one.id for one in found]

        return self._change(ask, chosen, limit)

    def drop(self, chosen: Filter, *, limit: int) -> int:
        """Delete dead letters: what could not be done is given up.

        :param limit: the most, the oldest first.
        :returns: how many.
        :raises BadInput: the filter names nothing.
        """

        def drop(tx: Transaction) -> list[int]:
            found = dead_letters.lock_letters(tx, chosen, limit)
            deliveries.delete_failed(tx, [one.delivery_id for one in found if one.delivery_id])
            dead_letters.delete_letters(tx, [one.id for one in found])
            return [one.id for one in found]

        return self._change(drop, chosen, limit)

    def _change(self, change: Any, chosen: Filter, limit: int) -> int:
        if chosen.is_empty:
            raise BadInput(
                "say which dead letters: by their ids, or by a filter such as a reason or a sink"
            )
        if limit < 1:
            raise BadInput(f"limit must be a whole number above 0, not {limit}")
        return len(self._database.transact(change, Commit.LETTERS, happened=repeatable))
