"""What agents work on in tests: notifications, a pipeline, and what became of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import select

from converge import Store
from converge.pipeline import DeadLetters, Pipeline
from converge.sql import schema

PIPELINE: dict[str, Any] = {
    "sources": [{"name": "all", "events": ["*"], "sinks": ["log"]}],
    "sinks": [{"name": "log", "publishers": ["log"]}],
}


def pipeline() -> Pipeline:
    """One that takes all."""
    return Pipeline.load(PIPELINE)


def body(number: int, **more: Any) -> bytes:
    """A notification as it is on a bus."""
    message = {
        "message_id": f"m-{number}",
        "event_type": "compute.instance.update",
        "publisher_id": "compute.a",
        "priority": "INFO",
        "timestamp": "2026-11-28T12:00:00",
        "payload": {"instance_id": f"i-{number % 7}", "number": number},
        **more,
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def recorded(store: Store) -> list[str]:
    """The ids of all that was recorded, each as often as it is there."""
    query = select(schema.notification.c.message_id).order_by(schema.notification.c.id)
    return list(store.database.read(lambda tx: list(tx.execute(query).scalars())))


def reasons(store: Store) -> list[str]:
    """The reasons of all dead letters, each as often as it was counted."""
    letters = DeadLetters(store).list()
    return sorted(str(one.reason) for one in letters for _ in range(one.count))


def run_until(turn: Callable[[], object], done: Callable[[], bool], most: int = 200) -> None:
    """Take turns until something is so."""
    for _ in range(most):
        if done():
            return
        turn()
    raise AssertionError("it never became so")


def ids(numbers: Iterable[int]) -> list[str]:
    """The ids of notifications."""
    return [f"m-{number}" for number in numbers]
