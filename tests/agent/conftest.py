"""Fixtures for tests of agents."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from converge import Store
from tests.backends import Backend
from tests.brokers import OwnRabbitMQ
from tests.servers import OwnServer
from tests.stores import Stores


@pytest.fixture
def sqlite_store(_databases: dict[str, Backend], _stores: Stores) -> Store:
    """An empty store on SQLite, for tests that are about something else."""
    make: Callable[[Backend], Store] = _stores.fresh
    return make(_databases["sqlite"])


@pytest.fixture
def own(_databases: dict[str, Backend]) -> OwnRabbitMQ:
    """A broker that the test may stop."""
    server = _databases["own-rabbitmq"]
    assert isinstance(server, OwnRabbitMQ)
    return server


@pytest.fixture
def own_server(_databases: dict[str, Backend], request: pytest.FixtureRequest) -> OwnServer:
    """A database server that the test may stop: PostgreSQL, unless a parameter names another."""
    server = _databases[getattr(request, "param", "own-postgresql")]
    assert isinstance(server, OwnServer)
    return server
