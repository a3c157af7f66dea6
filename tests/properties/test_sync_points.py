"""Sync points against a walk of a graph in plain Python.

Engines claim nodes, finish them, give them back, die; traversals are halted and superseded.
The walk says what each call must do, and a call that is refused must change nothing. What a
node waits for is not remembered by the walk but counted afresh, from the graph.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
    run_state_machine_as_test,
)

import converge
from converge.model import NodeState
from converge.sql import claimable, engines, node_moves, sync_points
from converge.sql.sync_points import LIVE, Key
from converge.sql.transaction import Transaction
from tests.properties.walk import ENDS, RESOURCES, Ticket, Walk, graphs

#: How many examples on SQLite; more of them for a long look.
EXAMPLES = int(os.environ.get("CONVERGE_TEST_EXAMPLES", "20"))
IDLE = (NodeState.WAITING, NodeState.READY, NodeState.BLOCKED)
picks = st.lists(st.integers(0, 1000), min_size=1, max_size=4)
# tickets: those that are good; those, but one with the epoch before, or in the hand of another;
# or of all times
ages = st.sampled_from(["good", "good", "one is old", "one is another's", "any"])


class Engines(Walk):
    """What engines, and others, do to the nodes."""

    # -- what engines do

    @precondition(lambda self: self.some([0], NodeState.READY))
    @rule(
        number=st.integers(0, 100),
        limit=st.integers(1, 4),
        held=st.sampled_from([0, 0, 0, 1, 2, 5]),
        most_deaths=st.sampled_from([None, None, 0, 1]),
    )
    def claim(self, number: int, limit: int, held: int, most_deaths: int | None) -> None:
        """Some of the nodes find their resource locked, and are blocked."""
        self.calm = True
        # the dead ones now and then
        among = self.engines if number % 5 == 0 else sorted(self.alive)
        engine_id = among[number % len(among)]
        expected = self.ready_for(engine_id, limit, most_deaths)
        blocked = [
            key
            for place, key in enumerate(expected)
            if held >> place & 1 and not self.rows[key].stack
        ]
        started = [key for key in expected if key not in blocked]
        with self.store.transaction() as tx:
            found = claimable.lock_ready(tx, engine_id, limit, most_deaths)
            if left := limit - len(found):
                found += claimable.lock_due(tx, engine_id, left, most_deaths)
            assert [row.key for row in found] == expected
            node_moves.start_nodes(tx, engine_id, started)
            node_moves.block_nodes(tx, blocked)
        for key in blocked:
            self.change(key, state=NodeState.BLOCKED, ready_at=None, due_at=0.0)
        for key in started:
            row = self.rows[key]
            self.change(
                key,
                state=NodeState.RUNNING,
                engine_id=engine_id,
                epoch=row.epoch + 1,
                attempts=row.attempts + 1,
            )
            self.tickets.append((engine_id, key, row.epoch + 1))
        self.claims += len(started)

    @precondition(lambda self: self.tickets)
    @rule(numbers=picks, age=ages, state=st.sampled_from(ENDS))
    def end(self, numbers: list[int], age: str, state: NodeState) -> None:
        """Several at once, with their arrivals; nothing if one of them is somebody else's."""
        tickets = [one for one in self.drawn(numbers, age) if not self.is_stack(one)]
        if not tickets:
            return
        engine_id = tickets[0][0]
        good = all(map(self.holds, tickets))
        counts = Counter(
            (key[0], number)
            for _, key, _ in tickets
            if key in self.rows
            for number in self.rows[key].successors
        )
        taints = state is not NodeState.DONE or any(
            self.rows[key].tainted for _, key, _ in tickets if key in self.rows
        )

        def write(tx: Transaction) -> None:
            locked = sync_points.lock_nodes(tx, {*counts, *(key for _, key, _ in tickets)})
            node_moves.end_nodes(tx, engine_id, self.states(tickets), state)
            if taints:
                node_moves.taint(tx, sorted(counts))
            node_moves.arrive(tx, counts, locked)

        self.attempt(write, valid=good)
        if not good:
            return
        for _, key, _ in tickets:
            self.change(key, state=state, engine_id=None)
        for key in counts:
            if taints:
                self.change(key, tainted=True)
            pending = self.outstanding(key)
            if pending:
                self.change(key, pending=pending)
            else:
                self.change(key, state=NodeState.READY, pending=0, ready_at=self.clock())

    @precondition(lambda self: self.tickets)
    @rule(
        numbers=picks,
        age=ages,
        wait=st.sampled_from([0.0, 5.0]),
        uncounted=st.booleans(),
    )
    def retry(self, numbers: list[int], age: str, wait: float, uncounted: bool) -> None:
        tickets = self.drawn(numbers, age)[:1]
        if not tickets:
            return
        ((engine_id, key, _),) = tickets
        (node,) = self.states(tickets)
        limit = None if uncounted else 7
        valid = self.holds(tickets[0])
        self.attempt(
            lambda tx: node_moves.requeue_node(
                tx, engine_id, node, wait, max_attempts=limit, uncounted=uncounted
            ),
            valid=valid,
        )
        if valid:
            self.change(
                key,
                state=NodeState.READY,
                engine_id=None,
                ready_at=self.clock() + wait,
                due_at=self.clock() + wait if wait else 0.0,
                attempts=self.rows[key].attempts - uncounted,
                max_attempts=limit,
            )

    @precondition(lambda self: self.tickets)
    @rule(numbers=picks, age=ages, resource_id=st.sampled_from(RESOURCES))
    def point_at(self, numbers: list[int], age: str, resource_id: int) -> None:
        tickets = [one for one in self.drawn(numbers, age) if not self.is_stack(one)][:1]
        if not tickets:
            return
        ((engine_id, key, _),) = tickets
        (node,) = self.states(tickets)
        valid = self.holds(tickets[0])
        self.attempt(lambda tx: node_moves.point_at(tx, engine_id, node, resource_id), valid=valid)
        if valid:
            self.change(key, resource_id=resource_id)

    def is_stack(self, ticket: Ticket) -> bool:
        row = self.rows.get(ticket[1])
        return row is not None and row.stack

    # -- what happens to them

    @precondition(lambda self: self.some([0], NodeState.BLOCKED))
    @rule(numbers=picks, by_key=st.booleans())
    def unblock(self, numbers: list[int], by_key: bool) -> None:
        """Those of some resources, or some by name, also of those that are not blocked."""
        ids = sorted({RESOURCES[number % len(RESOURCES)] for number in numbers})
        asked = self.some(numbers if by_key else range(100))
        keys = [
            key
            for key in asked
            if self.rows[key].state is NodeState.BLOCKED and (by_key or self.of(key) in ids)
        ]
        with self.store.transaction() as tx:
            if by_key:
                assert node_moves.unblock_nodes(tx, asked) == len(keys)
            else:
                assert node_moves.unblock(tx, ids) == len(keys)
        for key in keys:
            self.change(key, state=NodeState.READY, ready_at=self.clock())

    def of(self, key: Key) -> int | None:
        return self.rows[key].resource_id

    @precondition(lambda self: self.some([0], NodeState.RUNNING, NodeState.SUPERSEDED))
    @rule(number=st.integers(0, 100), limit=st.integers(1, 3), died=st.booleans())
    def recover(self, number: int, limit: int, died: bool) -> None:
        """Some nodes of an engine are taken from it, whether it lives or not."""
        engine_id = self.engines[number % len(self.engines)]
        held = sorted(
            key
            for key, row in self.rows.items()
            if row.engine_id == engine_id and row.state in (NodeState.RUNNING, NodeState.SUPERSEDED)
        )[:limit]
        running = [key for key in held if self.rows[key].state is NodeState.RUNNING]
        with self.store.transaction() as tx:
            found = sync_points.list_engine_nodes(tx, engine_id, limit)
            assert [row.key for row in found] == held
            nodes = [row for row in found if row.state is NodeState.RUNNING]
            node_moves.recover_nodes(tx, engine_id, nodes, died=died)
            sync_points.delete_nodes(tx, [key for key in held if key not in running])
        for key in held:
            if key not in running:
                del self.rows[key]
                continue
            self.change(
                key,
                state=NodeState.READY,
                engine_id=None,
                ready_at=self.clock(),
                due_at=0.0,
                deaths=self.rows[key].deaths + died,
            )

    @precondition(lambda self: self.calm and len(self.engines) < 6)
    @rule(number=st.integers(0, 100), expire=st.booleans())
    def die(self, number: int, expire: bool) -> None:
        """An engine's lease ends, whether somebody noticed or not; another one comes."""
        self.calm = False
        engine_id = self.engines[number % len(self.engines)]
        with self.store.transaction() as tx:
            if expire:
                engines.expire_lease(tx, engine_id)
            else:
                engines.end_engine(tx, engine_id, engines.DEAD)
        self.alive.discard(engine_id)
        self.register()

    @precondition(
        lambda self: any(row.state is NodeState.READY and row.due_at for row in self.rows.values())
    )
    @rule(seconds=st.sampled_from([1.0, 5.0]), swept=st.booleans())
    def pass_time(self, seconds: float, swept: bool) -> None:
        """Time passes, and retries that are due may take their turn."""
        self.clock.advance(seconds)
        if not swept:
            return
        due = [
            key
            for key, row in self.rows.items()
            if row.state is NodeState.READY and 0 < row.due_at <= self.clock()
        ]
        with self.store.transaction() as tx:
            assert node_moves.promote_retries(tx, 1000) == len(due)
        for key in due:
            self.change(key, due_at=0.0)

    @precondition(lambda self: self.calm)
    @rule(
        numbers=picks,
        what=st.sampled_from(["start", "block", "skip", "arrive", "arrive"]),
        count=st.integers(1, 6),
    )
    def meddle(self, numbers: list[int], what: str, count: int) -> None:
        """Move nodes of which at least one cannot be moved so."""
        self.calm = False
        waiting = [NodeState.WAITING] if what == "arrive" and count > 1 else []
        keys = self.some(numbers, *waiting)
        rows = [self.rows[key] for key in keys]
        good = {
            "start": all(row.state is NodeState.READY for row in rows),
            "block": all(row.state is NodeState.READY for row in rows),
            "skip": all(row.state in IDLE for row in rows),
            # an arrival that was counted before
            "arrive": all(row.state is NodeState.WAITING and count <= row.pending for row in rows),
        }
        moves: dict[str, Callable[[Transaction], object]] = {
            "start": lambda tx: node_moves.start_nodes(tx, self.engines[0], keys),
            "block": lambda tx: node_moves.block_nodes(tx, keys),
            "skip": lambda tx: node_moves.skip_nodes(tx, keys),
            "arrive": lambda tx: node_moves.arrive(
                tx, dict.fromkeys(keys, count), sync_points.lock_nodes(tx, keys)
            ),
        }
        if not good[what]:
            self.attempt(moves[what], valid=False)

    @precondition(lambda self: not self.halted and self.is_under_way)
    @rule()
    def halt(self) -> None:
        """Nothing new starts; the stack's node waits for what is running."""
        self.halted = True
        mine = {key: row for key, row in self.rows.items() if key[0] == self.traversal}
        stack = self.stack
        live = sorted(key for key, row in mine.items() if row.state in LIVE)
        idle = [key for key in live if mine[key].state in IDLE and key != stack]
        running = [key for key in live if mine[key].state is NodeState.RUNNING and key != stack]
        with self.store.transaction() as tx:
            found = sync_points.lock_traversal_nodes(tx, self.traversal, LIVE)
            assert [node.key for node in found] == live
            node_moves.skip_nodes(tx, idle)
            node_moves.lead(tx, running, [stack[1]])
            node_moves.wait_for(tx, stack, len(running))
        for key in idle:
            self.change(key, state=NodeState.SKIPPED, ready_at=None)
        for key in running:
            self.change(key, successors=(stack[1],), tainted=True)
        self.change(
            stack,
            state=NodeState.WAITING if running else NodeState.READY,
            ready_at=None if running else self.clock(),
            due_at=0.0,
            pending=len(running),
            engine_id=None,
        )

    @precondition(lambda self: self.is_under_way)
    @rule(graph=graphs)
    def supersede(self, graph: Sequence[set[int]]) -> None:
        with self.store.transaction() as tx:
            sync_points.lock_traversal_nodes(tx, self.traversal, LIVE)
            node_moves.supersede_nodes(tx, self.traversal)
        for key in [key for key in self.rows if key[0] == self.traversal]:
            if self.rows[key].state is NodeState.RUNNING and not self.rows[key].stack:
                self.change(key, state=NodeState.SUPERSEDED)
            else:
                del self.rows[key]
        self.insert(graph)

    @precondition(lambda self: self.some([0], NodeState.SUPERSEDED))
    @rule(numbers=picks)
    def end_superseded(self, numbers: list[int]) -> None:
        keys = self.some(numbers, NodeState.SUPERSEDED)
        with self.store.transaction() as tx:
            sync_points.delete_nodes(tx, keys)
        for key in keys:
            del self.rows[key]

    @precondition(lambda self: self.rows[self.stack].state is NodeState.RUNNING)
    @rule(graph=graphs)
    def finish(self, graph: Sequence[set[int]]) -> None:
        """The stack's node runs, so all the others are over, and the next traversal begins."""
        mine = [key for key in self.rows if key[0] == self.traversal]
        assert all(self.rows[key].state in ENDS for key in mine if key != self.stack)
        with self.store.transaction() as tx:
            sync_points.delete_traversal_nodes(tx, self.traversal)
        for key in mine:
            del self.rows[key]
        self.insert(graph)

    def teardown(self) -> None:
        """Left to itself, with one engine that lives, every walk comes to its end."""
        if not self.rows:
            return
        self.register()
        for number, _ in enumerate(self.engines[:-1]):
            self.recover(number, 1000, True)
        self.rows_are_as_the_walk_says()
        stack = self.stack
        for _ in range(len(self.rows) + 1):
            self.clock.advance(10)
            self.unblock(list(range(len(RESOURCES))), False)
            self.rows_are_as_the_walk_says()
            self.claim(1, 1000, 0, None)
            self.rows_are_as_the_walk_says()
            if self.rows[stack].state is NodeState.RUNNING:
                break
            self.end(list(range(len(self.tickets))), "good", NodeState.DONE)
            self.rows_are_as_the_walk_says()
        assert self.rows[stack].state is NodeState.RUNNING
        self.ready_once_per_attempt()


def examples(dialect: str) -> Mapping[str, Any]:
    """Fewer on the servers, which take longer over each."""
    return {"max_examples": 2 * EXAMPLES if dialect == "sqlite" else EXAMPLES // 5 + 1}


def test_sync_points(fresh_store: Callable[..., converge.Store]) -> None:
    class Fresh(Engines):
        def __init__(self) -> None:
            super().__init__(fresh_store)

    run_state_machine_as_test(
        Fresh,
        settings=settings(
            **examples(fresh_store().database.dialect),
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            print_blob=True,
        ),
    )
