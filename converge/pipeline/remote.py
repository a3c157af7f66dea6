"""Publishers that hand items to others: ``http`` posts them, ``notify`` puts them on a bus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from converge.errors import BadInput, ConvergeError
from converge.hiding import hide
from converge.pipeline.items import Item, make_id, to_json
from converge.pipeline.publishers import Outlet, Publisher


class PublishError(ConvergeError):
    """Another program did not take the items."""


class HttpPublisher(Publisher):
    """Posts the items of a batch as a JSON list.

    The header ``Idempotency-Key`` is the same if the same items are posted again.

    :param url: ``http://…`` or ``https://…``.
    :param timeout: seconds.
    :param headers: more headers.
    """

    def __init__(
        self, url: str, timeout: float = 10, headers: dict[str, str] | None = None
    ) -> None:
        if not isinstance(url, str) or urlsplit(url).scheme not in {"http", "https"}:
            raise BadInput("url must start with http:// or https://")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
            raise BadInput(f"timeout must be a number of seconds above 0, not {timeout!r}")
        self._url, self._timeout, self._headers = url, timeout, dict(headers or {})

    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        """Post them.

        :raises PublishError: the answer is not one of success, or there is none in time.
        """
        data = json.dumps([to_json(item) for item in items]).encode("ascii")
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": make_id(*(item.id for item in items)),
            **self._headers,
        }
        request = Request(self._url, data, headers, method="POST")
        try:
            with urlopen(request, timeout=self._timeout) as answer:
                answer.read(1024)
        except HTTPError as error:
            with error:
                raise PublishError(f"{hide(self._url)} answered {error.code}") from None
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise PublishError(f"{hide(self._url)} cannot be reached: {reason}") from None


class NotifyPublisher(Publisher):
    """Sends each item as a notification: its event type is the item's name, its message id the
    item's.

    :param url: of the bus: ``rabbit://…``.
    :param topic: the topic.
    :param priority: of the notifications.
    """

    def __init__(self, url: str, topic: str = "converge", priority: str = "info") -> None:
        from converge.bus.notifier import Notifier

        self._notifier: Any = Notifier(url, topic, priority)

    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        """Send them.

        :raises PublishError: the bus does not take them.
        """
        for item in items:
            self._notifier.send(item.id, item.name, to_json(item), outlet.now)

    def close(self) -> None:
        """Close the connection to the bus."""
        self._notifier.close()
