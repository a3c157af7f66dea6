"""Whatever is asked for, whenever, and whatever fails: what must be so at the end, is so.

Random templates follow one another, superseded, cancelled, rolled back, with failing handlers
and dying engines, on SQLite. After each node, no thing may refer to one that is not there:
that would have been made before its predecessors, or have lost one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

import converge
from converge.protocol import recover
from converge.protocol.work import Outcome
from converge.sql import schema
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests import backends
from tests.stores import Stores

#: How many examples; more of them for a long look.
EXAMPLES = int(os.environ.get("CONVERGE_TEST_EXAMPLES", "20"))
LEASE = 1000.0
NAMES = "ABCDE"

pytestmark = [pytest.mark.database, pytest.mark.sqlite]

# -- what is asked for


@dataclass(frozen=True)
class Entry:
    """A resource of a template: ``refers`` are the names that come before it, with how."""

    type: str
    size: int
    replace: int
    refers: tuple[tuple[str, str], ...]

    def body(self) -> dict[str, Any]:
        properties: dict[str, Any] = {"size": self.size, "replace": self.replace}
        for name, how in self.refers:
            if how == "id":
                properties[f"to {name}"] = {"get_resource": name}
            elif how == "attribute":
                properties[f"to {name}"] = {"get_attr": [name, "made"]}
            elif how == "replacing":
                properties["replace"] = {"get_attr": [name, "made"]}
        after = [name for name, how in self.refers if how == "order"]
        return {"type": self.type, "properties": properties, "depends_on": after}


Wanted = Mapping[str, Entry]


@st.composite
def templates(draw: st.DrawFn) -> Wanted:
    order = draw(st.permutations(NAMES))
    order = order[: draw(st.integers(1, len(order)))]
    wanted = {}
    for place, name in enumerate(order):
        before = st.lists(st.sampled_from(order[:place]), max_size=2, unique=True)
        others = draw(before) if place else []
        # one reference at most is what makes a new one of it
        hows = draw(st.permutations(["id", "attribute", "order", "replacing"]))
        wanted[name] = Entry(
            type=draw(st.sampled_from(["fake", "fake", "fixed"])),
            size=draw(st.integers(0, 1)),
            replace=draw(st.integers(0, 1)),
            refers=tuple(zip(others, hows, strict=False)),
        )
    return wanted


POLICIES = st.sampled_from(["stop", "continue", "rollback"])
CALLS = st.builds(
    lambda verb, name: f"{verb} {name}",
    st.sampled_from(["create", "update", "delete"]),
    st.sampled_from(NAMES),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("update"), templates(), POLICIES),
        st.tuples(st.just("rollback")),
        st.tuples(st.just("delete")),
        st.tuples(st.just("cancel")),
        st.tuples(st.just("run"), st.integers(1, 6)),
        st.tuples(st.just("run"), st.integers(1, 6)),
        st.tuples(st.just("fail"), CALLS, st.integers(1, 3)),
        st.tuples(st.just("hold")),
        st.tuples(st.just("write")),
        st.tuples(st.just("die"), st.booleans()),
    ),
    min_size=2,
    max_size=12,
)


# -- the world in which it is


class Play:
    """One example."""

    def __init__(self, stores: Stores, backend: backends.Backend) -> None:
        self.clock = FakeClock()
        self.store = stores.fresh(backend, self.clock)
        self.world = FakeWorld()
        self.types = self.world.types(attempts=2, first=5)
        self.engine = self._engine()
        self.held: list[tuple[StepEngine, Outcome]] = []

    def _engine(self, lease: float = 1e9) -> StepEngine:
        return StepEngine(self.store, self.types, clock=self.clock, lease=lease)

    def create(self, wanted: Wanted, policy: str) -> None:
        self.store.create_stack("s", parse(wanted), on_failure=policy)

    def update(self, wanted: Wanted, policy: str) -> None:
        self.store.converge_stack("s", parse(wanted), on_failure=policy)

    def rollback(self) -> None:
        self._if_there(self.store.rollback_stack)

    def delete(self) -> None:
        self._if_there(self.store.delete_stack)

    def cancel(self) -> None:
        self._if_there(self.store.cancel_stack)

    def _if_there(self, function: Any) -> None:
        with contextlib.suppress(converge.NotFound, converge.Conflict):
            function("s")

    def run(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()
            self.check_references()

    def fail(self, what: str, times: int) -> None:
        self.world.fail(what, times)

    def hold(self) -> None:
        """Another engine does a node, and is slow to write what came of it."""
        engine = self._engine()
        self.held += [(engine, engine.call(work)) for work in engine.claim()]
        self.check_references()

    def write(self) -> None:
        if self.held:
            engine, outcome = self.held.pop(0)
            engine.write(outcome)
            self.check_references()

    def die(self, called: bool) -> None:
        """Another engine dies, before or after it has done what it claimed."""
        engine = self._engine(LEASE)
        for work in engine.claim():
            if called:
                engine.call(work)
        self.clock.advance(LEASE)
        assert recover.sweep(self.store.database).engines == 1
        self.check_references()

    def end(self) -> str:
        """Nothing fails any more, and everything comes to its end; its status."""
        while self.held:
            self.write()
        for _ in range(20):
            while self.engine.step() is not None:
                self.check_references()
            found = self.store.stacks()
            if not found or found[0]["status"] != "IN_PROGRESS":
                return found[0]["status"] if found else "GONE"
            self.clock.advance(10)
        raise AssertionError(f"no end: {self.store.why('s')}")

    # -- what must be so

    def check_references(self) -> None:
        for thing in self.world.things.values():
            for value in thing.properties.values():
                if isinstance(value, str):
                    assert value in self.world.things, f"{thing} at {self.world.log}"

    def check_complete(self, wanted: Wanted) -> None:
        shown = self.store.show("s")["resources"]
        assert set(shown) == set(wanted)
        assert {one["status"] for one in shown.values()} <= {"COMPLETE"}
        ids = {name: one["physical_id"] for name, one in shown.items()}
        assert sorted(ids.values()) == self.world.names()
        things = self.world.properties()
        for name, entry in wanted.items():
            assert shown[name]["requires"] == sorted(other for other, _ in entry.refers)
            assert shown[name]["type"] == entry.type
            expected: dict[str, Any] = {"size": entry.size, "replace": entry.replace}
            for other, how in entry.refers:
                if how in ("id", "attribute"):
                    expected[f"to {other}"] = ids[other]
                elif how == "replacing":
                    expected["replace"] = ids[other]
            assert things[ids[name]] == expected
            assert shown[name]["properties"] == expected
        assert self.count("resource") == len(wanted)
        self.check_tidy()

    def check_tidy(self) -> None:
        assert (self.count("sync_point"), self.count("progress")) == (0, 0)
        with self.store.transaction() as tx:
            locks = tx.execute(select(schema.resource.c.engine_id)).scalars().all()
        assert set(locks) <= {None}

    def count(self, table: str) -> int:
        rows = schema.metadata.tables[schema.PREFIX + table]
        with self.store.transaction() as tx:
            return int(tx.execute(select(func.count()).select_from(rows)).scalar_one())


def parse(wanted: Wanted) -> converge.Template:
    body = {"resources": {name: entry.body() for name, entry in wanted.items()}}
    return converge.Template.parse(json.dumps(body))


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stores, backends.Backend]]:
    stores = Stores()
    backend = backends.Sqlite(tmp_path_factory.mktemp("properties"))
    yield stores, backend
    stores.close()
    backend.close()


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
@given(first=templates(), policy=POLICIES, steps=STEPS, last=templates())
def test_traversals(
    sqlite: tuple[Stores, backends.Backend],
    first: Wanted,
    policy: str,
    steps: Sequence[tuple[Any, ...]],
    last: Wanted,
) -> None:
    play = Play(*sqlite)
    play.create(first, policy)
    for verb, *arguments in steps:
        getattr(play, verb)(*arguments)
    play.world._failures.clear()
    play.end()
    play.check_tidy()

    play.update(last, "stop")
    assert play.end() == "COMPLETE", play.store.why("s")
    play.check_complete(last)

    play.store.delete_stack("s")
    assert play.end() == "GONE", play.store.why("s")
    assert play.world.names() == []
    assert play.count("resource") == 0
    assert play.count("template") == 0
    play.check_tidy()
