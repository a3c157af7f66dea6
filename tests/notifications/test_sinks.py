"""Steps that remember and publishers, with a store: nothing counts twice, nothing is lost."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import select

from converge import Machine, Store
from converge.pipeline import DeadLetters, Group, Message, Pipeline, Sample, process_batch, sweep
from converge.pipeline.memory import Aggregate
from converge.sql import deliveries, samples, schema
from converge.testing import FakeClock
from tests.notifications.samples import METERS, body, message, volume
from tests.notifications.world import NOTE, OUT, World, handle, pipeline

AGGREGATE = {"aggregate": {"by": "name", "window": 60, "grace": 0}}


def messages(*numbers: int) -> list[Message]:
    return [message(volume(number)) for number in numbers]


def states(store: Store) -> list[Any]:
    query = select(schema.step_state.c.state, schema.step_state.c.deadline_at)
    return store.database.read(lambda tx: [row.state for row in tx.execute(query)])


def sums(world: World) -> list[float]:
    return [item.volume for _, item in world.got if isinstance(item, Sample)]


# -- steps that remember


def test_an_aggregate_is_handed_on_when_its_time_has_come(
    store: Store, clock: FakeClock, world: World
) -> None:
    given = pipeline(AGGREGATE, kind="meters")
    handle(store, given, messages(1, 2))
    handle(store, given, messages(3, 1))
    clock.advance(59)
    sweep(store, given)
    assert world.got == []
    clock.advance(1)
    assert sweep(store, given).delivered == {"sink": 1}
    assert sums(world) == [11 + 12 + 13]
    assert states(store) == []
    assert store.database.read(deliveries.count_deliveries) == {}
    sweep(store, given)
    assert len(world.got) == 1


def test_what_fails_after_a_step_that_remembers_counts_once(
    store: Store, clock: FakeClock, world: World
) -> None:
    given = pipeline({"aggregate": {"by": "name", "count": 2}}, NOTE, kind="meters", wait=1)
    handle(store, given, messages(1))
    (first,) = world.seen or [("", "")]
    assert first == ("", "")
    world.before = lambda: 1 / 0
    handle(store, given, messages(2))
    world.before = lambda: None
    clock.advance(2)
    sweep(store, given)
    # neither did their messages, which come again, count
    handle(store, given, messages(1, 2))
    assert sums(world) == [11 + 12]
    assert states(store) == []


def test_an_item_that_a_step_cannot_take_fails_alone(store: Store, world: World) -> None:
    given = pipeline(
        {f"{__name__}:make_picky": {}},
        {"aggregate": {"by": "name", "count": 2}},
        kind="meters",
        attempts=1,
    )
    result = handle(store, given, messages(1, 13, 2))
    assert (result.delivered, result.failed) == ({"sink": 2}, {"sink": 1})
    assert sums(world) == [11 + 12]


def make_picky(item: Sample) -> Sample:
    """A step that takes no 13."""
    if item.resource_id == "vol-13":
        raise ValueError("13 is not taken")
    return item


def test_two_processes_with_the_same_key_count_all(
    store: Store, clock: FakeClock, world: World
) -> None:
    """While one has read what is known of a key, and before it writes, another one changes it."""
    from converge.sql import step_states

    given = pipeline({"aggregate": {"by": "name", "count": 5}}, kind="meters")
    handle(store, given, messages(5))
    read, others = step_states.list_states, [messages(3), messages(2)]

    def slow(*arguments: Any) -> Any:
        found = read(*arguments)
        if others:
            handle(store, given, others.pop())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_states, "list_states", slow)
        handle(store, given, messages(1))
    handle(store, given, messages(4))
    assert sums(world) == [11 + 12 + 13 + 14 + 15]
    assert states(store) == []


def test_a_late_item_and_a_sweep_do_not_lose_each_other(
    store: Store, clock: FakeClock, world: World
) -> None:
    from converge.sql import step_states

    given = pipeline(AGGREGATE, kind="meters")
    handle(store, given, messages(1))
    clock.advance(60)
    read = step_states.list_overdue

    def slow(*arguments: Any) -> Any:
        found = read(*arguments)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(step_states, "list_overdue", read)
            if not world.seen:
                world.seen.append(("late", ""))
                handle(store, given, messages(2))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_states, "list_overdue", slow)
        sweep(store, given)
    clock.advance(60)
    sweep(store, given)
    assert sum(sums(world)) == 11 + 12


def test_a_step_that_cannot_expire_does_not_hold_up_others(
    store: Store,
    clock: FakeClock,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("converge.pipeline.sweeping.BATCH", 2)
    given = pipeline(
        {"aggregate": {"by": "resource_id", "window": 60, "grace": 0, "as": "old"}}, kind="meters"
    )
    handle(store, given, messages(10, 11, 12))
    # the file was changed: nobody knows what the old step held
    given = pipeline({"aggregate": {"by": "resource_id", "window": 60, "grace": 0}}, kind="meters")
    handle(store, given, messages(1, 2, 3, 4))
    clock.advance(60)
    expire = Aggregate.expire

    def fail(step: Aggregate, state: Any, now: float) -> Any:
        if state["sum"] in (11, 12):
            raise ValueError("not this one")
        return expire(step, state, now)

    with monkeypatch.context() as patch:
        patch.setattr(Aggregate, "expire", fail)
        sweep(store, given)
    assert sorted(sums(world)) == [13, 14]
    assert "stage aggregate of sink sink cannot expire" in caplog.text
    sweep(store, given)
    assert sorted(sums(world)) == [11, 12, 13, 14]
    assert len(states(store)) == 3


def test_a_trigger_hands_on_a_group(store: Store, clock: FakeClock, world: World) -> None:
    given = pipeline({"trigger": {"by": "tenant_id", "count": 2, "timeout": 30}})
    handle(store, given, messages(1))
    handle(store, given, messages(1, 2, 3))
    clock.advance(30)
    sweep(store, given)
    groups = [item for _, item in world.got if isinstance(item, Group)]
    assert [(len(one.items), one.complete) for one in groups] == [(2, True), (1, False)]


# -- publishers


def test_samples_are_stored_once(store: Store, world: World) -> None:
    given = pipeline(kind="meters", publishers=["database", OUT])
    world.before = lambda: 1 / 0
    handle(store, given, messages(1, 2))
    world.before = lambda: None
    handle(store, given, messages(1, 2))
    found = store.database.read(lambda tx: samples.list_samples(tx, "volume.size"))
    assert [(one["resource_id"], one["volume"]) for one in found] in (
        [("vol-1", 11.0), ("vol-2", 12.0)],
        [("vol-2", 12.0), ("vol-1", 11.0)],
    )
    assert {one["metadata"]["display_name"] for one in found} == {"disk 1", "disk 2"}


def test_a_sample_that_cannot_be_stored_is_a_dead_letter(store: Store, world: World) -> None:
    given = pipeline(kind="meters", publishers=["database"], attempts=1)
    bad = message(volume(3, volume_id="x" * 300))
    result = handle(store, given, [*messages(1), bad, *messages(2)])
    assert (result.delivered, result.failed) == ({"sink": 2}, {"sink": 1})
    assert len(store.database.read(samples.list_samples)) == 2
    letters = [one for one in DeadLetters(store).list() if one.sink]
    assert [(one.step, "has 300 characters" in one.message) for one in letters] == [
        ("database", True)
    ]


def test_items_are_appended_to_a_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    given = pipeline(publishers=[f"file://{path}"])
    handle(store, given, messages(1))
    handle(store, given, messages(1, 2))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["id"] for one in lines] == ["m-1", "m-2"]


def test_items_are_logged(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "converge.pipeline.items"):
        handle(store, pipeline(publishers=[{"log": {"level": "warning"}}]), messages(1))
    assert [json.loads(one.message)["id"] for one in caplog.records] == ["m-1"]


def test_one_sink_hands_items_to_another(store: Store, world: World) -> None:
    given = Pipeline.load(
        {
            "sources": [{"name": "s", "meters": ["*"], "sinks": ["first"]}],
            "sinks": [
                {"name": "second", "publishers": [{OUT: {"label": "second"}}]},
                {"name": "first", "publishers": [OUT, "sink://second"]},
            ],
        },
        meters=METERS,
    )
    result = handle(store, given, messages(1, 2))
    assert result.delivered == {"first": 2, "second": 2}
    assert world.names() == world.names("second")
    assert store.database.read(deliveries.count_deliveries) == {}


class _Taker(BaseHTTPRequestHandler):
    taken: ClassVar[list[tuple[str, Any]]] = []
    status: ClassVar[int] = 200

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.status == 200:
            self.taken.append((self.headers["Idempotency-Key"], json.loads(data)))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def taker() -> Iterator[str]:
    """The URL of a server that takes items."""
    _Taker.taken, _Taker.status = [], 200
    server = HTTPServer(("127.0.0.1", 0), _Taker)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/items"
    server.shutdown()
    thread.join()
    server.server_close()


def test_items_are_posted(store: Store, clock: FakeClock, taker: str) -> None:
    given = pipeline(publishers=[taker], wait=1)
    _Taker.status = 503
    assert handle(store, given, messages(1)).retried == {"sink": 1}
    _Taker.status = 200
    clock.advance(2)
    assert sweep(store, given).delivered == {"sink": 1}
    ((key, (item,)),) = _Taker.taken
    assert (item["id"], len(key)) == ("m-1", 36)


def test_an_item_fires_a_machine_once(store: Store, world: World) -> None:
    given = pipeline(
        publishers=[
            {
                "converge": {
                    "machine": f"{__name__}:DISK",
                    "key": "{resource_id}",
                    "event": "made",
                }
            },
            OUT,
        ],
        wait=0,
    )
    world.before = lambda: 1 / 0
    handle(store, given, messages(1))
    world.before = lambda: None
    sweep(store, given)
    found = Machine(store, DISK).get("vol-1")
    assert (found.state, found.moves) == ("there", 1)


DISK = {
    "name": "disk",
    "initial": "new",
    "states": {"new": {}, "there": {"terminal": True}},
    "transitions": [{"event": "made", "source": "new", "target": "there"}],
}


def test_an_item_brings_a_stack_about(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "disk.yaml"
    path.write_text(
        "parameters:\n  size: {type: number}\n"
        "resources:\n  disk:\n    type: value\n    properties: {value: {get_param: size}}\n"
    )
    publisher = {"stack": "{resource_id}", "template": str(path), "parameters": {"size": "{size}"}}
    given = pipeline(publishers=[{"converge": publisher}], attempts=1)
    result = handle(store, given, messages(1))
    assert result.delivered == {"sink": 1}, DeadLetters(store).list()
    assert store.stack("vol-1").status == "IN_PROGRESS"


def test_the_time_is_the_database_s_unless_it_is_given(store: Store, world: World) -> None:
    given = [message(body("m", "a.b", {}))]
    late = process_batch(store, pipeline(), given, now=1e10)
    assert (late.refused, world.got) == (1, [])
    assert process_batch(store, pipeline(), given).recorded == 1
