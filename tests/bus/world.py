"""What is done is counted outside of the database; and the stacks that are done."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import converge
from tests.templates import template
from tests.waiting import WAIT


class Counting(converge.ResourceType):
    """Counts what is done, outside of the database.

    :ivar open: handlers wait until it is set.
    :ivar busy: set when a handler is called.
    """

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.open = threading.Event()
        self.open.set()
        self.busy = threading.Event()
        self._lock = threading.Lock()

    def _count(self, what: str) -> None:
        self.busy.set()
        assert self.open.wait(WAIT)
        with self._lock:
            self.done[what] += 1

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        self._count(f"create {context.stack} {context.name}")
        return context.token

    def update(
        self, context: converge.Context, physical_id: str, properties: Any, previous: Any
    ) -> None:
        self._count(f"update {context.stack} {context.name}")

    def delete(self, context: converge.Context, physical_id: str) -> None:
        self._count(f"delete {context.stack} {context.name}")


def layers(width: int, size: int) -> converge.Template:
    """Three layers, each node of which requires two of the one before, and one for all."""
    bodies: dict[str, Any] = {
        f"n0-{n}": {"properties": {"size": size}, "depends_on": []} for n in range(width)
    }
    for layer in (1, 2):
        for n in range(width):
            before = {f"n{layer - 1}-{n}", f"n{layer - 1}-{(n + 1) % width}"}
            bodies[f"n{layer}-{n}"] = {
                "properties": {"size": size},
                "depends_on": sorted(before),
            }
    bodies["last"] = {"depends_on": [f"n2-{n}" for n in range(width)]}
    return template(bodies, type="counting")
