"""Rows of a newer converge: this one leaves alone what it does not understand, and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import converge
from converge import formats
from converge.protocol.recover import sweep
from converge.sql.lanes import Course, list_lanes, take_lanes
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.templates import template

NEXT = formats.KNOWN + 1


@contextmanager
def newer() -> Iterator[None]:
    """In here, converge is one that knows the next format, and writes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "KNOWN", NEXT)
        patch.setattr(formats, "WRITTEN", NEXT)
        yield


def wanted(size: int) -> converge.Template:
    return template(a={"properties": {"size": size}}, b={"depends_on": "a"})


def test_an_engine_leaves_what_it_does_not_understand_to_those_who_do(
    store: converge.Store,
) -> None:
    engine = StepEngine(store, (world := FakeWorld()).types())
    with newer():
        stack = store.create_stack("s", wanted(1))
    store.create_stack("t", wanted(1))
    assert engine.run() == ["update a", "update b", "stack"]
    assert store.stack("t").status == "COMPLETE"
    waits = f"waits for an engine that knows format {NEXT}; none is alive"
    (answer,) = store.why("s")
    assert (answer["message"][-len(waits) :], answer["engines"]) == (waits, 0)
    with newer():
        other = StepEngine(store, world.types())
    assert store.why("s", "a")[0]["message"].endswith(f"format {NEXT}; 1 is alive")
    assert [one["format"] for one in store.engines()] == [formats.KNOWN, NEXT]
    with newer():
        # what an engine starts by itself is of the same format
        world.fail("b")
        store.update_stack("s", wanted(2), on_failure="rollback")
        while other.run():
            assert engine.run() == []
    assert stack.refresh().status == "COMPLETE"


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.create_stack("s", wanted(1)),
        lambda store: store.update_stack("s", wanted(2)),
        lambda store: store.converge_stack("s", wanted(2)),
        lambda store: store.plan_delete("s"),
        lambda store: store.rollback_stack("s"),
        lambda store: store.check_stack("s"),
        lambda store: store.cancel_stack("s"),
        lambda store: store.delete_stack("s"),
        lambda store: store.forget_resource("s", "a"),
        lambda store: store.move_resource("s", "a", "z"),
        lambda store: store.show("s"),
    ],
)
def test_who_does_not_understand_a_stack_touches_nothing(
    store: converge.Store, call: Callable[[converge.Store], object]
) -> None:
    with newer():
        store.create_stack("s", wanted(1))
    before = store.events("s")
    message = rf"stack 's' was written by a newer converge \(format {NEXT}\); this one knows"
    with pytest.raises(converge.ConvergeError) as caught:
        call(store)
    if not isinstance(caught.value, converge.Conflict):
        assert caught.match(message)
    assert store.events("s") == before
    # what is in columns, all can read
    assert [one["name"] for one in store.stacks()] == ["s"]
    assert store.stack("s").status == "IN_PROGRESS"
    assert store.progress("s")["total"] == 2


def test_a_stack_stays_at_the_newest_format_it_ever_had(store: converge.Store) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "KNOWN", NEXT)
        store.create_stack("plain", wanted(1))
        patch.setattr(formats, "WRITTEN", NEXT)
        store.create_stack("s", wanted(1))
        # an older version of its template may be one that is rolled back to
        patch.setattr(formats, "WRITTEN", formats.FIRST)
        store.update_stack("s", wanted(2))
    store.update_stack("plain", wanted(2))
    with pytest.raises(converge.SchemaError, match="newer converge"):
        store.update_stack("s", wanted(3))


def test_the_deadline_of_what_is_not_understood_is_left_alone(
    store: converge.Store, clock: FakeClock
) -> None:
    with newer():
        stack = store.create_stack("s", wanted(1), timeout=20)
    clock.advance(21)
    assert sweep(store.database).overdue == 0
    assert stack.refresh().status == "IN_PROGRESS"
    with newer():
        assert sweep(store.database).overdue == 1


def test_a_lane_has_its_format(store: converge.Store) -> None:
    courses = [
        Course("far", ("a", "b"), 2, NEXT),
        Course("far", ("a", "b"), 2),
        Course(format=NEXT),
        Course(format=NEXT + 10),
    ]
    with store.transaction() as tx:
        numbers = take_lanes(tx, courses)
        assert len(set(numbers.values())) == len(courses)
        assert {list_lanes(tx)[number] for number in numbers.values()} == set(courses)
