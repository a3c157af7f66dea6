"""Fixtures: an empty store with machines, and what their actions act on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select

from converge import Store
from converge.sql.transaction import Transaction
from converge.testing import FakeClock
from tests.machine.place import Place
from tests.machine.world import EFFECT, HOST, World


@pytest.fixture
def place(fresh_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An empty place for machines, on each database that answers."""
    clock = FakeClock()
    found = Place(fresh_store(clock), clock, monkeypatch)
    yield found
    found.close()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def effects(place: Place) -> Iterator[Callable[[], list[tuple[str, int]]]]:
    """The rows of the host's own table."""
    database = place.store.database
    HOST.create_all(database.engine)

    def read(tx: Transaction) -> list[tuple[str, int]]:
        return [(row.key, row.attempt) for row in tx.execute(select(EFFECT).order_by(EFFECT.c.key))]

    yield lambda: database.read(read)
    HOST.drop_all(database.engine)
