"""PostgreSQL through pgbouncer, and a Galera cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends import Backend
from tests.galera import OwnGalera
from tests.servers import OwnPgbouncer


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(mode, marks=[pytest.mark.database, pytest.mark.own_pgbouncer])
        for mode in ("transaction", "session")
    ],
)
def pooler(request: pytest.FixtureRequest) -> Iterator[OwnPgbouncer]:
    """pgbouncer in each mode."""
    pooler = OwnPgbouncer(request.param)
    yield pooler
    pooler.close()


@pytest.fixture(
    params=[pytest.param("own-galera", marks=[pytest.mark.database, pytest.mark.own_galera])]
)
def galera(request: pytest.FixtureRequest, _databases: dict[str, Backend]) -> OwnGalera:
    """A cluster all of whose nodes run."""
    galera = _databases[request.param]
    assert isinstance(galera, OwnGalera)
    galera.start()
    return galera
