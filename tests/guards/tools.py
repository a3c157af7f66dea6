"""What the tests of the guards share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import update

import converge
from converge.model import NodeState
from converge.protocol import recover
from converge.protocol.work import Work
from converge.sql import sync_points
from converge.testing import FakeClock

LEASE = 10.0
SERVERS = pytest.mark.parametrize(
    "database",
    [
        pytest.param(name, marks=[pytest.mark.database, getattr(pytest.mark, name)])
        for name in ("postgresql", "mariadb")
    ],
    indirect=True,
)


def state(store: converge.Store, work: Work) -> NodeState:
    """The state of a claimed node's row."""
    with store.transaction() as tx:
        return sync_points.lock_nodes(tx, [work.node.key])[work.node.key].state


def names(works: Sequence[Work]) -> list[str]:
    return [work.row.name for work in works if work.row is not None]


def is_sqlite(store: converge.Store) -> bool:
    return store.database.dialect == "sqlite"


def lose(store: converge.Store, clock: FakeClock, count: int = 1) -> None:
    """Let leases end, and others notice."""
    clock.advance(LEASE)
    assert recover.sweep(store.database).engines == count


def change(store: converge.Store, table: Any, **values: Any) -> None:
    """What a row would be like that has the same id and is another one."""
    with store.transaction() as tx:
        tx.execute(update(table).values(**values))


#: What never takes so long; but a test that fails does.
SOON = 8.0
