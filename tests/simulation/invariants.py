"""What must be so between any two transactions, and what must be so at the end.

Each check names the invariant of the design (in the concepts) that it is about. They look at the
rows and at the world, never at what the library says of itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from converge.graph import Graph
from tests.simulation.tables import (
    Key,
    Resource,
    Rows,
    Saved,
    Tables,
    Traversal,
    numbers,
    properties,
)
from tests.simulation.world import World

LIVE = frozenset({"WAITING", "READY", "RUNNING", "BLOCKED"})
HELD = frozenset({"RUNNING", "SUPERSEDED"})
OVER = frozenset({"DONE", "FAILED", "SKIPPED"})
DONE, RUNNING, WAITING = "DONE", "RUNNING", "WAITING"


@dataclass(frozen=True, slots=True)
class Past:
    """What an oracle knew at some time."""

    rows: Saved
    done: set[Key]
    graphs: dict[int, dict[int, tuple[int, ...]]]
    epochs: dict[tuple[str, object], int]


class Oracle:
    """Remembers what it has seen, and compares.

    :param complain: told of what must not be.
    """

    def __init__(self, tables: Tables, world: World, complain: Callable[[str], None]) -> None:
        self.tables = tables
        self.world = world
        self.complain = complain
        self.rows = tables.read()
        #: nodes whose completion was committed
        self.done: set[Key] = set()
        #: what was reached, for the proof that the simulation gets everywhere
        self.seen: Counter[str] = Counter()
        self._graphs: dict[int, dict[int, tuple[int, ...]]] = {}
        self._epochs: dict[tuple[str, object], int] = {}

    def save(self) -> Past:
        """What is so now, and what was seen so far."""
        return Past(self.tables.save(), set(self.done), dict(self._graphs), dict(self._epochs))

    def rewind(self, past: Past) -> None:
        """The database forgets what came after that. Of the things that the rows had to do with,
        before or after, nothing can be said until the next effect on each."""
        self.world.unsure |= {thing.token for thing in self.world.things.values()}
        self.world.unsure |= {row.token for row in self.rows.resources.values()}
        self.tables.restore(past.rows)
        self.done, self._graphs = set(past.done), dict(past.graphs)
        self._epochs = dict(past.epochs)
        self.rows = self.tables.read()
        self.world.unsure |= {row.token for row in self.rows.resources.values()}

    def look(self) -> None:
        """Check all that must be so between two transactions."""
        rows = self.tables.read()
        if rows is self.rows:
            return
        before, self.rows = self.rows, rows
        for what in self.tables.illegal():
            self.complain(what)
        checks = (
            self._check_frozen(rows),
            self._check_nodes(rows),
            self._check_arrivals(rows),
            self._check_always(rows),
            self._check_locks(rows),
            self._check_epochs(rows),
            self._check_traversals(rows),
            self._check_counts(rows),
            self._check_things(rows),
            self._check_ends(before, rows),
        )
        for check in checks:
            for what in check:
                self.complain(what)

    # -- invariant 7: the graph is frozen per traversal

    def _check_frozen(self, rows: Rows) -> Iterator[str]:
        for stack in rows.stacks.values():
            number = stack.traversal_id
            if number is None or number in self._graphs:
                continue
            if rows.traversals[number].status != RUNNING:
                # it was over before it was looked at: nothing to do
                self._graphs[number] = {}
                continue
            # what is done from the start has a negative number
            self._graphs[number] = {
                row.node: row.next for row in rows.nodes_of(number) if row.node >= 0
            }
            assert stack.edges is not None
            graph = Graph.from_bytes(stack.edges)
            places = {name: place for place, name in enumerate(graph)}
            edges = {
                places[name]: tuple(sorted(places[other] for other in graph.required_by(name)))
                for name in graph
            }
            if edges != self._graphs[number]:
                yield f"traversal {number}: its nodes are not those of its graph"
        for row in rows.sync_points.values():
            if row.state == "SUPERSEDED" or row.node < 0:
                continue
            frozen = self._graphs[row.traversal_id].get(row.node)
            halted = rows.traversals[row.traversal_id].halted is not None
            # what is left of a halted traversal leads to its end, or to what runs always, which is
            # so no longer when it is cancelled: what is over then led there before
            last = max(self._graphs[row.traversal_id], default=0)
            left = [rows.sync_points.get((row.traversal_id, node)) for node in row.next]
            is_over = row.state in ("DONE", "FAILED", "SKIPPED")
            allowed = (
                is_over or row.next == (last,) or all(one is None or one.always for one in left)
            )
            if row.next != frozen and not (halted and row.tainted and allowed):
                yield f"node {row.key}: its successors changed to {row.successors}"

    # -- invariants 1 and 3: who may run

    def _check_nodes(self, rows: Rows) -> Iterator[str]:
        before: dict[Key, set[str]] = {}
        for row in rows.sync_points.values():
            for other in self._graphs[row.traversal_id].get(row.node, ()):
                before.setdefault((row.traversal_id, other), set()).add(row.state)
        for key, row in rows.sync_points.items():
            if row.state == DONE:
                self.done.add(key)
                if row.unsettled == 0 and row.attempts == 0:
                    self.seen["passed over"] += 1
            elif row.state == "BLOCKED" or row.deaths:
                self.seen["blocked" if row.state == "BLOCKED" else "recovered"] += 1
            if row.note_id is not None and row.state == "READY":
                self.seen["waits"] += 1
            if (row.note_id is None) is not (row.waiting_since is None):
                yield f"node {key} waits since {row.waiting_since} with note {row.note_id}"
            if (row.state in HELD) is not (row.engine_id is not None):
                yield f"node {key} is {row.state} with engine {row.engine_id}"
            if row.state != RUNNING:
                continue
            states = before.get(key, set())
            if not states <= OVER or not (row.tainted or states <= {DONE}):
                yield f"node {key} runs after predecessors that are {sorted(states)}"
            if row.always and rows.traversals[row.traversal_id].halted is not None:
                yield from self._check_ancestors(rows, key)

    # -- what runs always comes after a failure, and after all that was before it

    def _check_ancestors(self, rows: Rows, key: Key) -> Iterator[str]:
        number, node = key
        above = {node}
        for other in sorted(self._graphs[number], reverse=True):
            if above.intersection(self._graphs[number][other]):
                above.add(other)
        for other in above - {node}:
            state = rows.sync_points[number, other].state
            if state not in OVER:
                yield f"node {key} runs, and {other}, which was before it, is {state}"

    def _check_always(self, rows: Rows) -> Iterator[str]:
        for key, row in rows.sync_points.items():
            if not row.always or row.state == "SUPERSEDED":
                continue
            if row.tainted and row.state == DONE:
                self.seen["ran after a failure"] += 1
            if row.state == "SKIPPED" and rows.traversals[row.traversal_id].goes_on:
                yield f"node {key} runs always, and was skipped"

    # -- invariant 2: each arrival counts once

    def _check_arrivals(self, rows: Rows) -> Iterator[str]:
        outstanding: Counter[Key] = Counter()
        for row in rows.sync_points.values():
            if row.state in LIVE:
                outstanding.update((row.traversal_id, node) for node in row.next)
        for key, row in rows.sync_points.items():
            if row.state in LIVE and row.pending != outstanding[key]:
                yield f"node {key} waits for {row.pending}, and {outstanding[key]} are outstanding"
            if row.state in LIVE and (row.state == WAITING) is (row.pending == 0):
                yield f"node {key} is {row.state}, and {row.pending} are outstanding"

    # -- invariant 3: at most one valid lock per resource, epochs only grow

    def _check_locks(self, rows: Rows) -> Iterator[str]:
        holders: Counter[tuple[int | None, int | None]] = Counter()
        for row in rows.sync_points.values():
            if row.state in HELD and row.resource_id is not None:
                holders[row.resource_id, row.engine_id] += 1
        for one in rows.resources.values():
            if one.engine_id is not None and not holders[one.id, one.engine_id]:
                yield f"resource {one.id} is locked by engine {one.engine_id}, which has no node"
        for key, row in rows.sync_points.items():
            if row.state != "BLOCKED":
                continue
            held = rows.resources.get(row.resource_id or 0)
            if held is None or held.engine_id is None or not held.blocking:
                yield f"node {key} is blocked by nobody"

    def _check_epochs(self, rows: Rows) -> Iterator[str]:
        found: dict[tuple[str, object], int] = {
            ("node", key): row.epoch for key, row in rows.sync_points.items()
        }
        found |= {("resource", key): row.epoch for key, row in rows.resources.items()}
        for what, epoch in found.items():
            if epoch < self._epochs.get(what, 0):
                yield f"the epoch of {what} shrank to {epoch}"
        self._epochs |= found

    # -- invariants 4 and 5: what is over is over, what is not can go on

    def _check_traversals(self, rows: Rows) -> Iterator[str]:
        states: dict[int, set[str]] = {}
        for row in rows.sync_points.values():
            states.setdefault(row.traversal_id, set()).add(row.state)
        current = {stack.traversal_id: stack for stack in rows.stacks.values()}
        for number, one in rows.traversals.items():
            found = states.get(number, set())
            if one.status == RUNNING:
                if number not in current:
                    yield f"traversal {number} runs beside that of its stack"
                elif current[number].status != "IN_PROGRESS":
                    yield f"traversal {number} runs, and its stack is {current[number].status}"
                if not found & {"READY", "RUNNING", "BLOCKED"}:
                    yield f"traversal {number} runs, and all its nodes are {sorted(found)}"
            elif number in current and current[number].status != one.status:
                yield f"traversal {number} is {one.status}, its stack {current[number].status}"
            elif not found <= ({"SUPERSEDED"} if one.status == "SUPERSEDED" else set()):
                yield f"traversal {number} is {one.status} with nodes {sorted(found)}"

    # -- what people are told

    def _check_counts(self, rows: Rows) -> Iterator[str]:
        counted: dict[int, Counter[str]] = {}
        for line in rows.progress:
            count = counted.setdefault(line.traversal_id, Counter())
            count.update(DONE=line.done, FAILED=line.failed, SKIPPED=line.skipped)
        for number, one in rows.traversals.items():
            if one.status == RUNNING:
                # the stack's own node is not counted, nor is what was done from the start
                found = Counter(
                    row.state
                    for row in rows.nodes_of(number)
                    if row.state in OVER and row.kind != "stack" and row.node >= 0
                )
                told = +counted.pop(number, Counter())
                if found != told:
                    yield f"traversal {number}: {dict(told)} counted, {dict(found)} there"
            elif one.status != "SUPERSEDED" and one.done + one.failed + one.skipped != one.total:
                yield f"the counts of traversal {number} do not add up: {one}"
        if counted:
            yield f"progress is left of traversals that are over: {sorted(counted)}"

    # -- what the database says of the world is true

    def _check_things(self, rows: Rows) -> Iterator[str]:
        for one in rows.resources.values():
            if one.engine_id is None and one.status == "COMPLETE":
                yield from self._check_thing(one)
            if one.drift is not None and one.action == "CHECK":
                self.seen["drifted"] += 1
                if one.status != "FAILED":
                    yield f"resource {one.id} has drifted, and is {one.status}"

    def _check_thing(self, one: Resource) -> Iterator[str]:
        if one.token in self.world.unsure:
            return
        thing = self.world.things.get(one.physical_id or "")
        if thing is None:
            yield f"resource {one.id} is COMPLETE, and {one.physical_id} is not there"
        elif thing.properties != properties(one.properties):
            yield f"{thing.id} is {thing.properties}, recorded as {one.properties}"

    # -- invariant 8: one resource per name, none after a delete

    def _check_ends(self, before: Rows, rows: Rows) -> Iterator[str]:
        for number, one in rows.traversals.items():
            old = before.traversals.get(number)
            if one.status == RUNNING or (old is not None and old.status != RUNNING):
                continue
            self.seen[f"ended {one.status}"] += 1
            if one.action == "ROLLBACK" and one.status == "COMPLETE":
                self.seen["rolled back"] += 1
            if one.status == "COMPLETE" and one.action != "CHECK":
                yield from self._check_complete(rows, one)
            if one.status == "FAILED" and one.on_failure == "rollback":
                stack = rows.stacks[one.stack_id]
                there = stack.completed_template_id == one.template_id or (
                    one.action == "ROLLBACK" and stack.completed_template_id is None
                )
                if not there and (stack.traversal_id == number or stack.action != "ROLLBACK"):
                    yield f"traversal {number} FAILED, and no rollback began with its end"

    def _check_complete(self, rows: Rows, one: Traversal) -> Iterator[str]:
        mine = [row for row in rows.resources.values() if row.stack_id == one.stack_id]
        names = sorted(row.name for row in mine)
        entries = self.tables.entries(one.template_id)
        wanted = self.tables.wanted(one.template_id)
        if names != sorted(wanted):
            yield f"traversal {one.id} is COMPLETE with {names} instead of {sorted(wanted)}"
        ids = {row.name: row.id for row in mine}
        by_name = {row.name: row for row in mine}
        for row in mine:
            if (row.status, row.engine_id) != ("COMPLETE", None):
                yield f"traversal {one.id} is COMPLETE with {row}"
            # what has no node, too, is what is wanted
            brought_to = {
                key: _resolve(value, by_name)
                for key, value in entries.get(row.name, {}).get("properties", {}).items()
            }
            if properties(row.properties) != brought_to:
                yield f"traversal {one.id} is COMPLETE with {row} instead of {brought_to}"
            if row.replaces is not None or row.replaced_by is not None:
                yield f"traversal {one.id} is COMPLETE, and something replaces: {row}"
            # invariant 6: what it requires is exact afterwards
            required = sorted(ids[name] for name in wanted.get(row.name, ()) if name in ids)
            if list(numbers(row.requires)) != required:
                yield f"traversal {one.id} is COMPLETE, and {row} requires {required}"
        stack = rows.stacks[one.stack_id]
        yield from self._check_orphans(f"traversal {one.id} is COMPLETE", stack.name, mine)

    def _check_orphans(self, when: str, stack: str, mine: list[Resource]) -> Iterator[str]:
        """Nothing is in the world that no row knows of, by its id or by its create's token."""
        known = {row.physical_id for row in mine}
        tokens = {row.token for row in mine} | self.world.unsure
        for thing in self.world.things.values():
            mine_at_all = thing.id.startswith(f"{stack}/")
            if mine_at_all and thing.id not in known and thing.token not in tokens:
                yield f"{when}, and nobody knows of {thing.id}"

    # -- invariant 6: the order of cleanups

    def check_delete(self, physical_id: str) -> None:
        """Nothing that requires it may still be there, unless its replacement is made next."""
        mine = [row for row in self.rows.resources.values() if row.physical_id == physical_id]
        token = self.world.things[physical_id].token
        mine = mine or [row for row in self.rows.resources.values() if row.token == token]
        # what goes before its replacement is made goes under those that use it
        if any(row.action == "REPLACE" for row in mine):
            self.world.gone_first.add(token)
            return
        for gone in mine:
            for row in self.rows.resources.values():
                there = row.physical_id or self.world.by_token.get(row.token)
                if gone.id in numbers(row.requires) and there in self.world.things:
                    self.complain(f"{physical_id} is deleted, and {there} requires it")

    # -- at the end

    def check_quiet(self) -> None:
        """Nothing is left to do, and nothing was left behind."""
        rows = self.rows
        for traversal in rows.traversals.values():
            if traversal.status == RUNNING:
                self.complain(f"traversal {traversal.id} never ended")
        if rows.sync_points or rows.progress:
            self.complain(f"left behind: {[*rows.sync_points.values(), *rows.progress]}")
        for row in rows.resources.values():
            if row.engine_id is not None:
                self.complain(f"resource {row.id} is still locked by engine {row.engine_id}")
        for stack in rows.stacks.values():
            mine = [row for row in rows.resources.values() if row.stack_id == stack.id]
            if stack.live is None and mine:
                self.complain(f"stack {stack.name} is deleted, and has {mine}")
        for name in {stack.name for stack in rows.stacks.values()}:
            ids = {stack.id for stack in rows.stacks.values() if stack.name == name}
            mine = [row for row in rows.resources.values() if row.stack_id in ids]
            for what in self._check_orphans("all is quiet", name, mine):
                self.complain(what)


def _resolve(value: Any, by_name: Mapping[str, Resource]) -> Any:
    """What a property of a template should have become. All attributes that are referred to are
    physical ids."""
    if not isinstance(value, dict):
        return value
    (reference,) = value.values()
    found = by_name.get(reference if isinstance(reference, str) else reference[0])
    return None if found is None else found.physical_id
