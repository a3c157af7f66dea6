"""Fixtures: a world to look at, and a store whose time is when the notifications were sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from converge import Store
from converge.testing import FakeClock
from tests.notifications import world as worlds
from tests.notifications.samples import START


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def store(fresh_store: Callable[..., Store], clock: FakeClock) -> Store:
    return fresh_store(clock)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> worlds.World:
    found = worlds.World()
    monkeypatch.setattr(worlds, "WORLD", found)
    return found
