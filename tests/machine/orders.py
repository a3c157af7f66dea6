"""A machine for orders, on which much is tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oslo_db.exception import DBConnectionError
from sqlalchemy import event

from converge import Machine, crash_points
from converge.crash_points import Commit
from tests.machine.place import Place


def is_large(payloads: Mapping[str, Any], payload: Any) -> bool:
    return bool(payload["amount"] > payloads.get("limit", 100))


ORDER: dict[str, Any] = {
    "name": "order",
    "initial": "new",
    "states": {
        "new": {},
        "paid": {"timeout": 60.0, "on_timeout": "remind"},
        "late": {},
        "shipped": {"terminal": True},
    },
    "transitions": [
        {"event": "limit", "source": "new", "target": "new"},
        {"event": "pay", "source": "new", "target": "late", "guard": is_large},
        {"event": "pay", "source": "new", "target": "paid"},
        {"event": "remind", "source": "paid", "target": "late"},
        {"event": "ship", "source": ["paid", "late"], "target": "shipped"},
    ],
}
SMALL = {"amount": 7}


def state(machine: Machine, key: str = "k") -> str:
    return machine.get(key).state


def lose(place: Place, *, before: bool, times: int = 1) -> Callable[[], None]:
    """Lose the connection in the next commit of events, before the server has it or after."""
    left = times
    armed = False

    def hook(name: str) -> None:
        nonlocal left, armed
        if name == Commit.FIRE.before:
            armed = before
        elif name == Commit.FIRE.after and not before and left:
            left -= 1
            raise DBConnectionError

    def commit(connection: Any) -> None:
        nonlocal left, armed
        if armed and left:
            armed = False
            left -= 1
            raise DBConnectionError

    place.patch.setattr(crash_points, "hook", hook)
    event.listen(place.store.database.engine, "commit", commit)
    return lambda: event.remove(place.store.database.engine, "commit", commit)
