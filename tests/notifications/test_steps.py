"""The built-in steps, without a store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.errors import BadInput
from converge.pipeline import Event, Group, Item, Sample, StatefulStep, Trait, memory
from converge.pipeline.items import from_json, get_value, to_json
from converge.pipeline.memory import Accumulate, Aggregate, RateOfChange, Trigger
from converge.pipeline.steps import Filter, Rename, Scale, listed
from tests.notifications.samples import START


def sample(number: int, volume: float, at: float = 0, **more: Any) -> Sample:
    given = {"name": "cpu", "type": "cumulative", "unit": "ns", "resource_id": "r", **more}
    return Sample(f"s-{number}", volume=volume, at=START + at, **given)


def event(number: int, name: str, at: float = 0, **traits: Any) -> Event:
    made = tuple(Trait(key, "text", value) for key, value in traits.items())
    return Event(f"e-{number}", name, START + at, made)


class Runner:
    """Runs a step that remembers."""

    def __init__(self, step: StatefulStep) -> None:
        step.begin("sink", "step")
        self.step = step
        self.states: dict[str, Any] = {}
        self.deadlines: dict[str, float | None] = {}

    def take(self, *items: Item, now: float = 0) -> list[Item]:
        found: list[Item] = []
        for item in items:
            key = self.step.key(item)
            if key is None:
                found.append(item)
                continue
            moved = self.step.advance(self.states.get(str(key)), item, START + now)
            self._keep(str(key), moved)
            found += moved.made
        return found

    def _keep(self, key: str, moved: Any) -> None:
        self.states[key], self.deadlines[key] = moved.state, moved.deadline
        if moved.state is None:
            del self.states[key], self.deadlines[key]

    def expire(self, now: float) -> list[Item]:
        found: list[Item] = []
        for key, deadline in list(self.deadlines.items()):
            if deadline is not None and deadline <= START + now:
                moved = self.step.expire(self.states[key], START + now)
                self._keep(key, moved)
                found += moved.made
        return found


def volumes(items: Sequence[Item]) -> list[float]:
    return [item.volume for item in items if isinstance(item, Sample)]


# -- without memory


def test_rename() -> None:
    found: Any = Rename(to="x.{name}.{resource_id}").apply(sample(1, 2))
    assert found.name == "x.cpu.r"
    found = Rename(traits={"host": "node"}).apply(event(1, "a", host="h", size="2"))
    assert [trait.name for trait in found.traits] == ["node", "size"]
    found = Rename(traits={"a": "b"}).apply(sample(1, 2, metadata={"a": 1}))
    assert found.metadata == {"b": 1}
    with pytest.raises(ValueError, match="it has no 'nothing'"):
        Rename(to="{nothing}").apply(sample(1, 2))


@pytest.mark.parametrize(
    ("parameters", "passes"),
    [
        ({"names": "cp*"}, True),
        ({"names": ["*", "!cpu"]}, False),
        ({"where": {"unit": "ns"}}, True),
        ({"where": {"unit": "n?", "resource_id": ["q", "r"]}}, True),
        ({"where": {"unit": "ns", "resource_id": "q"}}, False),
        ({"where": {"volume": 2}}, True),
        ({"where": {"nothing": "*"}}, False),
        ({"where": {"state": "on"}}, True),
    ],
)
def test_filter(parameters: dict[str, Any], passes: bool) -> None:
    one = sample(1, 2, metadata={"state": "on"})
    assert Filter(**parameters).apply(one) == (one if passes else None)


def test_scale() -> None:
    found: Any = Scale(factor=8, offset=1, unit="bit", type="gauge").apply(sample(1, 2))
    assert (found.volume, found.unit, found.type) == (17, "bit", "gauge")
    assert Scale(factor=8).apply(event(1, "a")) == event(1, "a")
    with pytest.raises(ValueError, match="becomes too large"):
        Scale(factor=1e308).apply(sample(1, 1e308))


def test_a_step_must_return_items() -> None:
    assert listed(None) == []
    assert listed(iter([sample(1, 2)])) == [sample(1, 2)]
    with pytest.raises(TypeError, match="must return an item, several of them, or None, not str"):
        listed(["a"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Rename, "it needs to"),
        (Filter, "it needs names"),
        (lambda: Filter(names=["!*"]), "no name can match"),
        (lambda: Scale(factor=True), "factor must be a number"),
        (lambda: Scale(type="x"), "type must be gauge, delta or cumulative"),
        (lambda: Aggregate(function="avg", count=1), "there is no function 'avg'"),
        (Aggregate, "it needs either count"),
        (lambda: Aggregate(count=1, window=1), "it needs either count"),
        (lambda: Aggregate(count=True), "count must be a whole number above 0"),
        (lambda: Aggregate(window=-1), "window must be a number of seconds above 0"),
        (lambda: Aggregate(window=1, grace=-1), "grace must be a number of seconds"),
        (Accumulate, "it needs count"),
        (lambda: Accumulate(by=[], count=1), "by must be the name of a field"),
        (lambda: Trigger(by="x", timeout=1), "it needs either names"),
        (lambda: Trigger(by="x", timeout=0, count=1), "timeout must be a number of seconds"),
        (lambda: RateOfChange(factor="x"), "factor must be a number"),  # type: ignore[arg-type]
        (lambda: RateOfChange(grace=-1), "grace must be a number of seconds, not -1"),
        (lambda: RateOfChange(grace=math.inf), "grace must be a number of seconds, not inf"),
    ],
)
def test_wrong_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make()


# -- with memory


def test_rate_of_change() -> None:
    run = Runner(RateOfChange(grace=0))
    assert run.take(sample(1, 10)) == []
    (found,) = run.take(sample(2, 30, at=10))
    assert isinstance(found, Sample)
    assert (found.name, found.unit, found.type, found.volume) == ("cpu.rate", "ns/s", "gauge", 2.0)
    assert found.at == START + 10
    # each resource for itself
    assert run.take(sample(3, 5, at=11, resource_id="q")) == []
    # not later, and a reset
    assert run.take(sample(4, 50, at=10), sample(5, 60, at=5)) == []
    assert run.take(sample(6, 4, at=20)) == []
    assert volumes(run.take(sample(7, 8, at=24))) == [1.0]
    # a gauge may fall
    gauge = replace(sample(8, 4, at=30), type="gauge", name="t")
    assert volumes(run.take(gauge, replace(gauge, volume=2, at=START + 31))) == [-2.0]
    assert run.take(event(1, "a")) == [event(1, "a")]


def test_rates_are_of_samples_in_the_order_of_their_time() -> None:
    run = Runner(RateOfChange(grace=5))
    assert run.take(sample(1, 10), sample(3, 60, at=20), now=100) == []
    assert run.take(sample(2, 20, at=10), now=104) == []
    assert run.expire(104.9) == []
    found = run.expire(105)
    assert [(one.at - START, one.volume) for one in found if isinstance(one, Sample)] == [
        (10, 1.0),
        (20, 4.0),
    ]
    # nothing is held now, and what is late changes nothing
    assert run.states == {"['cpu', 'r']": [START + 20, 60]}
    assert run.take(sample(4, 1, at=15), now=110) == []
    # one that goes on takes along all that are earlier, and no later one
    assert run.take(sample(6, 80, at=40), now=120) == []
    assert run.take(sample(5, 70, at=30), sample(7, 90, at=50), now=123) == []
    assert volumes(run.expire(125)) == [1.0, 1.0]
    assert volumes(run.expire(128)) == [1.0]
    # so does one that comes after the time of those before
    assert run.take(sample(8, 100, at=60), now=130) == []
    assert volumes(run.take(sample(9, 120, at=70), now=135)) == [1.0]


def test_what_an_older_version_knew_of_a_rate_is_known() -> None:
    step = RateOfChange(grace=1)
    step.begin("sink", "step")
    held = step.advance([START, 5.0], sample(1, 15, at=10), START)
    assert list(held.made) == []
    assert volumes(list(step.expire(held.state, START).made)) == [1.0]


def test_a_rate_holds_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_ITEMS", 3)
    run = Runner(RateOfChange(grace=60))
    found = run.take(*(sample(n, n * 10, at=n * 10) for n in range(9)))
    assert len(found) == 5
    assert len(next(iter(run.states.values()))["held"]) == 3


@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), st.integers(0, 9)), max_size=10),
    st.sets(st.integers(0, 40), max_size=5),
)
def test_rates_do_not_depend_on_the_order_in_which_samples_come(
    grace: int, drawn: list[tuple[int, int, int]], sweeps: set[int]
) -> None:
    """As long as none comes more than the grace behind one that is not earlier."""
    measured = [sample(n, volume, at=at) for n, (at, volume, _) in enumerate(drawn)]
    wanted = Runner(RateOfChange(grace=0)).take(*sorted(measured, key=lambda s: (s.at, s.id)))
    run = Runner(RateOfChange(grace=grace))
    found: list[Item] = []
    for now in range(51):
        for one, (at, _, delay) in zip(measured, drawn, strict=True):
            if at + min(delay, grace) == now:
                found += run.take(one, now=now)
        if now in sweeps or now > 40:
            found += run.expire(now)
    assert found == wanted


def test_aggregate_by_count() -> None:
    for function, result in (
        ("sum", 12),
        ("mean", 4),
        ("min", 2),
        ("max", 7),
        ("count", 3),
        ("last", 3),
    ):
        run = Runner(Aggregate(function=function, count=3))
        assert run.take(sample(1, 2), sample(2, 7, at=1)) == []
        (found,) = run.take(sample(3, 3, at=2))
        assert volumes([found]) == [result], function
        assert run.states == {}
        # another one next time
        (other,) = run.take(sample(4, 1), sample(5, 1), sample(6, 1))
        assert other.id != found.id


def test_aggregate_by_time_counts_the_late_once_more() -> None:
    run = Runner(Aggregate(window=60, grace=5))
    assert run.take(sample(1, 2, at=1), sample(2, 3, at=59), sample(3, 10, at=61), now=62) == []
    assert volumes(run.expire(66)) == []
    (first,) = run.expire(67)
    assert (volumes([first]), first.at) == ([5], START)
    assert run.take(sample(4, 4, at=30), now=100) == []
    assert volumes(run.expire(104)) == []
    found = run.expire(126)
    assert volumes(found) == [4, 10] or volumes(found) == [10, 4]
    assert len({first.id, *(one.id for one in found)}) == 3


def test_aggregate_counts_events() -> None:
    run = Runner(Aggregate(function="count", by="name", count=2, name="{name}.number"))
    (found,) = run.take(event(1, "a"), event(2, "b"), event(3, "a"))
    assert isinstance(found, Sample)
    assert (found.name, found.unit, found.volume) == ("a.number", "item", 2)
    # what has no such field goes on as it is
    run = Runner(Aggregate(count=2))
    assert run.take(event(1, "a")) == [event(1, "a")]


def test_accumulate() -> None:
    run = Runner(Accumulate(count=3, seconds=10))
    one, two, three = event(1, "a"), event(2, "a"), event(3, "a")
    assert run.take(one, two) == []
    assert run.take(three) == [one, two, three]
    assert run.take(one, now=20) == []
    assert run.take(two, now=29) == []
    assert run.expire(29.9) == []
    assert run.expire(30) == [one, two]


def test_a_trigger_waits_until_all_of_a_group_are_there() -> None:
    run = Runner(Trigger(by="stack", names=["server.*", "volume.ready"], timeout=60))
    server = event(1, "server.ready", at=5, stack="s")
    other = event(2, "volume.ready", stack="t")
    stranger = event(3, "port.ready", stack="s")
    assert run.take(server, other, stranger) == [stranger]
    disk = event(4, "volume.ready", at=2, stack="s")
    (group,) = run.take(disk)
    assert isinstance(group, Group)
    assert (group.key, group.items, group.complete) == ("s", (server, disk), True)
    assert group.at == START + 5
    assert (get_value(group, "stack"), get_value(group, "key")) == ("s", "s")
    assert from_json(to_json(group)) == group
    # too late: it goes on as it is
    assert run.expire(59) == []
    (late,) = run.expire(60)
    assert isinstance(late, Group)
    assert (late.items, late.complete) == ((other,), False)


def test_a_trigger_by_count() -> None:
    run = Runner(Trigger(by=["name", "stack"], count=2, timeout=1))
    assert run.take(event(1, "a", stack="s"), event(2, "a", stack="t")) == []
    (group,) = run.take(event(3, "a", stack="s"))
    assert isinstance(group, Group)
    assert group.key == "a/s"


def test_what_is_no_item_is_refused() -> None:
    for value in ({}, {"kind": "x"}, {"kind": "sample"}, {"kind": "event", "traits": 5}):
        with pytest.raises(BadInput, match="this is not an event, sample or group"):
            from_json(value)
