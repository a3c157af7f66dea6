"""Instances of machines, and their moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oslo_db.exception import DBDuplicateEntry
from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from converge.errors import Conflict, StaleLock
from converge.store.bulk import CHUNK, among, insert_rows, update_rows
from converge.store.database import Transaction
from converge.store.engines import ALIVE
from converge.store.schema import engine, instance, move
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

    :ivar version: of the definition that it was made by.
    :ivar status: of its action: NONE, PENDING, DONE or FAILED.
    :ivar engine_id: who has taken the action; it may be dead.
    :ivar epoch: how often the action was taken.
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
    epoch: int
    engine_id: int | None
    version: int
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
    pass_over: bool = False,
) -> None:
    """Insert new instances.

    :param timeout: seconds until the timeout of their state.
    :param pass_over: leave those alone that are there already.
    :raises Conflict: one of them is there already.
    """
    common: dict[str, Any] = {
        "machine": machine,
        "version": version,
        "state": state,
        "epoch": 0,
        "payloads": "{}",
        "deadline_at": None if timeout is None else tx.now + timeout,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    rows = [{"key": key} for key in keys]
    if pass_over:
        insert_rows(tx, instance, rows, pass_over=True, by_json=True, **common)
        return
    try:
        # a savepoint keeps the host's transaction usable
        with tx.connection.begin_nested():
            insert_rows(tx, instance, rows, by_json=True, **common)
    except (DBDuplicateEntry, IntegrityError) as error:
        # a host's own engine has not got oslo.db's filters
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


def _is_overdue(tx: Transaction, machine: str) -> ColumnElement[bool]:
    return and_(
        instance.c.machine == machine,
        instance.c.deadline_at.is_not(None),
        instance.c.deadline_at <= tx.now,
    )


def list_overdue_versions(tx: Transaction, machine: str) -> list[int]:
    """The versions of instances whose timeout has passed."""
    query = select(instance.c.version).where(_is_overdue(tx, machine)).distinct()
    return sorted(tx.execute(query).scalars())


def lock_overdue(
    tx: Transaction, machine: str, versions: Sequence[int], limit: int
) -> list[InstanceRow]:
    """Lock instances whose timeout has passed; those that another sweeper has are passed over.

    :param versions: only those of these versions.
    """
    query = (
        _instances(tx, machine)
        .where(_is_overdue(tx, machine), instance.c.version.in_(list(versions)))
        .order_by(instance.c.deadline_at)
        .limit(limit)
    )
    rows: Any = tx.execute(query.with_for_update(skip_locked=True))
    return sorted((InstanceRow(*row) for row in rows), key=lambda row: row.key)


def lock_older(
    tx: Transaction, machine: str, version: int, after: str, limit: int
) -> list[InstanceRow]:
    """Lock instances of versions before this one, by key."""
    query = (
        _instances(tx, machine)
        .where(instance.c.key > after, instance.c.version < version)
        .order_by(instance.c.key)
        .limit(limit)
    )
    rows: Any = tx.execute(query.with_for_update())
    return [InstanceRow(*row) for row in rows]


def put_off(tx: Transaction, ids: Sequence[int], seconds: float | None) -> None:
    """Put the timeouts of locked instances off.

    :param seconds: from now; None: they have none.
    """
    if ids:
        deadline = None if seconds is None else tx.now + seconds
        query = update(instance).where(among(tx, instance.c.id, ids))
        tx.execute(query.values(deadline_at=deadline))


def list_instances(
    tx: Transaction, machine: str, state: str | None, after: str, limit: int
) -> list[InstanceRow]:
    """Instances by key."""
    query = _instances(tx, machine).where(instance.c.key > after)
    if state is not None:
        query = query.where(instance.c.state == state)
    rows: Any = tx.execute(query.order_by(instance.c.key).limit(limit))
    return [InstanceRow(*row) for row in rows]


def move_instances(
    tx: Transaction, rows: Sequence[Mapping[str, Any]], version: int, *, step: int = 1
) -> None:
    """Move instances, each from the epoch that was read.

    :param rows: id, epoch, state, payloads, and timeout: seconds, or None.
    :param step: what is added to the epoch; 0: they only change their version.
    :raises StaleLock: one of them was moved since.
    """
    by_timeout: dict[float | None, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_timeout.setdefault(row["timeout"], []).append(row)
    for timeout, same in by_timeout.items():
        values = [
            {name: row[name] for name in ("id", "epoch", "state", "payloads")} for row in same
        ]
        found = update_rows(
            tx,
            instance,
            ("id", "epoch"),
            values,
            by_json=True,
            epoch=instance.c.epoch + step,
            version=version,
            deadline_at=None if timeout is None else tx.now + timeout,
            updated_at=tx.now,
        )
        if found != len(same):
            raise StaleLock(f"{len(same)} instances to move, {found} found as they were")


def insert_moves(
    tx: Transaction,
    machine: str,
    version: int,
    token: str,
    rows: Sequence[Mapping[str, Any]],
    engine_id: int | None,
) -> None:
    """Insert moves: instance_id, number, event, source, target, payload, payloads; those with an
    action have the status PENDING.

    :param engine_id: who works on the actions; None: whoever takes them.
    """
    for pending in (True, False):
        part = [row for row in rows if (row["status"] == "PENDING") is pending]
        insert_rows(
            tx,
            move,
            part,
            by_json=True,
            machine=machine,
            version=version,
            token=token,
            at=tx.now,
            attempts=0,
            next_at=tx.now if pending else None,
            engine_id=engine_id if pending else None,
            epoch=int(pending and engine_id is not None),
        )


def is_made(tx: Transaction, instance_id: int, number: int, token: str) -> bool:
    """Whether the transaction with this token made a move."""
    query = select(move.c.number).where(
        move.c.instance_id == instance_id, move.c.number == number, move.c.token == token
    )
    return tx.execute(query).first() is not None


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
        move.c.epoch,
        move.c.engine_id,
        move.c.version,
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


def _is_due(tx: Transaction, machine: str) -> ColumnElement[bool]:
    """Whether the action of a move is to be called now, and nobody who lives is at it."""
    held = (
        select(engine.c.id)
        .where(
            engine.c.id == move.c.engine_id, engine.c.state == ALIVE, engine.c.expires_at > tx.now
        )
        .exists()
    )
    return and_(
        move.c.machine == machine, move.c.next_at.is_not(None), move.c.next_at <= tx.now, ~held
    )


def list_due_versions(tx: Transaction, machine: str) -> list[int]:
    """The versions of moves whose action is to be called now."""
    query = select(move.c.version).where(_is_due(tx, machine)).distinct()
    return sorted(tx.execute(query).scalars())


def claim_actions(
    tx: Transaction, machine: str, versions: Sequence[int], engine_id: int, limit: int
) -> list[MoveRow]:
    """Take actions that are to be called now, the oldest first; those that another sweeper takes
    are passed over.

    :param versions: only of moves by these versions.
    """
    query: Any = (
        select(move.c.instance_id, move.c.number)
        .where(_is_due(tx, machine), move.c.version.in_(list(versions)))
        .order_by(move.c.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    keys = sorted(tuple(row) for row in tx.execute(query))
    if not keys:
        return []
    update_rows(
        tx,
        move,
        ("instance_id", "number"),
        [{"instance_id": first, "number": second} for first, second in keys],
        by_json=True,
        engine_id=engine_id,
        epoch=move.c.epoch + 1,
        # one that kills who calls it comes after the others the next time
        next_at=tx.now,
    )
    found = _moves().where(
        among(tx, move.c.instance_id, (first for first, _ in keys)), move.c.engine_id == engine_id
    )
    wanted = set(keys)
    rows: Any = tx.execute(found.order_by(move.c.at, move.c.instance_id, move.c.number))
    return [
        one for row in rows if (one := MoveRow(*row)) and (one.instance_id, one.number) in wanted
    ]


def hold_action(tx: Transaction, instance_id: int, number: int, engine_id: int, epoch: int) -> None:
    """Keep others from taking an action over until the transaction ends.

    :raises StaleLock: the engine has not got it any more.
    """
    query = select(move.c.number).where(*_is_held(instance_id, number, engine_id, epoch))
    if tx.execute(query.with_for_update(read=True)).first() is None:
        raise StaleLock("the action is not this caller's any more")


def _is_held(
    instance_id: int, number: int, engine_id: int, epoch: int
) -> list[ColumnElement[bool]]:
    return [
        move.c.instance_id == instance_id,
        move.c.number == number,
        move.c.engine_id == engine_id,
        move.c.epoch == epoch,
        move.c.next_at.is_not(None),
    ]


def end_action(
    tx: Transaction,
    instance_id: int,
    number: int,
    engine_id: int,
    epoch: int,
    status: str,
    *,
    wait: float | None = None,
    reason: str | None = None,
) -> bool:
    """Note what became of an action, and let go of it. False: the engine had it no more.

    :param status: DONE, FAILED, or PENDING for another attempt.
    :param wait: seconds until that.
    """
    done = tx.execute(
        update(move)
        .where(*_is_held(instance_id, number, engine_id, epoch))
        .values(
            status=status,
            attempts=move.c.attempts + 1,
            next_at=None if wait is None else tx.now + wait,
            engine_id=None,
            reason=None if reason is None else text(reason),
        )
    )
    return done.rowcount == 1


def release_actions(tx: Transaction, engine_id: int, keys: Sequence[tuple[int, int, int]]) -> None:
    """Let go of actions that were not called, for anybody to take.

    :param keys: instance, number and epoch of each.
    """
    update_rows(
        tx,
        move,
        ("instance_id", "number", "epoch"),
        [{"instance_id": one, "number": number, "epoch": epoch} for one, number, epoch in keys],
        move.c.engine_id == engine_id,
        by_json=True,
        engine_id=None,
    )


def list_held(tx: Transaction, ids: Sequence[int], engine_id: int) -> list[tuple[int, int, int]]:
    """Instance, number and epoch of those actions of these instances that an engine has."""
    query = select(move.c.instance_id, move.c.number, move.c.epoch).where(
        among(tx, move.c.instance_id, ids), move.c.engine_id == engine_id
    )
    return [(row.instance_id, row.number, row.epoch) for row in tx.execute(query)]


def list_begun(tx: Transaction, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Instance and number of moves whose action was begun, and is not over."""
    query = select(move.c.instance_id, move.c.number).where(
        among(tx, move.c.instance_id, ids), move.c.next_at.is_not(None), move.c.epoch > 0
    )
    return [(row.instance_id, row.number) for row in tx.execute(query)]


def has_instances(tx: Transaction, ids: Sequence[int]) -> bool:
    """Whether any of these is there."""
    query = select(instance.c.id).where(among(tx, instance.c.id, ids)).limit(1)
    return bool(ids) and tx.execute(query).first() is not None


def delete_instances(tx: Transaction, ids: Sequence[int]) -> None:
    """Delete instances with their moves."""
    if ids:
        tx.execute(delete(move).where(among(tx, move.c.instance_id, ids)))
        tx.execute(delete(instance).where(among(tx, instance.c.id, ids)))
