"""What waits for its time: retries, what steps have collected, and dead letters that a person wants
to be tried again. Every agent sweeps from time to time; any number may do so at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from converge.canonical import dump
from converge.crash_points import Commit
from converge.pipeline.again import retry_letters
from converge.pipeline.batch import deliver
from converge.pipeline.items import make_id, to_json_list
from converge.pipeline.ledger import Ledger, StaleState
from converge.pipeline.pipeline import Pipeline
from converge.pipeline.steps import Advance, StatefulStep, listed
from converge.pipeline.work import LEASE, BatchResult, Guard, Work
from converge.sql import deliveries, step_states
from converge.sql.database import Database
from converge.sql.deliveries import DeliveryRow, DeliveryState
from converge.sql.notifications import read_clock
from converge.sql.step_states import StateRow
from converge.sql.transaction import Transaction

if TYPE_CHECKING:
    from converge.store import Store

LOG = logging.getLogger(__name__)

#: Rows that are taken at a time.
BATCH = 100


def sweep(
    store: Store,
    pipeline: Pipeline,
    *,
    shares: Iterable[int] | None = None,
    guard: Guard | None = None,
    letters: bool = True,
    now: float | None = None,
) -> BatchResult:
    """Do what is due.

    :param shares: of these partitions only; None: of all.
    :param guard: called first in each transaction that writes.
    :param letters: whether dead letters that got to no sink are tried again, if a person asked for
        it.
    :param now: seconds since 1970; None: the database's clock.
    :raises StoreError: the store cannot be used.
    """
    result = BatchResult()
    mine = None if shares is None else sorted(shares)
    database = store.database
    moment = database.read(read_clock) if now is None else now
    expire(database, pipeline, moment, mine, guard)
    while True:
        rows = _claim(database, pipeline, mine, guard)
        works = [Work.of(row) for row in rows]
        deliver(store, pipeline, works, result, guard=guard, now=moment)
        if len(rows) < BATCH:
            break
    if letters:
        retry_letters(store, pipeline, moment, result)
    return result


def _claim(
    database: Database, pipeline: Pipeline, shares: Sequence[int] | None, guard: Guard | None
) -> list[DeliveryRow]:
    sinks = list(pipeline.sinks)
    if not sinks or not database.read(lambda tx: deliveries.has_due(tx, sinks)):
        return []

    def claim(tx: Transaction) -> list[DeliveryRow]:
        if guard is not None:
            guard(tx)
        return deliveries.claim_due(tx, sinks, shares, LEASE, BATCH)

    # after a lost commit, what was claimed is due again later
    return database.transact(claim, Commit.DELIVERY_CLAIM, happened=_claimed)


def _claimed(tx: Transaction, rows: list[DeliveryRow]) -> bool:
    known = deliveries.list_versions(tx, (row.id for row in rows))
    return all(known.get(row.id) == row.version for row in rows)


def expire(
    database: Database,
    pipeline: Pipeline,
    now: float,
    shares: Sequence[int] | None = None,
    guard: Guard | None = None,
) -> int:
    """Let steps hand on what they hold and whose deadline has passed.

    :returns: how many keys there were.
    """
    steps = {
        (sink.name, stage.name): (index, sink.stages[index + 1].name, stage.work)
        for sink in pipeline.sinks.values()
        for index, stage in enumerate(sink.stages)
        if isinstance(stage.work, StatefulStep)
    }
    sinks, names = sorted({sink for sink, _ in steps}), sorted({name for _, name in steps})
    done, after = 0, (-1.0, 0)
    while sinks:

        def read(tx: Transaction, after: tuple[float, int] = after) -> list[StateRow]:
            return step_states.list_overdue(tx, sinks, names, after, shares, BATCH)

        rows = database.read(read)
        of_steps: dict[tuple[str, str], list[StateRow]] = {}
        for row in rows:
            if (row.sink, row.step) in steps:
                of_steps.setdefault((row.sink, row.step), []).append(row)
        for place, some in of_steps.items():
            done += _expire(database, some, *steps[place], now, guard)
        if len(rows) < BATCH:
            break
        # those that could not be expired are not looked at again in this sweep
        after = (rows[-1].deadline_at or 0.0, rows[-1].id)
    return done


def _expire(
    database: Database,
    rows: Sequence[StateRow],
    index: int,
    next_step: str,
    step: StatefulStep,
    now: float,
    guard: Guard | None,
) -> int:
    """Let a step hand on what it holds of these keys, in one transaction."""
    first = rows[0]
    ledger = Ledger(first.sink, first.step, {row.digest: row for row in rows})
    begun: list[dict[str, Any]] = []
    expired: dict[str, int] = {}
    for row in rows:
        try:
            moved = step.expire(row.state, now)
            made = to_json_list(listed(list(moved.made)))
            dump(moved.state)
        except Exception:
            # the next sweep tries it again; all others go on
            LOG.exception("stage %s of sink %s cannot expire %s", row.step, row.sink, row.key)
            continue
        ledger.set(row.digest, row.key, row.share, Advance(moved.state, deadline=moved.deadline))
        expired[row.digest] = row.mark
        if made:
            begun.append(
                {
                    "origin": make_id("expiry", row.sink, row.step, row.digest, row.mark),
                    "sink": row.sink,
                    "share": row.share,
                    "state": DeliveryState.DUE.value,
                    "position": index + 1,
                    "step": next_step,
                    "next_at": now,
                    "items": made,
                }
            )
    if not expired:
        return 0

    def write(tx: Transaction) -> None:
        if guard is not None:
            guard(tx)
        ledger.write(tx)
        if begun:
            deliveries.insert_deliveries(tx, begun)

    def happened(tx: Transaction, result: None) -> bool:
        marks = step_states.list_marks(tx, first.sink, first.step, expired)
        return all(marks.get(digest) != mark for digest, mark in expired.items())

    try:
        database.transact(write, Commit.EXPIRY, happened=happened)
    except StaleState:
        # an item came to one of them, or another sweep was faster: the others, without it
        if len(rows) == 1:
            return 0
        return sum(_expire(database, [row], index, next_step, step, now, guard) for row in rows)
    return len(expired)
