"""Where machines are: a store, a clock that stands still, and processes that come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import select

from converge import Machine, Store
from converge.lease import LEASE
from converge.sql import schema
from converge.testing import FakeClock
from tests.dying import die_at


@dataclass
class Place:
    """Where machines are: one database, and processes that come and go.

    :ivar store: empty at first.
    """

    store: Store
    clock: FakeClock
    patch: pytest.MonkeyPatch
    _open: list[Machine] = field(default_factory=list)

    def machine(self, definition: object, lease: float = LEASE) -> Machine:
        """A machine of a process of its own, as it were."""
        machine = Machine(self.store, definition, lease=lease)
        self._open.append(machine)
        return machine

    def die(self, point: str, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function, and end its process at a point; others see that when its lease is
        over."""
        die_at(point, lambda: function(*arguments))
        self.clock.advance(LEASE)

    def close(self) -> None:
        """End all processes."""
        for machine in self._open:
            machine.close()


def held_by(place: Place) -> list[int | None]:
    query = select(schema.move.c.engine_id)
    return place.store.database.read(lambda tx: list(tx.execute(query).scalars()))


def attempts(place: Place) -> list[int]:
    query = select(schema.move.c.attempts + schema.move.c.deaths)
    return place.store.database.read(lambda tx: list(tx.execute(query).scalars()))
