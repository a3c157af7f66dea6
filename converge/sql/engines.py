"""Engines and their leases. The only clock is the database's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from converge import formats
from converge.model import ENGINE_MOVES, EngineState, sources_of
from converge.sql.batch import among
from converge.sql.compiled import Compiled
from converge.sql.schema import engine
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text

#: Roles: an engine works on nodes; other processes only hold scopes of the journal, or actions.
ENGINE = "engine"
JOURNAL = "journal"

ALIVE = EngineState.ALIVE
STOPPED = EngineState.STOPPED
DEAD = EngineState.DEAD

#: Seconds for which the row of an engine that ended is kept.
KEPT = 86_400.0


@dataclass(frozen=True, slots=True)
class EngineRow:
    """An engine as it is in the database."""

    id: int
    host: str
    pid: int
    process: str
    role: str
    state: str
    lease: float
    started_at: float
    expires_at: float
    types: list[str] | None
    queues: list[str] | None
    format: int


_COLUMNS = [engine.c[name] for name in EngineRow.__dataclass_fields__]


def _row(row: Any) -> EngineRow:
    return EngineRow(*row)


def insert_engine(
    tx: Transaction,
    host: str,
    pid: int,
    process: str,
    lease: float,
    role: str = ENGINE,
    *,
    mark: int = 0,
    types: Iterable[str] | None = None,
    queues: Iterable[str] | None = None,
) -> int:
    """Register an engine and return its id.

    :param types: the names of its resource types.
    :param queues: the names of the queues that it serves.
    :param role: what it does.
    :param lease: seconds for which it counts as alive without a renewal.
    :param mark: a random number of this registration.
    """
    key = tx.execute(
        insert(engine).values(
            host=fit_text(host, 255),
            pid=pid,
            process=fit_text(process, 255),
            role=role,
            state=ALIVE,
            lease=lease,
            started_at=tx.now,
            expires_at=tx.now + lease,
            mark=mark,
            types=None if types is None else sorted(types),
            queues=None if queues is None else sorted(queues),
            format=formats.KNOWN,
        )
    ).inserted_primary_key
    assert key is not None
    return int(key[0])


def renew_lease(tx: Transaction, engine_id: int, mark: int) -> bool:
    """Renew the lease. False: it has ended, and the engine must take a new id.

    :param mark: of its registration. After a restore of an older copy of the database, another
        engine can have the same id.
    """
    done = tx.execute(
        update(engine)
        .where(
            engine.c.id == engine_id,
            engine.c.mark == mark,
            has_lease(tx.now),
        )
        .values(expires_at=tx.now + engine.c.lease)
    )
    return done.rowcount == 1


def end_engine(
    tx: Transaction, engine_id: int, state: EngineState, *, mark: int | None = None
) -> bool:
    """Note that an engine stopped or died. False: that was noted before.

    :param mark: end it only if it has this mark, so that an engine ends only itself.
    """
    query = update(engine).where(
        engine.c.id == engine_id, engine.c.state.in_(sources_of(ENGINE_MOVES, state))
    )
    if mark is not None:
        query = query.where(engine.c.mark == mark)
    return tx.execute(query.values(state=state)).rowcount == 1


def is_registered(tx: Transaction, engine_id: int, mark: int) -> bool:
    """Whether there is an engine with this id and mark, alive or not."""
    query = select(engine.c.id).where(engine.c.id == engine_id, engine.c.mark == mark)
    return tx.execute(query).first() is not None


def lock_engine(tx: Transaction, engine_id: int, mark: int) -> bool:
    """Lock the row of an engine until the transaction ends. False: the id is another engine's."""
    query = select(engine.c.id).where(engine.c.id == engine_id, engine.c.mark == mark)
    return tx.execute(query.with_for_update()).first() is not None


def has_lease(now: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that the lease of an engine's row has not ended."""
    # a literal, so that the servers see that the index serves it
    return and_(
        engine.c.state == literal_column(f"'{ALIVE}'"),
        engine.c.expires_at > now,
    )


def engine_has_lease(
    tx: Transaction, engine_id: Any, mark: int | None = None
) -> ColumnElement[bool]:
    """The condition that an engine has a lease.

    :param engine_id: its id, or a column with it.
    :param mark: that it must have, if an engine asks about itself: another engine can have its id
        by now.
    """
    alive = select_if_leased(tx.now, engine_id)
    if mark is not None:
        alive = alive.where(engine.c.mark == mark)
    return alive.exists()


def select_if_leased(now: ColumnElement[Any], engine_id: Any) -> Select[Any]:
    """The id of an engine, if it has a lease.

    :param engine_id: its id, or a column with it.
    """
    return select(engine.c.id).where(engine.c.id == engine_id, has_lease(now))


_IS_ALIVE = Compiled(
    lambda now, dialect: select(
        select_if_leased(now, bindparam("id", type_=engine.c.id.type)).exists()
    )
)


_IS_MINE = Compiled(
    lambda now, dialect: select(
        select_if_leased(now, bindparam("id", type_=engine.c.id.type))
        .where(engine.c.mark == bindparam("mark", type_=engine.c.mark.type))
        .exists()
    )
)


def is_alive(tx: Transaction, engine_id: int, mark: int | None = None) -> bool:
    """Whether an engine has a lease.

    :param mark: that it must have.
    """
    if mark is None:
        return bool(_IS_ALIVE.execute(tx, {"id": engine_id}).scalar())
    return bool(_IS_MINE.execute(tx, {"id": engine_id, "mark": mark}).scalar())


def find_alive(tx: Transaction, ids: Iterable[int | None]) -> set[int]:
    """Those of these engines that have a lease.

    Use it after the statement that locked a row, to find out whether its holder is alive. The
    statement that locks sees the row as it is now, but the engines as they were when it began.
    """
    wanted = sorted({one for one in ids if one is not None})
    if not wanted:
        return set()
    query = select(engine.c.id).where(among(tx, engine.c.id, wanted), has_lease(tx.now))
    return set(tx.execute(query).scalars())


def list_engines(tx: Transaction, states: Iterable[str] = (ALIVE,)) -> list[EngineRow]:
    """The engines in these states, by id."""
    query = select(*_COLUMNS).where(engine.c.state.in_(list(states))).order_by(engine.c.id)
    return [_row(row) for row in tx.execute(query)]


def list_alive(tx: Transaction) -> list[EngineRow]:
    """The engines that have a lease, by id."""
    query = select(*_COLUMNS).where(has_lease(tx.now))
    return [_row(row) for row in tx.execute(query.order_by(engine.c.id))]


def count_alive(tx: Transaction) -> int:
    """How many engines have a lease."""
    query = select(func.count()).select_from(engine).where(has_lease(tx.now))
    return int(tx.execute(query).scalar_one())


def get_engines(tx: Transaction, ids: Iterable[int]) -> dict[int, EngineRow]:
    """Engines by id."""
    query = select(*_COLUMNS).where(engine.c.id.in_(sorted(set(ids))))
    return {row.id: _row(row) for row in tx.execute(query)}


def list_expired(tx: Transaction, limit: int) -> list[int]:
    """Engines whose lease has ended."""
    query = select(engine.c.id).where(engine.c.state == ALIVE, engine.c.expires_at <= tx.now)
    return list(tx.execute(query.order_by(engine.c.id).limit(limit)).scalars())


def lock_expired(tx: Transaction, engine_id: int) -> bool:
    """Lock an engine whose lease has ended. False: it has not ended, or another sweeper has it.

    It is looked for by its key only: for a range, InnoDB would also lock the next engine, which is
    alive.
    """
    query: Any = (
        select(engine.c.state == ALIVE, engine.c.expires_at <= tx.now)
        .where(engine.c.id == engine_id)
        .with_for_update(skip_locked=True)
    )
    found = tx.execute(query).one_or_none()
    return found is not None and all(found)


def expire_lease(tx: Transaction, engine_id: int) -> None:
    """End the lease of an engine that is known to be dead."""
    tx.execute(
        update(engine)
        .where(engine.c.id == engine_id, engine.c.state == ALIVE)
        .values(expires_at=tx.now)
    )


def delete_old_owners(tx: Transaction, age: float = KEPT) -> int:
    """Delete the rows of owners of scopes and actions whose lease ended some time ago. Where no
    engine runs, nothing else notes that they are dead.

    :param age: seconds since the end of the lease.
    :returns: how many were deleted.
    """
    old = delete(engine).where(engine.c.role == JOURNAL, engine.c.expires_at < tx.now - age)
    return int(tx.execute(old).rowcount)


def delete_old_engines(tx: Transaction, age: float = KEPT) -> int:
    """Delete the rows of engines that stopped or died some time ago.

    :param age: seconds since the end of the lease.
    :returns: how many were deleted.
    """
    done = tx.execute(
        delete(engine).where(
            engine.c.state.in_((STOPPED, DEAD)), engine.c.expires_at < tx.now - age
        )
    )
    return int(done.rowcount)
