"""What the actions of a machine act on, and how they fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select

from converge import Machine, RetryPolicy
from converge.machine import Action
from converge.sql.transaction import Transaction
from tests.dying import Died
from tests.machine.place import Place

# what a host keeps beside converge's tables
HOST = MetaData()
EFFECT = Table("machine_effect", HOST, Column("key", String(255)), Column("attempt", Integer))


@dataclass
class World:
    """What actions act on, and what they do there.

    :ivar done: what was done, in order.
    :ivar behaviour: what the next actions do besides, by key.
    """

    done: list[str] = field(default_factory=list)
    behaviour: dict[str, list[Callable[[Action], object]]] = field(default_factory=dict)

    def act(self, action: Action) -> None:
        """The action of all moves."""
        self.done.append(f"{action.key} {action.event} {action.attempt}")
        waiting = self.behaviour.get(action.key, [])
        if waiting:
            waiting.pop(0)(action)

    def step(self, what: str) -> str:
        self.done.append(what)
        return what.upper()

    def definition(self, attempts: int = 3, **changes: Any) -> dict[str, Any]:
        retry = RetryPolicy(attempts=attempts, first=5.0)
        return {
            "name": "lamp",
            "initial": "off",
            "states": {"off": {}, "on": {"timeout": 60.0, "on_timeout": "dim"}},
            "transitions": [
                {
                    "event": "press",
                    "source": "off",
                    "target": "on",
                    "action": self.act,
                    "retry": retry,
                },
                {"event": "press", "source": "on", "target": "off"},
                {
                    "event": "dim",
                    "source": "on",
                    "target": "off",
                    "action": self.act,
                    "retry": retry,
                },
            ],
            **changes,
        }


def fail(action: Action) -> None:
    raise RuntimeError(f"no {action.event}")


def failure(event: str) -> str:
    """What is told of an action that failed with :func:`fail`."""
    return f"RuntimeError: no {event}"


def crash(action: Action) -> None:
    raise Died


def status(machine: Machine, key: str = "k") -> str:
    return machine.history(key)[-1].action


def count(place: Place, table: Any) -> int:
    query = select(func.count()).select_from(table)
    return place.store.database.read(lambda tx: int(tx.execute(query).scalar_one()))


def record(place: Place, action: Action, end: Callable[[Transaction], None]) -> None:
    with place.store.transaction() as tx:
        tx.execute(insert(EFFECT).values(key=action.key, attempt=action.attempt))
        action.done(tx)
        end(tx)
