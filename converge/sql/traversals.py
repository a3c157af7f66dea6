"""Traversals: their intent, their progress, and the summary that stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from converge import formats
from converge.errors import StaleLock
from converge.model import (
    TRAVERSAL_MOVES,
    Action,
    Json,
    OnFailure,
    TraversalStatus,
    check_move,
)
from converge.sql.schema import progress, stack, template, traversal
from converge.sql.statements import Statement
from converge.sql.transaction import Transaction
from converge.sql.types import ID


@dataclass(frozen=True, slots=True)
class TraversalRow:
    """A traversal with the name and the mark of its stack, and the folder of its template."""

    id: int
    stack_id: int
    stack: str
    action: Action
    status: TraversalStatus
    halted: str | None
    reason: str | None
    from_template_id: int | None
    template_id: int | None
    version: int | None
    on_failure: OnFailure
    node_timeout: float | None
    deadline_at: float | None
    total: int
    done: int
    failed: int
    skipped: int
    started_at: float
    ended_at: float | None
    mark: int
    stack_mark: int
    directory: str | None = None
    trace: str | None = None
    asked: dict[str, Json] | None = None
    actor: str | None = None


_OTHERS: Mapping[str, ColumnElement[Any]] = {
    "stack": stack.c.name,
    "stack_mark": stack.c.mark,
    # no join: a row that need not be there cannot be locked
    "directory": select(template.c.directory)
    .where(template.c.id == traversal.c.template_id)
    .scalar_subquery(),
}
_SELECT = select(
    *(
        _OTHERS[name].label(name) if name in _OTHERS else traversal.c[name]
        for name in TraversalRow.__dataclass_fields__
    )
).join_from(traversal, stack, stack.c.id == traversal.c.stack_id)


def _row(row: Any) -> TraversalRow:
    values = dict(row._mapping)
    values["action"] = Action(values["action"])
    values["status"] = TraversalStatus(values["status"])
    values["on_failure"] = OnFailure(values["on_failure"])
    return TraversalRow(**values)


def insert_traversal(tx: Transaction, *, timeout: float | None, **values: Any) -> int:
    """Insert a running traversal and return its id.

    :param timeout: seconds until its deadline, None for none.
    """
    values |= {
        "status": TraversalStatus.RUNNING,
        "done": 0,
        "failed": 0,
        "skipped": 0,
        "started_at": tx.now,
        "deadline_at": None if timeout is None else tx.now + timeout,
    }
    key = tx.execute(insert(traversal).values(values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def get_traversals(tx: Transaction, ids: Iterable[int]) -> dict[int, TraversalRow]:
    """Traversals by id."""
    rows = tx.execute(_SELECT.where(traversal.c.id.in_(sorted(set(ids)))))
    return {row.id: _row(row) for row in rows}


def get_traversal(tx: Transaction, traversal_id: int) -> TraversalRow:
    """One traversal, also if it is newer than a host's snapshot."""
    query = _SELECT.where(traversal.c.id == traversal_id)
    row = tx.execute(query).one_or_none()
    return _row(tx.execute(query.with_for_update()).one() if row is None else row)


def find_last_action(tx: Transaction, stack_id: int) -> Action:
    """The action of the last traversal of a stack that was no check."""
    query = select(traversal.c.action).where(
        traversal.c.stack_id == stack_id, traversal.c.action != Action.CHECK
    )
    return Action(tx.execute(query.order_by(traversal.c.id.desc()).limit(1)).scalar_one())


def list_overdue(tx: Transaction, limit: int) -> list[TraversalRow]:
    """Running traversals past their deadline in which something may still start; the longest
    overdue first. Those of a newer converge are left to it."""
    query = _SELECT.where(
        traversal.c.status == TraversalStatus.RUNNING,
        traversal.c.deadline_at <= tx.now,
        or_(traversal.c.halted.is_(None), traversal.c.goes_on),
        stack.c.format <= formats.KNOWN,
    )
    return [
        _row(row)
        for row in tx.execute(query.order_by(traversal.c.deadline_at, traversal.c.id).limit(limit))
    ]


def list_cancelled(tx: Transaction, ids: Iterable[int]) -> tuple[dict[int, str], set[int]]:
    """Which of these traversals were cancelled or have timed out: their handlers must stop. After a
    failure, running handlers go on to their end. The handlers of a superseded traversal also stop
    if the newer one is cancelled or has timed out.

    :returns: those, each with the reason; and which of all are superseded.
    """
    current = traversal.alias("current")
    is_late = traversal.c.deadline_at <= tx.now
    is_over = traversal.c.status == TraversalStatus.SUPERSEDED
    reason = case(
        (traversal.c.halted == TraversalStatus.CANCELLED, "the traversal was cancelled"),
        (and_(is_late, traversal.c.halted.is_not(None)), "the traversal timed out"),
        (and_(is_late, is_over), "the traversal timed out"),
        (current.c.halted == TraversalStatus.CANCELLED, "the newer traversal was cancelled"),
        (
            and_(current.c.halted.is_not(None), current.c.deadline_at <= tx.now),
            "the newer traversal timed out",
        ),
    )
    query = (
        select(traversal.c.id, reason.label("reason"), is_over.label("superseded"))
        .join(stack, stack.c.id == traversal.c.stack_id)
        .outerjoin(current, and_(is_over, current.c.id == stack.c.traversal_id))
        .where(traversal.c.id.in_(sorted(set(ids))))
    )
    rows: Any = tx.execute(query).all()
    reasons = {row.id: row.reason for row in rows if row.reason is not None}
    return reasons, {row.id for row in rows if row.superseded}


def halt_traversal(
    tx: Transaction,
    traversal_id: int,
    outcome: TraversalStatus,
    reason: str,
    *,
    goes_on: bool = False,
    again: bool = False,
) -> bool:
    """Note what a running traversal will end as. False: it is halted or over already.

    :param goes_on: nodes that run all the same are still to come.
    :param again: also if it is halted, but such nodes are still to come.
    """
    free = traversal.c.halted.is_(None)
    done = tx.execute(
        update(traversal)
        .where(
            traversal.c.id == traversal_id,
            traversal.c.status == TraversalStatus.RUNNING,
            or_(free, traversal.c.goes_on) if again else free,
        )
        .values(halted=outcome, reason=reason, goes_on=goes_on)
    )
    return done.rowcount == 1


def end_traversal(
    tx: Transaction, traversal_id: int, status: TraversalStatus, reason: str | None
) -> None:
    """End a running traversal, and write its progress into the summary.

    :raises StaleLock: it was over already.
    """
    check_move(TRAVERSAL_MOVES, status, TraversalStatus.RUNNING)
    counts = sum_progress(tx, traversal_id)
    done = tx.execute(
        update(traversal)
        .where(traversal.c.id == traversal_id, traversal.c.status == TraversalStatus.RUNNING)
        .values(status=status, reason=reason, ended_at=tx.now, **counts)
    )
    if done.rowcount != 1:
        raise StaleLock(f"traversal {traversal_id} is over already")
    tx.execute(delete(progress).where(progress.c.traversal_id == traversal_id))


def add_progress(
    tx: Transaction, traversal_id: int, engine_id: int, done: int, failed: int, skipped: int
) -> None:
    """Count finished nodes, in a row that only this engine writes."""
    mine = {"of": traversal_id, "by": engine_id}
    counted = {"more_done": done, "more_failed": failed, "more_skipped": skipped}
    written = _added_progress().execute(tx, mine | counted)
    if written.rowcount == 0:
        tx.execute(
            insert(progress).values(
                traversal_id=traversal_id,
                engine_id=engine_id,
                done=done,
                failed=failed,
                skipped=skipped,
            )
        )


@cache
def _added_progress() -> Statement[Update]:
    more = {
        name: progress.c[name] + bindparam(f"more_{name}", type_=progress.c[name].type)
        for name in ("done", "failed", "skipped")
    }
    mine = update(progress).where(
        progress.c.traversal_id == bindparam("of", type_=ID),
        progress.c.engine_id == bindparam("by", type_=ID),
    )
    return Statement(lambda form: mine.values(more))


def sum_progress(tx: Transaction, traversal_id: int) -> dict[str, int]:
    """What the engines have counted for a running traversal: done, failed, skipped."""
    names = ("done", "failed", "skipped")
    query = select(*(func.coalesce(func.sum(progress.c[name]), 0) for name in names))
    row = tx.execute(query.where(progress.c.traversal_id == traversal_id)).one()
    return {name: int(value) for name, value in zip(names, row, strict=True)}
