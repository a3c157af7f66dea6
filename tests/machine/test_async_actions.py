"""Actions that are ``async def``: their steps are awaited, and a closed machine cancels them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from converge import AsyncAction, RetryPolicy
from converge.machine.move import ActionFailed
from tests.machine.place import Place
from tests.waiting import WAIT


def door(action: Callable[[AsyncAction], Any]) -> dict[str, Any]:
    return {
        "name": "door",
        "initial": "open",
        "states": {"open": {}, "shut": {"terminal": True}},
        "transitions": [{"event": "shut", "source": "open", "target": "shut", "action": action}],
    }


def test_its_steps_are_done_once(place: Place) -> None:
    did: list[str] = []

    async def note(word: str) -> str:
        await asyncio.sleep(0)
        did.append(word)
        return word

    async def shut(action: AsyncAction) -> None:
        first = await action.step("first", note, "first")
        async for item in action.each("items", [1, 2]):
            did.append(f"item {item.value}")
        if action.attempt == 1:
            raise OSError("once more")
        did.append(f"{first} in attempt {action.attempt} of {action.event}")

    definition = door(shut)
    definition["transitions"][0]["retry"] = RetryPolicy(attempts=2, first=0)
    machine = place.machine(definition)
    with pytest.raises(ActionFailed, match="once more"):
        machine.fire("k", "shut", create=True)
    machine.sweep()
    assert did == ["first", "item 1", "item 2", "first in attempt 2 of shut"]
    assert machine.history("k")[-1].action == "DONE"


def test_one_whose_machine_is_closed_is_cancelled_and_called_again(place: Place) -> None:
    began = threading.Event()
    calls: list[int] = []
    cancelled: list[bool] = []

    async def shut(action: AsyncAction) -> None:
        calls.append(action.attempt)
        began.set()
        if len(calls) > 1:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(action.cancelled.is_set())
            raise

    machine = place.machine(door(shut))

    def fire() -> None:
        with pytest.raises(ActionFailed, match="is being closed; the sweep calls it again"):
            machine.fire("k", "shut", create=True)

    firing = threading.Thread(target=fire)
    firing.start()
    assert began.wait(WAIT)
    machine.close()
    firing.join(WAIT)
    assert not firing.is_alive()
    assert cancelled == [True]
    again = place.machine(door(shut))
    again.sweep()
    assert calls == [1, 1]
    assert again.history("k")[-1].action == "DONE"
