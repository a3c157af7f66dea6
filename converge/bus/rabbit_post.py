"""Queues between the members of a group, in RabbitMQ.

They are durable, and each has one active consumer at a time. They are classic queues, not quorum
queues: there are many of them, and if one is lost with its node, its holder finds in the database
what it would have told.

Import this module only if such a bus is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from converge.bus.post import QUEUE, REDELIVERED
from converge.bus.rabbit import CONNECT, explained, load_kombu, read_settings
from converge.bus.source import Delivery
from converge.bus.urls import BusUrl

#: Messages of a queue that are with its member at a time.
PREFETCH = 100
_ARGUMENTS = {"x-queue-type": "classic", "x-single-active-consumer": True}


class RabbitPost:
    """Queues of one broker.

    :ivar tags: of the consumers, by the name of the queue.
    """

    def __init__(self, url: BusUrl) -> None:
        self.shown = url.shown
        self.tags: dict[str, str] = {}
        self._urls, self._settings = read_settings(url)
        self._connection: Any = None
        self._channel: Any = None
        self._known: set[str] = set()
        self._received: deque[Delivery] = deque()

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Put messages into queues.

        :raises CarrierError: the broker cannot be reached, or refuses.
        """
        with self._explained():
            self._connect()
            self._connection.heartbeat_check()
            for name, body in messages:
                self._declare(name)
                message = self._channel.prepare_message(
                    body, content_type="text/plain", properties={"delivery_mode": 2}
                )
                self._channel.basic_publish(message, "", name)

    def listen(self, queues: Collection[str]) -> None:
        """Receive from these queues; only those that are new or gone are touched.

        :raises CarrierError: the broker cannot be reached, or refuses.
        """
        wanted = set(queues)
        with self._explained():
            self._connect()
            for name in sorted(set(self.tags) - wanted):
                self._channel.basic_cancel(self.tags.pop(name))
                self._requeue(name)
            for name in sorted(wanted - set(self.tags)):
                self._declare(name)
                self.tags[name] = self._channel.basic_consume(
                    name, callback=lambda message, name=name: self._take(name, message)
                )

    def receive(self, timeout: float) -> Delivery | None:
        """The next message.

        :raises CarrierError: the broker cannot be reached.
        """
        with self._explained():
            self._connect()
            if not self._received:
                self._connection.heartbeat_check()
                # what has a timeout of 0 would wait for ever
                with suppress(TimeoutError):
                    self._connection.drain_events(timeout=max(timeout, 0.001))
        return self._received.popleft() if self._received else None

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Let the broker forget messages.

        :raises CarrierError: the connection is lost; they come again.
        """
        with self._explained():
            for one in deliveries:
                self._channel.basic_ack(one.handle)

    def remove(self, queues: Collection[str]) -> None:
        """Delete queues.

        :raises CarrierError: the broker cannot be reached, or refuses.
        """
        with self._explained():
            self._connect()
            for name in sorted(queues):
                self._channel.queue_delete(name)
                self._known.discard(name)
                self.tags.pop(name, None)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        self._channel = None
        self.tags.clear()
        self._known.clear()
        self._received.clear()
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def _connect(self) -> None:
        if self._connection is not None:
            return
        connection = load_kombu().Connection(";".join(self._urls), **self._settings)
        try:
            connection.ensure_connection(max_retries=1, timeout=CONNECT)
            self._channel = connection.channel()
            self._channel.basic_qos(0, PREFETCH, False)
        except BaseException:
            with suppress(Exception):
                connection.close()
            raise
        self._connection = connection

    def _declare(self, name: str) -> None:
        if name not in self._known:
            self._channel.queue_declare(name, durable=True, auto_delete=False, arguments=_ARGUMENTS)
            self._known.add(name)

    def _take(self, name: str, message: Any) -> None:
        headers = {QUEUE: name, REDELIVERED: bool(message.delivery_info["redelivered"])}
        body = message.body
        self._received.append(
            Delivery(
                body if isinstance(body, str) else bytes(body), headers, handle=message.delivery_tag
            )
        )

    def _requeue(self, name: str) -> None:
        """Give back what was received of a queue and not handled: its next holder gets it first."""
        kept = [one for one in self._received if one.headers[QUEUE] != name]
        for one in self._received:
            if one.headers[QUEUE] == name:
                self._channel.basic_reject(one.handle, requeue=True)
        self._received = deque(kept)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.shown, self.close)
