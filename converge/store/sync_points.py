"""Sync points: what each node waits for, its state, who works on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Text,
    and_,
    delete,
    func,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import NullType

from converge.errors import StaleLock
from converge.model import SYNC_POINT_MOVES, Json, Kind, State, check_move
from converge.store.bulk import CHUNK, among, insert_rows
from converge.store.database import Transaction
from converge.store.engines import ALIVE
from converge.store.schema import LIVE_STATES, sync_point
from converge.store.schema import engine as engine_table
from converge.store.types import load

#: (traversal, node)
Key = tuple[int, int]

LIVE = (State.WAITING, State.READY, State.RUNNING, State.BLOCKED)


@dataclass(slots=True)
class SyncPointRow:
    """A sync point as it is in the database."""

    traversal_id: int
    node: int
    kind: Kind
    resource_id: int | None
    keep: bool
    state: State
    pending: int
    tainted: bool
    attempts: int
    max_attempts: int | None
    deaths: int
    engine_id: int | None
    epoch: int
    definition: Json
    requires: list[int]
    successors: list[int]

    @property
    def key(self) -> Key:
        """Its primary key."""
        return self.traversal_id, self.node


@dataclass(slots=True)
class NodeState:
    """What the protocol needs to know of a locked node."""

    traversal_id: int
    node: int
    kind: Kind
    state: State
    pending: int
    tainted: bool
    engine_id: int | None
    epoch: int
    successors_text: str

    @property
    def key(self) -> Key:
        """Its primary key."""
        return self.traversal_id, self.node

    @property
    def successors(self) -> list[int]:
        """The nodes that wait for it. Parsed when asked for: most rows are looked at only as
        somebody's successor."""
        numbers: list[int] = load(self.successors_text)
        return numbers


_COLUMNS = [sync_point.c[name] for name in SyncPointRow.__dataclass_fields__]
_STATE_COLUMNS = [
    *(sync_point.c[name] for name in NodeState.__dataclass_fields__ if name in sync_point.c),
    type_coerce(sync_point.c.successors, Text()),
]
# a third of the time of calling the enum
_KINDS: dict[str, Kind] = {kind.value: kind for kind in Kind}
_STATES: dict[str, State] = {state.value: state for state in State}
_ORDER = (sync_point.c.traversal_id, sync_point.c.node)


def _row(row: Any) -> SyncPointRow:
    result = SyncPointRow(*row)
    result.kind = _KINDS[result.kind]
    result.state = _STATES[result.state]
    return result


class _Indexed(ColumnElement[bool]):
    """True of every state that the partial index covers.

    SQLite uses a partial index only for a query that has the index's condition word by word.
    """

    inherit_cache = True
    # without it there is no cache key, and each statement is compiled anew
    _traverse_internals = []  # noqa: RUF012
    # as Boolean it would be rendered as "… = 1" where there are none
    type = NullType()  # type: ignore[assignment]


@compiles(_Indexed)
def _true(element: _Indexed, compiler: Any, **kw: Any) -> str:
    return "1 = 1"


@compiles(_Indexed, "sqlite")
def _index_condition(element: _Indexed, compiler: Any, **kw: Any) -> str:
    return f"{sync_point.name}.{LIVE_STATES}"


_INDEXED = {State.READY, State.RUNNING, State.BLOCKED, State.SUPERSEDED}


def is_in(*states: State) -> ColumnElement[bool]:
    """The condition for these states, as literals: a partial index is of no use to a parameter."""
    literals: list[Any] = [literal_column(f"'{state}'") for state in states]
    condition = sync_point.c.state.in_(literals)
    return and_(condition, _Indexed()) if _INDEXED.issuperset(states) else condition


def _was(state: State) -> ColumnElement[bool]:
    """The condition for a state, in a shape that no index serves: rows that are named by their
    keys must be found by them, not among the thousands in the same state."""
    condition: ColumnElement[bool] = func.coalesce(sync_point.c.state, "") == state
    return condition


def _node_state(row: Any) -> NodeState:
    result = NodeState(*row)
    result.kind = _KINDS[result.kind]
    result.state = _STATES[result.state]
    return result


def _among(tx: Transaction, keys: Iterable[Key]) -> Any:
    """A condition for these primary keys. Row values would keep MariaDB from its index."""
    by_traversal: dict[int, list[int]] = {}
    for traversal_id, node in keys:
        by_traversal.setdefault(traversal_id, []).append(node)
    return or_(
        *(
            and_(sync_point.c.traversal_id == traversal_id, among(tx, sync_point.c.node, nodes))
            for traversal_id, nodes in sorted(by_traversal.items())
        )
    )


def insert_sync_points(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the nodes of a traversal: those without predecessors are READY."""
    now = tx.now
    for ready in (True, False):
        part = [row for row in rows if (row["pending"] == 0) is ready]
        insert_rows(
            tx,
            sync_point,
            part,
            state=State.READY if ready else State.WAITING,
            ready_at=now if ready else None,
            tainted=False,
            attempts=0,
            deaths=0,
            epoch=0,
        )


def lock_ready(
    tx: Transaction, engine_id: int, limit: int, most_deaths: int | None = None
) -> list[SyncPointRow]:
    """Lock READY nodes whose time has come, in the order in which they became ready.

    Rows that another engine is looking at are passed over, not waited for.

    :param engine_id: who asks; there is nothing for an engine whose lease has ended.
    :param most_deaths: only nodes on which no more engines died.
    """
    lives = (
        select(engine_table.c.id)
        .where(
            engine_table.c.id == engine_id,
            engine_table.c.state == ALIVE,
            engine_table.c.expires_at > tx.now,
        )
        .exists()
    )
    query = (
        select(*_COLUMNS)
        .where(is_in(State.READY), sync_point.c.ready_at <= tx.now, lives)
        .order_by(sync_point.c.ready_at, *_ORDER)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if most_deaths is not None:
        query = query.where(sync_point.c.deaths <= most_deaths)
    return [_row(row) for row in tx.execute(query).all()]


def lock_nodes(tx: Transaction, keys: Iterable[Key]) -> dict[Key, NodeState]:
    """Lock these nodes until the transaction ends, in key order."""
    wanted = set(keys)
    if not wanted:
        return {}
    query = select(*_STATE_COLUMNS).where(_among(tx, wanted)).order_by(*_ORDER).with_for_update()
    states = [_node_state(row) for row in tx.execute(query).all()]
    return {state.key: state for state in states}


def lock_traversal_nodes(
    tx: Transaction, traversal_id: int, states: Sequence[State]
) -> list[NodeState]:
    """Lock all nodes of a traversal that are in these states, in key order."""
    query = (
        select(*_STATE_COLUMNS)
        .where(sync_point.c.traversal_id == traversal_id, is_in(*states))
        .order_by(*_ORDER)
        .with_for_update()
    )
    return [_node_state(row) for row in tx.execute(query).all()]


def start_nodes(tx: Transaction, engine_id: int, keys: Sequence[Key]) -> None:
    """READY to RUNNING, for nodes that the transaction has locked."""
    _move(
        tx,
        keys,
        State.READY,
        state=State.RUNNING,
        engine_id=engine_id,
        epoch=sync_point.c.epoch + 1,
        attempts=sync_point.c.attempts + 1,
        claimed_at=tx.now,
    )


def block_nodes(tx: Transaction, keys: Sequence[Key]) -> None:
    """READY to BLOCKED: an older traversal holds the resource."""
    _move(tx, keys, State.READY, state=State.BLOCKED, ready_at=None)


def end_nodes(tx: Transaction, engine_id: int, nodes: Iterable[NodeState], state: State) -> None:
    """RUNNING to an end state, for nodes of this engine that the transaction has locked.

    :raises StaleLock: one of them is not this engine's any more.
    """
    by_epoch: dict[int, list[Key]] = {}
    for node in nodes:
        by_epoch.setdefault(node.epoch, []).append(node.key)
    for epoch, keys in by_epoch.items():
        _move(
            tx,
            keys,
            State.RUNNING,
            sync_point.c.engine_id == engine_id,
            sync_point.c.epoch == epoch,
            state=state,
            engine_id=None,
        )


def requeue_node(
    tx: Transaction,
    engine_id: int,
    node: NodeState,
    wait: float,
    *,
    max_attempts: int | None = None,
    unstarted: bool = False,
) -> None:
    """RUNNING back to READY, to be claimed after some seconds.

    :param max_attempts: after how many attempts it is given up, for who looks.
    :param unstarted: the work was handed back without an attempt.
    """
    _move(
        tx,
        [node.key],
        State.RUNNING,
        sync_point.c.engine_id == engine_id,
        sync_point.c.epoch == node.epoch,
        state=State.READY,
        engine_id=None,
        claimed_at=None,
        ready_at=tx.now + wait,
        attempts=sync_point.c.attempts - (1 if unstarted else 0),
        max_attempts=max_attempts,
    )


def arrive(tx: Transaction, counts: Mapping[Key, int], waiting: Mapping[Key, NodeState]) -> None:
    """Take completed predecessors off their successors' counts; those at zero become READY.

    :param counts: how many predecessors of each node completed in this transaction.
    :param waiting: those nodes, locked by the transaction.
    :raises StaleLock: a node does not wait for so many.
    """
    ready = [key for key, count in counts.items() if waiting[key].pending == count]
    if ready:
        _move(tx, ready, State.WAITING, state=State.READY, pending=0, ready_at=tx.now)
    rest: dict[int, list[Key]] = {}
    for key, count in counts.items():
        if waiting[key].pending != count:
            rest.setdefault(count, []).append(key)
    for count, keys in rest.items():
        _move(
            tx,
            keys,
            State.WAITING,
            sync_point.c.pending > count,
            pending=sync_point.c.pending - count,
        )


def taint(tx: Transaction, keys: Sequence[Key]) -> None:
    """Note that a predecessor of these nodes failed or was skipped."""
    if keys:
        tx.execute(update(sync_point).where(_among(tx, keys)).values(tainted=True))


def skip_nodes(tx: Transaction, keys: Sequence[Key]) -> None:
    """End nodes that have not started."""
    unstarted = (State.WAITING, State.READY, State.BLOCKED)
    for start in range(0, len(keys), CHUNK):
        part = keys[start : start + CHUNK]
        done = tx.execute(
            update(sync_point)
            .where(
                _among(tx, part),
                is_in(*unstarted),
            )
            .values(state=_into(State.SKIPPED, *unstarted), ready_at=None)
        )
        _expect(done.rowcount, len(part))


def lead_to_stack(tx: Transaction, running: Sequence[Key], stack_node: Key) -> None:
    """Make the stack's node wait for nothing but these running nodes.

    An engine that is about to run the stack's node loses it.
    """
    if running:
        done = tx.execute(
            update(sync_point)
            .where(_among(tx, running), is_in(State.RUNNING))
            .values(successors=[stack_node[1]], tainted=True)
        )
        _expect(done.rowcount, len(running))
    state, ready_at = (State.WAITING, None) if running else (State.READY, tx.now)
    tx.execute(
        update(sync_point)
        .where(_among(tx, [stack_node]))
        .values(state=state, ready_at=ready_at, pending=len(running), engine_id=None)
    )


def point_at(tx: Transaction, engine_id: int, node: NodeState, resource_id: int) -> None:
    """Make a running node work on another resource: the replacement.

    :raises StaleLock: it is not this engine's any more.
    """
    _move(
        tx,
        [node.key],
        State.RUNNING,
        sync_point.c.engine_id == engine_id,
        sync_point.c.epoch == node.epoch,
        resource_id=resource_id,
    )


def unblock(tx: Transaction, resource_ids: Sequence[int]) -> int:
    """BLOCKED to READY, for the nodes that wait for these resources."""
    if not resource_ids:
        return 0
    done = tx.execute(
        update(sync_point)
        .where(is_in(State.BLOCKED), among(tx, sync_point.c.resource_id, resource_ids))
        .values(state=_into(State.READY, State.BLOCKED), ready_at=tx.now)
    )
    return int(done.rowcount)


def unblock_nodes(tx: Transaction, keys: Sequence[Key]) -> int:
    """BLOCKED to READY, for those of these nodes that still are."""
    if not keys:
        return 0
    done = tx.execute(
        update(sync_point)
        .where(_among(tx, keys), is_in(State.BLOCKED))
        .values(state=_into(State.READY, State.BLOCKED), ready_at=tx.now)
    )
    return int(done.rowcount)


def supersede_nodes(tx: Transaction, traversal_id: int) -> None:
    """Take a traversal's nodes out of the way of a newer one.

    Those that run become SUPERSEDED, so that what they do is still recorded; the rest go.
    The transaction has locked them with :func:`lock_traversal_nodes`.
    """
    mine = sync_point.c.traversal_id == traversal_id
    tx.execute(
        update(sync_point)
        .where(mine, is_in(State.RUNNING), sync_point.c.kind != Kind.STACK)
        .values(state=_into(State.SUPERSEDED, State.RUNNING))
    )
    tx.execute(delete(sync_point).where(mine, ~is_in(State.SUPERSEDED)))


def delete_nodes(tx: Transaction, keys: Sequence[Key]) -> None:
    """Delete the rows of superseded nodes whose work has been recorded."""
    if keys:
        tx.execute(delete(sync_point).where(_among(tx, keys)))


def delete_traversal_nodes(tx: Transaction, traversal_id: int) -> None:
    """Delete the sync points of a traversal that is over."""
    tx.execute(delete(sync_point).where(sync_point.c.traversal_id == traversal_id))


def list_engine_nodes(
    tx: Transaction, engine_id: int, limit: int, *, skip_locked: bool = False
) -> list[SyncPointRow]:
    """Lock the nodes that an engine works on, in key order.

    :param skip_locked: pass over what somebody else has locked.
    """
    held = and_(
        is_in(State.RUNNING, State.SUPERSEDED),
        sync_point.c.engine_id == engine_id,
    )
    # Looked for without locks: InnoDB would wait for the rows of others that it looks at.
    # In an order that the primary key does not serve: without statistics it would be walked.
    keys = tx.execute(
        select(sync_point.c.traversal_id, sync_point.c.node)
        .where(held)
        .order_by(sync_point.c.traversal_id + 0, sync_point.c.node)
        .limit(limit)
    ).all()
    if not keys:
        return []
    query = (
        select(*_COLUMNS)
        .where(_among(tx, [(key.traversal_id, key.node) for key in keys]), held)
        .order_by(*_ORDER)
        .with_for_update(skip_locked=skip_locked)
    )
    return [_row(row) for row in tx.execute(query).all()]


def holds_nodes(tx: Transaction, engine_id: int) -> bool:
    """Whether an engine works on any node."""
    # counted: without statistics, PostgreSQL reads the whole table to find the first
    query = select(func.count()).where(
        is_in(State.RUNNING, State.SUPERSEDED), sync_point.c.engine_id == engine_id
    )
    return bool(tx.execute(query).scalar_one())


def recover_nodes(
    tx: Transaction, engine_id: int, nodes: Sequence[SyncPointRow], *, died: bool
) -> None:
    """RUNNING back to READY, for the nodes of a dead engine that the transaction has locked."""
    _move(
        tx,
        [node.key for node in nodes],
        State.RUNNING,
        sync_point.c.engine_id == engine_id,
        state=State.READY,
        engine_id=None,
        claimed_at=None,
        ready_at=tx.now,
        deaths=sync_point.c.deaths + (1 if died else 0),
    )


def count_live(tx: Transaction) -> dict[State, int]:
    """How many nodes of the whole database may still be worked on, by state."""
    query = select(sync_point.c.state, func.count()).where(
        is_in(State.READY, State.RUNNING, State.BLOCKED)
    )
    rows: Any = tx.execute(query.group_by(sync_point.c.state)).all()
    return {State(state): int(count) for state, count in rows}


def _move(tx: Transaction, keys: Sequence[Key], source: State, *guards: Any, **values: Any) -> None:
    """One guarded update of locked rows.

    :raises StaleLock: a row was not in the source state, or not this engine's.
    """
    if not keys:
        return
    if "state" in values:
        _into(values["state"], source)
    done = tx.execute(
        update(sync_point).where(_among(tx, keys), _was(source), *guards).values(**values)
    )
    _expect(done.rowcount, len(keys))


def _into(target: State, *sources: State) -> State:
    """The state that rows in these states are moved to, if the table of moves allows it."""
    return check_move(SYNC_POINT_MOVES, target, *sources)


def _expect(found: int, wanted: int) -> None:
    if found != wanted:
        raise StaleLock(f"{wanted} sync points to move, {found} found as they must be")
