"""Recovery: repairs what dead engines, lost wake-ups and passed deadlines left behind.

Every engine sweeps; row locks let one of them win. A sweep is bounded, and safe to repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from converge.crash_points import Commit
from converge.lease import expire, filter_gone
from converge.model import NodeState, TraversalStatus
from converge.protocol.cascade import stop_nested
from converge.protocol.halt import halt
from converge.protocol.handover import wake_nodes
from converge.protocol.prune import Pruner
from converge.reserved import find_traversal
from converge.sql import (
    engines,
    leftovers,
    limits,
    nested,
    node_moves,
    resource_locks,
    scopes,
    sync_points,
    traversals,
)
from converge.sql.database import Database, repeatable
from converge.sql.faults import Locked
from converge.sql.transaction import Transaction
from converge.sql.traversals import TraversalRow

T = TypeVar("T")

#: How many rows of each kind one sweep looks at.
BATCH = 1000
#: In a fleet of more engines, each sweeps more seldom, but at most so many times.
SWEEPERS = 8
MOST_SHARE = 4.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep did.

    :ivar engines: dead engines found.
    :ivar nodes: nodes that were made READY again, or whose locks were released.
    :ivar unblocked: BLOCKED nodes whose resource was free.
    :ivar overdue: traversals halted past their deadline, or as their outer stack was stopped.
    :ivar leftovers: deleted sync points of traversals that are over.
    :ivar scopes: deleted scopes of the journal whose steps are no longer needed.
    :ivar ready: READY nodes that wait for an engine; counted up to the size of a batch.
    """

    engines: int = 0
    nodes: int = 0
    unblocked: int = 0
    overdue: int = 0
    leftovers: int = 0
    scopes: int = 0
    ready: int = 0

    def __bool__(self) -> bool:
        """Whether anything was repaired."""
        return any(
            (
                self.engines,
                self.nodes,
                self.unblocked,
                self.overdue,
                self.leftovers,
                self.scopes,
            )
        )

    def __add__(self, later: Sweep) -> Sweep:
        """What two sweeps did together; ``ready`` is that of the later one."""
        return Sweep(
            self.engines + later.engines,
            self.nodes + later.nodes,
            self.unblocked + later.unblocked,
            self.overdue + later.overdue,
            self.leftovers + later.leftovers,
            self.scopes + later.scopes,
            later.ready,
        )


@dataclass(slots=True)
class _Survey:
    """What there is to repair, read in one transaction; of each kind at most a batch.

    :ivar alive: how many leases there are.
    :ivar expired: engines whose lease has expired.
    :ivar gone: engines whose process on this host is gone.
    :ivar strays: engine ids that hold nodes, but are not registered.
    :ivar nested: whether there are nested stacks to be stopped.
    :ivar unwoken: nodes that missed the end of their nested stack.
    """

    alive: int
    expired: list[int]
    gone: list[int]
    strays: list[int]
    blocked: list[sync_points.Key]
    overdue: list[TraversalRow]
    ended: list[int]
    spent: list[int]
    retries: bool
    ready: int
    places: list[sync_points.Key]
    nested: bool
    unwoken: list[sync_points.Key]


class Sweeper:
    """Sweeps a database repeatedly.

    :param prune_after: prune what ended so many seconds ago, a little in each sweep; None: never.
    """

    def __init__(self, database: Database, prune_after: float | None = None) -> None:
        self.database = database
        self._pruner = (
            None if prune_after is None else Pruner(database, prune_after, wait_for_locks=False)
        )
        # where the next sweep continues to look for leftovers; each looks at one batch
        self._after = 0
        self._after_scopes_of = 0
        self._alive = 0

    @property
    def share(self) -> float:
        """How many times as long as a lone engine this one is to wait for its next sweep: in a
        large fleet each sweeps more seldom, and all of them together as often as it takes."""
        return min(max(1.0, self._alive / SWEEPERS), MOST_SHARE)

    def sweep(self) -> Sweep:
        """One round of recovery.

        :raises StoreError: the database cannot be used.
        """
        found = self.database.read(self._survey)
        self._alive = found.alive
        expire(self.database, found.gone)
        dead, nodes = self._recover({*found.expired, *found.gone})
        for engine_id in found.strays:
            nodes += self._release(engine_id)
        unblocked = 0
        if found.blocked:
            unblocked = (
                self._transact(node_moves.unblock_nodes, found.blocked, commit=Commit.UNBLOCK) or 0
            )
        overdue = sum(
            bool(self._transact(_time_out, row, commit=Commit.OVERDUE)) for row in found.overdue
        )
        if found.nested:
            overdue += stop_nested(self.database)
        if found.unwoken:
            self._transact(wake_nodes, found.unwoken, commit=Commit.NEST_WAKE)
        if found.retries:
            self._transact(node_moves.promote_retries, BATCH, commit=Commit.PROMOTE)
        leftovers = 0
        if found.ended:
            leftovers = self._transact(_delete_leftovers, found.ended, commit=Commit.SWEEP) or 0
        spent = 0
        if found.spent:
            spent = self._transact(_delete_spent, found.spent, commit=Commit.SWEEP) or 0
        if found.places:
            self._transact(limits.free_stray, found.places, commit=Commit.SWEEP)
        if self._pruner is not None:
            self._pruner.step()
        return Sweep(dead, nodes, unblocked, overdue, leftovers, spent, found.ready)

    def _survey(self, tx: Transaction) -> _Survey:
        ended, self._after = leftovers.list_leftover_traversals(tx, self._after, BATCH)
        scopes_of = leftovers.list_work_scopes(tx, self._after_scopes_of, BATCH)
        self._after_scopes_of = scopes_of[-1].resource_id if len(scopes_of) >= BATCH else 0
        alive = engines.list_alive(tx)
        return _Survey(
            alive=len(alive),
            expired=engines.list_expired(tx, BATCH),
            gone=filter_gone(alive),
            strays=leftovers.list_stray_holders(tx, BATCH),
            blocked=leftovers.list_free_blocked(tx, BATCH),
            overdue=traversals.list_overdue(tx, BATCH),
            ended=ended,
            spent=sorted({one.resource_id for one in _spent(tx, scopes_of)}),
            retries=leftovers.has_due_retries(tx),
            ready=leftovers.count_due(tx, BATCH),
            places=limits.list_stray(tx, BATCH),
            nested=bool(nested.list_left_running(tx, 1)),
            unwoken=nested.list_unwoken(tx, BATCH),
        )

    def _recover(self, engine_ids: Collection[int]) -> tuple[int, int]:
        dead = nodes = 0
        for engine_id in sorted(engine_ids):
            while True:
                done = self._transact(_recover_one, engine_id, commit=Commit.RECOVER)
                died, count = done or (False, 0)
                dead += died
                nodes += count
                if died or count < BATCH:
                    break
        return dead, nodes

    def _release(self, engine_id: int) -> int:
        nodes = 0
        while True:
            count = self._transact(release_engine, engine_id, commit=Commit.RELEASE) or 0
            nodes += count
            if count < BATCH:
                return nodes

    def _transact(self, function: Callable[..., T], *arguments: Any, commit: Commit) -> T | None:
        """Do one part of a sweep; return None if a row is locked, which a later sweep repairs."""
        try:
            return self.database.transact(
                lambda tx: function(tx, *arguments),
                commit,
                happened=repeatable,
                wait_for_locks=False,
            )
        except Locked:
            return None


def sweep(database: Database) -> Sweep:
    """One round of recovery, including the leftovers of all traversals.

    :raises StoreError: the database cannot be used.
    """
    sweeper = Sweeper(database)
    found = sweeper.sweep()
    while sweeper._after or sweeper._after_scopes_of:
        found += sweeper.sweep()
    return found


def _recover_one(tx: Transaction, engine_id: int) -> tuple[bool, int]:
    """Recover up to a batch of one dead engine's nodes.

    Locked nodes are left to a later sweep; the engine itself may have locked them if it is still
    alive.

    :returns: whether the engine holds no more nodes, and how many were recovered.
    """
    if not engines.lock_expired(tx, engine_id):
        return False, 0
    count = release_engine(tx, engine_id, died=True)
    last = not sync_points.holds_nodes(tx, engine_id)
    if last:
        engines.end_engine(tx, engine_id, engines.DEAD)
    return last, count


def release_engine(
    tx: Transaction,
    engine_id: int,
    *,
    died: bool = False,
    keep: Mapping[sync_points.Key, int] | None = None,
) -> int:
    """Release an engine's nodes, up to a batch: they are READY again, and their resources free.

    :param died: count a death of an engine for each node.
    :param keep: nodes that the engine keeps, each with the mark of its claim.
    :returns: how many nodes were released.
    """
    keep = keep or {}
    held = sync_points.list_engine_nodes(tx, engine_id, BATCH + len(keep), skip_locked=died)
    nodes = [node for node in held if keep.get(node.key) != node.mark]
    if not nodes:
        return 0
    ids = sorted({node.resource_id for node in nodes if node.resource_id is not None})
    locked = resource_locks.lock_states(tx, ids)
    running = [node for node in nodes if node.state is NodeState.RUNNING]
    node_moves.recover_nodes(tx, engine_id, running, died=died)
    sync_points.delete_nodes(tx, [n.key for n in nodes if n.state is NodeState.SUPERSEDED])
    limits.free_places(tx, [node.key for node in nodes])
    resource_locks.free_engine_locks(tx, engine_id, ids)
    node_moves.unblock(tx, [row.id for row in locked.values() if row.blocking])
    return len(nodes)


def leave(tx: Transaction, engine_id: int, mark: int) -> None:
    """End an engine's registration and release its nodes; any other engine can claim them at once.

    :param mark: the mark of its registration. Nothing happens if the id belongs to another engine
        by now.
    """
    if not engines.lock_engine(tx, engine_id, mark):
        return
    while release_engine(tx, engine_id) >= BATCH:
        pass
    engines.end_engine(tx, engine_id, engines.STOPPED)


def _time_out(tx: Transaction, row: TraversalRow) -> bool:
    reason = f"timed out after {(row.deadline_at or 0) - row.started_at:g} s"
    return halt(tx, row.id, TraversalStatus.FAILED, reason)


def _delete_leftovers(tx: Transaction, traversal_ids: Sequence[int]) -> int:
    keys = leftovers.list_leftovers(tx, traversal_ids, BATCH)
    sync_points.delete_nodes(tx, keys)
    return len(keys)


def _spent(tx: Transaction, found: Sequence[leftovers.WorkScope]) -> list[leftovers.WorkScope]:
    """The scopes whose steps are no longer needed."""
    of_traversal = {one.id: find_traversal(one.name) for one in found}
    rows = traversals.get_traversals(tx, (number for number in of_traversal.values() if number))
    running = {row.id for row in rows.values() if row.status is TraversalStatus.RUNNING}
    spent = []
    for one in found:
        number = of_traversal[one.id]
        over = one.is_whole if number is None else number not in running
        if one.is_gone or (one.is_free and over):
            spent.append(one)
    return spent


def _delete_spent(tx: Transaction, resource_ids: Sequence[int]) -> int:
    # locked, so that no work on them begins meanwhile
    resource_locks.lock_states(tx, resource_ids)
    found = leftovers.list_work_scopes(tx, 0, BATCH, only=resource_ids)
    spent = [one.id for one in _spent(tx, found)]
    scopes.delete_scopes(tx, spent)
    return len(spent)
