"""Sync points: the rows of nodes, as they are inserted, looked for, locked and deleted.

How a node gets from one state to another is in :mod:`converge.sql.node_moves`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    Text,
    and_,
    delete,
    func,
    literal_column,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import NullType

from converge.canonical import load
from converge.model import Json, Kind, NodeState
from converge.sql.batch import among
from converge.sql.lanes import DEFAULT
from converge.sql.loading import Load, read_clock
from converge.sql.schema import LIVE_STATES, sync_point
from converge.sql.statements import Statement, by_traversal
from converge.sql.transaction import Transaction

#: (traversal, node)
Key = tuple[int, int]

LIVE = (NodeState.WAITING, NodeState.READY, NodeState.RUNNING, NodeState.BLOCKED)


@dataclass(slots=True)
class SyncPointRow:
    """A sync point as it is in the database.

    :ivar note_id: the event that says how far its handler is, if that has waited.
    :ivar waited: seconds since the first call of an attempt whose handler has waited.
    :ivar always: it runs although it is tainted.
    :ivar unsettled: how many of its predecessors have not arrived without a change, if nothing is
        to be done for it once all have; None: it is done whatever they are. A cleanup has something
        to do all the same if its version was replaced.
    """

    traversal_id: int
    node: int
    kind: Kind
    resource_id: int | None
    keep: bool
    state: NodeState
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
    mark: int
    lane: int
    always: bool = False
    unsettled: int | None = None
    note_id: int | None = None
    waited: float = 0.0

    @property
    def key(self) -> Key:
        """Its primary key."""
        return self.traversal_id, self.node

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is done for it: a predecessor failed or was skipped, or its
        traversal was halted."""
        return self.tainted and not self.always

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to be done for it, as nothing before it has changed."""
        return self.unsettled == 0


@dataclass(slots=True)
class LockedNode:
    """What the protocol needs to know of a locked node."""

    traversal_id: int
    node: int
    kind: Kind
    resource_id: int | None
    state: NodeState
    pending: int
    tainted: bool
    engine_id: int | None
    epoch: int
    mark: int
    lane: int
    always: bool
    unsettled: int | None
    successors_text: str

    @property
    def key(self) -> Key:
        """Its primary key."""
        return self.traversal_id, self.node

    @property
    def is_stopped(self) -> bool:
        """As :attr:`SyncPointRow.is_stopped`."""
        return self.tainted and not self.always

    @property
    def successors(self) -> list[int]:
        """The nodes that wait for it. Parsed when asked for: most rows are looked at only as
        somebody's successor."""
        numbers: list[int] = load(self.successors_text)
        return numbers


_STORED = [sync_point.c[name] for name in SyncPointRow.__dataclass_fields__ if name in sync_point.c]
_STATE_COLUMNS = [
    *(sync_point.c[name] for name in LockedNode.__dataclass_fields__ if name in sync_point.c),
    type_coerce(sync_point.c.successors, Text()),
]
# a third of the time of calling the enum
_KINDS: dict[str, Kind] = {kind.value: kind for kind in Kind}
_STATES: dict[str, NodeState] = {state.value: state for state in NodeState}
KEY_ORDER = (sync_point.c.traversal_id, sync_point.c.node)


def columns_of(now: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    return [*_STORED, func.coalesce(now - sync_point.c.waiting_since, 0.0)]


def row_of(row: Any) -> SyncPointRow:
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


_INDEXED = {NodeState.READY, NodeState.RUNNING, NodeState.BLOCKED, NodeState.SUPERSEDED}


def is_in(*states: NodeState) -> ColumnElement[bool]:
    """The condition for these states, as literals: a partial index is of no use to a parameter."""
    literals: list[Any] = [literal_column(f"'{state}'") for state in states]
    condition = sync_point.c.state.in_(literals)
    return and_(condition, _Indexed()) if _INDEXED.issuperset(states) else condition


def _node_state(row: Any) -> LockedNode:
    result = LockedNode(*row)
    result.kind = _KINDS[result.kind]
    result.state = _STATES[result.state]
    return result


def among_keys(tx: Transaction, keys: Iterable[Key], table: Table = sync_point) -> Any:
    """A condition for these nodes. Row values would keep MariaDB from its index.

    :param table: sync points, or what is of them.
    """
    return or_(
        *(
            and_(table.c.traversal_id == traversal_id, among(tx, table.c.node, nodes))
            for traversal_id, nodes in sorted(by_traversal(keys).items())
        )
    )


_LOAD = Load(
    sync_point,
    "traversal_id",
    "node",
    "kind",
    "resource_id",
    "keep",
    "pending",
    "definition",
    "requires",
    "successors",
    "state",
    "ready_at",
    "tainted",
    "attempts",
    "deaths",
    "epoch",
    "mark",
    "lane",
    "always",
    "unsettled",
)


@dataclass(slots=True)
class NewSyncPoint:
    """A sync point to insert.

    :ivar pending: how many predecessors it waits for; one that waits for none is READY.
    :ivar definition: the wanted resource as canonical JSON, None if nothing is wanted.
    :ivar done: it is DONE from the start; its number is negative.
    :ivar lane: see :mod:`converge.sql.lanes`.
    :ivar always: it runs although it is tainted.
    :ivar unsettled: see :attr:`SyncPointRow.unsettled`.
    """

    node: int
    kind: Kind
    resource_id: int | None
    keep: bool
    pending: int
    definition: str | None
    requires: Sequence[int]
    successors: Sequence[int]
    done: bool = False
    lane: int = DEFAULT
    always: bool = False
    unsettled: int | None = None


def insert_sync_points(
    tx: Transaction, traversal_id: int, rows: Iterable[NewSyncPoint], mark: int = 0
) -> None:
    """Insert the nodes of a traversal.

    :param rows: are asked for one after the other.
    :param mark: of the traversal.
    """
    now = read_clock(tx)
    lanes: set[int] = set()
    ready = (NodeState.READY.value, now, False, 0, 0, 0, mark)
    waiting = (NodeState.WAITING.value, None, False, 0, 0, 0, mark)
    done = (NodeState.DONE.value, None, False, 0, 0, 0, mark)

    def state(row: NewSyncPoint) -> tuple[Any, ...]:
        if row.pending:
            return waiting
        if row.done:
            return done
        lanes.add(row.lane)
        return ready

    _LOAD.execute(
        tx,
        (
            (
                traversal_id,
                row.node,
                row.kind.value,
                row.resource_id,
                row.keep,
                row.pending,
                row.definition,
                _dump_numbers(row.requires),
                _dump_numbers(row.successors),
                *state(row),
                row.lane,
                row.always,
                row.unsettled,
            )
            for row in rows
        ),
    )
    tx.news.ready.update(lanes)


def _dump_numbers(numbers: Sequence[int]) -> str:
    return f"[{','.join(map(str, numbers))}]" if numbers else "[]"


def lock_nodes(
    tx: Transaction, keys: Iterable[Key], *, skip_locked: bool = False
) -> dict[Key, LockedNode]:
    """Lock these nodes until the transaction ends, in key order.

    :param skip_locked: skip what another transaction has locked.
    """
    wanted = set(keys)
    if not wanted:
        return {}
    rows: Any = _locked_nodes(skip_locked).execute(tx, keys=wanted).all()
    return {(row[0], row[1]): _node_state(row) for row in rows}


@cache
def _locked_nodes(skip_locked: bool) -> Statement[Select[Any]]:
    return Statement(
        lambda form: (
            select(*_STATE_COLUMNS)
            .where(form.among_keys(sync_point))
            .order_by(*KEY_ORDER)
            .with_for_update(skip_locked=skip_locked)
        )
    )


def lock_traversal_nodes(
    tx: Transaction, traversal_id: int, states: Sequence[NodeState]
) -> list[LockedNode]:
    """Lock all nodes of a traversal that are in these states, in key order."""
    query = (
        select(*_STATE_COLUMNS)
        .where(sync_point.c.traversal_id == traversal_id, is_in(*states))
        .order_by(*KEY_ORDER)
        .with_for_update()
    )
    return [_node_state(row) for row in tx.execute(query).all()]


def delete_nodes(tx: Transaction, keys: Sequence[Key]) -> None:
    """Delete the rows of superseded nodes whose work has been recorded."""
    if keys:
        tx.execute(delete(sync_point).where(among_keys(tx, keys)))


def delete_traversal_nodes(tx: Transaction, traversal_id: int) -> None:
    """Delete the sync points of a traversal that is over."""
    tx.execute(delete(sync_point).where(sync_point.c.traversal_id == traversal_id))


def list_engine_nodes(
    tx: Transaction, engine_id: int, limit: int, *, skip_locked: bool = False
) -> list[SyncPointRow]:
    """Lock the nodes that an engine works on, in key order.

    :param skip_locked: skip what another transaction has locked.
    """
    held = and_(
        is_in(NodeState.RUNNING, NodeState.SUPERSEDED),
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
        select(*columns_of(tx.now))
        .where(among_keys(tx, [(key.traversal_id, key.node) for key in keys]), held)
        .order_by(*KEY_ORDER)
        .with_for_update(skip_locked=skip_locked)
    )
    return [row_of(row) for row in tx.execute(query).all()]


def list_marks(tx: Transaction, engine_id: int) -> dict[Key, int]:
    """The nodes that an engine holds, each with the mark of its claim."""
    query = select(sync_point.c.traversal_id, sync_point.c.node, sync_point.c.mark).where(
        is_in(NodeState.RUNNING, NodeState.SUPERSEDED), sync_point.c.engine_id == engine_id
    )
    return {(row.traversal_id, row.node): row.mark for row in tx.execute(query)}


def list_cancelled(tx: Transaction, engine_id: int) -> set[Key]:
    """The superseded nodes in an engine's hands whose resources a newer traversal deletes or
    replaces."""
    query = select(sync_point.c.traversal_id, sync_point.c.node).where(
        is_in(NodeState.SUPERSEDED), sync_point.c.engine_id == engine_id, sync_point.c.cancelled
    )
    return {(row.traversal_id, row.node) for row in tx.execute(query)}


def holds_nodes(tx: Transaction, engine_id: int) -> bool:
    """Whether an engine works on any node."""
    # counted: without statistics, PostgreSQL reads the whole table to find the first
    query = select(func.count()).where(
        is_in(NodeState.RUNNING, NodeState.SUPERSEDED), sync_point.c.engine_id == engine_id
    )
    return bool(tx.execute(query).scalar_one())


def count_live(tx: Transaction) -> dict[NodeState, int]:
    """How many nodes of the whole database may still be worked on, by state."""
    query = select(sync_point.c.state, func.count()).where(
        is_in(NodeState.READY, NodeState.RUNNING, NodeState.BLOCKED)
    )
    rows: Any = tx.execute(query.group_by(sync_point.c.state)).all()
    return {NodeState(state): int(count) for state, count in rows}
