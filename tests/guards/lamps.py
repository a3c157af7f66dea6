"""A machine whose instances are lamps, on a store, for those who look at what it has in hand."""

from __future__ import annotations

from collections.abc import Callable

import converge


class Lamp:
    """A machine whose actions do what they are told."""

    def __init__(self, store: converge.Store, lease: float = 3600.0) -> None:
        self.calls: list[str] = []
        self.ids: list[str] = []
        self.behaviour: list[Callable[[], object]] = []
        definition = {
            "name": "lamp",
            "initial": "off",
            "states": {"off": {}},
            "transitions": [{"event": "press", "source": "off", "target": "off", "action": self}],
        }
        self.machine = converge.Machine(store, definition, lease=lease)
        self.actions = self.machine._actions

    def __call__(self, action: converge.machine.Action) -> None:
        self.calls.append(action.key)
        self.ids.append(action.id)
        if self.behaviour:
            self.behaviour.pop(0)()

    def leave(self, store: converge.Store, *keys: str) -> None:
        """Moves whose actions nobody has taken."""
        with store.transaction() as tx:
            events = [(key, "press") for key in keys]
            self.machine.fire_many(events, create=True, transaction=tx)
