"""Samples that the publisher ``database`` has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from converge.sql.batch import InsertMany, types_of
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
