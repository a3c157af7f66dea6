"""Resource types whose handlers do little, or wait until a test lets them go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import converge
from tests.waiting import WAIT

Handler = Callable[[converge.Context, dict[str, Any]], Any]


class Does(converge.ResourceType):
    """Its create is a function."""

    def __init__(self, create: Handler, **retry: Any) -> None:
        self._create = create
        self.retry = converge.RetryPolicy(**retry)  # type: ignore[misc]

    def create(self, context: converge.Context, properties: Any) -> Any:
        return self._create(context, properties)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        pass


def good(context: converge.Context, properties: dict[str, Any]) -> str:
    return "good"


class Quick(converge.ResourceType):
    """Does nothing."""

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> Any: ...

    def delete(self, context: converge.Context, physical_id: str) -> None: ...


class Gate(Quick):
    """Handlers that say when they begin, and end when they are let, or told to stop.

    :param deaf: they do not listen to being told.
    :ivar began: released by each that begins.
    :ivar go: lets them all end.
    :ivar calls: whose they were, in their order.
    :ivar done: who was let.
    :ivar told: who was told to stop.
    :ivar cancelled: set when the first of them was told.
    :ivar cancelled_at: when that was, in seconds since 1970.
    :ivar most: how many ran at once at most.
    """

    def __init__(self, *, deaf: bool = False) -> None:
        self.began = threading.Semaphore(0)
        self.go = threading.Event()
        self.calls: list[str] = []
        self.done: list[str] = []
        self.told: list[str] = []
        self.cancelled = threading.Event()
        self.cancelled_at = 0.0
        self.most = 0
        self._deaf = deaf
        self._now = 0
        self._lock = threading.Lock()

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        with self._lock:
            self.calls.append(context.name)
            self._now += 1
            self.most = max(self.most, self._now)
        self.began.release()
        try:
            self._wait(context)
        finally:
            with self._lock:
                self._now -= 1
        self.done.append(context.name)
        return f"{context.stack}/{context.name}"

    def _wait(self, context: converge.Context) -> None:
        if self._deaf:
            assert self.go.wait(WAIT)
        while not self.go.wait(0.01):
            if context.cancelled.is_set():
                self.told.append(context.name)
                self.cancelled_at = self.cancelled_at or time.time()
                self.cancelled.set()
                raise RuntimeError("told to stop")
