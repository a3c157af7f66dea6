"""Sends notifications with oslo.messaging, for the publisher ``notify``.

Import this module only if such a bus is asked for: oslo.messaging takes as long to import as all
else.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from converge.bus.oslo import explained, full_url, open_transport
from converge.bus.urls import read_bus_url, uses_oslo
from converge.errors import BadInput


class Notifier:
    """Sends notifications to a topic. Nothing is connected before the first.

    :param url: of a bus that oslo.messaging knows.
    :param topic: the queue is named after it and the priority.
    :param priority: such as ``info``.
    :raises BadInput: it is not such a URL.
    """

    def __init__(self, url: str, topic: str, priority: str) -> None:
        self._url = read_bus_url(url)
        if not uses_oslo(url):
            raise BadInput(f"notifications cannot be sent to {self._url.shown}; use rabbit://")
        self._topic = f"{topic}.{priority}"
        self._priority = priority
        self._lock = threading.Lock()
        self._transport: Any = None

    def send(self, message_id: str, event_type: str, payload: object, now: float) -> None:
        """Send one notification.

        :param now: its time stamp, in seconds since 1970.
        :raises CarrierError: the broker cannot be reached, or does not take it.
        """
        import oslo_messaging

        message = {
            "message_id": message_id,
            "publisher_id": "converge",
            "event_type": event_type,
            "priority": self._priority.upper(),
            "payload": payload,
            "timestamp": datetime.fromtimestamp(now, UTC).isoformat(),
        }
        target = oslo_messaging.Target(topic=self._topic)
        with explained():
            # oslo.messaging's own notifier makes up the message id, and only logs that the broker
            # did not take a message, which would then be lost
            self._opened()._send_notification(target, {}, message, version=2.0, retry=1)

    def _opened(self) -> Any:
        import oslo_messaging

        with self._lock:
            if self._transport is None:
                self._transport = open_transport(
                    oslo_messaging.get_notification_transport, full_url(self._url), self._url
                )
            return self._transport

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._transport is not None:
                with explained():
                    self._transport.cleanup()
                self._transport = None
