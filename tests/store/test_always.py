"""``runs: always``: what a resource is told that runs after failures, and where it does so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

import converge
from converge.testing import FakeClock, FakeWorld, StepEngine

TEMPLATE: dict[str, Any] = {
    "resources": {
        "A": {"type": "fake"},
        "B": {"type": "fake"},
        "C": {"type": "fake", "depends_on": ["A", "B"]},
        "T": {"type": "teller", "depends_on": ["C"], "runs": "always", "queue": "office"},
    }
}


class Teller(converge.ResourceType):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        self.fails = False

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self.told.append(dict(context.failures))
        if self.fails:
            raise RuntimeError("nobody answers")

    def delete(self, context: converge.Context, physical_id: str) -> None:
        """There is nothing to delete."""


@pytest.fixture
def teller() -> Teller:
    return Teller()


@pytest.fixture
def begun(fresh_store: Callable[..., converge.Store]) -> converge.Store:
    store = fresh_store(FakeClock())
    store.create_stack("s", converge.Template.from_dict(TEMPLATE))
    return store


def engine(store: converge.Store, world: FakeWorld, teller: Teller, queue: str) -> StepEngine:
    types = {**world.types(), "teller": teller}
    return StepEngine(store, types, queues=[queue])


def test_it_is_told_what_failed(begun: converge.Store, teller: Teller) -> None:
    world = FakeWorld()
    world.fail("create A")
    office = engine(begun, world, teller, "office")
    engine(begun, world, teller, "default").run()
    office.run()
    (told,) = teller.told
    assert told.keys() == {"A"}
    assert told["A"].startswith("RuntimeError: create A failed")


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_it_stays_in_its_queue(
    fresh_store: Callable[..., converge.Store], teller: Teller, on_failure: str
) -> None:
    store = fresh_store(FakeClock())
    store.create_stack("s", converge.Template.from_dict(TEMPLATE), on_failure=on_failure)
    world = FakeWorld()
    world.fail("create A")
    plain, office = (engine(store, world, teller, one) for one in ("default", "office"))
    assert "update T" not in plain.run()
    assert not teller.told
    assert "update T" in office.run()
    plain.run()
    assert store.show("s")["status"] == "FAILED"


def test_one_at_work_is_not_tried_again_after_a_cancel(
    begun: converge.Store, teller: Teller
) -> None:
    world = FakeWorld()
    world.fail("create A")
    office = engine(begun, world, teller, "office")
    engine(begun, world, teller, "default").run()
    teller.fails = True
    teller.retry = converge.RetryPolicy(attempts=9)  # type: ignore[misc]
    (work,) = office.claim()
    begun.cancel_stack("s")
    office.write(office.call(work))
    office.run()
    engine(begun, world, teller, "default").run()
    shown = begun.show("s")
    assert shown["status"] == "CANCELLED"
    assert "before that, resource 'A'" in shown["reason"]
    assert len(teller.told) == 1


def test_nothing_that_it_says_refers_to_what_may_not_be_there() -> None:
    body = {"type": "fake", "runs": "always", "properties": {"a": {"get_resource": "A"}}}
    with pytest.raises(converge.BadInput, match=r"'T' runs always, also if 'A' was never made"):
        converge.Template.from_dict({"resources": {"A": {"type": "fake"}, "T": body}})


@pytest.mark.parametrize("value", ["never", True, 1])
def test_it_is_always_or_nothing(value: object) -> None:
    body = {"type": "fake", "runs": value}
    with pytest.raises(converge.BadInput, match="runs must be always"):
        converge.Template.from_dict({"resources": {"T": body}})
