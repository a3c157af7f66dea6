"""Locks on resources: taken, kept, and released with what the work came to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    Integer,
    Select,
    bindparam,
    delete,
    false,
    literal_column,
    null,
    select,
    update,
)

from converge.errors import StaleLock
from converge.sql import signals
from converge.sql.batch import UpdateMany, among, types_of
from converge.sql.resources import ResourceRow, check_found
from converge.sql.schema import resource
from converge.sql.statements import Statement
from converge.sql.transaction import Transaction
from converge.sql.types import ID

_LOCK_KEYS = {"id", "epoch"}
_IS_MINE = (
    (resource.c.id == bindparam("b_id"))
    & (resource.c.engine_id == bindparam("b_engine"))
    & (resource.c.epoch == bindparam("b_epoch"))
    & (resource.c.mark == bindparam("b_mark"))
)


@dataclass(frozen=True, slots=True)
class LockState:
    """Who has a resource's lock."""

    id: int
    engine_id: int | None
    epoch: int
    blocking: bool
    mark: int


def lock_states(tx: Transaction, ids: Iterable[int]) -> dict[int, LockState]:
    """Like :func:`~converge.sql.resources.lock_resources`, but read only who has the locks."""
    wanted = set(ids)
    if not wanted:
        return {}
    rows: Any = _locked_states().execute(tx, ids=wanted).all()
    return {row.id: LockState(*row) for row in rows}


@cache
def _locked_states() -> Statement[Select[Any]]:
    columns = [resource.c[name] for name in LockState.__dataclass_fields__]
    query = select(*columns).order_by(resource.c.id).with_for_update()
    return Statement(lambda form: query.where(form.among(resource.c.id)))


@cache
def _take(names: tuple[str, ...]) -> UpdateMany:
    """The statement that takes locks, and also writes these columns."""
    return UpdateMany(
        resource,
        ("id", "epoch"),
        types_of(resource, *names),
        lambda row, now: {
            **{name: row[name] for name in names},
            "engine_id": bindparam("taker", type_=ID),
            "epoch": resource.c.epoch + literal_column("1", Integer()),
            "mark": bindparam("of_claim", type_=ID),
        },
        resource.c.engine_id.is_(None),
    )


def take_locks(
    tx: Transaction, engine_id: int, rows: Sequence[Mapping[str, Any]], mark: int = 0
) -> None:
    """Lock resources for an engine, each with a new epoch.

    :param rows: id, current epoch, new action, status and type; and requires, where it changes.
    :param mark: of the claim.
    :raises StaleLock: one of them is no longer free.
    """
    shapes: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        shapes.setdefault(tuple(sorted(row.keys() - _LOCK_KEYS)), []).append(row)
    found = sum(
        _take(names).execute(tx, alike, taker=engine_id, of_claim=mark)
        for names, alike in shapes.items()
    )
    check_found(found, len(rows), "resource locks to take")


def set_blocking(tx: Transaction, ids: Sequence[int]) -> None:
    """Note that a node waits for these resources' locks."""
    if ids:
        tx.execute(update(resource).where(among(tx, resource.c.id, ids)).values(blocking=True))


@cache
def _release(names: tuple[str, ...]) -> UpdateMany:
    """The statement that writes these columns, and releases locks."""
    return UpdateMany(
        resource,
        ("id", "epoch"),
        types_of(resource, *names),
        lambda row, now: {
            **{name: row[name] for name in names},
            **{name: null() for name in _without_traceback(names)},
            "engine_id": null(),
            "blocking": false(),
            "updated_at": now,
        },
        resource.c.engine_id == bindparam("holder", type_=ID),
    )


def release_locks(
    tx: Transaction, engine_id: int, rows: Sequence[tuple[int, int, Mapping[str, Any]]]
) -> None:
    """Write the outcomes of resources, and release their locks.

    :param rows: (id, epoch, columns to write) of each; a reason without a traceback has none.
    :raises StaleLock: one of the locks is not this engine's.
    """
    shapes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for resource_id, epoch, values in rows:
        full = {"id": resource_id, "epoch": epoch, **values}
        shapes.setdefault(tuple(sorted(values)), []).append(full)
    for names, alike in shapes.items():
        found = _release(names).execute(tx, alike, holder=engine_id)
        check_found(found, len(alike), "resource locks to release")


@cache
def _note() -> UpdateMany:
    """The statement that notes what resources were brought to."""
    return UpdateMany(
        resource,
        ("id", "epoch"),
        types_of(resource, "template_id", "basis"),
        lambda row, now: {"template_id": row["template_id"], "basis": row["basis"]},
        resource.c.engine_id.is_(None),
    )


def note_unchanged(tx: Transaction, rows: Sequence[tuple[int, int, Mapping[str, Any]]]) -> None:
    """Note the basis of resources in which nothing had to change. Nobody has locked them, and their
    epochs stay: to what requires them, they are the same.

    :param rows: (id, epoch, template_id and basis) of each.
    :raises StaleLock: one of them is locked, or has another epoch.
    """
    full = [{"id": resource_id, "epoch": epoch, **values} for resource_id, epoch, values in rows]
    if full:
        check_found(_note().execute(tx, full), len(full), "free resources")


def _without_traceback(names: Collection[str]) -> dict[str, None]:
    """Removes the traceback of an older reason, where a new reason is written."""
    return {"traceback": None} if "reason" in names and "traceback" not in names else {}


def hold_lock(tx: Transaction, engine_id: int, resource_id: int, epoch: int, mark: int = 0) -> None:
    """Keep the lock on a resource from being taken away until the transaction ends.

    :param mark: of the claim that took it.
    :raises StaleLock: the engine no longer has it.
    """
    query = (
        select(resource.c.id)
        .where(
            resource.c.id == resource_id,
            resource.c.engine_id == engine_id,
            resource.c.epoch == epoch,
            resource.c.mark == mark,
        )
        .with_for_update(read=True)
    )
    if tx.execute(query).first() is None:
        raise StaleLock(f"resource {resource_id} is not locked by engine {engine_id} any more")


def write_locked(
    tx: Transaction, engine_id: int, resource_id: int, epoch: int, mark: int = 0, **values: Any
) -> None:
    """Write columns of a resource that the engine keeps locked; a reason has no traceback.

    :param mark: of the claim that took the lock.
    :raises StaleLock: it is not this engine's.
    """
    parameters = {"b_id": resource_id, "b_engine": engine_id, "b_epoch": epoch, "b_mark": mark}
    values |= _without_traceback(values)
    done = tx.execute(update(resource).where(_IS_MINE).values(**values), parameters)
    check_found(done.rowcount, 1, "resource locks held")


def delete_locked(tx: Transaction, engine_id: int, rows: Sequence[ResourceRow]) -> None:
    """Delete resources that the engine has locked, and what points to them in their other versions.

    :raises StaleLock: one of them is not this engine's.
    """
    if not rows:
        return
    by_epoch: dict[int, list[int]] = {}
    for row in rows:
        by_epoch.setdefault(row.epoch, []).append(row.id)
    for epoch, locked in by_epoch.items():
        done = tx.execute(
            delete(resource).where(
                among(tx, resource.c.id, locked),
                resource.c.engine_id == engine_id,
                resource.c.epoch == epoch,
            )
        )
        check_found(done.rowcount, len(locked), "resource locks held")
    ids = [row.id for row in rows]
    signals.delete_signals(tx, ids)
    newer = [row.replaced_by for row in rows if row.replaced_by is not None]
    older = [row.replaces for row in rows if row.replaces is not None]
    if newer:
        tx.execute(
            update(resource)
            .where(among(tx, resource.c.id, newer), resource.c.replaces.in_(ids))
            .values(replaces=None)
        )
    if older:
        tx.execute(
            update(resource)
            .where(among(tx, resource.c.id, older), resource.c.replaced_by.in_(ids))
            .values(replaced_by=None)
        )


def free_engine_locks(tx: Transaction, engine_id: int, ids: Sequence[int]) -> None:
    """Release the locks of a dead engine. The new epoch keeps out its late writes."""
    if ids:
        tx.execute(
            update(resource)
            .where(among(tx, resource.c.id, ids), resource.c.engine_id == engine_id)
            .values(engine_id=None, epoch=resource.c.epoch + 1, blocking=False)
        )
