"""A store whose clock stands still."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import converge
from converge.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(fresh_store: Callable[..., converge.Store], clock: FakeClock) -> converge.Store:
    return fresh_store(clock)
