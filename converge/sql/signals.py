"""Signals to resources: kept from when they are sent until their resource is gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, false, insert, select, update

from converge.model import Json
from converge.sql.batch import among
from converge.sql.schema import signal
from converge.sql.transaction import Transaction


@dataclass(frozen=True, slots=True)
class SignalRow:
    """A signal.

    :ivar failure: why what is waited for has failed; None if it has not.
    """

    id: int
    data: Json
    failure: str | None


def insert_signal(
    tx: Transaction, resource_id: int, name: str, token: str, data: Json, failure: str | None
) -> bool:
    """Insert a signal, unless there was one with this token. The resource's row is locked.

    :returns: whether it was inserted.
    """
    if has_signal(tx, resource_id, name, token):
        return False
    values = {"resource_id": resource_id, "name": name, "token": token, "sent_at": tx.now}
    tx.execute(insert(signal).values(**values, data=data, failure=failure, taken=False))
    return True


def has_signal(tx: Transaction, resource_id: int, name: str, token: str) -> bool:
    """Whether there is or was a signal with this token."""
    query = select(signal.c.id).where(
        signal.c.resource_id == resource_id, signal.c.name == name, signal.c.token == token
    )
    return tx.execute(query).first() is not None


def take_signal(tx: Transaction, resource_id: int, name: str) -> SignalRow | None:
    """Take the oldest signal of this name that was not taken."""
    query = select(signal.c.id, signal.c.data, signal.c.failure).where(
        signal.c.resource_id == resource_id, signal.c.name == name, signal.c.taken == false()
    )
    row = tx.execute(query.order_by(signal.c.id).limit(1).with_for_update()).first()
    if row is None:
        return None
    tx.execute(update(signal).where(signal.c.id == row.id).values(taken=True))
    return SignalRow(row.id, row.data, row.failure)


def list_untaken(tx: Transaction, resource_ids: Sequence[int]) -> set[tuple[int, str]]:
    """What these resources have signals of that were not taken: (resource, name)."""
    if not resource_ids:
        return set()
    query = select(signal.c.resource_id, signal.c.name).where(
        among(tx, signal.c.resource_id, resource_ids), signal.c.taken == false()
    )
    return {(row.resource_id, row.name) for row in tx.execute(query)}


def delete_signals(tx: Transaction, resource_ids: Iterable[int]) -> None:
    """Delete the signals of resources that are gone."""
    tx.execute(delete(signal).where(among(tx, signal.c.resource_id, resource_ids)))
