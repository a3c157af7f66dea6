"""Messages of oslo.messaging's fake driver, which has them in the memory of this process: for
agents in tests, and for trying.

Import this module only if such a bus is asked for: oslo.messaging takes as long to import as all
else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

from converge.bus.source import Address, Delivery, check_topics
from converge.bus.urls import BusUrl
from converge.errors import BadInput

#: Seconds between two looks: the driver tells nobody that a message has come.
LOOK = 0.01


class FakeSource:
    """Messages of several queues, in turn. One is taken when it is asked for, so there are no more
    here than are in hand.

    :raises BadInput: the URL says more than ``fake://``.
    """

    ended = False

    def __init__(self, url: BusUrl, addresses: Sequence[Address]) -> None:
        self.shown = url.shown
        check_topics(url)
        if url.options or url.text.partition("://")[2].strip("/"):
            raise BadInput(f"nothing may follow fake://, but something does in {url.shown}")
        fake: Any = import_module("oslo_messaging._drivers.impl_fake")
        target: Any = import_module("oslo_messaging").Target
        self._dump: Any = import_module("oslo_serialization.jsonutils").dump_as_bytes
        manager = fake.FakeExchangeManager(None)
        self._queues: list[tuple[Address, Any, Callable[[str], Any]]] = [
            (one, target(topic=one.queue, exchange=one.exchange), manager.get_exchange)
            for one in addresses
        ]
        for address, queue, exchange in self._queues:
            exchange(address.exchange).ensure_queue(queue, None)
        self._held: dict[int, Delivery] = {}
        self._number = 0

    def receive(self, timeout: float) -> Delivery | None:
        """The next message; None if none came within so many seconds."""
        end = time.monotonic() + timeout
        while (found := self._take()) is None:
            left = end - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, LOOK))
        return found

    def _take(self) -> Delivery | None:
        for _ in self._queues:
            address, queue, exchange = self._queues[0]
            # the next one has its turn
            self._queues.append(self._queues.pop(0))
            _, message, _, requeue = exchange(address.exchange).poll(queue, None)
            if message is None:
                continue
            self._number += 1
            headers = {"exchange": address.exchange, "queue": address.queue}
            handle = (self._number, requeue)
            one = Delivery(self._dump(message), headers, address.priority, handle=handle)
            self._held[self._number] = one
            return one
        return None

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Forget messages."""
        for one in deliveries:
            self._held.pop(one.handle[0], None)

    def requeue(self, deliveries: Iterable[Delivery]) -> None:
        """Give messages back, behind all others."""
        for one in deliveries:
            if self._held.pop(one.handle[0], None) is not None:
                one.handle[1]()

    def rest(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Give back all that is not acknowledged."""
        self.requeue(list(self._held.values()))
