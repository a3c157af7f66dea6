"""A store, a world, and engines stepped by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import converge
from converge.testing import FakeWorld, StepEngine
from tests.guards.lamps import Lamp


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> Callable[..., StepEngine]:
    """Makes engines, whose leases are long but for those that are to die."""

    def make(lease: float = 1e6, **retry: Any) -> StepEngine:
        return StepEngine(store, world.types(**retry), lease=lease)

    return make


@pytest.fixture
def lamps(store: converge.Store) -> Iterator[Callable[..., Lamp]]:
    made: list[Lamp] = []

    def make(**how: Any) -> Lamp:
        made.append(Lamp(store, **how))
        return made[-1]

    yield make
    for one in made:
        one.machine.close()


@pytest.fixture
def real(fresh_store: Callable[..., converge.Store]) -> converge.Store:
    """A store on the database's own clock."""
    return fresh_store()
