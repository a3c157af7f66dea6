"""Samples that the publisher ``database`` has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select

from converge.sql.batch import InsertMany, among, types_of
from converge.sql.schema import sample
from converge.sql.transaction import Transaction

_FIELDS = (
    "sample_id",
    "name",
    "type",
    "unit",
    "volume",
    "resource_id",
    "user_id",
    "project_id",
    "at",
    "metadata",
)
_INSERT = InsertMany(
    sample, types_of(sample, *_FIELDS), lambda row, now: {**row}, skip_existing=True
)


def insert_samples(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store samples; those that are there already are left as they are."""
    _INSERT.execute(tx, sorted(rows, key=lambda row: str(row["sample_id"])))


def list_samples(
    tx: Transaction, name: str | None = None, *, after: int = 0, limit: int = 1000
) -> list[dict[str, Any]]:
    """Samples in the order in which they were stored, each with its ``id``."""
    query = select(sample).where(sample.c.id > after)
    if name is not None:
        query = query.where(sample.c.name == name)
    found = tx.execute(query.order_by(sample.c.id).limit(limit))
    return [dict(row._mapping) for row in found]


def count_old(tx: Transaction, age: float) -> int:
    """How many samples were measured so many seconds ago."""
    query = select(func.count()).select_from(sample).where(sample.c.at < tx.now - age)
    return int(tx.execute(query).scalar_one())


def list_old(tx: Transaction, age: float, limit: int) -> list[int]:
    """Of the samples that were stored first, so many, those that were measured so many seconds
    ago."""
    first = select(sample.c.id, sample.c.at).order_by(sample.c.id).limit(limit).subquery("first")
    query = select(first.c.id).where(first.c.at < tx.now - age).order_by(first.c.id)
    return list(tx.execute(query).scalars())


def delete_samples(tx: Transaction, ids: Sequence[int]) -> int:
    """Delete samples, and return how many there were."""
    return int(tx.execute(delete(sample).where(among(tx, sample.c.id, ids))).rowcount)
