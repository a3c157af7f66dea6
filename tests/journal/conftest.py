"""Fixtures: a place for journals, of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import backends
from tests.journal.places import InDatabase, InMemory, InRedis, Place
from tests.journal.world import World

MEMORY = "memory"
DATABASES = [
    pytest.param(name, marks=[pytest.mark.database, getattr(pytest.mark, name)])
    for name in backends.NAMES
]
REDIS = pytest.param("redis", marks=pytest.mark.redis)


def _place(
    request: pytest.FixtureRequest, databases: dict[str, Any], stores: Any, **how: Any
) -> Place:
    if request.param == MEMORY:
        return InMemory()
    if request.param == "redis":
        return InRedis(databases[request.param].empty())
    database = databases[request.param]
    return InDatabase(lambda clock: stores.fresh(database, clock), **how)


@pytest.fixture(params=[MEMORY, *DATABASES])
def place(request: pytest.FixtureRequest, _databases: Any, _stores: Any) -> Iterator[Place]:
    """An empty place for journals: memory, and each database that answers."""
    found = _place(request, _databases, _stores)
    yield found
    found.close()


@pytest.fixture(params=DATABASES)
def sql(request: pytest.FixtureRequest, _databases: Any, _stores: Any) -> Iterator[InDatabase]:
    """The journal in an empty database, on each that answers."""
    found = _place(request, _databases, _stores)
    assert isinstance(found, InDatabase)
    yield found
    found.close()


@pytest.fixture(params=[MEMORY, *DATABASES, REDIS])
def anywhere(request: pytest.FixtureRequest, _databases: Any, _stores: Any) -> Iterator[Place]:
    """An empty place for journals, of each kind that answers."""
    found = _place(request, _databases, _stores)
    yield found
    found.close()


@pytest.fixture(params=DATABASES)
def real(request: pytest.FixtureRequest, _databases: Any, _stores: Any) -> Iterator[Place]:
    """An empty database that tells the time itself: statements are then others."""
    found = _place(request, _databases, _stores, real=True)
    yield found
    found.close()


@pytest.fixture(params=[*DATABASES, REDIS])
def shared(request: pytest.FixtureRequest, _databases: Any, _stores: Any) -> Iterator[Place]:
    """An empty place that processes share, with its own clock."""
    real = {} if request.param == "redis" else {"real": True}
    found = _place(request, _databases, _stores, **real)
    yield found
    found.close()


@pytest.fixture
def world() -> World:
    """Where steps have their effects."""
    return World()
