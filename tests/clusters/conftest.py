"""PostgreSQL through pgbouncer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
