"""How a run ended, with stable names for ids, tokens and times, and what may differ in another."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from converge.graph import Graph
from converge.model import Kind, NodeState, TraversalStatus
from converge.sql import schema
from converge.sql.database import Database
from converge.sql.transaction import Transaction
from tests.crash.world import Call, World

Row = dict[str, Any]
Rows = dict[str, list[Row]]
#: traversal, resource, action, status
Event = tuple[str, str | None, str, str]


def read_rows(database: Database) -> Rows:
    """All rows as they are, by table."""
    return database.read(_read)


def _read(tx: Transaction) -> Rows:
    rows: Rows = {}
    for name, table in schema.metadata.tables.items():
        found = tx.execute(select(table).order_by(*table.primary_key)).all()
        rows[name.removeprefix(schema.PREFIX)] = [dict(row._mapping) for row in found]
    return rows


class _Names:
    """What rows are called in every run, by their ids in this one."""

    def __init__(self, rows: Rows) -> None:
        self.stacks = _number((row["id"], row["name"]) for row in rows["stack"])
        self.traversals = _number((row["id"], "traversal") for row in rows["traversal"])
        self.resources = _number((row["id"], row["name"]) for row in rows["resource"])
        self.versions = {row["id"]: row["version"] for row in rows["template"]} | {None: None}


def _number(rows: Iterator[tuple[int, str]]) -> dict[int | None, str | None]:
    seen: Counter[str] = Counter()
    names: dict[int | None, str | None] = {None: None}
    for key, name in rows:
        seen[name] += 1
        names[key] = f"{name} #{seen[name]}"
    return names


# -- how a run ended ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ending:
    """:ivar rows: stacks, template versions and resources.
    :ivar traversals: the end of each, by name.
    :ivar events: how often each thing happened; those of one transaction with what they tell.
    :ivar left: sync points, locks and counts of traversals, of which nothing may be left.
    :ivar things: what exists in the world.
    :ivar calls: how often each handler was called, by token.
    """

    rows: Rows
    traversals: dict[str, Row]
    events: Counter[Event]
    left: list[str]
    things: dict[str, Any]
    calls: Counter[str]


def read_ending(database: Database, world: World) -> Ending:
    """How a run ended."""
    rows = read_rows(database)
    names = _Names(rows)
    locks = [row for row in rows["resource"] if row["engine_id"] is not None or row["blocking"]]
    running = [row for row in rows["traversal"] if row["status"] == TraversalStatus.RUNNING]
    left = {"sync_point": rows["sync_point"], "progress": rows["progress"]}
    left |= {"lock": locks, "running traversal": running}
    return Ending(
        rows={
            "stack": [_stack(row, names) for row in rows["stack"]],
            "template": [_template(row, names) for row in rows["template"]],
            "resource": [_resource(row, names) for row in rows["resource"]],
        },
        traversals={str(names.traversals[one["id"]]): _traversal(one) for one in rows["traversal"]},
        events=Counter(
            (str(names.traversals[one["traversal_id"]]), *_pick(one, "resource action status"))
            for one in rows["event"]
        ),
        left=[f"{what}: {row}" for what, found in left.items() for row in found],
        things=dict(world.things),
        calls=_count(world.calls),
    )


def _pick(row: Row, columns: str) -> Any:
    return tuple(row[column] for column in columns.split())


def _columns(row: Row, columns: str) -> Row:
    return {column: row[column] for column in columns.split()}


def _stack(row: Row, names: _Names) -> Row:
    return _columns(row, "name live action status reason versions") | {
        "template": names.versions[row["template_id"]],
        "completed": names.versions[row["completed_template_id"]],
        "traversal": names.traversals[row["traversal_id"]],
        "edges": None if row["edges"] is None else _edges(row["edges"]),
    }


def _edges(data: bytes) -> list[tuple[str, str | None]]:
    """The graph, in which cleanups have the ids of resources that may be gone by now."""
    graph = Graph.from_bytes(data)
    labels = sorted(
        (label for label in graph if "#" in label), key=lambda one: int(one.split("#")[1])
    )
    numbered = _number((number, label.split(" #")[0]) for number, label in enumerate(labels))
    stable = {label: str(numbered[number]) for number, label in enumerate(labels)}
    edges = graph.translate(lambda label: stable.get(label, label)).edges()
    return sorted(edges, key=repr)


def _template(row: Row, names: _Names) -> Row:
    return _columns(row, "version body parameters") | {
        "stack": names.stacks[row["stack_id"]],
        "completed": row["completed_at"] is not None,
    }


def _resource(row: Row, names: _Names) -> Row:
    columns = "name type action status reason physical_id properties attributes"
    return _columns(row, columns) | {
        "stack": names.stacks[row["stack_id"]],
        "template": names.versions[row["template_id"]],
        "requires": sorted(str(names.resources[one]) for one in row["requires"]),
        "replaces": names.resources[row["replaces"]],
        "replaced_by": names.resources[row["replaced_by"]],
    }


def _traversal(row: Row) -> Row:
    columns = (
        "action status halted reason from_version version on_failure total done failed skipped"
    )
    return _columns(row, columns)


def _count(calls: Collection[Call]) -> Counter[str]:
    named = name_calls(calls)
    return Counter(named[call.token, call.verb] for call in calls)


def name_calls(calls: Collection[Call]) -> dict[tuple[str, str], str]:
    """``update A #2`` for the second piece of work that was to update A, by token and verb: a check
    may be a call of two handlers."""
    first: dict[tuple[str, str], str] = {}
    for call in calls:
        first.setdefault((call.token, call.verb), f"{call.verb} {call.name}")
    keys = list(first)
    numbered = _number((number, first[key]) for number, key in enumerate(keys))
    return {key: str(numbered[number]) for number, key in enumerate(keys)}


# -- what a crash caught -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """A node that a dead engine had in hand: claimed, and its end not committed.

    :ivar traversal: its name.
    :ivar attempt: which attempt it was.
    :ivar tokens: of the calls that it may have been in; none if it was superseded, since
        nobody does it again.
    """

    traversal: str
    resource: str
    attempt: int
    tokens: frozenset[str]

    def is_in(self, call: Call) -> bool:
        """Whether it may be this call whose outcome was not written."""
        return call.token in self.tokens and call.attempt == self.attempt


def list_held(rows: Rows, engines: Collection[int]) -> list[Held]:
    """What these engines had in hand."""
    by_id = {row["id"]: row for row in rows["resource"]}
    marks = {row["id"]: row["mark"] for row in rows["traversal"]}
    names = _Names(rows)
    held = []
    for node in rows["sync_point"]:
        row = by_id.get(node["resource_id"])
        if row is None or node["kind"] == Kind.STACK or node["engine_id"] not in engines:
            continue
        if node["state"] not in (NodeState.RUNNING, NodeState.SUPERSEDED):
            continue
        tokens = set()
        if node["state"] == NodeState.RUNNING:
            root = uuid.UUID(row["token"])
            mark = marks[node["traversal_id"]]
            steps = ("delete", *(f"{verb} {mark}" for verb in ("update", "check")))
            tokens = {row["token"], *(str(uuid.uuid5(root, step)) for step in steps)}
        traversal = str(names.traversals[node["traversal_id"]])
        held.append(Held(traversal, row["name"], node["attempts"], frozenset(tokens)))
    return held


# -- two runs ----------------------------------------------------------------


def compare(
    wanted: Ending, found: Ending, held: Collection[Held], called: Collection[Call], world: World
) -> list[str]:
    """What differs between the run without a crash and one with a crash, and may not.

    Of what the dead engines had in hand, and of nothing else, may differ: the call that they had
    made is made once more, if their node is done again; a retry is not told of, when the
    failure before it was not recorded; in a traversal that was halted or superseded, it
    counts as skipped instead.

    :param held: what the dead engines had in hand.
    :param called: the calls before the crash.
    :param world: of the run with the crash.
    """
    differences = [f"left over: {one}" for one in found.left]
    for table, rows in wanted.rows.items():
        if found.rows[table] != rows:
            differences += _diff(table, rows, found.rows[table])
    if found.things != wanted.things:
        differences.append(f"things: {found.things}, not {wanted.things}")
    differences += _compare_traversals(wanted, found, {one.traversal for one in held})
    differences += _compare_events(wanted, found, {(one.traversal, one.resource) for one in held})
    names = name_calls(world.calls)
    held_calls = (call for call in called if any(one.is_in(call) for one in held))
    repeatable = {names[call.token, call.verb] for call in held_calls}
    for name, count in (found.calls - wanted.calls).items():
        if name not in repeatable or count > 1:
            differences.append(f"{name}: called {count} times too often")
    for name, count in (wanted.calls - found.calls).items():
        differences.append(f"{name}: called {count} times too seldom")
    return differences


def _diff(table: str, wanted: list[Row], found: list[Row]) -> list[str]:
    if len(wanted) != len(found):
        return [f"{table}: {found}, not {wanted}"]
    return [
        f"{table} {one.get('name', one.get('version'))}: {key} is {other[key]!r}, not {one[key]!r}"
        for one, other in zip(wanted, found, strict=True)
        for key in one
        if one[key] != other[key]
    ]


def _compare_traversals(wanted: Ending, found: Ending, held: Collection[str]) -> list[str]:
    if wanted.traversals.keys() != found.traversals.keys():
        return [f"traversals: {found.traversals}, not {wanted.traversals}"]
    differences = []
    for name, one in wanted.traversals.items():
        other = found.traversals[name]
        if name in held and one["status"] != TraversalStatus.COMPLETE:
            one, other = _without_counts(one), _without_counts(other)
        differences += [
            f"{name}: {key} is {other[key]!r}, not {one[key]!r}"
            for key in one
            if one[key] != other[key]
        ]
    return differences


def _without_counts(traversal: Row) -> Row:
    counts = ("done", "failed", "skipped")
    over = sum(traversal[key] for key in counts)
    rest = {key: value for key, value in traversal.items() if key not in counts}
    if traversal["status"] == TraversalStatus.SUPERSEDED:
        return rest
    return rest | {"over": over}


def _compare_events(wanted: Ending, found: Ending, held: Collection[tuple[str, str]]) -> list[str]:
    def counted(ending: Ending) -> Counter[Event]:
        return Counter(
            {
                event: count
                for event, count in ending.events.items()
                if not _may_differ(event, wanted, held)
            }
        )

    ours, theirs = counted(wanted), counted(found)
    missing = [f"event {event}: missing" for event in (ours - theirs).elements()]
    return missing + [f"event {event}: one too many" for event in (theirs - ours).elements()]


def _may_differ(event: Event, wanted: Ending, held: Collection[tuple[str, str]]) -> bool:
    traversal, resource, _, status = event
    if resource is None or (traversal, resource) not in held:
        return False
    return status == "RETRY" or wanted.traversals[traversal]["status"] != TraversalStatus.COMPLETE
