"""Stores on PostgreSQL and MariaDB behind a proxy that makes trouble."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete

import converge
from converge.sql import schema
from tests import backends
from tests.trouble.proxy import Mode, Proxy
from tests.trouble.troubled import Troubled


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.database, getattr(pytest.mark, name)])
        for name in backends.NAMES
        if name != backends.Sqlite.name
    ]
)
def server(request: pytest.FixtureRequest, _databases: dict[str, backends.Backend]) -> Any:
    """Each :class:`tests.backends.Backend` that is a server."""
    return _databases[request.param]


@pytest.fixture
def troubled(server: backends.Backend, _troubled: dict[str, Troubled]) -> Iterator[Troubled]:
    """An open store without rows, behind a proxy that passes everything."""
    one = _troubled.get(server.name)
    if one is None:
        proxy = Proxy(server.migrated())
        one = _troubled[server.name] = Troubled(server, proxy, converge.connect(proxy.url()))
    with one.store.transaction() as tx:
        for table in schema.metadata.sorted_tables:
            tx.execute(delete(table))
    one.begin()
    yield one
    one.end()
    one.store.database.clock = None
    one.proxy.set(Mode.PASS)
    # what a test left in disorder must not meet the next one
    one.store.close()


@pytest.fixture(scope="session")
def _troubled() -> Iterator[dict[str, Troubled]]:
    # a new store compiles every statement again, so they are kept
    known: dict[str, Troubled] = {}
    yield known
    for one in known.values():
        one.store.close()
        one.proxy.close()
