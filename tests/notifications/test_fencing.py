"""What keeps two processes with the same work apart, and a failure from counting twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from converge import Store, crash_points
from converge.crash_points import Commit
from converge.errors import BadInput, StaleLock, StoreError
from converge.pipeline import (
    Advance,
    DeadLetters,
    Filter,
    Item,
    Limits,
    Message,
    Pipeline,
    Sample,
    StatefulStep,
    process_batch,
    receive,
    sweep,
)
from converge.pipeline.batch import deliver
from converge.sql import deliveries, samples, step_states
from converge.sql.deliveries import DeliveryRow
from converge.sql.transaction import Transaction
from converge.testing import FakeClock
from tests.notifications import world as worlds
from tests.notifications.samples import METERS, START, body, message, volume
from tests.notifications.world import NOTE, OUT, World, handle, pipeline


def messages(*numbers: int) -> list[Message]:
    return [message(volume(number)) for number in numbers]


def sums(world: World) -> list[float]:
    return [item.volume for _, item in world.got if isinstance(item, Sample)]


def begun(store: Store, *numbers: int) -> list[DeliveryRow]:
    """Deliveries that have begun."""
    receive(store, pipeline(), messages(*numbers))
    origins = [f"m-{number}" for number in numbers]
    return store.database.read(lambda tx: deliveries.list_deliveries(tx, origins))


def advance(row: DeliveryRow, position: int) -> dict[str, Any]:
    return row._asdict() | {"position": position, "items": []}


def written(store: Store, write: Callable[[Transaction], object]) -> None:
    with store.transaction() as tx:
        write(tx)


def test_the_end_of_a_delivery_names_its_version(store: Store) -> None:
    (row,) = begun(store, 1)
    written(store, lambda tx: deliveries.advance_deliveries(tx, [advance(row, 1)]))
    with pytest.raises(StaleLock):
        written(store, lambda tx: deliveries.end_deliveries(tx, {row.id: row.version}))
    assert len(begun(store, 1)) == 1
    written(store, lambda tx: deliveries.end_deliveries(tx, {row.id: row.version + 1}))
    assert begun(store, 1) == []


def test_a_delivery_is_not_set_back(store: Store) -> None:
    one, two = begun(store, 1, 2)
    written(store, lambda tx: deliveries.advance_deliveries(tx, [advance(one, 2)]))
    with pytest.raises(StaleLock):
        written(
            store,
            lambda tx: deliveries.advance_deliveries(tx, [advance(one, 1), advance(two, 1)]),
        )
    # the one that could have been moved is not, either
    assert [row.position for row in begun(store, 1, 2)] == [2, 0]


def test_what_another_process_died_with_is_taken_on(store: Store, world: World) -> None:
    """It got further than this one, which has the same messages in hand, and acknowledges them."""
    given = pipeline(publishers=[{OUT: {"label": "a"}}, {OUT: {"label": "b"}}])
    _, works = receive(store, given, messages(1, 2))

    def die() -> None:
        if world.got:
            raise KeyboardInterrupt

    world.before = die
    with pytest.raises(KeyboardInterrupt):
        handle(store, given, messages(1, 2))
    world.before = lambda: None
    assert deliver(store, given, works).delivered == {"sink": 2}
    assert world.names("b") == ["m-1", "m-2"]
    assert store.database.read(deliveries.count_deliveries) == {}


def test_of_two_that_begin_with_a_key_one_does_it_anew(store: Store, world: World) -> None:
    given = pipeline({"aggregate": {"by": "name", "count": 3}}, kind="meters")
    read, others = step_states.list_states, [messages(2)]

    def slow(*arguments: Any) -> Any:
        found = read(*arguments)
        if others:
            handle(store, given, others.pop())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_states, "list_states", slow)
        handle(store, given, messages(1))
    handle(store, given, messages(3))
    assert sums(world) == [11 + 12 + 13]


def test_items_of_a_lost_delivery_do_not_count(store: Store, world: World) -> None:
    """One process has two deliveries in hand; another one takes one of them through the step."""
    given = pipeline({"aggregate": {"by": "resource_id", "count": 2}}, kind="meters")
    one, two = (
        message(volume(number, volume_id=f"v-{number}") | {"message_id": f"m-{number}"})
        for number in (1, 2)
    )
    _, works = receive(store, given, [one, two])
    handle(store, given, [one])
    result = deliver(store, given, works)
    assert result.delivered == {"sink": 1}
    handle(store, given, [message(volume(3, volume_id="v-1")), message(volume(4, volume_id="v-2"))])
    assert sorted(sums(world)) == [11 + 13, 12 + 14]


def test_a_delivery_that_fails_within_a_step_counts_once(
    store: Store, clock: FakeClock, world: World
) -> None:
    """Its first sample is taken, its second one fails; when it is tried again, both count once, and
    none with those of another delivery."""
    given = pipeline({f"{__name__}:Picky": {}}, kind="meters", wait=1)

    def sent(message_id: str, names: str, value: int) -> Message:
        metrics = [{"name": name, "unit": "u", "value": value} for name in names]
        payload = {"host": "h", "node": "n", "metrics": metrics}
        return message(body(message_id, "host.metrics", payload))

    world.fails = {"b"}
    handle(store, given, [sent("m", "ab", 2), sent("n", "cd", 5)])
    assert sums(world) == [10]
    world.fails = set()
    clock.advance(2)
    sweep(store, given)
    assert sums(world) == [10, 4]


class Picky(StatefulStep):
    """Remembers one sample, and hands on the sum with the next; fails where the world says so."""

    def key(self, item: Item) -> Any:
        return "all"

    def advance(self, state: Any, item: Item, now: float) -> Advance:
        assert isinstance(item, Sample)
        if item.name in worlds.WORLD.fails:
            raise RuntimeError(f"{item.name} is bad")
        if state is None:
            return Advance(item.volume)
        return Advance(None, [replace(item, volume=state + item.volume)])


def test_no_dead_letter_is_changed_that_nobody_named(store: Store, world: World) -> None:
    handle(store, pipeline(), [Message(b"{")])
    letters = DeadLetters(store)
    for change in (letters.drop, letters.retry):
        with pytest.raises(BadInput, match="say which dead letters"):
            change(Filter(), limit=10)
    with pytest.raises(BadInput, match="limit must be a whole number above 0"):
        letters.drop(Filter(reason="not_json"), limit=0)
    assert len(letters.list()) == 1


def test_a_sweep_that_dies_with_a_dead_letter_loses_nothing(
    store: Store, clock: FakeClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pipeline()
    given.limits = Limits(depth=2)
    handle(store, given, [message(body("m", "a.b", {"a": {"b": 1}}))])
    DeadLetters(store).retry(Filter(reason="too_deep"), limit=10)
    given.limits = Limits()

    def die(name: str) -> None:
        if name == Commit.DELIVERIES.before:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(crash_points, "hook", die)
        with pytest.raises(KeyboardInterrupt):
            sweep(store, given)
    clock.advance(1000)
    sweep(store, given)
    assert set(world.names()) == {"m"}
    assert DeadLetters(store).list() == []
    assert store.database.read(deliveries.count_deliveries) == {}


def outage(store: Store) -> StoreError:
    error = StoreError("the database server cannot be reached")
    error.origin = store.database
    return error


def test_an_outage_is_not_a_failure_of_the_publisher(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pipeline(NOTE, publishers=[OUT, "database"], kind="meters", attempts=1)
    with monkeypatch.context() as patch:

        def down(tx: Transaction, rows: object) -> None:
            raise outage(store)

        patch.setattr(samples, "insert_samples", down)
        with pytest.raises(StoreError, match="cannot be reached"):
            process_batch(store, given, messages(1, 2))
    assert DeadLetters(store).list() == []
    # the messages come again, and only what was not done is done
    assert process_batch(store, given, messages(1, 2)).resumed == 2
    assert len(world.got) == 2
    assert len(store.database.read(samples.list_samples)) == 2


def test_a_sweep_leaves_what_another_one_has_taken(
    store: Store, clock: FakeClock, world: World
) -> None:
    given = pipeline(NOTE, wait=1)
    world.fails = {"m-1"}
    handle(store, given, messages(1))
    world.fails = set()
    clock.advance(2)

    def claim(tx: Transaction) -> list[DeliveryRow]:
        return deliveries.claim_due(tx, ["sink"], None, 60.0, 10)

    with store.transaction() as tx:
        assert len(claim(tx)) == 1
    assert sweep(store, given).delivered == {}
    # it has died
    clock.advance(61)
    assert sweep(store, given).delivered == {"sink": 1}


def test_shares_belong_to_whoever_sweeps_them(store: Store, clock: FakeClock, world: World) -> None:
    given = Pipeline.load(
        {
            "sources": [{"name": "s", "meters": ["*"], "sinks": ["sink"]}],
            "sinks": [
                {
                    "name": "sink",
                    "steps": [{"aggregate": {"by": "resource_id", "window": 60, "grace": 0}}],
                    "publishers": [OUT],
                }
            ],
        },
        meters=METERS,
    )
    _, works = receive(
        store,
        given,
        messages(1, 2),
        partition=lambda sink, item: int(str(item.get("resource_id"))[-1]),
        keep_items=True,
    )
    deliver(store, given, works, now=START)
    clock.advance(60)
    sweep(store, given, shares=[1])
    assert sums(world) == [11]
    sweep(store, given, shares=[1, 2])
    assert sums(world) == [11, 12]
