"""The rows as an oracle sees them: read beside the library, with plain SQL on SQLite, and watched
by triggers that note every illegal move of a single statement."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from converge.model import SYNC_POINT_MOVES, TRAVERSAL_MOVES

#: (traversal, node)
Key = tuple[int, int]
#: Rows by table.
Saved = dict[str, list[tuple[Any, ...]]]


class SyncPoint(NamedTuple):
    """A row of converge_sync_point."""

    traversal_id: int
    node: int
    kind: str
    resource_id: int | None
    keep: int
    state: str
    pending: int
    tainted: int
    ready_at: float | None
    due_at: float
    attempts: int
    deaths: int
    engine_id: int | None
    epoch: int
    mark: int
    waiting_since: float | None
    note_id: int | None
    always: int
    unsettled: int | None
    successors: str

    @property
    def key(self) -> Key:
        """Its primary key."""
        return self.traversal_id, self.node

    @property
    def next(self) -> tuple[int, ...]:
        """The numbers of the nodes that wait for it."""
        return numbers(self.successors)


class Resource(NamedTuple):
    """A row of converge_resource."""

    id: int
    stack_id: int
    name: str
    type: str
    token: str
    action: str
    status: str
    template_id: int | None
    physical_id: str | None
    properties: str
    requires: str
    replaces: int | None
    replaced_by: int | None
    engine_id: int | None
    epoch: int
    mark: int
    blocking: int
    drift: str | None


class Traversal(NamedTuple):
    """A row of converge_traversal."""

    id: int
    stack_id: int
    action: str
    status: str
    halted: str | None
    template_id: int | None
    on_failure: str
    deadline_at: float | None
    total: int
    done: int
    failed: int
    skipped: int
    ended_at: float | None
    goes_on: int


class Stack(NamedTuple):
    """A row of converge_stack."""

    id: int
    name: str
    live: int | None
    action: str
    status: str
    reason: str | None
    template_id: int | None
    completed_template_id: int | None
    traversal_id: int | None
    edges: bytes | None


class Progress(NamedTuple):
    """A row of converge_progress."""

    traversal_id: int
    engine_id: int
    done: int
    failed: int
    skipped: int


class Engine(NamedTuple):
    """A row of converge_engine."""

    id: int
    mark: int
    state: str
    expires_at: float


class Rows(NamedTuple):
    """All that matters, as it was between two transactions."""

    sync_points: dict[Key, SyncPoint]
    resources: dict[int, Resource]
    traversals: dict[int, Traversal]
    stacks: dict[int, Stack]
    progress: list[Progress]
    engines: dict[int, Engine]

    def nodes_of(self, traversal_id: int) -> Iterator[SyncPoint]:
        """The sync points of a traversal."""
        return (row for row in self.sync_points.values() if row.traversal_id == traversal_id)


@lru_cache(maxsize=10_000)
def numbers(text: str) -> tuple[int, ...]:
    """A JSON list of numbers."""
    return tuple(json.loads(text))


@lru_cache(maxsize=10_000)
def properties(text: str) -> dict[str, Any]:
    """A JSON object."""
    value: dict[str, Any] = json.loads(text)
    return value


def _select(kind: Any, table: str) -> str:
    return f"SELECT {', '.join(kind._fields)} FROM converge_{table}"


_SYNC_POINTS = _select(SyncPoint, "sync_point") + " ORDER BY traversal_id, node"
_RESOURCES = _select(Resource, "resource") + " ORDER BY id"
_TRAVERSALS = _select(Traversal, "traversal") + " ORDER BY id"
_STACKS = _select(Stack, "stack") + " ORDER BY id"
_PROGRESS = _select(Progress, "progress") + " ORDER BY traversal_id, engine_id"
_ENGINES = _select(Engine, "engine") + " ORDER BY id"
_TABLES = (
    "stack",
    "template",
    "traversal",
    "progress",
    "resource",
    "sync_point",
    "engine",
    "event",
    "signal",
    "scope",
    "step",
)
#: The last one counts the ids.
_ALL = (*(f"converge_{table}" for table in _TABLES), "sqlite_sequence")


class Tables:
    """:param path: of the SQLite file, which has converge's schema."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("PRAGMA recursive_triggers = OFF")
        self._connection.executescript(_triggers())
        self._version = -1
        self._rows: Rows | None = None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def clear(self) -> None:
        """Delete all rows, and count ids from 1 again, so that a seed is the same every time."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for table in _TABLES:
            execute(f"DELETE FROM converge_{table}")
        execute("DELETE FROM sqlite_sequence")
        execute("DELETE FROM sim_illegal")
        execute("COMMIT")
        self._rows = None

    def save(self) -> Saved:
        """All rows, to be brought back by :meth:`restore`."""
        execute = self._connection.execute
        return {table: execute(f"SELECT * FROM {table}").fetchall() for table in _ALL}

    def restore(self, saved: Saved) -> None:
        """Forget all that was committed since; ids come again, too."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for table, rows in saved.items():
            execute(f"DELETE FROM {table}")
            if rows:
                places = ", ".join("?" * len(rows[0]))
                query = f"INSERT INTO {table} VALUES ({places})"
                self._connection.executemany(query, rows)
        execute("COMMIT")
        self._rows = None

    def read(self) -> Rows:
        """The rows as they are; the same object if nothing was committed since the last call."""
        execute = self._connection.execute
        version = execute("PRAGMA data_version").fetchone()[0]
        if self._rows is None or version != self._version:
            self._version = version
            execute("BEGIN")
            self._rows = Rows(
                {row[:2]: SyncPoint._make(row) for row in execute(_SYNC_POINTS)},
                {row[0]: Resource._make(row) for row in execute(_RESOURCES)},
                {row[0]: Traversal._make(row) for row in execute(_TRAVERSALS)},
                {row[0]: Stack._make(row) for row in execute(_STACKS)},
                [Progress._make(row) for row in execute(_PROGRESS)],
                {row[0]: Engine._make(row) for row in execute(_ENGINES)},
            )
            execute("COMMIT")
        return self._rows

    def illegal(self) -> list[str]:
        """What the triggers noted."""
        return [row[0] for row in self._connection.execute("SELECT what FROM sim_illegal")]

    def entries(self, template_id: int | None) -> dict[str, dict[str, Any]]:
        """The resources in a version, as it says them."""
        if template_id is None:
            return {}
        query = "SELECT body FROM converge_template WHERE id = ?"
        body = json.loads(self._connection.execute(query, (template_id,)).fetchone()[0])
        found: dict[str, dict[str, Any]] = body["resources"]
        return found

    def wanted(self, template_id: int | None) -> dict[str, set[str]]:
        """The names of the resources in a version, and those that each of them requires."""
        found = {}
        for name, entry in self.entries(template_id).items():
            required = set(entry.get("depends_on", ()))
            for value in entry.get("properties", {}).values():
                if isinstance(value, dict):
                    required |= {value[key] for key in ("get_resource",) if key in value}
                    required |= {value[key][0] for key in ("get_attr",) if key in value}
            found[name] = required
        return found

    def count(self, table: str) -> int:
        """How many rows a table has."""
        query = f"SELECT COUNT(*) FROM converge_{table}"
        return int(self._connection.execute(query).fetchone()[0])


def _triggers() -> str:
    """Triggers that see single statements, where the oracle sees whole transactions only."""

    def pairs(moves: Any) -> str:
        return ", ".join(f"'{old}>{new}'" for old, news in moves.items() for new in sorted(news))

    def note(name: str, when: str, condition: str, what: str) -> str:
        return (
            f"CREATE TRIGGER sim_{name} AFTER UPDATE {when} WHEN {condition} "
            f"BEGIN INSERT INTO sim_illegal VALUES ({what}); END;"
        )

    node = "'node ' || NEW.traversal_id || '.' || NEW.node || ': '"
    thing = "'resource ' || NEW.id || ' ' || NEW.name || ': '"
    written = ("action", "status", "physical_id", "properties", "attributes")
    changed = " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in written)
    # what the stack has let go of is required by nobody any more, and its row is gone
    there = "(SELECT id FROM converge_resource)"
    let_go = f"EXISTS (SELECT 1 FROM json_each(OLD.requires) WHERE value NOT IN {there})"
    changed += f" OR (NEW.requires IS NOT OLD.requires AND NOT {let_go})"
    return "\n".join(
        (
            "CREATE TABLE sim_illegal (what TEXT);",
            note(
                "node_moves",
                "OF state ON converge_sync_point",
                "NEW.state <> OLD.state AND OLD.state || '>' || NEW.state NOT IN "
                f"({pairs(SYNC_POINT_MOVES)})",
                f"{node} || OLD.state || ' became ' || NEW.state",
            ),
            note(
                "node_passed",
                "OF state ON converge_sync_point",
                "OLD.state IN ('WAITING', 'READY') AND NEW.state = 'DONE' AND "
                "(NEW.unsettled IS NOT 0 OR NEW.pending > 0 OR OLD.tainted OR NEW.kind = 'stack')",
                f"{node} || 'passed over, and should not be'",
            ),
            note(
                "node_claim",
                "OF state ON converge_sync_point",
                "NEW.state = 'RUNNING' AND OLD.state <> 'RUNNING' AND (NEW.engine_id IS NULL "
                "OR NEW.epoch <> OLD.epoch + 1 OR NEW.attempts <> OLD.attempts + 1 "
                "OR NEW.pending > 0)",
                f"{node} || 'claimed as no claim is made'",
            ),
            note(
                "node_epoch",
                "OF epoch ON converge_sync_point",
                "NEW.epoch < OLD.epoch",
                f"{node} || 'its epoch shrank'",
            ),
            note(
                "node_stolen",
                "OF engine_id ON converge_sync_point",
                "OLD.engine_id IS NOT NULL AND NEW.engine_id IS NOT NULL "
                "AND OLD.engine_id <> NEW.engine_id",
                f"{node} || 'taken from one engine by another'",
            ),
            note(
                "lock_epoch",
                "OF epoch ON converge_resource",
                "NEW.epoch < OLD.epoch",
                f"{thing} || 'its epoch shrank'",
            ),
            note(
                "lock_taken",
                "OF engine_id ON converge_resource",
                "NEW.engine_id IS NOT NULL AND NEW.engine_id IS NOT OLD.engine_id "
                "AND (OLD.engine_id IS NOT NULL OR NEW.epoch <> OLD.epoch + 1)",
                f"{thing} || 'locked as no lock is taken'",
            ),
            note(
                "requires_lost",
                "OF requires ON converge_resource",
                "OLD.engine_id IS NULL AND EXISTS (SELECT 1 FROM json_each(OLD.requires) "
                "WHERE value NOT IN (SELECT value FROM json_each(NEW.requires)) "
                f"AND value IN {there})",
                f"{thing} || 'forgets what it requires before it is brought about'",
            ),
            note(
                "lock_needed",
                "ON converge_resource",
                f"OLD.engine_id IS NULL AND NEW.engine_id IS NULL AND ({changed})",
                f"{thing} || 'written without a lock'",
            ),
            note(
                "traversal_moves",
                "OF status ON converge_traversal",
                "NEW.status <> OLD.status AND OLD.status || '>' || NEW.status NOT IN "
                f"({pairs(TRAVERSAL_MOVES)})",
                "'traversal ' || NEW.id || ': ' || OLD.status || ' became ' || NEW.status",
            ),
            note(
                "frozen",
                "OF edges ON converge_stack",
                "NEW.edges IS NOT NULL AND NEW.edges IS NOT OLD.edges "
                "AND NEW.traversal_id IS OLD.traversal_id",
                "'stack ' || NEW.name || ': its graph changed under a traversal'",
            ),
        )
    )
