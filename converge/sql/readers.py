"""Which stacks read outputs of which others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import delete, insert, select

from converge.sql.batch import among
from converge.sql.schema import output_read, stack
from converge.sql.transaction import Transaction


def lock_sources(tx: Transaction, ids: Iterable[int]) -> set[int]:
    """Those of these stacks of which something is wanted; until the transaction ends, no delete of
    them starts."""
    wanted = stack.c.live == 1, stack.c.template_id.is_not(None)
    query = select(stack.c.id).where(among(tx, stack.c.id, ids), *wanted).order_by(stack.c.id)
    return set(tx.execute(query.with_for_update(read=True)).scalars())


def insert_reads(tx: Transaction, stack_id: int, reads: Iterable[tuple[int, str]]) -> None:
    """Note what a stack reads: the ids of other stacks, with the names of their outputs."""
    rows = [
        {"stack_id": stack_id, "source_id": source, "output": output}
        for source, output in sorted(reads)
    ]
    if rows:
        tx.execute(insert(output_read), rows)


def delete_reads(tx: Transaction, stack_id: int) -> None:
    """Note that a stack reads nothing."""
    tx.execute(delete(output_read).where(output_read.c.stack_id == stack_id))


def list_readers(tx: Transaction, source_id: int) -> dict[str, list[str]]:
    """The stacks that read one, by name, each with the names of the outputs."""
    query = (
        select(stack.c.name, output_read.c.output)
        .join_from(output_read, stack, stack.c.id == output_read.c.stack_id)
        .where(output_read.c.source_id == source_id, stack.c.live == 1)
        .order_by(stack.c.name, output_read.c.output)
    )
    found: dict[str, list[str]] = {}
    rows: Any = tx.execute(query)
    for name, output in rows:
        found.setdefault(name, []).append(output)
    return found
