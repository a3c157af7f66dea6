"""Scopes of the journal, and their steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Double,
    Insert,
    Integer,
    String,
    Update,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from converge.errors import Conflict, StaleLock
from converge.sql.batch import among
from converge.sql.compiled import Compiled
from converge.sql.engines import find_alive, select_if_leased
from converge.sql.faults import duplicate_errors
from converge.sql.schema import scope, step
from converge.sql.transaction import Transaction
from converge.sql.types import ID, SealedText


@dataclass(frozen=True, slots=True)
class ScopeRow:
    """A scope as it is in the database.

    :ivar holder: the living engine that holds it.
    """

    id: int
    name: str
    epoch: int
    holder: int | None
    created_at: float
    updated_at: float
    finished_at: float | None


class StepRow(NamedTuple):
    """A step as it is in the database.

    :ivar wait: seconds until it may be tried again.
    """

    name: str
    number: int
    version: int
    status: str
    value: str
    attempts: int
    wait: float
    position: int
    at: float


def _holder(tx: Transaction) -> Any:
    """The living engine that holds a scope."""
    return select_if_leased(tx.now, scope.c.engine_id)


def _select(holder: ColumnElement[int | None]) -> Any:
    return select(
        scope.c.id,
        scope.c.name,
        scope.c.epoch,
        holder.label("holder"),
        scope.c.created_at,
        scope.c.updated_at,
        scope.c.finished_at,
    )


def get_scope(tx: Transaction, name: str) -> ScopeRow | None:
    """A scope by name."""
    row: Any = tx.execute(
        _select(_holder(tx).scalar_subquery()).where(scope.c.name == name)
    ).first()
    return None if row is None else ScopeRow(*row)


def lock_scope(tx: Transaction, name: str) -> ScopeRow | None:
    """Lock a scope until the transaction ends."""
    query = _select(scope.c.engine_id).where(scope.c.name == name)
    found: Any = tx.execute(query.with_for_update()).first()
    if found is None:
        return None
    row = ScopeRow(*found)
    # who is alive now, not before the wait for the lock
    living = find_alive(tx, [row.holder])
    return row if row.holder in living else replace(row, holder=None)


def insert_scope(
    tx: Transaction, name: str, engine_id: int, mark: int, resource_id: int | None = None
) -> int:
    """Insert a scope that an engine holds, and return its id.

    :param mark: a random number of this hold.
    :param resource_id: the resource that its work is about.
    :raises Conflict: another process has just made one of that name.
    """
    values = {
        "name": name,
        "engine_id": engine_id,
        "epoch": 1,
        "mark": mark,
        "resource_id": resource_id,
    }
    try:
        done = tx.execute(insert(scope).values(**values, created_at=tx.now, updated_at=tx.now))
    except duplicate_errors() as error:
        raise Conflict(f"scope {name!r} has just been made by another process") from error
    assert done.inserted_primary_key is not None
    return int(done.inserted_primary_key[0])


def insert_or_take(
    tx: Transaction, name: str, engine_id: int, mark: int, resource_id: int | None
) -> tuple[int, int]:
    """Take a scope, whoever holds it; make it if it does not exist.

    :param resource_id: the resource that its work is about.
    :returns: its id and its new epoch.
    """
    row = lock_scope(tx, name)
    if row is None:
        return insert_scope(tx, name, engine_id, mark, resource_id), 1
    return row.id, take_scope(tx, row, engine_id, mark)


def take_scope(tx: Transaction, row: ScopeRow, engine_id: int, mark: int) -> int:
    """Give a scope that the transaction has locked to an engine, and return its new epoch.

    :param mark: a random number of this hold.
    """
    tx.execute(
        update(scope)
        .where(scope.c.id == row.id)
        .values(engine_id=engine_id, epoch=row.epoch + 1, mark=mark, updated_at=tx.now)
    )
    return row.epoch + 1


def list_steps(tx: Transaction, scope_id: int, name: str | None = None) -> list[StepRow]:
    """The steps of a scope, by number; or the one of that name."""
    query = select(
        step.c.name,
        step.c.number,
        step.c.version,
        step.c.status,
        step.c.value,
        step.c.attempts,
        (func.coalesce(step.c.next_at, 0) - tx.now).label("wait"),
        step.c.position,
        step.c.at,
    ).where(step.c.scope_id == scope_id)
    if name is not None:
        query = query.where(step.c.name == name)
    rows: Any = tx.execute(query.order_by(step.c.number, step.c.name))
    return [StepRow._make(row) for row in rows]


_VALUES: dict[str, Any] = {
    "number": Integer(),
    "version": Integer(),
    "status": String(),
    "value": SealedText(),
    "attempts": Integer(),
    "position": Integer(),
}


def _is_held() -> list[ColumnElement[bool]]:
    return [
        scope.c.id == bindparam("held_scope", type_=ID),
        scope.c.engine_id == bindparam("owner", type_=ID),
        scope.c.epoch == bindparam("held_epoch", type_=Integer()),
        scope.c.mark == bindparam("held_mark", type_=ID),
    ]


def _lock_parameters(scope_id: int, engine_id: int, epoch: int, mark: int) -> dict[str, Any]:
    """The parameters of :func:`_is_held`."""
    return {"held_scope": scope_id, "owner": engine_id, "held_epoch": epoch, "held_mark": mark}


def _make_insert(now: ColumnElement[Any], dialect: str) -> Insert:
    values: dict[str, Any] = {name: bindparam(name, type_=kind) for name, kind in _VALUES.items()}
    source = select(
        scope.c.id,
        bindparam("name", type_=String()),
        now,
        now + bindparam("wait", type_=Double()),
        *values.values(),
    ).where(*_is_held())
    columns = ["scope_id", "name", "at", "next_at", *values]
    # a process that takes the scope over waits until this is committed
    return insert(step).from_select(columns, source.with_for_update(read=True)).inline()


_INSERT = Compiled(_make_insert)


def insert_step(
    tx: Transaction, scope_id: int, engine_id: int, epoch: int, mark: int, name: str, **values: Any
) -> None:
    """Record a step of a scope that an engine holds.

    :param values: number, version, status, value, attempts, position, and wait: seconds until
        the next attempt.
    :raises StaleLock: it no longer holds it.
    """
    held = _lock_parameters(scope_id, engine_id, epoch, mark)
    values["value"] = tx.seal(values["value"])
    if _INSERT.execute(tx, {**held, "name": name, **values}).rowcount != 1:
        raise StaleLock(f"step {name!r}: the scope is no longer held by this caller")


def keep_lock(tx: Transaction, scope_id: int, engine_id: int, epoch: int, mark: int) -> None:
    """Keep other processes from taking a scope over until the transaction ends.

    :raises StaleLock: the engine no longer holds it.
    """
    query = select(scope.c.id).where(*_is_held()).with_for_update(read=True)
    held = _lock_parameters(scope_id, engine_id, epoch, mark)
    if tx.execute(query, held).first() is None:
        raise StaleLock("the scope is no longer held by this caller")


def is_held(tx: Transaction, scope_id: int, engine_id: int, epoch: int, mark: int) -> bool:
    """Whether an engine holds a scope."""
    held = _lock_parameters(scope_id, engine_id, epoch, mark)
    return tx.execute(select(scope.c.id).where(*_is_held()), held).first() is not None


def has_scopes(tx: Transaction, ids: Sequence[int]) -> bool:
    """Whether any of these exists."""
    query = select(scope.c.id).where(among(tx, scope.c.id, ids)).limit(1)
    return bool(ids) and tx.execute(query).first() is not None


def has_failed(tx: Transaction, scope_id: int, statuses: Sequence[str]) -> bool:
    """Whether a scope has steps of one of these statuses.

    :param statuses: of steps that failed for good.
    """
    found = step.c.status.in_([str(one) for one in statuses])
    query = select(step.c.name).where(step.c.scope_id == scope_id, found)
    return tx.execute(query.limit(1)).first() is not None


def update_step(tx: Transaction, scope_id: int, name: str, wait: float, **values: Any) -> None:
    """Replace the record of a step. The transaction has checked the lock.

    :param wait: seconds until the next attempt.
    :raises StaleLock: the step has no record.
    """
    done = tx.execute(
        update(step)
        .where(step.c.scope_id == scope_id, step.c.name == name)
        .values(at=tx.now, next_at=tx.now + wait, **values)
    )
    if done.rowcount != 1:
        raise StaleLock(f"step {name!r}: it has no record that could be replaced")


def _make_advance(now: ColumnElement[Any], dialect: str) -> Update:
    held = select(scope.c.id).where(*_is_held())
    own: ColumnElement[bool]
    if dialect == "postgresql":
        cte = held.with_for_update(read=True).cte("held")
        own = step.c.scope_id == cte.c.id
    elif dialect == "sqlite":
        own = step.c.scope_id == held.scalar_subquery()
    else:
        own = step.c.scope_id == bindparam("held_scope", type_=ID)
    return (
        update(step)
        .where(
            own,
            step.c.name == bindparam("step_name", type_=String()),
            step.c.status == bindparam("step_status", type_=String()),
            step.c.position < bindparam("reached", type_=Integer()),
        )
        .values(
            position=bindparam("reached", type_=Integer()),
            value=bindparam("step_value", type_=SealedText()),
            at=now,
        )
    )


_ADVANCE = Compiled(_make_advance)


def _checks_as_it_advances(dialect: str) -> bool:
    """Whether one statement checks the lock and advances. PostgreSQL keeps the lock in it; on
    SQLite no other transaction writes meanwhile."""
    return dialect in ("postgresql", "sqlite")


def advance_step(
    tx: Transaction,
    scope_id: int,
    engine_id: int,
    epoch: int,
    mark: int,
    name: str,
    status: str,
    position: int,
    value: str,
) -> None:
    """Note how far an ``each`` has come, in a scope that an engine holds.

    :param status: the status that it must have.
    :param value: replaces the value of its record.
    :raises StaleLock: the engine no longer holds the scope, or the ``each`` had come that far.
    """
    held = _lock_parameters(scope_id, engine_id, epoch, mark)
    if not _checks_as_it_advances(tx.dialect):
        keep_lock(tx, scope_id, engine_id, epoch, mark)
        held = {"held_scope": scope_id}
    values = {"step_name": name, "step_status": str(status), "reached": position}
    values["step_value"] = tx.seal(value)
    if _ADVANCE.execute(tx, {**held, **values}).rowcount != 1:
        raise StaleLock(
            f"each {name!r}: the scope is no longer held by this caller, or it is at item "
            f"{position} already, or beyond it"
        )


def find_step(tx: Transaction, scope_id: int, name: str) -> StepRow | None:
    """One step, None if it is not recorded."""
    return next((row for row in list_steps(tx, scope_id, name)), None)


def release_scope(
    tx: Transaction, scope_id: int, engine_id: int, epoch: int, mark: int, *, finished: bool
) -> bool:
    """Release a scope. False: it was lost before.

    :param finished: its work is finished.
    """
    done = tx.execute(
        update(scope)
        .where(*_is_held())
        .values(engine_id=None, updated_at=tx.now, finished_at=tx.now if finished else None),
        _lock_parameters(scope_id, engine_id, epoch, mark),
    )
    return done.rowcount == 1


#: A scope that is locked: its id, its epoch and its mark.
LockedScope = tuple[int, int, int]


def list_held(tx: Transaction, engine_id: int) -> list[LockedScope]:
    """The scopes that an engine holds."""
    query = select(scope.c.id, scope.c.epoch, scope.c.mark).where(scope.c.engine_id == engine_id)
    rows: Any = tx.execute(query)
    return [tuple(row) for row in rows]


def free_scopes(tx: Transaction, engine_id: int, held: Sequence[LockedScope]) -> int:
    """Release these locked scopes of an engine, as if it had died; return how many it still had."""
    free = update(scope).where(*_is_held()).values(engine_id=None)
    return sum(
        tx.execute(free, _lock_parameters(scope_id, engine_id, epoch, mark)).rowcount
        for scope_id, epoch, mark in held
    )


def count_steps(tx: Transaction, scope_id: int, other: str) -> int:
    """How many steps a scope has.

    :param other: the status of rows that are no steps.
    """
    query = select(func.count()).where(step.c.scope_id == scope_id, step.c.status != other)
    return int(tx.execute(query).scalar_one())


def list_scopes(tx: Transaction, after: str, limit: int, other: str) -> list[tuple[ScopeRow, int]]:
    """Scopes by name, each with the number of its steps.

    :param other: the status of rows that are no steps.
    """
    own = (step.c.scope_id == scope.c.id, step.c.status != other)
    steps = select(func.count()).where(*own).scalar_subquery().label("steps")
    query = _select(_holder(tx).scalar_subquery()).add_columns(steps).where(scope.c.name > after)
    rows: Any = tx.execute(query.order_by(scope.c.name).limit(limit))
    return [(ScopeRow(*row[:-1]), int(row[-1])) for row in rows]


def list_finished(tx: Transaction, age: float | None, keep: int | None, limit: int) -> list[int]:
    """Lock finished scopes, and return their ids. Those that a process holds or has locked are
    skipped.

    :param age: the least seconds since they finished.
    :param keep: how many that finished last are left out.
    """
    query = select(scope.c.id, scope.c.engine_id).where(
        scope.c.finished_at.is_not(None), ~_holder(tx).exists()
    )
    if keep:
        newest = query.order_by(scope.c.finished_at.desc(), scope.c.id.desc()).limit(keep)
        query = query.where(scope.c.id.not_in(select(newest.subquery().c.id)))
    if age is not None:
        query = query.where(scope.c.finished_at <= tx.now - age)
    query = query.order_by(scope.c.finished_at, scope.c.id).limit(limit)
    rows: Any = tx.execute(query.with_for_update(skip_locked=True)).all()
    living = find_alive(tx, (row.engine_id for row in rows))
    return [row.id for row in rows if row.engine_id not in living]


def find_scopes(tx: Transaction, names: Sequence[str]) -> list[int]:
    """The ids of those of these scopes that exist."""
    if not names:
        return []
    query = select(scope.c.id).where(scope.c.name.in_(list(names)))
    return list(tx.execute(query).scalars())


def find_resource_scopes(tx: Transaction, resource_ids: Sequence[int]) -> list[int]:
    """The ids of all scopes of work on these resources."""
    if not resource_ids:
        return []
    query = select(scope.c.id).where(among(tx, scope.c.resource_id, resource_ids))
    return list(tx.execute(query).scalars())


def delete_failed(tx: Transaction, ids: Sequence[int], statuses: Sequence[str]) -> int:
    """Delete the steps of scopes that have one of these statuses, and return how many.

    :param statuses: of steps that failed for good.
    """
    if not ids:
        return 0
    found = step.c.status.in_([str(one) for one in statuses])
    failed = delete(step).where(among(tx, step.c.scope_id, ids), found)
    return int(tx.execute(failed).rowcount)


def delete_scopes(tx: Transaction, ids: Sequence[int]) -> int:
    """Delete scopes with their steps, and return how many steps."""
    if not ids:
        return 0
    deleted = tx.execute(delete(step).where(among(tx, step.c.scope_id, ids))).rowcount
    tx.execute(delete(scope).where(among(tx, scope.c.id, ids)))
    return int(deleted)
