"""Dead letters: what could not be handled, for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String, bindparam, delete, literal, null, select, update
from sqlalchemy.types import Integer

from converge.model import Json
from converge.sql.batch import InsertMany, UpdateMany, among, types_of
from converge.sql.notifications import is_one_of
from converge.sql.schema import dead_letter
from converge.sql.transaction import Transaction

_FIELDS = (
    "digest",
    "reason",
    "message",
    "raw",
    "headers",
    "origin",
    "event_type",
    "sink",
    "step",
    "delivery_id",
)
_INSERT = InsertMany(
    dead_letter,
    types_of(dead_letter, *_FIELDS),
    lambda row, now: {
        **row,
        "count": literal(0, Integer()),
        "first_at": now,
        "last_at": now,
        "token": literal("", String(32)),
    },
    skip_existing=True,
)
_COUNT = UpdateMany(
    dead_letter,
    ["id"],
    types_of(dead_letter, "reason", "message", "delivery_id"),
    lambda row, now: {
        "reason": row["reason"],
        "message": row["message"],
        "delivery_id": row["delivery_id"],
        "count": dead_letter.c.count + 1,
        "last_at": now,
        "retry_at": null(),
        "token": bindparam("token", type_=String(32)),
    },
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What could not be handled.

    :ivar reason: a :class:`converge.pipeline.Reason`; ``message`` says more.
    :ivar raw: the body: ``{"text": …}``, or ``{"base64": …}`` if it is not text.
    :ivar origin: the message id, if it is known.
    :ivar sink: where it failed, with ``step``; None if it got to no sink.
    :ivar count: how often it came.
    :ivar first_at: when it came first, ``last_at`` last: seconds since 1970.
    :ivar retry_at: since when it waits to be tried again; None if nobody asked for that.
    """

    id: int
    digest: str
    reason: str
    message: str
    raw: Json
    headers: Json
    origin: str | None
    event_type: str | None
    sink: str | None
    step: str | None
    delivery_id: int | None
    count: int
    first_at: float
    last_at: float
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters; what is None does not matter.

    :ivar older_than: those that came last more than so many seconds ago.
    """

    ids: Sequence[int] | None = None
    reason: str | None = None
    sink: str | None = None
    step: str | None = None
    event_type: str | None = None
    older_than: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it names nothing: then it is all."""
        return self == Filter()


_COLUMNS = [dead_letter.c[name] for name in DeadLetter.__dataclass_fields__]


def record_letters(tx: Transaction, rows: Sequence[Mapping[str, Any]], token: str) -> None:
    """Record dead letters; one that is there already is counted once more.

    :param rows: each with digest, reason, message, raw, headers, origin, event_type, sink, step
        and delivery_id. Of several with one digest, the last one counts.
    """
    by_digest = {row["digest"]: row for row in rows}
    if not by_digest:
        return
    _INSERT.execute(tx, [by_digest[key] for key in sorted(by_digest)])
    found = tx.execute(
        select(dead_letter.c.id, dead_letter.c.digest).where(
            is_one_of(tx, dead_letter.c.digest, by_digest)
        )
    ).all()
    counted = [
        {
            "id": row.id,
            **{name: by_digest[row.digest][name] for name in ("reason", "message", "delivery_id")},
        }
        for row in sorted(found, key=lambda row: int(row.id))
    ]
    _COUNT.execute(tx, counted, token=token)


def has_token(tx: Transaction, token: str) -> bool:
    """Whether a batch has recorded a dead letter."""
    query = select(dead_letter.c.id).where(dead_letter.c.token == token)
    return tx.execute(query.limit(1)).first() is not None


def list_letters(
    tx: Transaction, chosen: Filter, *, after: int = 0, limit: int = 100
) -> list[DeadLetter]:
    """Dead letters, the oldest first."""
    query = select(*_COLUMNS).where(dead_letter.c.id > after, *_conditions(tx, chosen))
    found = tx.execute(query.order_by(dead_letter.c.id).limit(limit))
    return [DeadLetter(*tuple(row)) for row in found]


def lock_letters(tx: Transaction, chosen: Filter, limit: int) -> list[DeadLetter]:
    """The first dead letters, locked until the transaction ends."""
    query = select(*_COLUMNS).where(*_conditions(tx, chosen)).order_by(dead_letter.c.id)
    return [DeadLetter(*tuple(row)) for row in tx.execute(query.limit(limit).with_for_update())]


def list_asked(tx: Transaction, limit: int) -> list[DeadLetter]:
    """Those that wait to be tried again from the start."""
    query = select(*_COLUMNS).where(dead_letter.c.retry_at.is_not(None))
    return [
        DeadLetter(*tuple(row)) for row in tx.execute(query.order_by(dead_letter.c.id).limit(limit))
    ]


def ask_for_retry(tx: Transaction, ids: Iterable[int]) -> None:
    """Let a sweep try them again."""
    tx.execute(update(dead_letter).where(among(tx, dead_letter.c.id, ids)).values(retry_at=tx.now))


def delete_letters(tx: Transaction, ids: Iterable[int]) -> int:
    """Delete dead letters, and return how many there were."""
    return int(tx.execute(delete(dead_letter).where(among(tx, dead_letter.c.id, ids))).rowcount)


def _conditions(tx: Transaction, chosen: Filter) -> list[Any]:
    conditions: list[Any] = []
    if chosen.ids is not None:
        conditions.append(among(tx, dead_letter.c.id, chosen.ids))
    for name in ("reason", "sink", "step", "event_type"):
        value = getattr(chosen, name)
        if value is not None:
            conditions.append(dead_letter.c[name] == value)
    if chosen.older_than is not None:
        conditions.append(dead_letter.c.last_at < tx.now - chosen.older_than)
    return conditions
