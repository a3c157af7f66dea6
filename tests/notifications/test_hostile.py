"""Whatever comes, a batch goes on: each message is a notification once, or a dead letter once.

The messages are such that something behind the parser could fail: definitions, steps, the store.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from converge import Store
from converge.pipeline import DeadLetters, Message, Pipeline, process_batch, sweep
from converge.sql import schema
from converge.sql.deliveries import count_deliveries
from converge.testing import FakeClock
from tests.notifications.samples import EVENT_DEFINITIONS, METERS, START, body, message, volume
from tests.notifications.test_parsing import BODIES, VALUES

STEPS: list[Any] = [
    {"scale": {"factor": 2}},
    {"rename": {"to": "{name}.{resource_id}"}},
    {"aggregate": {"by": "resource_id", "window": 60, "grace": 0}},
]


def make_pipeline() -> Pipeline:
    return Pipeline.load(
        {
            "sources": [
                {"name": "events", "events": ["*"], "sinks": ["groups"]},
                {"name": "meters", "meters": ["*"], "sinks": ["sums", "rates", "plain"]},
            ],
            "sinks": [
                {
                    "name": "groups",
                    "steps": [{"trigger": {"by": "resource_id", "count": 2, "timeout": 60}}],
                    "publishers": ["log"],
                    "attempts": 1,
                },
                {"name": "sums", "steps": STEPS, "publishers": ["database"], "attempts": 1},
                {
                    "name": "rates",
                    "steps": [{"rate_of_change": {"grace": 0}}],
                    "publishers": ["database"],
                    "attempts": 1,
                },
                {"name": "plain", "publishers": ["database"], "attempts": 1},
            ],
        },
        event_definitions=EVENT_DEFINITIONS,
        meters=METERS,
    )


def count(store: Store, table: Any) -> int:
    query = select(func.count()).select_from(table)
    return int(store.database.read(lambda tx: tx.execute(query).scalar_one()))


#: What a field of a payload is in place of what it should be.
WRONG: list[Any] = [
    None,
    True,
    "",
    "x" * 300,
    "a\0b",
    "\ud800",
    "\U0001f600" * 100,
    -1,
    0,
    10**30,
    -(10**400),
    1e308,
    [],
    [1, [2, [3]]],
    {"a": {"b": {}}},
    "9" * 5000,
    "1e999",
    "nan",
    "0001-01-01T00:00:00",
]
METRICS: list[Any] = [
    [],
    None,
    {},
    "x",
    [{}],
    [{"name": "n", "value": 1}],
    [{"name": 1, "unit": [], "value": 2}],
]
FIELDS = ("volume_id", "size", "tenant_id", "user_id", "display_name", "host", "created_at")


def test_a_batch_of_everything_is_recorded_and_what_does_not_fit_is_told(
    store: Store, clock: FakeClock
) -> None:
    given = make_pipeline()
    hostile = [
        volume(number, **{field: value}) | {"message_id": f"m-{field}-{number}"}
        for field in FIELDS
        for number, value in enumerate(WRONG)
    ]
    names = [volume(0) | {"message_id": f"p-{n}", "publisher_id": "é" * n} for n in (0, 1, 255)]
    metrics = [
        body(f"h-{number}", "host.metrics", {"host": "h", "node": "n", "metrics": value})
        for number, value in enumerate(METRICS)
    ]
    good = [volume(number) for number in (1, 2)]
    messages = [message(one) for one in (*hostile, *names, *metrics, *good)]
    result = process_batch(store, given, messages)
    assert (result.recorded, result.refused) == (len(messages), 0)
    assert count(store, schema.notification) == len(messages)
    clock.advance(600)
    sweep(store, given)
    # nothing is stuck: each delivery came to its end, or is a dead letter
    assert {state for _, state in store.database.read(count_deliveries)} <= {"FAILED"}
    letters = DeadLetters(store).list(limit=10_000)
    assert {one.reason for one in letters} == {"definition", "rejected", "step"}
    assert all(one.message and one.origin for one in letters)
    plain = select(schema.sample.c.volume).where(schema.sample.c.name == "volume.size")
    volumes = store.database.read(lambda tx: list(tx.execute(plain).scalars()))
    assert {11.0, 12.0} <= set(volumes)
    # and when all of it comes again, there is nothing more of anything
    again = process_batch(store, given, messages)
    assert (again.recorded, again.duplicates) == (0, len(messages))
    assert len(DeadLetters(store).list(limit=10_000)) == len(letters)


@pytest.mark.sqlite
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        BODIES
        | st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4).map(
            lambda payload: json.dumps(volume(1, **payload))
        ),
        max_size=6,
    )
)
def test_any_batch_is_recorded_and_what_is_none_is_told(store: Store, bodies: list[Any]) -> None:
    given = make_pipeline()
    before = count(store, schema.notification)
    numbered = [
        one.replace('"m-1"', f'"n-{before}-{number}"') if isinstance(one, str) else one
        for number, one in enumerate(bodies)
    ]
    result = process_batch(store, given, [Message(one) for one in numbered], now=START)
    new = count(store, schema.notification) - before
    assert result.recorded == new
    assert result.recorded + result.duplicates + result.resumed + result.refused == len(bodies)
