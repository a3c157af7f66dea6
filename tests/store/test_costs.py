"""What a start and a turn of an engine cost is counted: so many statements, however many nodes.

Times are measured in ``benchmarks/``; these counts are exact where times are noisy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from converge import Store, Template
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.templates import template

FEW, MANY = 10, 400


def layers(count: int, size: int = 1) -> Template:
    """Two layers of which each node requires two of the one before, and a node for all."""
    first = [f"a{number}" for number in range(count // 2)]
    bodies: dict[str, Any] = {name: {"properties": {"size": size}} for name in first}
    for number, name in enumerate(first):
        bodies[f"b{number}"] = {"depends_on": sorted({name, first[number - 1]})}
    bodies["last"] = {"depends_on": [f"b{number}" for number in range(len(first))]}
    return template(bodies)


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """The statements that are sent meanwhile; one for many rows counts once."""
    seen: list[str] = []

    def note(_: object, cursor: object, statement: str, *rest: object) -> None:
        seen.append(statement)

    event.listen(store.database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store.database.engine, "before_cursor_execute", note)


def looks(seen: list[str]) -> int:
    """How many of these read which lanes, limits and engines there are, as is done now and then."""
    reads = ("SELECT converge_lane", "SELECT converge_limit", "SELECT count(*)")
    return sum(one.startswith(reads) for one in seen)


def end(engine: StepEngine) -> None:
    """Do all that there is to do, as much of it at a time as can be."""
    while works := engine.claim(2 * MANY):
        engine.write(*(engine.call(work) for work in works))


STARTS: dict[str, Callable[[Store, str, int], Any]] = {
    "create": lambda store, name, count: store.create_stack(f"{name}-new", layers(count)),
    "update": lambda store, name, count: store.update_stack(name, layers(count, size=2)),
    "no change": lambda store, name, count: store.update_stack(name, layers(count)),
    "roll back": lambda store, name, count: store.rollback_stack(name, version=1),
    "check": lambda store, name, count: store.check_stack(name),
    "delete": lambda store, name, count: store.delete_stack(name),
}


@pytest.mark.parametrize("what", STARTS)
def test_a_start_takes_as_many_statements_however_many_nodes_it_has(
    store: Store, what: str
) -> None:
    engine = StepEngine(store, FakeWorld().types())
    counts = []
    for count in (FEW, MANY):
        name = f"s{count}"
        store.create_stack(name, layers(count))
        end(engine)
        with counted(store) as seen:
            STARTS[what](store, name, count)
        counts.append(seen)
        end(engine)
    assert len(counts[0]) == len(counts[1])


def test_a_turn_takes_as_many_statements_however_many_nodes_it_ends(store: Store) -> None:
    engine = StepEngine(store, FakeWorld().types())
    counts = []
    for count in (FEW, MANY):
        store.create_stack(f"s{count}", layers(count))
        sent: list[int] = []
        for _ in range(2):
            with counted(store) as claiming:
                works = engine.claim(MANY)
            assert len(works) == count // 2
            outcomes = [engine.call(work) for work in works]
            with counted(store) as writing:
                engine.write(*outcomes)
            sent.append(len(claiming) - looks(claiming))
            sent.append(len(writing))
        counts.append(sent)
        end(engine)
    few, many = counts
    # a claim that finds few also looks for retries
    assert all(less - 1 <= more <= less for less, more in zip(few, many, strict=True)), counts


def test_waits_take_as_many_statements_however_many_wait(store: Store, clock: FakeClock) -> None:
    counts = []
    for count in (FEW, MANY):
        world = FakeWorld()
        names = [f"r{number}" for number in range(count)]
        for name in names:
            world.wait(f"create {name}", 2)
        store.create_stack(f"s{count}", template(dict.fromkeys(names, "")))
        engine = StepEngine(store, world.types(), clock=clock)
        sent = []
        for progress in ("2 to go", "1 to go"):
            with counted(store) as claiming:
                works = engine.claim(MANY)
            with counted(store) as writing:
                engine.write(*(engine.call(work) for work in works))
            sent += [len(claiming) - looks(claiming), len(writing)]
            found = [one["progress"] for one in store.waiting(f"s{count}")]
            events = [one["reason"] for one in store.events(f"s{count}") if one["resource"]]
            assert found == events == [progress] * count
            clock.advance(10)
        counts.append(sent)
        end(engine)
    # now and then a claim also asks whether other traversals have something ready
    few, many = counts
    assert all(more <= less + 1 for less, more in zip(few, many, strict=True)), counts
