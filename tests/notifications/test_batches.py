"""A batch of messages: recorded once, delivered once, and what fails stays by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

import pytest
from sqlalchemy import event as events

from converge import Store, hiding
from converge.errors import StaleLock
from converge.pipeline import (
    BatchResult,
    DeadLetters,
    Filter,
    Limits,
    Message,
    letters,
    process_batch,
    sweep,
)
from converge.pipeline.batch import deliver, receive, resume
from converge.sql import deliveries, notifications
from converge.sql.transaction import Transaction
from converge.testing import FakeClock
from tests.notifications.samples import START, body, message, volume
from tests.notifications.world import NOTE, OUT, World, handle, pipeline


def messages(*numbers: int) -> list[Message]:
    return [message(volume(number)) for number in numbers]


def count_events(store: Store) -> int:
    return len(store.database.read(lambda tx: notifications.list_events(tx, [], [], limit=10_000)))


def under_way(store: Store) -> dict[tuple[str, str], int]:
    return store.database.read(deliveries.count_deliveries)


def test_notifications_are_recorded_and_delivered(store: Store, world: World) -> None:
    result = handle(store, pipeline(), messages(1, 2))
    assert (result.received, result.recorded, result.delivered) == (2, 2, {"sink": 2})
    assert world.names() == ["m-1", "m-2"]
    assert world.batches == [2]
    (one,) = store.database.read(
        lambda tx: notifications.list_events(tx, ["volume.*"], [("size", ">", "11")])
    )
    assert (one.message_id, one.event_type) == ("m-2", "volume.create.end")
    assert one.traits["size"] == ("int", "12")
    assert under_way(store) == {}


def test_duplicates_in_a_batch_and_later_are_delivered_once(store: Store, world: World) -> None:
    first = handle(store, pipeline(), messages(1, 1, 2))
    second = handle(store, pipeline(), messages(2, 3))
    assert (first.recorded, first.duplicates) == (2, 1)
    assert (second.recorded, second.duplicates) == (1, 1)
    assert world.names() == ["m-1", "m-2", "m-3"]
    assert count_events(store) == 3


def test_what_is_no_notification_is_a_dead_letter_once(store: Store, world: World) -> None:
    given = [*messages(1), Message(b"{", headers={"queue": "q"}), *messages(2)]
    for _ in range(2):
        result = handle(store, pipeline(), given)
        assert result.refused == 1
    assert world.names() == ["m-1", "m-2"]
    (letter,) = DeadLetters(store).list()
    assert (letter.reason, letter.count, letter.sink) == ("not_json", 2, None)
    assert (letter.raw, letter.headers) == ({"text": "{"}, {"queue": "q"})


@pytest.mark.parametrize(
    ("payload", "message_"),
    [
        ({"volume_id": "x" * 300}, "trait resource_id is longer than 255 characters"),
        ({"volume_id": "a\0b"}, "trait resource_id has a character that cannot be stored"),
        ({"volume_id": "a\ud800"}, "trait resource_id has a character that cannot be stored"),
    ],
)
def test_an_event_that_the_store_rejects_is_passed_on(
    store: Store, world: World, payload: dict[str, str], message_: str
) -> None:
    bad = message(volume(1, **payload))
    result = handle(store, pipeline(), [bad, *messages(2)])
    assert (result.recorded, result.rejected, result.delivered) == (2, 1, {"sink": 2})
    assert world.names() == ["m-1", "m-2"]
    assert count_events(store) == 1
    (letter,) = DeadLetters(store).list()
    assert (letter.reason, letter.message, letter.origin) == ("rejected", message_, "m-1")


def test_what_the_store_refuses_unforeseen_is_found_in_the_batch(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as if nobody had looked: then the database itself refuses
    monkeypatch.setattr("converge.pipeline.record.check_event", lambda one, event: None)
    bad = message(volume(3, volume_id="x" * 300))
    if store.database.dialect == "sqlite":
        refuse_long_texts(store, monkeypatch)
    result = handle(store, pipeline(), [*messages(1, 2), bad, *messages(4, 5)])
    assert (result.recorded, result.rejected, result.delivered) == (5, 1, {"sink": 5})
    assert count_events(store) == 4
    assert [one.origin for one in DeadLetters(store).list()] == ["m-3"]


def refuse_long_texts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes texts of any length."""
    from sqlalchemy.exc import DataError

    insert = notifications.insert_traits

    def refusing(tx: Transaction, rows: list[dict[str, str]]) -> None:
        if any(len(row["text"]) > 255 for row in rows):
            raise DataError("INSERT", {}, ValueError("too long"))
        insert(tx, rows)

    monkeypatch.setattr(notifications, "insert_traits", refusing)


def test_a_definition_that_does_not_fit_is_a_dead_letter(store: Store, world: World) -> None:
    given = [message(volume(1, size="many")), *messages(2)]
    result = handle(store, pipeline(kind="meters"), given)
    # neither the event nor the sample could be made
    assert (result.recorded, result.rejected) == (2, 2)
    assert len(world.got) == 1
    letters = DeadLetters(store).list()
    assert [(one.reason, one.step) for one in letters] == [
        ("definition", None),
        ("definition", "0 volume.size"),
    ]


# -- failures


def test_a_step_that_fails_is_tried_again_alone(
    store: Store, clock: FakeClock, world: World
) -> None:
    given = pipeline({NOTE: {"label": "one"}}, {NOTE: {"label": "two"}}, wait=10)
    world.fails = {"m-2"}
    result = handle(store, given, messages(1, 2, 3))
    assert (result.delivered, result.retried) == ({"sink": 2}, {"sink": 1})
    assert world.names() == ["m-1", "m-3"]
    world.fails = set()
    assert sweep(store, given).delivered == {}
    clock.advance(11)
    assert sweep(store, given).delivered == {"sink": 1}
    assert world.names() == ["m-1", "m-3", "m-2"]
    assert world.seen.count(("one", "m-2")) == 2
    assert world.seen.count(("two", "m-2")) == 1
    assert under_way(store) == {}


def test_a_step_that_succeeded_is_not_done_again(
    store: Store, clock: FakeClock, world: World
) -> None:
    given = pipeline(NOTE, wait=1)
    world.before = lambda: 1 / 0
    handle(store, given, messages(1))
    world.before = lambda: None
    clock.advance(2)
    sweep(store, given)
    assert world.seen == [("note", "m-1")]
    assert world.names() == ["m-1"]


def test_one_bad_item_does_not_hold_up_a_publisher(store: Store, world: World) -> None:
    world.fails = {"m-2"}
    result = handle(store, pipeline(), messages(1, 2, 3))
    assert (result.delivered, result.retried) == ({"sink": 2}, {"sink": 1})
    assert world.names() == ["m-1", "m-3"]


def test_a_step_that_fails_for_good_is_a_dead_letter_until_it_is_tried_again(
    store: Store, clock: FakeClock, world: World
) -> None:
    given = pipeline(NOTE, {NOTE: {"label": "two"}}, attempts=2, wait=1)
    world.fails = {"m-1"}
    handle(store, given, messages(1))
    clock.advance(2)
    assert sweep(store, given).failed == {"sink": 1}
    (letter,) = DeadLetters(store).list()
    assert (letter.reason, letter.sink, letter.step) == ("step", "sink", "Note")
    assert letter.message == "RuntimeError: m-1 is bad"
    assert under_way(store) == {("sink", "FAILED"): 1}
    # it is not done again by itself, nor when its message comes again
    clock.advance(1000)
    sweep(store, given)
    assert handle(store, given, messages(1)).duplicates == 1
    assert len(world.seen) == 2
    # a retry that fails is a dead letter again
    assert DeadLetters(store).retry(Filter(sink="sink"), limit=10) == 1
    sweep(store, given)
    clock.advance(2)
    sweep(store, given)
    assert len(DeadLetters(store).list()) == 1
    world.fails = set()
    DeadLetters(store).retry(Filter(reason="step"), limit=10)
    assert sweep(store, given).delivered == {"sink": 1}
    assert DeadLetters(store).list() == []
    assert world.names() == ["m-1"]
    assert under_way(store) == {}


def test_a_dropped_dead_letter_is_given_up(store: Store, clock: FakeClock, world: World) -> None:
    given = pipeline(NOTE, attempts=1)
    world.fails = {"m-1"}
    handle(store, given, messages(1))
    assert DeadLetters(store).drop(Filter(step="Note"), limit=10) == 1
    assert (DeadLetters(store).list(), under_way(store)) == ([], {})
    assert handle(store, given, messages(1)).duplicates == 1


def test_a_refused_message_is_tried_again_with_other_limits(store: Store, world: World) -> None:
    given = pipeline()
    deep = message(body("m", "a.b", {"a": {"b": {}}}))
    strict = pipeline()
    strict.limits = type(strict.limits)(depth=2)
    assert handle(store, strict, [deep]).refused == 1
    DeadLetters(store).retry(Filter(reason="too_deep"), limit=10)
    # it fails again, and waits for the person again
    assert sweep(store, strict).refused == 1
    assert [(one.count, one.retry_at) for one in DeadLetters(store).list()] == [(2, None)]
    assert sweep(store, given).recorded == 0
    DeadLetters(store).retry(Filter(reason="too_deep"), limit=10)
    assert sweep(store, given).recorded == 1
    assert (DeadLetters(store).list(), world.names()) == ([], ["m"])


def test_a_body_of_which_a_part_was_kept_is_not_tried_again(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "KEPT", 100)
    given, strict = pipeline(), pipeline()
    strict.limits = Limits(size=150)
    bodies = [message(volume(1, display_name="x" * 200 + last)) for last in "ab"]
    assert handle(store, strict, bodies).refused == 2
    DeadLetters(store).retry(Filter(reason="too_large"), limit=10)
    assert sweep(store, given).refused == 2
    for one in DeadLetters(store).list():
        assert (one.reason, one.count, one.retry_at) == ("too_large", 2, None)
        assert "bytes were kept, so it cannot be tried again; have it sent again" in one.message
    assert handle(store, given, bodies[:1]).recorded == 1


def test_what_a_source_said_in_its_place_is_known_when_it_is_tried_again(
    store: Store, world: World
) -> None:
    given, strict = pipeline(), pipeline()
    strict.limits = Limits(depth=2)
    deep = json.dumps({"event_type": "a.b", "payload": {"a": {"b": {}}}})
    line = Message(deep, {"line": 7}, "error", fallback_id="f:7", fallback_time=START)
    assert handle(store, strict, [line]).refused == 1
    DeadLetters(store).retry(Filter(reason="too_deep"), limit=10)
    assert sweep(store, given).recorded == 1
    (one,) = store.database.read(lambda tx: notifications.list_events(tx, [], []))
    assert (one.message_id, one.priority, one.at) == ("f:7", "ERROR", START)


def test_a_sample_that_a_definition_did_not_fit_is_made_after_the_repair(
    store: Store, world: World
) -> None:
    given = pipeline(kind="meters")
    handle(store, given, [message(volume(1, size="many"))])
    repaired = pipeline(kind="meters")
    for definition in (repaired.events, repaired.meters):
        assert len(definition)
    repaired.meters = type(repaired.meters).load(
        {
            "metric": [
                {
                    "name": "volume.size",
                    "event_type": "volume.create.*",
                    "type": "gauge",
                    "unit": "GiB",
                    "volume": 1,
                    "resource_id": "$.payload.volume_id",
                }
            ]
        }
    )
    DeadLetters(store).retry(Filter(reason="definition"), limit=10)
    result = sweep(store, repaired)
    assert (result.delivered, result.rejected) == ({"sink": 1}, 1)
    assert [item.name for _, item in world.got] == ["volume.size"]
    assert [one.step for one in DeadLetters(store).list()] == [None]


# -- who does it


def test_what_another_process_went_on_with_is_let_go(store: Store, world: World) -> None:
    """Of two that have the same messages in hand, one delivers, and the other one writes nothing,
    whatever it has done outside."""
    given = pipeline(NOTE)
    other: list[BatchResult] = []

    def slow() -> None:
        world.before = lambda: None
        other.append(handle(store, given, messages(1)))

    world.before = slow
    result = handle(store, given, messages(1, 2))
    assert [(one.resumed, one.delivered) for one in other] == [(1, {"sink": 1})]
    assert result.delivered == {"sink": 1}
    assert under_way(store) == {}
    assert count_events(store) == 2


def test_a_guard_keeps_a_member_out(store: Store, world: World) -> None:
    def guard(tx: Transaction) -> None:
        raise StaleLock("the partition is another member's")

    with pytest.raises(StaleLock):
        process_batch(store, pipeline(), messages(1), guard=guard)
    assert (count_events(store), world.got) == (0, [])


def test_deliveries_can_be_handed_to_another_process(store: Store, world: World) -> None:
    given = pipeline()
    result, works = receive(
        store,
        given,
        messages(1, 2, 3),
        partition=lambda sink, item: len(item.id) + int(item.id[-1]) % 2,
        keep_items=True,
    )
    assert (result.recorded, [work.share for work in works]) == (3, [4, 3, 4])
    guarded: list[set[int]] = []

    def guard_of(shares: Collection[int]) -> Callable[[Any], None]:
        guarded.append(set(shares))
        return lambda tx: None

    def go_on(*shares: int, limit: int = 9) -> tuple[dict[str, int], bool]:
        result, more = resume(store, given, shares, guard_of, limit=limit)
        return result.delivered, more

    assert go_on() == ({}, False)
    assert go_on(4, 7) == ({"sink": 2}, False)
    assert world.names() == ["m-1", "m-3"]
    assert go_on(3, 4, limit=1) == ({"sink": 1}, True)
    assert world.names() == ["m-1", "m-3", "m-2"]
    assert go_on(3, 4, limit=1) == ({}, False)
    assert guarded == [{4}, {3}]


def test_what_a_process_died_with_is_done_when_its_messages_come_again(
    store: Store, world: World
) -> None:
    given = pipeline(NOTE)
    receive(store, given, messages(1, 2))
    result = handle(store, given, messages(1, 2, 3))
    assert (result.recorded, result.resumed, result.delivered) == (1, 2, {"sink": 3})
    assert world.names() == ["m-1", "m-2", "m-3"]


def test_a_sink_that_is_gone_leaves_dead_letters(store: Store, world: World) -> None:
    _, works = receive(store, pipeline(), messages(1))
    empty = pipeline(patterns=["other"])
    other = type(empty)([], {}, empty.events, empty.meters, empty.limits)
    assert deliver(store, other, works).failed == {"sink": 1}
    (letter,) = DeadLetters(store).list()
    assert letter.message == "the pipeline no longer has a sink 'sink'"


def test_a_batch_takes_the_same_number_of_statements_whatever_its_size(
    store: Store, world: World
) -> None:
    given = pipeline(NOTE, {"aggregate": {"function": "count", "by": "name", "count": 7}})

    def count(size: int, first: int) -> int:
        sent: list[str] = []

        def note(*what: object) -> None:
            sent.append(str(what[2]))

        engine = store.database.engine
        events.listen(engine, "before_cursor_execute", note)
        try:
            handle(store, given, messages(*range(first, first + size)))
        finally:
            events.remove(engine, "before_cursor_execute", note)
        return len(sent)

    handle(store, given, messages(9999))
    few, many = count(10, 0), count(200, 1000)
    assert few == many
    assert few < 25


def test_publishers_of_one_sink_each_get_all(store: Store, world: World) -> None:
    given = pipeline(publishers=[{OUT: {"label": "a"}}, {OUT: {"label": "b"}}])
    handle(store, given, messages(1, 2))
    assert world.names("a") == world.names("b") == ["m-1", "m-2"]


def test_a_dead_letter_and_the_log_hide_the_secrets_of_an_error(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    # as of the URL of a database or a bus
    hiding.learn(["hunter2xyz"])
    handle(store, pipeline("tests.notifications.world:Leak", attempts=1), messages(1))
    (letter,) = DeadLetters(store).list()
    assert letter.message == "RuntimeError: http://ada:***@example.com/items is down"
    assert "ada:***@" in caplog.text
    assert "hunter2xyz" not in caplog.text
