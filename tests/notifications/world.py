"""A small world for pipelines: steps and publishers that note what they get, and can fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from converge import Store
from converge.pipeline import (
    BatchResult,
    Item,
    Message,
    Outlet,
    Pipeline,
    Publisher,
    Step,
    process_batch,
)
from tests.notifications.samples import EVENT_DEFINITIONS, METERS


class World:
    """What is outside.

    :ivar got: what publishers got: (publisher, item id, name), in order.
    :ivar seen: what steps saw: (step, item id).
    :ivar fails: the ids of items at which something fails.
    """

    def __init__(self) -> None:
        self.got: list[tuple[str, Item]] = []
        self.seen: list[tuple[str, str]] = []
        self.fails: set[str] = set()
        self.batches: list[int] = []
        self.before: Callable[[], object] = lambda: None

    def names(self, publisher: str = "out") -> list[str]:
        """The ids that a publisher got."""
        return [item.id for where, item in self.got if where == publisher]


WORLD = World()


class Note(Step):
    """Notes what it sees, and fails where the world says so."""

    def __init__(self, label: str = "note") -> None:
        self._label = label

    def apply(self, item: Item) -> Item:
        WORLD.seen.append((self._label, item.id))
        if item.id in WORLD.fails:
            raise RuntimeError(f"{item.id} is bad")
        return item


class Leak(Step):
    """Fails, and says more than it should."""

    def apply(self, item: Item) -> Item:
        raise RuntimeError("http://ada:hunter2xyz@example.com/items is down")


class Out(Publisher):
    """Keeps what it gets."""

    def __init__(self, label: str = "out") -> None:
        self._label = label

    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        WORLD.before()
        WORLD.batches.append(len(items))
        bad = [item.id for item in items if item.id in WORLD.fails]
        if bad:
            raise RuntimeError(f"{bad[0]} is bad")
        WORLD.got += [(self._label, item) for item in items]


NOTE = "tests.notifications.world:Note"
OUT = "tests.notifications.world:Out"


def pipeline(
    *steps: Any,
    kind: str = "events",
    patterns: Sequence[str] = ("*",),
    publishers: Sequence[Any] = (OUT,),
    **sink: Any,
) -> Pipeline:
    """A pipeline with one source and one sink."""
    return Pipeline.load(
        {
            "sources": [{"name": "source", kind: list(patterns), "sinks": ["sink"]}],
            "sinks": [
                {"name": "sink", "steps": list(steps), "publishers": list(publishers), **sink}
            ],
        },
        event_definitions=EVENT_DEFINITIONS,
        meters=METERS,
    )


def handle(store: Store, given: Pipeline, messages: Sequence[Message]) -> BatchResult:
    """A batch."""
    return process_batch(store, given, messages)


def write(folder: Path, text: str, name: str = "pipeline.yaml") -> Path:
    """A file."""
    path = folder / name
    path.write_text(text)
    return path
