"""Instances of machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Double,
    Integer,
    Select,
    String,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)

from converge.canonical import dump
from converge.errors import Conflict, StaleLock
from converge.sql.batch import CHUNK, InsertMany, UpdateMany, Values, among
from converge.sql.compiled import Compiled
from converge.sql.faults import duplicate_errors
from converge.sql.schema import instance, move
from converge.sql.transaction import Transaction
from converge.sql.types import NAME, LongText


@dataclass(slots=True)
class InstanceRow:
    """An instance as it is in the database.

    :ivar payloads: the last payload of each event, as JSON text.
    :ivar left: seconds until its timeout; None if it has none.
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


def _instances(now: ColumnElement[Any]) -> Select[Any]:
    return select(
        instance.c.id,
        instance.c.key,
        instance.c.version,
        instance.c.state,
        instance.c.epoch,
        instance.c.payloads,
        (instance.c.deadline_at - now).label("left"),
        instance.c.created_at,
        instance.c.updated_at,
    )


def _new(row: Values, now: ColumnElement[Any]) -> dict[str, Any]:
    return {
        "machine": bindparam("of_machine", type_=String()),
        "key": row["key"],
        "version": bindparam("of_version", type_=Integer()),
        "state": bindparam("initial", type_=String()),
        "epoch": literal_column("0", Integer()),
        "payloads": literal_column("'{}'", Text()),
        # NULL if there is none
        "deadline_at": now + bindparam("timeout", type_=Double()),
        "created_at": now,
        "updated_at": now,
    }


_INSERT = InsertMany(instance, {"key": NAME}, _new)
_INSERT_NEW = InsertMany(instance, {"key": NAME}, _new, skip_existing=True)


def insert_instances(
    tx: Transaction,
    machine: str,
    keys: Sequence[str],
    *,
    version: int,
    state: str,
    timeout: float | None,
    skip_existing: bool = False,
) -> None:
    """Insert new instances.

    :param timeout: seconds until the timeout of their state.
    :param skip_existing: skip those that exist already.
    :raises Conflict: one of them exists already.
    """
    rows = [{"key": key} for key in keys]
    given = {
        "of_machine": machine,
        "of_version": version,
        "initial": state,
        "timeout": timeout,
    }
    if skip_existing:
        _INSERT_NEW.execute(tx, rows, **given)
        return
    try:
        # a savepoint keeps the host's transaction usable
        with tx.connection.begin_nested():
            _INSERT.execute(tx, rows, **given)
    except duplicate_errors() as error:
        raise Conflict(f"machine {machine!r} has an instance of one of these keys") from error


def _make_get(now: ColumnElement[Any], dialect: str) -> Select[Any]:
    return _instances(now).where(
        instance.c.machine == bindparam("of_machine", type_=String()),
        instance.c.key == bindparam("only", type_=String()),
    )


def _make_lock_many(now: ColumnElement[Any], dialect: str) -> Select[Any]:
    listed = func.json_array_elements_text(cast(bindparam("keys", type_=Text()), JSON))
    wanted = listed.table_valued("value", name="listed", joins_implicitly=True)
    # one lookup in the index for each key: without statistics, the server would read all instances
    # of the machine
    found = (
        _instances(now)
        .where(
            instance.c.machine == bindparam("of_machine", type_=String()),
            instance.c.key == wanted.c.value,
        )
        .with_for_update()
        .lateral("found")
    )
    return select(found).select_from(wanted.join(found, true()))


_GET = Compiled(_make_get)
_LOCK = Compiled(lambda now, dialect: _make_get(now, dialect).with_for_update())
_LOCK_MANY = Compiled(_make_lock_many)


def get_instance(tx: Transaction, machine: str, key: str) -> InstanceRow | None:
    """An instance."""
    row: Any = _GET.execute(tx, {"of_machine": machine, "only": key}).first()
    return None if row is None else InstanceRow(*row)


def lock_instances(tx: Transaction, machine: str, keys: Iterable[str]) -> dict[str, InstanceRow]:
    """Lock instances in the order of their keys, and return those that exist, by key."""
    wanted = sorted(set(keys))
    rows: Any
    if len(wanted) == 1:
        rows = _LOCK.execute(tx, {"of_machine": machine, "only": wanted[0]})
    elif tx.dialect == "postgresql":
        # its driver parses a statement of many parameters again each time
        rows = _LOCK_MANY.execute(tx, {"of_machine": machine, "keys": dump(wanted)})
    else:
        rows = []
        for start in range(0, len(wanted), CHUNK):
            part = instance.c.key.in_(wanted[start : start + CHUNK])
            query = _instances(tx.now).where(instance.c.machine == machine, part)
            rows += tx.execute(query.order_by(instance.c.key).with_for_update())
    return {row[1]: InstanceRow(*row) for row in rows}


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
    """Lock instances whose timeout has passed; skip those that another sweeper has locked.

    :param versions: only instances of these versions.
    """
    query = (
        _instances(tx.now)
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
        _instances(tx.now)
        .where(
            instance.c.machine == machine,
            instance.c.key > after,
            instance.c.version < version,
        )
        .order_by(instance.c.key)
        .limit(limit)
    )
    rows: Any = tx.execute(query.with_for_update())
    return [InstanceRow(*row) for row in rows]


def postpone_timeouts(tx: Transaction, ids: Sequence[int], seconds: float | None) -> None:
    """Postpone the timeouts of locked instances.

    :param seconds: from now; None: remove the timeouts.
    """
    if ids:
        deadline = None if seconds is None else tx.now + seconds
        query = update(instance).where(among(tx, instance.c.id, ids))
        tx.execute(query.values(deadline_at=deadline))


def list_instances(
    tx: Transaction, machine: str, state: str | None, after: str, limit: int
) -> list[InstanceRow]:
    """Instances by key."""
    query = _instances(tx.now).where(instance.c.machine == machine, instance.c.key > after)
    if state is not None:
        query = query.where(instance.c.state == state)
    rows: Any = tx.execute(query.order_by(instance.c.key).limit(limit))
    return [InstanceRow(*row) for row in rows]


_MOVE = UpdateMany(
    instance,
    ("id", "epoch"),
    {"state": NAME, "payloads": LongText(), "timeout": Double()},
    lambda row, now: {
        "state": row["state"],
        "payloads": row["payloads"],
        "epoch": instance.c.epoch + bindparam("step", type_=Integer()),
        "version": bindparam("new_version", type_=Integer()),
        # NULL if there is none
        "deadline_at": now + row["timeout"],
        "updated_at": now,
    },
)


def move_instances(
    tx: Transaction, rows: Sequence[Mapping[str, Any]], version: int, *, step: int = 1
) -> None:
    """Move instances, each from the epoch that was read.

    :param rows: id, epoch, state, payloads, and timeout in seconds or None.
    :param step: what is added to the epoch; 0: only the version changes.
    :raises StaleLock: one of them was moved since.
    """
    found = _MOVE.execute(tx, rows, new_version=version, step=step)
    if found != len(rows):
        raise StaleLock(f"{len(rows)} instances to move, {found} found unchanged")


def list_names(tx: Transaction) -> list[str]:
    """The machines that have instances, by name."""
    # one lookup in the index for each
    names: list[str] = []
    last = ""
    while True:
        query = select(instance.c.machine).where(instance.c.machine > last)
        found = tx.execute(query.order_by(instance.c.machine).limit(1)).scalar()
        if found is None:
            return names
        names.append(last := found)


def list_at_rest(
    tx: Transaction,
    machine: str,
    states: Mapping[int | None, Sequence[str]],
    age: float,
    after: int,
    limit: int,
) -> list[int]:
    """Instances that have been in one of these states for some time, without a timeout and without
    an action that is not DONE; by id.

    :param states: the states of each version; the key None: of any version.
    :param age: seconds in the state.
    :param after: only instances with a higher id.
    """
    unfinished = select(move.c.number).where(
        move.c.instance_id == instance.c.id, move.c.next_at.is_not(None)
    )
    query = select(instance.c.id).where(
        instance.c.machine == machine,
        instance.c.id > after,
        or_(
            *(
                and_(
                    true() if version is None else instance.c.version == version,
                    instance.c.state.in_(sorted(names)),
                )
                for version, names in states.items()
            )
        ),
        instance.c.updated_at <= tx.now - age,
        instance.c.deadline_at.is_(None),
        ~unfinished.exists(),
    )
    query = query.order_by(instance.c.id).limit(limit)
    return list(tx.execute(query.with_for_update(skip_locked=True)).scalars())


def has_instances(tx: Transaction, ids: Sequence[int]) -> bool:
    """Whether any of these exists."""
    query = select(instance.c.id).where(among(tx, instance.c.id, ids)).limit(1)
    return bool(ids) and tx.execute(query).first() is not None


def delete_instances(tx: Transaction, ids: Sequence[int]) -> None:
    """Delete instances with their moves."""
    if ids:
        tx.execute(delete(move).where(among(tx, move.c.instance_id, ids)))
        tx.execute(delete(instance).where(among(tx, instance.c.id, ids)))
