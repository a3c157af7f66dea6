"""A walk of a graph in plain Python: the oracle of the sync points.

It says what the rows of all nodes must be. What a node waits for is not remembered but counted
afresh, from the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
)
from sqlalchemy import select

import converge
from converge.errors import StaleLock
from converge.model import SYNC_POINT_MOVES, Kind, NodeState
from converge.sql import engines, schema, sync_points
from converge.sql.sync_points import LIVE, Key, LockedNode, NewSyncPoint
from converge.sql.transaction import Transaction
from converge.testing import FakeClock

LEASE = 1e9
ENDS = (NodeState.DONE, NodeState.FAILED, NodeState.SKIPPED)
RESOURCES = (1, 2, 3)

#: Who believes to have a node: engine, node, epoch.
Ticket = tuple[int, Key, int]

# of each node but the last: which of the nodes before it are its predecessors
graphs = st.lists(st.sets(st.integers(1, 6)), min_size=1, max_size=6)


@dataclass(frozen=True)
class Row:
    """What the walk knows of a node."""

    kind: Kind
    resource_id: int | None
    successors: tuple[int, ...]
    state: NodeState = NodeState.WAITING
    pending: int = 0
    tainted: bool = False
    ready_at: float | None = None
    due_at: float = 0.0
    attempts: int = 0
    max_attempts: int | None = None
    deaths: int = 0
    engine_id: int | None = None
    epoch: int = 0

    @property
    def stack(self) -> bool:
        return self.kind is Kind.STACK


_COLUMNS = [schema.sync_point.c[name] for name in Row.__dataclass_fields__]


def seen(row: Sequence[Any]) -> Row:
    """A row of the database as the walk has it."""
    values = dict(zip(Row.__dataclass_fields__, row, strict=True))
    values["kind"] = Kind(values["kind"])
    values["state"] = NodeState(values["state"])
    values["successors"] = tuple(values["successors"])
    return Row(**values)


class Walk(RuleBasedStateMachine):
    """:param fresh: gives an open store without rows."""

    def __init__(self, fresh: Callable[..., converge.Store]) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = fresh(self.clock)
        self.rows: dict[Key, Row] = {}
        self.before: dict[Key, Row] = {}
        self.traversal = 0
        self.halted = False
        # how many nodes of it were claimed
        self.claims = 0
        # something was claimed since the last time that somebody meddled or died
        self.calm = True
        self.engines: list[int] = []
        self.alive: set[int] = set()
        self.tickets: list[Ticket] = []
        # of each node: how often it became READY, and how often it left that
        self.readied: Counter[Key] = Counter()
        self.taken: Counter[Key] = Counter()

    @initialize(graph=graphs, count=st.integers(1, 3))
    def begin(self, graph: Sequence[set[int]], count: int) -> None:
        for _ in range(count):
            self.register()
        self.insert(graph)

    # -- helpers

    def register(self) -> None:
        with self.store.transaction() as tx:
            engine_id = engines.insert_engine(tx, "host", 1, "?test", LEASE)
        self.engines.append(engine_id)
        self.alive.add(engine_id)

    def insert(self, graph: Sequence[set[int]]) -> None:
        """A new traversal."""
        self.traversal += 1
        self.halted = False
        self.claims = 0
        size = len(graph)
        pairs = {
            (number, number - back)
            for number, backs in enumerate(graph)
            for back in backs
            if number - back >= 0
        }
        required = {before for _, before in pairs}
        pairs |= {(size, root) for root in range(size) if root not in required}
        new = []
        for number in range(size + 1):
            last = number == size
            row = Row(
                Kind.STACK if last else Kind.UPDATE,
                None if last else RESOURCES[number % len(RESOURCES)],
                tuple(sorted(after for after, before in pairs if before == number)),
                pending=sum(after == number for after, _ in pairs),
            )
            if not row.pending:
                row = replace(row, state=NodeState.READY, ready_at=self.clock())
                self.readied[self.traversal, number] += 1
            self.rows[self.traversal, number] = row
            new.append(
                NewSyncPoint(
                    number, row.kind, row.resource_id, False, row.pending, None, [], row.successors
                )
            )
        with self.store.transaction() as tx:
            sync_points.insert_sync_points(tx, self.traversal, new)

    def attempt(self, function: Callable[[Transaction], object], *, valid: bool) -> None:
        """A transaction that must go through, or be refused."""
        if valid:
            with self.store.transaction() as tx:
                function(tx)
            return
        with pytest.raises(StaleLock), self.store.transaction() as tx:
            function(tx)

    def some(self, numbers: Sequence[int], *states: NodeState) -> list[Key]:
        """Nodes that exist; of those states, if any are given."""
        known = sorted(key for key, row in self.rows.items() if not states or row.state in states)
        return sorted({known[number % len(known)] for number in numbers}) if known else []

    def drawn(self, numbers: Sequence[int], age: str) -> list[Ticket]:
        """Tickets of one engine, one of a node."""
        among = self.tickets if age == "any" else [one for one in self.tickets if self.holds(one)]
        if not among:
            return []
        by_key = {one[1]: one for n in numbers for one in [among[n % len(among)]]}
        first, *rest = by_key.values()
        rest = [one for one in rest if one[0] == first[0]]
        if age == "one is old":
            first = (first[0], first[1], first[2] - 1)
        if age == "one is another's":
            first, rest = (first[0] + 1, first[1], first[2]), []
        return [*rest, first]

    def holds(self, ticket: Ticket) -> bool:
        engine_id, key, epoch = ticket
        row = self.rows.get(key)
        mine = row is not None and (row.engine_id, row.epoch) == (engine_id, epoch)
        return mine and self.rows[key].state is NodeState.RUNNING

    def states(self, tickets: Sequence[Ticket]) -> list[LockedNode]:
        """The nodes as those who hold the tickets remember them."""
        return [
            LockedNode(
                *key,
                Kind.UPDATE,
                None,
                NodeState.RUNNING,
                0,
                False,
                engine_id,
                epoch,
                0,
                0,
                False,
                None,
                "[]",
            )
            for engine_id, key, epoch in tickets
        ]

    def change(self, key: Key, **values: Any) -> None:
        row = self.rows[key]
        if values.get("state") is NodeState.READY and row.state is not NodeState.READY:
            self.readied[key] += 1
        if (
            row.state is NodeState.READY
            and values.get("state", NodeState.READY) is not NodeState.READY
        ):
            self.taken[key] += 1
        self.rows[key] = replace(row, **values)

    def ready_for(self, engine_id: int, limit: int, most_deaths: int | None) -> list[Key]:
        """What a claim must find."""
        if engine_id not in self.alive:
            return []
        due = [
            (row.due_at, 0 if row.due_at else key[0], row.ready_at, key)
            for key, row in self.rows.items()
            if row.state is NodeState.READY
            and row.due_at <= self.clock()
            and (most_deaths is None or row.deaths <= most_deaths)
        ]
        return [key for *_, key in sorted(due)][:limit]

    # -- what must be so

    @property
    def stack(self) -> Key:
        """The stack's node of the newest traversal."""
        return max(key for key in self.rows if key[0] == self.traversal)

    @property
    def is_under_way(self) -> bool:
        """Enough was done in the newest traversal for its end to be of interest."""
        return self.claims > 3 or self.rows[self.stack].state is NodeState.RUNNING

    def predecessors(self, key: Key) -> list[Row]:
        return [
            row for (t, _), row in self.rows.items() if t == key[0] and key[1] in row.successors
        ]

    def outstanding(self, key: Key) -> int:
        """How many predecessors of a node are not over."""
        return sum(row.state not in ENDS for row in self.predecessors(key))

    def found(self) -> dict[Key, Row]:
        table = schema.sync_point
        query = select(table.c.traversal_id, table.c.node, *_COLUMNS)
        with self.store.transaction() as tx:
            rows: Any = tx.execute(query).all()
        return {(row[0], row[1]): seen(row[2:]) for row in rows}

    @invariant()
    def rows_are_as_the_walk_says(self) -> None:
        found = self.found()
        assert found == self.rows
        for key, row in found.items():
            old = self.before.get(key)
            if old is not None:
                assert row.state is old.state or row.state in SYNC_POINT_MOVES[old.state]
                assert row.epoch >= old.epoch
        self.before = found

    @invariant()
    def who_waits_does_so_for_what_is_outstanding(self) -> None:
        for key, row in self.rows.items():
            if row.state is NodeState.SUPERSEDED or (self.halted and not row.stack):
                continue
            assert row.pending == self.outstanding(key)
            if row.state in LIVE:
                assert (row.state is NodeState.WAITING) is (row.pending > 0)
            else:
                assert row.pending == 0

    @invariant()
    def ready_once_per_attempt(self) -> None:
        for key, row in self.rows.items():
            assert self.readied[key] == self.taken[key] + (row.state is NodeState.READY)
            # who was skipped while ready, or was blocked, left without an attempt
            assert row.epoch <= self.taken[key]
        assert len(set(self.tickets)) == len(self.tickets)
