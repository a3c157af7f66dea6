"""Instances of machines, and their moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oslo_db.exception import DBDuplicateEntry
from sqlalchemy import delete, func, select, update

from converge.errors import Conflict, StaleLock
from converge.store.bulk import CHUNK, among, insert_rows, update_rows
from converge.store.database import Transaction
from converge.store.schema import instance, move
from converge.store.types import text


@dataclass(slots=True)
class InstanceRow:
    """An instance as it is in the database.

    :ivar payloads: the last payload of each event, as a text of JSON.
    :ivar left: seconds until its timeout, None if it has none.
    """

    id: int
    key: str
    version: int
    state: str
    epoch: int
    payloads: str
    left: float | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class MoveRow:
    """A move as it is in the database.

    :ivar status: of its action: NONE, PENDING, DONE or FAILED.
    """

    instance_id: int
    key: str
    number: int
    event: str
    source: str
    target: str
    payload: str
    payloads: str
    at: float
    status: str
    attempts: int
    reason: str | None


def _instances(tx: Transaction, machine: str) -> Any:
    return select(
        instance.c.id,
        instance.c.key,
        instance.c.version,
        instance.c.state,
        instance.c.epoch,
        instance.c.payloads,
        (instance.c.deadline_at - tx.now).label("left"),
        instance.c.created_at,
        instance.c.updated_at,
    ).where(instance.c.machine == machine)


def insert_instances(
    tx: Transaction,
    machine: str,
    keys: Sequence[str],
    *,
    version: int,
    state: str,
    timeout: float | None,
) -> None:
    """Insert new instances.

    :param timeout: seconds until the timeout of their state.
    :raises Conflict: one of them is there already.
    """
    common = {
        "machine": machine,
        "version": version,
        "state": state,
        "epoch": 0,
        "payloads": "{}",
        "deadline_at": None if timeout is None else tx.now + timeout,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    try:
        insert_rows(tx, instance, [{"key": key} for key in keys], **common)
    except DBDuplicateEntry as error:
        raise Conflict(f"machine {machine!r} has an instance of one of these keys") from error


def get_instances(
    tx: Transaction, machine: str, keys: Iterable[str], *, lock: bool = False
) -> dict[str, InstanceRow]:
    """Instances by key; locked in key order if so asked."""
    wanted = sorted(set(keys))
    found: dict[str, InstanceRow] = {}
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        query = _instances(tx, machine).where(instance.c.key.in_(part)).order_by(instance.c.key)
        rows: Any = tx.execute(query.with_for_update() if lock else query)
        found.update({row.key: InstanceRow(*row) for row in rows})
    return found


def lock_overdue(tx: Transaction, machine: str, limit: int) -> list[InstanceRow]:
    """Lock instances whose timeout has passed; those that another sweeper has are passed over."""
    query = (
        _instances(tx, machine)
        .where(instance.c.deadline_at.is_not(None), instance.c.deadline_at <= tx.now)
        .order_by(instance.c.deadline_at)
        .limit(limit)
    )
    rows: Any = tx.execute(query.with_for_update(skip_locked=True))
    return sorted((InstanceRow(*row) for row in rows), key=lambda row: row.key)


def list_instances(
    tx: Transaction, machine: str, state: str | None, after: str, limit: int
) -> list[InstanceRow]:
    """Instances by key."""
    query = _instances(tx, machine).where(instance.c.key > after)
    if state is not None:
        query = query.where(instance.c.state == state)
    rows: Any = tx.execute(query.order_by(instance.c.key).limit(limit))
    return [InstanceRow(*row) for row in rows]


def move_instances(tx: Transaction, rows: Sequence[Mapping[str, Any]], version: int) -> None:
    """Move instances, each from the epoch that was read.

    :param rows: id, epoch, state, payloads, and timeout: seconds, or None.
    :raises StaleLock: one of them was moved since.
    """
    by_timeout: dict[float | None, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_timeout.setdefault(row["timeout"], []).append(row)
    for timeout, same in by_timeout.items():
        found = update_rows(
            tx,
            instance,
            ("id", "epoch"),
            [{name: row[name] for name in ("id", "epoch", "state", "payloads")} for row in same],
            epoch=instance.c.epoch + 1,
            version=version,
            deadline_at=None if timeout is None else tx.now + timeout,
            updated_at=tx.now,
        )
        if found != len(same):
            raise StaleLock(f"{len(same)} instances to move, {found} found as they were")


def insert_moves(tx: Transaction, machine: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert moves: instance_id, number, event, source, target, payload, payloads; those with an
    action have the status PENDING."""
    for pending in (True, False):
        part = [row for row in rows if (row["status"] == "PENDING") is pending]
        insert_rows(
            tx,
            move,
            part,
            machine=machine,
            at=tx.now,
            attempts=0,
            next_at=tx.now if pending else None,
        )


def _moves() -> Any:
    return select(
        move.c.instance_id,
        instance.c.key,
        move.c.number,
        move.c.event,
        move.c.source,
        move.c.target,
        move.c.payload,
        move.c.payloads,
        move.c.at,
        move.c.status,
        move.c.attempts,
        move.c.reason,
    ).join_from(move, instance, instance.c.id == move.c.instance_id)


def get_move(tx: Transaction, instance_id: int, number: int) -> MoveRow | None:
    """One move."""
    query = _moves().where(move.c.instance_id == instance_id, move.c.number == number)
    row: Any = tx.execute(query).first()
    return None if row is None else MoveRow(*row)


def list_moves(tx: Transaction, instance_id: int, after: int, limit: int) -> list[MoveRow]:
    """The moves of an instance, in their order."""
    query = _moves().where(move.c.instance_id == instance_id, move.c.number > after)
    rows: Any = tx.execute(query.order_by(move.c.number).limit(limit))
    return [MoveRow(*row) for row in rows]


def list_pending(tx: Transaction, machine: str, limit: int) -> list[MoveRow]:
    """Moves whose action is to be called now, the oldest first."""
    query = _moves().where(
        move.c.machine == machine, move.c.next_at.is_not(None), move.c.next_at <= tx.now
    )
    rows: Any = tx.execute(query.order_by(move.c.next_at).limit(limit))
    return [MoveRow(*row) for row in rows]


def end_action(
    tx: Transaction,
    instance_id: int,
    number: int,
    status: str,
    *,
    wait: float | None = None,
    reason: str | None = None,
) -> bool:
    """Note what became of an action. False: it was over before.

    :param status: DONE, FAILED, or PENDING for another attempt.
    :param wait: seconds until that.
    """
    done = tx.execute(
        update(move)
        .where(
            move.c.instance_id == instance_id,
            move.c.number == number,
            func.coalesce(move.c.status, "") == "PENDING",
        )
        .values(
            status=status,
            attempts=move.c.attempts + 1,
            next_at=None if wait is None else tx.now + wait,
            reason=None if reason is None else text(reason),
        )
    )
    return done.rowcount == 1


def delete_instances(tx: Transaction, ids: Sequence[int]) -> None:
    """Delete instances with their moves."""
    if ids:
        tx.execute(delete(move).where(among(tx, move.c.instance_id, ids)))
        tx.execute(delete(instance).where(among(tx, instance.c.id, ids)))
