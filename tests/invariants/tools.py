"""What the tests of the invariants need: engines that do things at the same moment, and looks at
the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import select

import converge
from converge.model import Kind, NodeState
from converge.protocol.work import Outcome, Work
from converge.sql import schema
from converge.sql.transaction import Transaction
from converge.testing import FakeClock, FakeType, FakeWorld, FixedType, StepEngine
from tests.threads import at_once

T = TypeVar("T")

LEASE = 100.0


def together(*functions: Callable[[], T]) -> list[T]:
    """The same, of functions that must succeed."""
    results = []
    for one in at_once(*functions):
        if isinstance(one, Exception):
            raise one
        results.append(one)
    return results


class Crew:
    """Engines that claim at the same moment, call their handlers at the same moment, and write
    what came of it at the same moment; round after round.

    :ivar works: all that was ever claimed, with the id of the engine that did.
    """

    def __init__(self, engines: Sequence[StepEngine]) -> None:
        self.engines = engines
        self.works: list[tuple[int, Work]] = []

    def round(self, limit: int = 2) -> bool:
        """One round. False: there was nothing to do."""
        found = together(*(partial(engine.claim, limit) for engine in self.engines))
        if not any(found):
            # they may have passed over what one looked at that then had bad luck
            found = [engine.claim(limit) for engine in self.engines]
        self.works += [
            (e.id, w) for e, works in zip(self.engines, found, strict=True) for w in works
        ]
        outcomes = together(*map(self._calls, self.engines, found))
        together(*map(self._writes, self.engines, outcomes))
        return any(found)

    def run(self, limit: int = 2) -> None:
        """Rounds until there is nothing to do."""
        while self.round(limit):
            pass

    def _calls(self, engine: StepEngine, works: list[Work]) -> Callable[[], list[Outcome]]:
        return lambda: [engine.call(work) for work in works]

    def _writes(self, engine: StepEngine, outcomes: list[Outcome]) -> Callable[[], None]:
        return lambda: engine.write(*outcomes)


def crew(store: converge.Store, types: Mapping[str, converge.ResourceType], count: int = 3) -> Crew:
    return Crew([StepEngine(store, types, lease=LEASE) for _ in range(count)])


class Watched:
    """Resource types of a fake world, whose calls are looked at from within.

    :param watch: called in each handler, before it does anything, with its verb and context.
    """

    def __init__(
        self,
        watch: Callable[[str, converge.Context], None],
        world: FakeWorld | None = None,
        **retry: Any,
    ) -> None:
        self.world = world = world or FakeWorld()
        policy = converge.RetryPolicy(**retry)

        class Fake(FakeType):
            def create(self, context: converge.Context, properties: Mapping[str, Any]) -> Any:
                watch("create", context)
                return super().create(context, properties)

            def update(
                self,
                context: converge.Context,
                physical_id: str,
                properties: Mapping[str, Any],
                previous: Mapping[str, Any],
            ) -> Any:
                watch("update", context)
                return super().update(context, physical_id, properties, previous)

            def delete(self, context: converge.Context, physical_id: str) -> None:
                watch("delete", context)
                super().delete(context, physical_id)

            def check(
                self, context: converge.Context, physical_id: str, properties: Mapping[str, Any]
            ) -> None:
                watch("check", context)
                super().check(context, physical_id, properties)

            def find(self, context: converge.Context) -> Any:
                watch("find", context)
                return super().find(context)

        class Fixed(FixedType):
            def create(self, context: converge.Context, properties: Mapping[str, Any]) -> Any:
                watch("create", context)
                return super().create(context, properties)

            def delete(self, context: converge.Context, physical_id: str) -> None:
                watch("delete", context)
                super().delete(context, physical_id)

        self.types: dict[str, converge.ResourceType] = {
            "fake": Fake(world, policy),
            "fixed": Fixed(world, policy),
        }


Rows = dict[str, list[tuple[Any, ...]]]


def snapshot(store: converge.Store, *without: str) -> Rows:
    """All rows of the whole database, by table."""

    def read(tx: Transaction) -> Rows:
        return {
            name: sorted((tuple(row) for row in tx.execute(select(table))), key=repr)
            for name, table in schema.metadata.tables.items()
            if name.removeprefix(schema.PREFIX) not in without
        }

    return store.database.read(read)


def count(store: converge.Store, table: str) -> int:
    return len(snapshot(store)[schema.PREFIX + table])


def locks(store: converge.Store) -> dict[str, tuple[int | None, int]]:
    """Who has the lock on each resource, and its epoch; of the newest of each name."""
    table = schema.resource
    query = select(table.c.name, table.c.engine_id, table.c.epoch).order_by(table.c.id)

    def read(tx: Transaction) -> dict[str, tuple[int | None, int]]:
        rows: Any = tx.execute(query).all()
        return {row.name: (row.engine_id, row.epoch) for row in rows}

    return store.database.read(read)


def node_rows(store: converge.Store) -> list[Any]:
    """The nodes of all traversals, with the names and physical ids of their resources."""
    node, resource = schema.sync_point, schema.resource
    query = (
        select(node, resource.c.name, resource.c.physical_id)
        .outerjoin_from(node, resource, resource.c.id == node.c.resource_id)
        .order_by(node.c.traversal_id, node.c.node)
    )
    return store.database.read(lambda tx: list(tx.execute(query)))


def states(store: converge.Store, traversal: int | None) -> dict[str, NodeState]:
    """The states of a traversal's update nodes by name, and that of its stack's node."""
    return {
        row.name or "stack": NodeState(row.state)
        for row in node_rows(store)
        if row.traversal_id == traversal and row.kind != Kind.CLEANUP
    }


def predecessors(store: converge.Store, name: str, kind: Kind) -> Iterator[NodeState]:
    """The states of what comes before the running nodes of a name."""
    rows = node_rows(store)
    for own in rows:
        if (own.name, own.kind, own.state) == (name, kind, NodeState.RUNNING):
            for row in rows:
                if row.traversal_id == own.traversal_id and own.node in row.successors:
                    yield NodeState(row.state)


def expire(clock: FakeClock) -> None:
    """Let the leases of all engines end."""
    clock.advance(LEASE)
