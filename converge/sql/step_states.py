"""What steps know of their keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, or_, select

from converge.errors import StaleLock
from converge.model import Json
from converge.sql.batch import InsertMany, UpdateMany, among, types_of
from converge.sql.notifications import is_one_of
from converge.sql.schema import step_state
from converge.sql.transaction import Transaction


class StateRow(NamedTuple):
    """The state of a key as it is in the database.

    :ivar mark: random, another one after every write.
    """

    id: int
    sink: str
    step: str
    digest: str
    key: Json
    share: int
    state: Json
    deadline_at: float | None
    mark: int


_COLUMNS = [step_state.c[name] for name in StateRow._fields]
_INSERT = InsertMany(
    step_state,
    types_of(step_state, "sink", "step", "digest", "key", "share", "state", "deadline_at", "mark"),
    lambda row, now: {**row, "updated_at": now},
    skip_existing=True,
)
_UPDATE = UpdateMany(
    step_state,
    ["id", "mark"],
    {**types_of(step_state, "share", "state", "deadline_at"), "new_mark": step_state.c.mark.type},
    lambda row, now: {
        "share": row["share"],
        "state": row["state"],
        "deadline_at": row["deadline_at"],
        "mark": row["new_mark"],
        "updated_at": now,
    },
)


def list_states(tx: Transaction, sink: str, step: str, digests: Iterable[str]) -> list[StateRow]:
    """The states of these keys that there are."""
    query = select(*_COLUMNS).where(
        step_state.c.sink == sink,
        step_state.c.step == step,
        is_one_of(tx, step_state.c.digest, digests),
    )
    return [StateRow._make(row) for row in tx.execute(query)]


def insert_states(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Make the states of keys that had none: each with sink, step, digest, key, share, state,
    deadline_at and mark.

    :raises StaleLock: another process has made one of them.
    """
    if not rows:
        return
    ordered = sorted(rows, key=lambda row: str(row["digest"]))
    _INSERT.execute(tx, ordered)
    first = rows[0]
    made = list_marks(tx, first["sink"], first["step"], (row["digest"] for row in rows))
    if any(made.get(row["digest"]) != row["mark"] for row in rows):
        raise StaleLock("another process has begun with a key of a step")


def list_marks(tx: Transaction, sink: str, step: str, digests: Iterable[str]) -> dict[str, int]:
    """The marks of the states of these keys."""
    query = select(step_state.c.digest, step_state.c.mark).where(
        step_state.c.sink == sink,
        step_state.c.step == step,
        is_one_of(tx, step_state.c.digest, digests),
    )
    return {row.digest: row.mark for row in tx.execute(query)}


def update_states(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Change states.

    :param rows: each with id, the mark that it had, new_mark, share, state and
        deadline_at.
    :raises StaleLock: another process has changed one of them.
    """
    if rows and _UPDATE.execute(tx, sorted(rows, key=lambda row: int(row["id"]))) != len(rows):
        raise StaleLock("another process has changed what a step knows of a key")


def delete_states(tx: Transaction, ids: Iterable[int]) -> None:
    """Delete states that were changed in this transaction."""
    listed = list(ids)
    if listed:
        tx.execute(delete(step_state).where(among(tx, step_state.c.id, listed)))


def list_overdue(
    tx: Transaction,
    sinks: Sequence[str],
    steps: Sequence[str],
    after: tuple[float, int],
    shares: Iterable[int] | None,
    limit: int,
) -> list[StateRow]:
    """The states whose deadline has passed, the oldest first.

    :param sinks: of these sinks only.
    :param steps: of steps with these names only.
    :param after: those that come after this deadline and id only.
    :param shares: of these partitions only; None: of all.
    """
    conditions = [
        step_state.c.deadline_at.is_not(None),
        step_state.c.deadline_at <= tx.now,
        is_one_of(tx, step_state.c.sink, sinks),
        is_one_of(tx, step_state.c.step, steps),
        or_(
            step_state.c.deadline_at > after[0],
            and_(step_state.c.deadline_at == after[0], step_state.c.id > after[1]),
        ),
    ]
    if shares is not None:
        conditions.append(among(tx, step_state.c.share, shares))
    query = select(*_COLUMNS).where(*conditions)
    ordered = query.order_by(step_state.c.deadline_at, step_state.c.id).limit(limit)
    return [StateRow._make(row) for row in tx.execute(ordered)]


def _is_idle(tx: Transaction, columns: Any, age: float) -> ColumnElement[bool]:
    return and_(columns.deadline_at.is_(None), columns.updated_at < tx.now - age)


def list_idle(
    tx: Transaction, places: Sequence[tuple[str, str]], age: float, after: int, limit: int
) -> tuple[list[int], int] | None:
    """Of the next states, so many, those of these steps that wait for nothing and did not change
    for so many seconds; and the id of the last one that was looked at. None: there are no more.

    :param places: sink and name of each step.
    """
    names = [step_state.c[name] for name in ("id", "sink", "step", "deadline_at", "updated_at")]
    some = select(*names).where(step_state.c.id > after).order_by(step_state.c.id).limit(limit)
    part = some.subquery("part")
    idle = _is_idle(tx, part.c, age).label("idle")
    rows = tx.execute(select(part.c.id, part.c.sink, part.c.step, idle).order_by(part.c.id)).all()
    if not rows:
        return None
    wanted = set(places)
    ids = [row.id for row in rows if row.idle and (row.sink, row.step) in wanted]
    return ids, rows[-1].id


def delete_idle(tx: Transaction, ids: Sequence[int], age: float) -> int:
    """Delete states that still wait for nothing and did not change, and return how many there
    were."""
    found = and_(among(tx, step_state.c.id, ids), _is_idle(tx, step_state.c, age))
    return int(tx.execute(delete(step_state).where(found)).rowcount)
