"""A store, a world, and engines stepped by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import converge
from converge.testing import FakeWorld, StepEngine


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> Callable[..., StepEngine]:
    """Makes engines, whose leases are long but for those that are to die."""

    def make(lease: float = 1e6, **retry: Any) -> StepEngine:
        return StepEngine(store, world.types(**retry), lease=lease)

    return make
