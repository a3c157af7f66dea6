"""Deliveries: notifications on their way through a sink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Double,
    and_,
    bindparam,
    delete,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.types import Integer, String

from converge.errors import StaleLock
from converge.model import Json
from converge.sql.batch import InsertMany, UpdateMany, among, types_of
from converge.sql.notifications import is_one_of
from converge.sql.schema import delivery, step_state
from converge.sql.transaction import Transaction


class DeliveryState(StrEnum):
    """Who goes on with a delivery."""

    #: whoever has the message
    HELD = "HELD"
    #: a sweep, when its time has come
    DUE = "DUE"
    #: nobody, until a person asks for it
    FAILED = "FAILED"


class DeliveryRow(NamedTuple):
    """A delivery as it is in the database.

    :ivar items: what comes into the next stage; None: what the message gives.
    """

    id: int
    origin: str
    sink: str
    share: int
    state: str
    position: int
    step: str | None
    version: int
    attempts: int
    next_at: float | None
    items: Json


class DeliveryView(NamedTuple):
    """A delivery as people see it.

    :ivar origin: the message id; of what a step has handed on, an id of its own.
    :ivar share: its partition; 0: it is in none.
    :ivar step: the stage that comes next; None: the first one.
    :ivar attempts: how often that stage has failed.
    :ivar next_at: when a sweep may take it, ``created_at``: since when it is on its way; seconds
        since 1970.
    """

    id: int
    origin: str
    sink: str
    share: int
    state: str
    step: str | None
    attempts: int
    next_at: float | None
    created_at: float


_COLUMNS = [delivery.c[name] for name in DeliveryRow._fields]
_INSERT = InsertMany(
    delivery,
    types_of(delivery, "origin", "sink", "share", "state", "position", "step", "next_at", "items"),
    lambda row, now: {
        **row,
        "version": literal(0, Integer()),
        "attempts": literal(0, Integer()),
        "created_at": now,
        "updated_at": now,
    },
)
_ADVANCE = UpdateMany(
    delivery,
    ["id", "version"],
    types_of(delivery, "state", "position", "step", "attempts", "next_at", "items"),
    lambda row, now: {
        **{
            name: row[name]
            for name in ("state", "position", "step", "attempts", "next_at", "items")
        },
        "version": row["version"] + 1,
        "updated_at": now,
    },
)


def insert_deliveries(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Begin deliveries: each with origin, sink, share, state, position, step, next_at and items."""
    _INSERT.execute(tx, rows)


def list_deliveries(tx: Transaction, origins: Iterable[str]) -> list[DeliveryRow]:
    """All that is on its way of these origins, oldest first."""
    query = select(*_COLUMNS).where(is_one_of(tx, delivery.c.origin, origins))
    return [DeliveryRow._make(row) for row in tx.execute(query.order_by(delivery.c.id))]


def get_deliveries(tx: Transaction, ids: Iterable[int]) -> list[DeliveryRow]:
    """Deliveries by id."""
    query = select(*_COLUMNS).where(among(tx, delivery.c.id, ids))
    return [DeliveryRow._make(row) for row in tx.execute(query.order_by(delivery.c.id))]


def advance_deliveries(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write how far deliveries have come.

    :param rows: each with id, the version that it had, state, position, step, attempts, next_at
        and items.
    :raises StaleLock: another process has gone on with one of them.
    """
    if rows and _ADVANCE.execute(tx, rows) != len(rows):
        raise StaleLock("another process has gone on with a delivery")


def end_deliveries(tx: Transaction, versions: Mapping[int, int]) -> None:
    """Delete deliveries that have come to their end.

    :param versions: the version that each had, by id.
    :raises StaleLock: another process has gone on with one of them.
    """
    # of nearly all it is the same
    by_version: dict[int, list[int]] = {}
    for id_, version in versions.items():
        by_version.setdefault(version, []).append(id_)
    for version, ids in sorted(by_version.items()):
        found = and_(among(tx, delivery.c.id, ids), delivery.c.version == version)
        if tx.execute(delete(delivery).where(found)).rowcount != len(ids):
            raise StaleLock("another process has gone on with a delivery")


def list_versions(tx: Transaction, ids: Iterable[int]) -> dict[int, int]:
    """The versions of those deliveries that have not come to their end, by id."""
    query = select(delivery.c.id, delivery.c.version).where(among(tx, delivery.c.id, ids))
    return {row.id: row.version for row in tx.execute(query)}


def has_due(tx: Transaction, sinks: Sequence[str]) -> bool:
    """Whether there is a delivery whose time has come, of these sinks."""
    query = select(delivery.c.id).where(
        delivery.c.next_at.is_not(None),
        delivery.c.next_at <= tx.now,
        is_one_of(tx, delivery.c.sink, sinks),
    )
    return tx.execute(query.limit(1)).first() is not None


def claim_due(
    tx: Transaction, sinks: Sequence[str], shares: Iterable[int] | None, lease: float, limit: int
) -> list[DeliveryRow]:
    """Take deliveries whose time has come: for so many seconds, no other sweep does.

    :param sinks: of these sinks only.
    :param shares: of these partitions only; None: of all.
    """
    conditions = [
        delivery.c.next_at.is_not(None),
        delivery.c.next_at <= tx.now,
        is_one_of(tx, delivery.c.sink, sinks),
    ]
    if shares is not None:
        conditions.append(among(tx, delivery.c.share, shares))
    query = select(delivery.c.id).where(*conditions).order_by(delivery.c.next_at, delivery.c.id)
    ids = list(tx.execute(query.limit(limit).with_for_update(skip_locked=True)).scalars())
    if not ids:
        return []
    later = tx.now + bindparam("lease", lease, Double())
    tx.execute(
        update(delivery)
        .where(among(tx, delivery.c.id, ids))
        .values(next_at=later, version=delivery.c.version + 1, updated_at=tx.now)
    )
    return get_deliveries(tx, ids)


def _is_open(
    tx: Transaction, sinks: Sequence[str], shares: Iterable[int]
) -> list[ColumnElement[bool]]:
    return [
        # as the index has it
        delivery.c.share != literal_column("0"),
        among(tx, delivery.c.share, shares),
        delivery.c.state == bindparam("held", DeliveryState.HELD.value, String(8)),
        is_one_of(tx, delivery.c.sink, sinks),
    ]


def list_open(
    tx: Transaction, sinks: Sequence[str], shares: Iterable[int], limit: int
) -> list[DeliveryRow]:
    """Deliveries that the owners of partitions are to go on with, oldest first.

    :param sinks: of these sinks only.
    :param shares: the partitions.
    """
    query = select(*_COLUMNS).where(*_is_open(tx, sinks, shares))
    found = tx.execute(query.order_by(delivery.c.id).limit(limit))
    return [DeliveryRow._make(row) for row in found]


def count_open(tx: Transaction, sinks: Sequence[str], shares: Iterable[int], limit: int) -> int:
    """How many deliveries the owners of partitions are to go on with; no more are counted than the
    limit."""
    some = select(delivery.c.id).where(*_is_open(tx, sinks, shares)).limit(limit)
    return int(tx.execute(select(func.count()).select_from(some.subquery())).scalar_one())


def measure_open(
    tx: Transaction, sinks: Sequence[str], shares: Iterable[int], limit: int
) -> tuple[int, float]:
    """How many deliveries the owners of partitions are to go on with, as :func:`count_open` says,
    and how many seconds ago the oldest of them was recorded: 0 if there is none."""
    listed = list(shares)
    oldest = select((tx.now - delivery.c.created_at).label("age")).where(
        *_is_open(tx, sinks, listed)
    )
    row = tx.execute(oldest.order_by(delivery.c.id).limit(1)).first()
    return (0, 0.0) if row is None else (count_open(tx, sinks, listed, limit), max(0.0, row.age))


def has_more_open(
    tx: Transaction, sinks: Sequence[str], most: int, last: int | None = None
) -> bool:
    """Whether the owners of all partitions are to go on with more deliveries than so many.

    :param last: of this one and those before it only.
    """
    some = select(delivery.c.id).where(
        delivery.c.share != literal_column("0"),
        delivery.c.state == bindparam("held", DeliveryState.HELD.value, String(8)),
        is_one_of(tx, delivery.c.sink, sinks),
    )
    if last is not None:
        some = some.where(delivery.c.id <= last)
    return tx.execute(some.offset(most).limit(1)).first() is not None


def read_last(tx: Transaction) -> int:
    """The newest delivery; 0 if there is none."""
    return int(tx.execute(select(func.coalesce(func.max(delivery.c.id), 0))).scalar_one())


def list_shares(tx: Transaction, sinks: Sequence[str]) -> set[int]:
    """The partitions of all deliveries, and of what steps wait with, of these sinks."""
    found = set(
        tx.execute(
            select(delivery.c.share).where(is_one_of(tx, delivery.c.sink, sinks)).distinct()
        ).scalars()
    )
    waiting = select(step_state.c.share).where(
        step_state.c.deadline_at.is_not(None), is_one_of(tx, step_state.c.sink, sinks)
    )
    return found | set(tx.execute(waiting.distinct()).scalars())


def view_deliveries(
    tx: Transaction,
    *,
    sink: str | None = None,
    state: str | None = None,
    after: int = 0,
    limit: int = 100,
) -> list[DeliveryView]:
    """What is on its way, or has failed, oldest first.

    :param sink: of this sink only; None: of all.
    :param state: in this state only; None: in any.
    :param after: only those with a higher id.
    """
    conditions = [delivery.c.id > after]
    if sink is not None:
        conditions.append(delivery.c.sink == sink)
    if state is not None:
        conditions.append(delivery.c.state == state)
    query = select(*(delivery.c[name] for name in DeliveryView._fields)).where(*conditions)
    found = tx.execute(query.order_by(delivery.c.id).limit(limit))
    return [DeliveryView._make(row) for row in found]


def ready_failed(tx: Transaction, ids: Iterable[int]) -> None:
    """Let a sweep take deliveries that FAILED, as if they had not been tried."""
    tx.execute(
        update(delivery)
        .where(
            among(tx, delivery.c.id, ids),
            delivery.c.state == bindparam("failed", DeliveryState.FAILED.value, String(8)),
        )
        .values(
            state=DeliveryState.DUE.value,
            attempts=0,
            next_at=tx.now,
            version=delivery.c.version + 1,
            updated_at=tx.now,
        )
    )


def delete_failed(tx: Transaction, ids: Iterable[int]) -> None:
    """Delete deliveries that FAILED."""
    tx.execute(
        delete(delivery).where(
            among(tx, delivery.c.id, ids), delivery.c.state == DeliveryState.FAILED.value
        )
    )


def count_deliveries(tx: Transaction) -> dict[tuple[str, str], int]:
    """How many deliveries there are, by sink and state."""
    query = select(delivery.c.sink, delivery.c.state, func.count().label("number"))
    found = tx.execute(query.group_by(delivery.c.sink, delivery.c.state))
    return {(row.sink, row.state): row.number for row in found}
