"""What the tests of the guards share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import converge
from converge.model import NodeState
from converge.protocol import recover
from converge.protocol.decide import Work
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


def template(**resources: Any) -> converge.Template:
    """A template of resources of type ``fake``, each given by what it depends on."""
    bodies = {
        name: body if isinstance(body, dict) else {"depends_on": body}
        for name, body in resources.items()
    }
    return converge.Template.from_dict(
        {"resources": {name: {"type": "fake", **body} for name, body in bodies.items()}}
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
