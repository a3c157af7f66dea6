"""Claiming: an engine takes READY nodes, each with the lock on its resource."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from converge.model import SUSPECT_DEATHS, Action, Kind, Status, make_mark
from converge.protocol.arrive import PASSED, pass_ready
from converge.protocol.decide import decide, input_secrets, is_as_before
from converge.protocol.places import Bounds, take_places
from converge.protocol.room import Room
from converge.protocol.rota import Rota
from converge.protocol.work import Decision, Operation, Work
from converge.resources.resource_type import ResourceType
from converge.sql import (
    claimable,
    events,
    limits,
    node_moves,
    resource_locks,
    resources,
    traversals,
)
from converge.sql.lanes import Course, take_lanes
from converge.sql.resources import ResourceRow
from converge.sql.sync_points import Key, SyncPointRow
from converge.sql.transaction import Transaction
from converge.sql.traversals import TraversalRow

#: How many of the resources that failed a handler is told of that runs all the same.
MOST_FAILURES = 20
#: Where an engine has not the types of what it has locked, it locks so many more at a time, so
#: often at most; what is left is for its next claim.
_MANY = 500
_ROUNDS = 4

#: Operations for which the lock on the resource is taken.
_LOCKING = frozenset(
    {
        Operation.CREATE,
        Operation.UPDATE,
        Operation.REPLACE,
        Operation.DELETE,
        Operation.CHECK,
        Operation.READ,
        Operation.DROP,
    }
)

_STATES = {
    Operation.CREATE: (Action.CREATE, Status.IN_PROGRESS),
    Operation.UPDATE: (Action.UPDATE, Status.IN_PROGRESS),
    Operation.READ: (Action.CREATE, Status.IN_PROGRESS),
    Operation.DELETE: (Action.DELETE, Status.IN_PROGRESS),
    Operation.DROP: (Action.DELETE, Status.IN_PROGRESS),
}


class Claim(NamedTuple):
    """What a claim came to.

    :ivar passed: the ids of the stacks of which nodes were passed over: there may be more of them,
        though no work was found.
    """

    works: list[Work]
    passed: set[int]


def claim(
    tx: Transaction,
    engine_id: int,
    limit: int,
    types: Mapping[str, ResourceType],
    known: dict[int, TraversalRow],
    rota: Rota,
    bounds: Bounds,
    *,
    suspect: bool = True,
    mark: int | None = None,
    room: Room | None = None,
    most_passed: int = PASSED,
) -> Claim:
    """Claim up to ``limit`` nodes, those of each traversal in the order in which they became ready.

    Those for which nothing is to be done are passed over instead.
    A node whose resource an older traversal still has locked becomes BLOCKED; it is READY again
    when that lock is released. A node of a type that this engine does not have goes to another
    lane, where engines that have it look. A node that a limit keeps from starting waits for that
    limit. A node on which several engines died is a suspect, and at
    most one is claimed at a time: otherwise nodes held beside it would be suspected, too.

    :param types: the resource types of this engine.
    :param known: traversals read before, by id; new ones are added. Their intent never changes.
    :param rota: whose turn it is.
    :param bounds: the limits that this engine knows. If there are newer ones, it gets nothing.
    :param suspect: whether a suspect may be claimed.
    :param mark: the mark of the engine's registration.
    :param room: for what there is room; its total counts, and not ``limit``.
    :param most_passed: how many nodes are passed over at most.
    """
    limit = limit if room is None else room.total
    for size in (limit, *[max(limit, _MANY)] * _ROUNDS):
        ready = _Readiness(tx, engine_id, rota, bounds, mark, most_passed)
        free, rows = _lock_free(ready, size, suspect=suspect)
        works, foreign = _decide_all(tx, free, rows, types, known)
        _park(tx, foreign, rota)
        works = works if room is None else room.fit(works)
        seats = take_places(tx, works, bounds, types, limit)
        for limit_id, keys in seats.held.items():
            node_moves.hold_nodes(tx, keys, limit_id)
        # limits are locked last
        if seats.works or seats.is_locked or not (foreign or seats.held):
            break
    else:
        # there may be more, for this engine, too
        tx.news.ready[None] += 1
    for work in seats.works:
        work.locked = _needs_lock(work)
    _take(tx, engine_id, seats.works)
    passed = {traversal_id for traversal_id, _ in ready.passed}
    if unknown := passed - known.keys():
        known.update(traversals.get_traversals(tx, unknown))
    return Claim(seats.works, {known[one].stack_id for one in passed})


def _decide_all(
    tx: Transaction,
    free: Sequence[SyncPointRow],
    rows: Mapping[int, ResourceRow],
    types: Mapping[str, ResourceType],
    known: dict[int, TraversalRow],
) -> tuple[list[Work], list[Work]]:
    """The works of locked nodes, and those that this engine has not the types for."""
    if not free:
        return [], []
    # a node has its traversal's mark until its first claim; later, the traversal is read again
    unknown = {
        node.traversal_id
        for node in free
        if (seen := known.get(node.traversal_id)) is None or seen.mark != node.mark
    }
    if unknown:
        known.update(traversals.get_traversals(tx, unknown))
    found = resources.list_inputs(
        tx,
        (
            (node.traversal_id, required)
            for node in free
            if not node.is_stopped
            for required in node.requires
        ),
    )
    works: list[Work] = []
    foreign: list[Work] = []
    telling = {node.traversal_id for node in free if node.always}
    failures = _failures_of(tx, [known[id_] for id_ in sorted(telling)])
    for node in free:
        row = rows.get(node.resource_id) if node.resource_id is not None else None
        inputs = [
            found[node.traversal_id, required]
            for required in node.requires
            if (node.traversal_id, required) in found
        ]
        decision = decide(
            known[node.traversal_id], node, row, {one.name: one for one in inputs}, types
        )
        work = Work(
            traversal=known[node.traversal_id],
            node=node,
            row=row,
            decision=decision,
            requires=sorted(one.id for one in inputs),
            inputs=[(one.id, one.epoch) for one in inputs],
            secrets=[value for one in inputs for value in input_secrets(one)],
            failures=failures.get(node.traversal_id, {}) if node.always else {},
        )
        (foreign if is_foreign(decision) else works).append(work)
    return works, foreign


def _failures_of(tx: Transaction, running: Iterable[TraversalRow]) -> dict[int, Mapping[str, str]]:
    """What failed first in each of these traversals: reasons by the resource's name."""
    found: dict[int, Mapping[str, str]] = {}
    for one in running:
        failed = events.list_failures(tx, one.stack_id, one.id, MOST_FAILURES)
        found[one.id] = {name: reason or "" for name, reason in failed}
    return found


def _take(tx: Transaction, engine_id: int, works: Sequence[Work]) -> None:
    """Start these nodes, and take the locks on their resources."""
    if not works:
        return
    mark = make_mark()
    node_moves.start_nodes(tx, engine_id, [work.node.key for work in works], mark)
    for work in works:
        work.node.epoch += 1
        work.node.attempts += 1
        work.node.mark = mark
        # what it takes itself, nobody needs to be told of
        tx.news.ready[work.node.lane] -= 1
    locks = [_lock(work) for work in works if work.locked]
    resource_locks.take_locks(tx, engine_id, locks, mark)


def is_foreign(decision: Decision) -> bool:
    """Whether it is left to an engine that has other types."""
    # a lane cannot have names of any length: then it fails, which says why
    return bool(decision.missing) and Course(types=decision.missing).is_storable


def _park(tx: Transaction, foreign: Sequence[Work], rota: Rota) -> None:
    """Move nodes to the lanes of the types that they need."""
    by_course: dict[Course, list[Key]] = {}
    for work in foreign:
        own = rota.course(work.node.lane)
        course = replace(own, types=work.decision.missing)
        by_course.setdefault(course, []).append(work.node.key)
    lanes = take_lanes(tx, by_course)
    for course, keys in by_course.items():
        node_moves.park_nodes(tx, keys, lanes[course])


def is_suspect(node: SyncPointRow) -> bool:
    """Whether a node may be what kills engines."""
    return node.deaths >= SUSPECT_DEATHS


@dataclass(frozen=True, slots=True)
class _Readiness:
    """The READY nodes that an engine can take.

    :ivar passed: those that were passed over.
    """

    tx: Transaction
    engine_id: int
    rota: Rota
    bounds: Bounds
    mark: int | None
    most_passed: int
    passed: set[Key] = field(default_factory=set)

    def lock(self, limit: int, *, suspect: bool) -> list[SyncPointRow]:
        """Lock READY nodes, at most one of them a suspect."""
        nodes = self._lock_in_turn(limit, None)
        suspects = [node for node in nodes if is_suspect(node)]
        put_off = {node.key for node in suspects[1 if suspect else 0 :]}
        left = [node for node in nodes if node.key not in put_off]
        if put_off and len(left) < limit:
            # fill up with others: suspects that are put off must not take their places
            seen = {node.key for node in left}
            others = self._lock_in_turn(limit, SUSPECT_DEATHS - 1)
            left += [node for node in others if node.key not in seen][: limit - len(left)]
        return left

    def _lock_in_turn(self, limit: int, most_deaths: int | None) -> list[SyncPointRow]:
        """Lock READY nodes of those whose turn it is."""
        nodes = self._lock_open(limit, most_deaths) if self.bounds.is_any else []
        lanes = self.rota.lanes
        if len(lanes) > 1 and len(nodes) < limit:
            lanes = self.rota.order(claimable.find_busy(self.tx, lanes))
        for lane in lanes:
            left = limit - len(nodes)
            if not left:
                break
            nodes += self.rota.pick(lane, left, _Lane(self, most_deaths, lane))
        has_room = len(nodes) < limit and self.rota.lanes
        if has_room and self.rota.is_turn_of_retries(len(nodes)):
            nodes += claimable.lock_due(
                self.tx,
                self.engine_id,
                limit - len(nodes),
                most_deaths,
                self.mark,
                lanes=self.rota.lanes,
                changed=self.bounds.changed,
            )
        return nodes

    def _lock_open(self, limit: int, most_deaths: int | None) -> list[SyncPointRow]:
        """Lock nodes that wait for limits that are open, as many of each as have a place."""
        nodes: list[SyncPointRow] = []
        for limit_id, free in limits.list_open(self.tx):
            lanes = self.rota.lanes
            if len(lanes) > 1:
                lanes = self.rota.rank(claimable.find_busy(self.tx, lanes, limit_id))
            most = len(nodes) + min(limit - len(nodes), limit if free is None else free)
            for lane in lanes:
                left = most - len(nodes)
                if left:
                    parked = _Lane(self, most_deaths, lane, limit_id)
                    nodes += self.rota.pick(lane, left, parked, limit_id)
        return nodes


@dataclass(frozen=True, slots=True)
class _Lane:
    """The READY nodes of a lane, which are locked as they are taken.

    :ivar limit_id: the limit that they wait for; 0: none.
    """

    ready: _Readiness
    most_deaths: int | None
    lane: int
    limit_id: int = 0

    def take(self, limit: int, *, after: int = 0, before: int | None = None) -> list[SyncPointRow]:
        return claimable.lock_ready(
            self.ready.tx,
            self.ready.engine_id,
            limit,
            self.most_deaths,
            self.ready.mark,
            lane=self.lane,
            limit_id=self.limit_id,
            changed=self.ready.bounds.changed,
            after=after,
            before=before,
        )

    def find_others(self, traversal_id: int) -> tuple[bool, bool]:
        return claimable.find_others(self.ready.tx, self.lane, traversal_id, self.limit_id)


def _lock_free(
    ready: _Readiness, limit: int, *, suspect: bool
) -> tuple[list[SyncPointRow], dict[int, ResourceRow]]:
    """Lock the oldest READY nodes whose resources are free, and those resources.

    Nodes whose resource is locked become BLOCKED, and younger nodes take their places.
    """
    while True:
        nodes = ready.lock(limit, suspect=suspect)
        most = ready.most_passed - len(ready.passed)
        passed, left = pass_ready(ready.tx, ready.engine_id, nodes, most)
        if passed:
            nodes = [node for node in nodes if node.key not in passed and node.key not in left]
            ready.passed.update(passed)
        rows = resources.lock_resources(
            ready.tx, (node.resource_id for node in nodes if node.resource_id is not None)
        )
        free: list[SyncPointRow] = []
        held: dict[int, list[SyncPointRow]] = {}
        taken: set[int] = set()
        for node in nodes:
            row = rows.get(node.resource_id) if node.resource_id is not None else None
            if row is None or node.is_stopped:
                free.append(node)
            elif row.engine_id is not None:
                held.setdefault(row.id, []).append(node)
            elif row.id not in taken:
                taken.add(row.id)
                free.append(node)
        node_moves.block_nodes(
            ready.tx, [node.key for blocked in held.values() for node in blocked]
        )
        resource_locks.set_blocking(ready.tx, sorted(held))
        if free or not held:
            return free, rows


def _needs_lock(work: Work) -> bool:
    if work.row is None:
        return False
    operation = work.decision.operation
    if operation is Operation.NOTHING:
        return work.node.kind is Kind.UPDATE and not is_as_before(work)
    return operation in _LOCKING or (work.node.kind is Kind.UPDATE and operation is Operation.FAIL)


def _lock(work: Work) -> dict[str, Any]:
    """The new columns of a work's resource. In the work, only epoch and mark of the row change."""
    row = work.row
    assert row is not None
    action, status = _STATES.get(work.decision.operation, (row.action, row.status))
    if work.decision.wanted is not None:
        action = Action.REPLACE
    requires = row.requires
    type_ = row.type
    if work.decision.operation in (Operation.CREATE, Operation.UPDATE):
        # old and new: until the work is done, it may depend on both
        requires = sorted({*row.requires, *work.requires})
        type_ = work.wanted_type
    if work.decision.operation is Operation.READ:
        type_ = work.wanted_type
    lock: dict[str, Any] = {
        "id": row.id,
        "epoch": row.epoch,
        "action": action,
        "status": status,
        "type": type_,
    }
    if work.decision.operation is Operation.READ:
        # from here on, no handler deletes it, however this ends
        lock["settings"] = dict(work.decision.settings or {})
    if requires != row.requires:
        lock["requires"] = requires
    if row.drift is not None and row.status is Status.COMPLETE:
        # an older converge has mended it, and did not know of that
        lock["drift"] = row.drift = None
    row.epoch += 1
    row.mark = work.node.mark
    return lock
