"""Moves of machines' instances, and their actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    Integer,
    String,
    Update,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    null,
    select,
    update,
)

from converge.errors import StaleLock
from converge.model import SUSPECT_DEATHS
from converge.sql.batch import InsertMany, UpdateMany, among, types_of
from converge.sql.compiled import Compiled
from converge.sql.engines import engine_has_lease, find_alive
from converge.sql.schema import instance, move
from converge.sql.transaction import Transaction
from converge.sql.types import ID, fit_text

#: When an action that FAILED is tried again: never. So it stays in the index of actions that are
#: not over, where a person finds it.
NEVER = 1e15
#: Subtracted from the time of a move whose action is no retry. So the action is due at once, even
#: if the clock is set back, and the oldest move comes first.
AT_ONCE = 1e10


@dataclass(frozen=True, slots=True)
class MoveRow:
    """A move as it is in the database.

    :ivar version: of the definition that made it.
    :ivar status: of its action: NONE, PENDING, DONE or FAILED.
    :ivar engine_id: the process that has taken the action; it may be dead.
    :ivar epoch: how often the action was taken.
    :ivar deaths: how many processes died that had taken it.
    :ivar token: a random text of the transaction that made it.
    :ivar mark: a random number of the process that took the action last.
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
    deaths: int
    version: int
    reason: str | None
    token: str
    mark: int


_GIVEN = ("instance_id", "number", "event", "source", "target", "payload", "payloads", "status")
_INSERT = InsertMany(
    move,
    {
        **types_of(move, *_GIVEN, "engine_id", "epoch", "mark"),
        "delay": Double(),
    },
    lambda row, now: {
        **{name: value for name, value in row.items() if name != "delay"},
        "machine": bindparam("of_machine", type_=String()),
        "version": bindparam("of_version", type_=Integer()),
        "token": bindparam("of_transaction", type_=String()),
        "at": now,
        "attempts": literal_column("0", Integer()),
        "deaths": literal_column("0", Integer()),
        # NULL if there is no action
        "next_at": now + row["delay"],
    },
)


def insert_moves(
    tx: Transaction,
    machine: str,
    version: int,
    token: str,
    rows: Sequence[Mapping[str, Any]],
    engine_id: int | None,
    mark: int = 0,
) -> None:
    """Insert moves: instance_id, number, event, source, target, payload, payloads, status. A move
    with an action has the status PENDING.

    :param engine_id: the process that works on the actions; None: any process takes them.
    :param mark: a random number of that process.
    """
    given = {"of_machine": machine, "of_version": version, "of_transaction": token}
    made = []
    for row in rows:
        pending = row["status"] == "PENDING"
        held = pending and engine_id is not None
        action = {
            "delay": -AT_ONCE if pending else None,
            "engine_id": engine_id if held else None,
            "epoch": int(held),
            "mark": mark if held else 0,
        }
        made.append({**row, **action})
    _INSERT.execute(tx, made, **given)


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
        move.c.deaths,
        move.c.version,
        move.c.reason,
        move.c.token,
        move.c.mark,
    ).join_from(move, instance, instance.c.id == move.c.instance_id)


def get_move(tx: Transaction, instance_id: int, number: int) -> MoveRow | None:
    """One move."""
    query = _moves().where(move.c.instance_id == instance_id, move.c.number == number)
    row: Any = tx.execute(query).first()
    return None if row is None else MoveRow(*row)


def list_moves(tx: Transaction, instance_id: int, after: int, limit: int) -> list[MoveRow]:
    """The moves of an instance, by number."""
    query = _moves().where(move.c.instance_id == instance_id, move.c.number > after)
    rows: Any = tx.execute(query.order_by(move.c.number).limit(limit))
    return [MoveRow(*row) for row in rows]


def _is_due(tx: Transaction, machine: str) -> ColumnElement[bool]:
    """Whether the action of a move is due, and no living process has taken it."""
    return and_(
        move.c.machine == machine,
        move.c.next_at.is_not(None),
        move.c.next_at <= tx.now,
        ~engine_has_lease(tx, move.c.engine_id),
    )


def list_due_versions(tx: Transaction, machine: str) -> list[int]:
    """The versions of moves whose action is due."""
    query = select(move.c.version).where(_is_due(tx, machine)).distinct()
    return sorted(tx.execute(query).scalars())


def _at_once(now: ColumnElement[Any]) -> ColumnElement[Any]:
    return now - literal_column(f"{AT_ONCE:.0f}", Double())


_TAKE = UpdateMany(
    move,
    ("instance_id", "number"),
    {"deaths": Integer()},
    lambda row, now: {
        "deaths": row["deaths"],
        "engine_id": bindparam("taker", type_=ID),
        "epoch": move.c.epoch + 1,
        "mark": bindparam("of_taker", type_=ID),
        # an action that kills its process comes after the others the next time
        "next_at": _at_once(now),
    },
)


def claim_actions(
    tx: Transaction,
    machine: str,
    versions: Sequence[int],
    engine_id: int,
    limit: int,
    mark: int,
) -> list[MoveRow]:
    """Take actions that are due, the oldest first. Of the suspects (see
    :data:`~converge.model.SUSPECT_DEATHS`) only one is taken, and it comes last. Those that
    another sweeper is taking are skipped.

    :param versions: only actions of moves by these versions.
    :param limit: the most actions.
    :param mark: a random number of the process that takes them.
    """
    # the last holder died, too: it did not release the action
    deaths = move.c.deaths + case((move.c.engine_id.is_not(None), 1), else_=0)
    query = (
        select(move.c.instance_id, move.c.number, deaths.label("deaths"), move.c.engine_id)
        .where(_is_due(tx, machine), move.c.version.in_(list(versions)))
        .order_by(move.c.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows: Any = tx.execute(query).all()
    # a process may have registered, and taken some, since the statement began
    living = find_alive(tx, (row.engine_id for row in rows))
    found = [row for row in rows if row.engine_id not in living]
    suspects = [row for row in found if row.deaths >= SUSPECT_DEATHS]
    taken = [row for row in found if row.deaths < SUSPECT_DEATHS] + suspects[:1]
    if not taken:
        return []
    _TAKE.execute(tx, [row._asdict() for row in sorted(taken)], taker=engine_id, of_taker=mark)
    whole = _moves().where(
        among(tx, move.c.instance_id, (row.instance_id for row in taken)),
        move.c.engine_id == engine_id,
    )
    rows = tx.execute(whole)
    by_key = {(row.instance_id, row.number): MoveRow(*row) for row in rows}
    return [by_key[row.instance_id, row.number] for row in taken]


#: The lock on an action: instance and number of its move, engine, epoch and mark.
Lock = tuple[int, int, int, int, int]
_LOCK = ("instance_id", "number", "engine_id", "epoch", "mark")


def _is_held() -> list[ColumnElement[bool]]:
    """The conditions that an action has the lock of the parameters, and is not over."""
    lock = [move.c[name] == bindparam(f"held_{name}", type_=move.c[name].type) for name in _LOCK]
    return [*lock, move.c.next_at.is_not(None)]


def _lock_parameters(lock: Lock) -> dict[str, Any]:
    return {f"held_{name}": value for name, value in zip(_LOCK, lock, strict=True)}


_HOLD = Compiled(
    lambda now, dialect: select(move.c.number).where(*_is_held()).with_for_update(read=True)
)


def hold_action(tx: Transaction, lock: Lock) -> None:
    """Keep other processes from taking an action over until the transaction ends.

    :raises StaleLock: it no longer has this lock.
    """
    if _HOLD.execute(tx, _lock_parameters(lock)).first() is None:
        raise StaleLock("the action is no longer held by this caller")


def _make_end(now: ColumnElement[Any], dialect: str) -> Update:
    # NULL if neither is given: it is over
    due: ColumnElement[Any] = func.coalesce(
        bindparam("due_at", type_=Double()), now + bindparam("wait", type_=Double())
    )
    return (
        update(move)
        .where(*_is_held())
        .values(
            status=bindparam("new_status", type_=String()),
            attempts=move.c.attempts + 1,
            next_at=due,
            engine_id=null(),
            reason=bindparam("new_reason", type_=String()),
        )
    )


_END = Compiled(_make_end)


def end_action(
    tx: Transaction,
    lock: Lock,
    status: str,
    *,
    wait: float | None = None,
    reason: str | None = None,
) -> bool:
    """Note the outcome of an action, and release it. False: it no longer has this lock.

    :param status: DONE, FAILED, or PENDING for another attempt.
    :param wait: seconds until that attempt.
    """
    values = {
        "new_status": status,
        "due_at": NEVER if status == "FAILED" else None,
        "wait": wait,
        "new_reason": None if reason is None else fit_text(reason),
    }
    return _END.execute(tx, {**_lock_parameters(lock), **values}).rowcount == 1


_HAND_BACK = Compiled(
    lambda now, dialect: (
        update(move)
        .where(*_is_held())
        .values(
            engine_id=null(),
            next_at=case(
                (bindparam("wait", type_=Double()) > 0, now + bindparam("wait", type_=Double())),
                else_=move.c.next_at,
            ),
        )
    )
)


def hand_back(tx: Transaction, lock: Lock, wait: float) -> None:
    """Release an action that was called, without counting the attempt.

    :param wait: seconds until it is called again.
    """
    _HAND_BACK.execute(tx, {**_lock_parameters(lock), "wait": wait})


_RELEASE = UpdateMany(move, _LOCK, {}, lambda row, now: {"engine_id": null()})


def release_actions(tx: Transaction, locks: Sequence[Lock]) -> None:
    """Release actions that were not called, so that any process can take them."""
    held = [dict(zip(_LOCK, lock, strict=True)) for lock in locks]
    _RELEASE.execute(tx, held)


def list_locks(tx: Transaction, ids: Sequence[int]) -> set[Lock]:
    """The locks on actions of these instances."""
    query = select(*(move.c[name] for name in _LOCK)).where(
        among(tx, move.c.instance_id, ids), move.c.engine_id.is_not(None)
    )
    rows: Any = tx.execute(query)
    return {tuple(row) for row in rows}


def list_held(tx: Transaction, engine_id: int) -> list[Lock]:
    """The locks on actions that a process holds."""
    query = select(*(move.c[name] for name in _LOCK)).where(move.c.engine_id == engine_id)
    rows: Any = tx.execute(query)
    return [tuple(row) for row in rows]


#: Instance, number and token of a move.
Key = tuple[int, int, str]


def list_begun(tx: Transaction, ids: Sequence[int]) -> list[Key]:
    """The moves of these instances whose action was begun, and is not DONE."""
    # written so that the primary key serves it, not the index of due actions
    not_done = func.coalesce(move.c.next_at, 0) != 0
    query = select(move.c.instance_id, move.c.number, move.c.token).where(
        among(tx, move.c.instance_id, ids), not_done, move.c.epoch > 0
    )
    rows: Any = tx.execute(query)
    return [tuple(row) for row in rows]


def list_failed(tx: Transaction, machine: str, limit: int) -> list[MoveRow]:
    """The moves of a machine whose action FAILED."""
    query = _moves().where(move.c.machine == machine, move.c.next_at == NEVER)
    rows: Any = tx.execute(query.order_by(instance.c.key, move.c.number).limit(limit))
    return [MoveRow(*row) for row in rows]


def list_failed_of(tx: Transaction, ids: Sequence[int]) -> list[Key]:
    """The moves of these instances whose action FAILED, locked."""
    query = select(move.c.instance_id, move.c.number, move.c.token).where(
        among(tx, move.c.instance_id, ids), move.c.status == "FAILED"
    )
    rows: Any = tx.execute(query.with_for_update()) if ids else ()
    return [tuple(row) for row in rows]


_RETRY = UpdateMany(
    move,
    ("instance_id", "number"),
    {},
    lambda row, now: {
        "status": literal_column("'PENDING'", String()),
        "attempts": literal_column("0", Integer()),
        "deaths": literal_column("0", Integer()),
        "next_at": _at_once(now),
        "reason": null(),
    },
)


def retry_actions(tx: Transaction, ids: Sequence[int]) -> list[Key]:
    """Make actions of these instances that FAILED due again, as if for the first time.

    :returns: their moves.
    """
    keys = list_failed_of(tx, ids)
    _RETRY.execute(tx, [{"instance_id": one, "number": number} for one, number, _ in keys])
    return keys
