"""Moves of nodes from state to state: each is one guarded update of their sync points.

The table of moves is :data:`converge.model.SYNC_POINT_MOVES`. The transaction must have locked the
rows with a function of :mod:`converge.sql.sync_points`, unless they are only unblocked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    String,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    null,
    select,
    update,
)

from converge.errors import StaleLock
from converge.model import SYNC_POINT_MOVES, Json, Kind, NodeState, check_move
from converge.sql.batch import CHUNK, UpdateMany, among, types_of
from converge.sql.claimable import PARKED
from converge.sql.schema import sync_point
from converge.sql.statements import Statement
from converge.sql.sync_points import Key, LockedNode, SyncPointRow, among_keys, is_in
from converge.sql.transaction import Transaction
from converge.sql.types import ID


def start_nodes(tx: Transaction, engine_id: int, keys: Sequence[Key], mark: int = 0) -> None:
    """READY to RUNNING, for nodes that the transaction has locked.

    :param mark: of this claim.
    """
    _start().execute(tx, keys, taker=engine_id, of_claim=mark)


@cache
def _start() -> _Move:
    return _Move(
        NodeState.READY,
        NodeState.RUNNING,
        lambda now: {
            "engine_id": bindparam("taker", type_=ID),
            "epoch": sync_point.c.epoch + 1,
            "attempts": sync_point.c.attempts + 1,
            "claimed_at": now,
            "mark": bindparam("of_claim", type_=ID),
        },
    )


def block_nodes(tx: Transaction, keys: Sequence[Key]) -> None:
    """READY to BLOCKED: an older traversal holds the resource."""
    _move(tx, keys, NodeState.READY, state=NodeState.BLOCKED, ready_at=None, due_at=0)


def park_nodes(tx: Transaction, keys: Sequence[Key], lane: int) -> None:
    """Move READY nodes that the transaction has locked to another lane. Engines that look into that
    one are told of them."""
    _move(tx, keys, NodeState.READY, lane=lane)
    tx.news.ready[lane] += len(keys)


def hold_nodes(tx: Transaction, keys: Sequence[Key], limit_id: int) -> None:
    """Let READY nodes that the transaction has locked wait for a limit."""
    _move(tx, keys, NodeState.READY, due_at=PARKED + limit_id)


def end_nodes(
    tx: Transaction, engine_id: int, nodes: Iterable[LockedNode], state: NodeState
) -> None:
    """RUNNING to an end state, for nodes of this engine that the transaction has locked.

    :raises StaleLock: this engine no longer has one of them.
    """
    by_epoch: dict[int, list[Key]] = {}
    for node in nodes:
        by_epoch.setdefault(node.epoch, []).append(node.key)
    for epoch, keys in by_epoch.items():
        _end(state).execute(tx, keys, holder=engine_id, of_claim=epoch)


@cache
def _end(state: NodeState) -> _Move:
    return _Move(
        NodeState.RUNNING,
        state,
        lambda now: {"engine_id": None},
        sync_point.c.engine_id == bindparam("holder", type_=ID),
        sync_point.c.epoch == bindparam("of_claim", type_=sync_point.c.epoch.type),
    )


def requeue_node(
    tx: Transaction,
    engine_id: int,
    node: LockedNode,
    wait: float,
    *,
    max_attempts: int | None = None,
    uncounted: bool = False,
    definition: Json = None,
) -> None:
    """RUNNING back to READY, to be claimed after some seconds.

    :param definition: what its definition becomes; None leaves it as it is.

    :param max_attempts: after how many attempts it is given up; to be shown to people.
    :param uncounted: the work was handed back, which is no attempt.
    """
    # what is tried again begins anew, what is handed back goes on
    new = {} if uncounted else {"waiting_since": None, "note_id": None}
    _move(
        tx,
        [node.key],
        NodeState.RUNNING,
        sync_point.c.engine_id == engine_id,
        sync_point.c.epoch == node.epoch,
        state=NodeState.READY,
        engine_id=None,
        claimed_at=None,
        ready_at=tx.now + wait,
        due_at=tx.now + wait if wait else 0,
        attempts=sync_point.c.attempts - (1 if uncounted else 0),
        max_attempts=max_attempts,
        **({} if definition is None else {"definition": definition}),
        **new,
    )
    tx.news.ready[node.lane] += 0 if wait else 1


@cache
def _put_off() -> UpdateMany:
    """The statement that makes nodes READY again later."""
    return UpdateMany(
        sync_point,
        ("traversal_id", "node", "epoch"),
        {
            **types_of(sync_point, "attempts", "note_id"),
            **dict.fromkeys(("pause", "seconds"), sync_point.c.due_at.type),
        },
        lambda row, now: {
            "state": literal_column(f"'{NodeState.READY}'", String()),
            "engine_id": null(),
            "claimed_at": null(),
            "ready_at": now + row["pause"],
            "due_at": now + row["pause"],
            "attempts": row["attempts"],
            # a call that has come back shows that it does not kill engines
            "deaths": literal_column("0", Integer()),
            "note_id": row["note_id"],
            "waiting_since": func.coalesce(sync_point.c.waiting_since, now - row["seconds"]),
        },
        sync_point.c.engine_id == bindparam("holder", type_=ID),
        func.coalesce(sync_point.c.state, "") == NodeState.RUNNING,
        leading=2,
    )


def put_off_nodes(tx: Transaction, engine_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """RUNNING back to READY, for nodes of this engine whose handlers are to be called again later.
    The transaction has locked them.

    :param rows: traversal_id, node and epoch of each; ``attempts``, begun before this call;
        ``pause``, seconds until the next call; ``seconds`` that this call took; and note_id.
    :raises StaleLock: this engine no longer has one of them.
    """
    if rows:
        _into(NodeState.READY, NodeState.RUNNING)
        _expect(_put_off().execute(tx, rows, holder=engine_id), len(rows))


def wake_node(tx: Transaction, key: Key) -> None:
    """Give a node its turn now, if its handler waits."""
    waits = (is_in(NodeState.READY), sync_point.c.waiting_since.is_not(None))
    done = tx.execute(
        update(sync_point)
        .where(among_keys(tx, [key]), *waits, sync_point.c.due_at > 0)
        .values(due_at=0, ready_at=tx.now)
    )
    tx.news.ready[None] += int(done.rowcount)


def point_at(tx: Transaction, engine_id: int, node: LockedNode, resource_id: int) -> None:
    """Make a running node work on another resource: the replacement.

    :raises StaleLock: this engine no longer has it.
    """
    _move(
        tx,
        [node.key],
        NodeState.RUNNING,
        sync_point.c.engine_id == engine_id,
        sync_point.c.epoch == node.epoch,
        resource_id=resource_id,
    )


def arrive(
    tx: Transaction,
    counts: Mapping[Key, int],
    waiting: Mapping[Key, LockedNode],
    lanes: Mapping[Key, int] | None = None,
    settled: Mapping[Key, int] | None = None,
) -> None:
    """Subtract completed predecessors from their successors' counts. A node at zero becomes READY.

    :param counts: how many predecessors of each node completed in this transaction.
    :param waiting: those nodes, locked by the transaction.
    :param lanes: into which lanes some of them go then; the others stay in theirs.
    :param settled: how many of these predecessors arrive without a change.
    :raises StaleLock: a node waits for fewer.
    """
    rows: list[dict[str, int | None]] = []
    # most traversals have none
    has_unsettled = any(waiting[key].unsettled is not None for key in counts)
    for key, count in counts.items():
        node = waiting[key]
        lane = (lanes or {}).get(key, node.lane)
        left = node.pending - count
        if left < 0:
            raise StaleLock(f"{count} predecessors arrive at {key}, which waits for {node.pending}")
        if not left:
            tx.news.ready[lane] += 1
        rows.append(
            {
                "traversal_id": node.traversal_id,
                "node": node.node,
                "pending": node.pending,
                "left": left,
                "lane": node.lane if left else lane,
            }
        )
        if has_unsettled:
            less = (settled or {}).get(key, 0)
            rows[-1]["unsettled"] = None if node.unsettled is None else node.unsettled - less
    if rows:
        _expect(_arrive(has_unsettled).execute(tx, rows), len(rows))


@cache
def _arrive(has_unsettled: bool) -> UpdateMany:
    """The statement that subtracts from counts.

    :param has_unsettled: of some of them, ``unsettled``, too.
    """
    more = ("unsettled",) if has_unsettled else ()

    def values(row: Mapping[str, Any], now: ColumnElement[Any]) -> Mapping[str, Any]:
        # not by the column, which MariaDB may have written already
        is_ready = row["left"] == literal_column("0", Integer())
        ready = literal_column(f"'{_into(NodeState.READY, NodeState.WAITING)}'", String())
        waiting = literal_column(f"'{NodeState.WAITING}'", String())
        return {
            "pending": row["left"],
            "state": case((is_ready, ready), else_=waiting),
            "ready_at": case((is_ready, now), else_=null()),
            "lane": row["lane"],
            **{name: row[name] for name in more},
        }

    return UpdateMany(
        sync_point,
        ("traversal_id", "node", "pending"),
        {"left": sync_point.c.pending.type, **types_of(sync_point, "lane", *more)},
        values,
        _was(NodeState.WAITING),
        leading=2,
    )


def pass_nodes(tx: Transaction, source: NodeState, keys: Sequence[Key]) -> None:
    """To DONE, for nodes that the transaction has locked: nothing is to be done for them.

    :param source: WAITING: the last of what they wait for arrives now; or READY.
    :raises StaleLock: one is in another state.
    """
    _pass(source).execute(tx, keys)


@cache
def _pass(source: NodeState) -> _Move:
    """The statement that passes over nodes."""
    none = literal_column("0", Integer())
    return _Move(
        source, NodeState.DONE, lambda now: {"pending": none, "unsettled": none, "ready_at": null()}
    )


def taint(tx: Transaction, keys: Sequence[Key]) -> None:
    """Note that a predecessor of these nodes failed or was skipped."""
    if keys:
        tx.execute(update(sync_point).where(among_keys(tx, keys)).values(tainted=True))


def skip_nodes(tx: Transaction, keys: Sequence[Key]) -> None:
    """End nodes that have not started."""
    unstarted = (NodeState.WAITING, NodeState.READY, NodeState.BLOCKED)
    for start in range(0, len(keys), CHUNK):
        part = keys[start : start + CHUNK]
        done = tx.execute(
            update(sync_point)
            .where(
                among_keys(tx, part),
                is_in(*unstarted),
            )
            .values(state=_into(NodeState.SKIPPED, *unstarted), ready_at=None)
        )
        _expect(done.rowcount, len(part))


def lead(tx: Transaction, keys: Sequence[Key], successors: Sequence[int]) -> None:
    """Give live nodes of a halted traversal, which the transaction has locked, these successors."""
    live = (NodeState.WAITING, NodeState.READY, NodeState.BLOCKED, NodeState.RUNNING)
    for start in range(0, len(keys), CHUNK):
        part = keys[start : start + CHUNK]
        done = tx.execute(
            update(sync_point)
            .where(among_keys(tx, part), is_in(*live))
            .values(successors=list(successors), tainted=True)
        )
        _expect(done.rowcount, len(part))


def forget_always(tx: Transaction, keys: Sequence[Key]) -> None:
    """Let nodes of a halted traversal, which the transaction has locked, be as all others."""
    if keys:
        done = tx.execute(update(sync_point).where(among_keys(tx, keys)).values(always=False))
        _expect(done.rowcount, len(keys))


def wait_for(tx: Transaction, stack_node: Key, pending: int) -> None:
    """Make the stack's node wait for so many nodes.

    An engine that has claimed it loses it.
    """
    state, ready_at = (NodeState.WAITING, None) if pending else (NodeState.READY, tx.now)
    values = {"state": state, "ready_at": ready_at, "due_at": 0, "pending": pending}
    tx.execute(
        update(sync_point).where(among_keys(tx, [stack_node])).values(**values, engine_id=None)
    )
    tx.news.ready[None] += 0 if pending else 1


def unblock(tx: Transaction, resource_ids: Sequence[int]) -> int:
    """BLOCKED to READY, for the nodes that wait for these resources."""
    if not resource_ids:
        return 0
    done = tx.execute(
        update(sync_point)
        .where(is_in(NodeState.BLOCKED), among(tx, sync_point.c.resource_id, resource_ids))
        .values(state=_into(NodeState.READY, NodeState.BLOCKED), ready_at=tx.now)
    )
    tx.news.ready[None] += int(done.rowcount)
    return int(done.rowcount)


def unblock_nodes(tx: Transaction, keys: Sequence[Key]) -> int:
    """BLOCKED to READY, for those of these nodes that are still BLOCKED."""
    if not keys:
        return 0
    done = tx.execute(
        update(sync_point)
        .where(among_keys(tx, keys), is_in(NodeState.BLOCKED))
        .values(state=_into(NodeState.READY, NodeState.BLOCKED), ready_at=tx.now)
    )
    tx.news.ready[None] += int(done.rowcount)
    return int(done.rowcount)


def supersede_nodes(tx: Transaction, traversal_id: int) -> None:
    """Take a traversal's nodes out of the way of a newer one.

    Running nodes become SUPERSEDED, so that their outcome is still recorded. The others are
    deleted. The transaction has locked them with
    :func:`~converge.sql.sync_points.lock_traversal_nodes`.
    """
    mine = sync_point.c.traversal_id == traversal_id
    tx.execute(
        update(sync_point)
        .where(mine, is_in(NodeState.RUNNING), sync_point.c.kind != Kind.STACK)
        .values(state=_into(NodeState.SUPERSEDED, NodeState.RUNNING))
    )
    tx.execute(delete(sync_point).where(mine, ~is_in(NodeState.SUPERSEDED)))


def cancel_superseded(tx: Transaction, resource_ids: Sequence[int]) -> None:
    """Note that the work of superseded nodes on these resources is no longer needed."""
    if resource_ids:
        tx.execute(
            update(sync_point)
            .where(is_in(NodeState.SUPERSEDED), among(tx, sync_point.c.resource_id, resource_ids))
            .values(cancelled=True)
        )


def recover_nodes(
    tx: Transaction, engine_id: int, nodes: Sequence[SyncPointRow], *, died: bool
) -> None:
    """RUNNING back to READY, for the nodes of a dead engine that the transaction has locked."""
    _move(
        tx,
        [node.key for node in nodes],
        NodeState.RUNNING,
        sync_point.c.engine_id == engine_id,
        state=NodeState.READY,
        engine_id=None,
        claimed_at=None,
        ready_at=tx.now,
        due_at=0,
        deaths=sync_point.c.deaths + (1 if died else 0),
    )
    tx.news.ready.update(node.lane for node in nodes)


def promote_retries(tx: Transaction, limit: int) -> int:
    """Give due retries their turn in the queue, not after all nodes that are no retry.

    :returns: how many were due.
    """
    columns = (sync_point.c.traversal_id, sync_point.c.node, sync_point.c.lane)
    is_due = (is_in(NodeState.READY), sync_point.c.due_at > 0, sync_point.c.due_at <= tx.now)
    query = select(*columns).where(*is_due).limit(limit).with_for_update(skip_locked=True)
    rows = tx.execute(query).all()
    keys = [(row.traversal_id, row.node) for row in rows]
    _move(tx, keys, NodeState.READY, due_at=0)
    tx.news.ready.update(row.lane for row in rows)
    return len(keys)


class _Move:
    """A guarded update of locked rows from one state to another, which is built once.

    :param values: makes what is written besides, from the time. Its parameters, and those of the
        guards, must not have the name of a column.
    """

    def __init__(
        self,
        source: NodeState,
        target: NodeState,
        values: Callable[[ColumnElement[Any]], Mapping[str, Any]],
        *guards: ColumnElement[bool],
    ) -> None:
        state = _into(target, source)
        self._statement = Statement(
            lambda form: (
                update(sync_point)
                .where(form.among_keys(sync_point), _was(source), *guards)
                .values(state=state, **values(form.now))
            )
        )

    def execute(self, tx: Transaction, keys: Sequence[Key], **parameters: Any) -> None:
        """Move these rows.

        :raises StaleLock: a row is not in the source state, or a guard keeps it.
        """
        if keys:
            done = self._statement.execute(tx, parameters, keys=keys)
            _expect(done.rowcount, len(keys))


def _move(
    tx: Transaction, keys: Sequence[Key], source: NodeState, *guards: Any, **values: Any
) -> None:
    """One guarded update of locked rows.

    :raises StaleLock: a row is not in the source state, or not this engine's.
    """
    if not keys:
        return
    if "state" in values:
        _into(values["state"], source)
    done = tx.execute(
        update(sync_point).where(among_keys(tx, keys), _was(source), *guards).values(**values)
    )
    _expect(done.rowcount, len(keys))


def _was(state: NodeState) -> ColumnElement[bool]:
    """The condition for a state, written so that no index serves it. Rows that are given by their
    keys must be found by these, not among the thousands in the same state."""
    condition: ColumnElement[bool] = func.coalesce(sync_point.c.state, "") == state
    return condition


def _into(target: NodeState, *sources: NodeState) -> NodeState:
    """The target state, if the table of moves allows it from these states."""
    return check_move(SYNC_POINT_MOVES, target, *sources)


def _expect(found: int, wanted: int) -> None:
    if found != wanted:
        raise StaleLock(f"{wanted} sync points to move, {found} found in the right state")
