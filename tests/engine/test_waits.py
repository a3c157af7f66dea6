"""Handlers that wait, in an engine with threads: none is held meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import converge
from tests.templates import several
from tests.waiting import WAIT

COUNT = 20


class Slow(converge.ResourceType):
    """Ready when all have been begun, and somebody has given the word."""

    def __init__(self) -> None:
        self.begun: set[str] = set()

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self.begun.add(context.name)
        if len(self.begun) < COUNT:
            raise converge.Wait(0.05, f"{len(self.begun)} of {COUNT} begun")
        context.wait_signal()

    def delete(self, context: converge.Context, physical_id: str) -> None:
        """Nothing was made."""


def test_one_thread_is_enough_for_many_that_wait(
    fresh_store: Callable[..., converge.Store],
) -> None:
    """With a thread for each, those that are not begun would wait for ever."""
    store = fresh_store()
    stack = store.create_stack("s", several("slow", COUNT))
    with converge.Engine(store, types={"slow": Slow()}, workers=1, poll=0.1):
        for number in range(COUNT):
            store.signal("s", f"r{number}")
        assert stack.wait(timeout=WAIT)
    assert stack.status == "COMPLETE"
