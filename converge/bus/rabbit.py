"""Messages of RabbitMQ, as they are: for agents.

oslo.messaging's own listener rejects what it cannot decode, so that it is lost; leaves what it
takes for a duplicate unacknowledged, so that it holds up others; and acknowledges from a thread of
its own. So its library for RabbitMQ, kombu, is used here directly, with the same names of
exchanges and queues.

Import this module only if such a bus is asked for.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from typing import Any
from urllib.parse import unquote, urlsplit

from converge.bus.carrier import CarrierError
from converge.bus.source import Address, Delivery, check_topics
from converge.bus.urls import BusUrl
from converge.errors import BadInput, did_you_mean
from converge.hiding import hide

#: Options of the URL, as oslo.messaging calls them.
OPTIONS = (
    "amqp_durable_queues",
    "rabbit_quorum_queue",
    "ssl",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_key_file",
    "heartbeat_timeout_threshold",
)
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
#: Seconds that connecting may take.
CONNECT = 10


class RabbitSource:
    """Messages of several queues. What does not exist yet is made: durable, and queues as quorum
    queues, unless the URL says otherwise; what exists is taken as it is.

    :param prefetch: the most messages of each queue that are here and not acknowledged.
    :raises BadInput: the URL has an option that is not known.
    """

    ended = False

    def __init__(self, url: BusUrl, addresses: Sequence[Address], prefetch: int) -> None:
        self.shown = url.shown
        self._addresses = list(addresses)
        self._prefetch = prefetch
        check_topics(url)
        for name in url.options:
            if name not in OPTIONS:
                raise BadInput(
                    f"the bus {url.shown} has no option {hide(name)!r} for notifications"
                    f"{did_you_mean(name, OPTIONS)}"
                )
        self._quorum = _flag(url, "rabbit_quorum_queue", True)
        self._durable = _flag(url, "amqp_durable_queues", True) or self._quorum
        self._urls, self._settings = read_settings(url)
        self._connection: Any = None
        self._received: deque[Delivery] = deque()

    def connect(self) -> None:
        """Connect, unless it is connected.

        :raises CarrierError: the broker cannot be reached, or refuses.
        """
        if self._connection is None:
            with self._explained():
                self._connect()

    # -- messages

    def receive(self, timeout: float) -> Delivery | None:
        """The next message; None if none came within so many seconds.

        :raises CarrierError: the broker cannot be reached, or refuses.
        """
        self.connect()
        with self._explained():
            if not self._received:
                self._connection.heartbeat_check()
                # what has a timeout of 0 would wait for ever
                with suppress(TimeoutError):
                    self._connection.drain_events(timeout=max(timeout, 0.001))
        return self._received.popleft() if self._received else None

    def rest(self) -> None:
        """Keep the connection alive; what comes meanwhile is no more than what is prefetched.

        :raises CarrierError: it is lost.
        """
        with self._explained():
            if self._connection is not None:
                self._connection.heartbeat_check()
                with suppress(TimeoutError):
                    self._connection.drain_events(timeout=0.001)

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Let the broker forget messages.

        :raises CarrierError: the connection is lost; they come again.
        """
        with self._explained():
            for one in deliveries:
                one.handle.ack()

    def requeue(self, deliveries: Iterable[Delivery]) -> None:
        """Give messages back. A quorum queue puts them behind all others.

        :raises CarrierError: the connection is lost, which does the same.
        """
        with self._explained():
            for one in deliveries:
                one.handle.requeue()

    def close(self) -> None:
        """Close the connection: all that is not acknowledged is given back."""
        connection, self._connection = self._connection, None
        self._received.clear()
        if connection is not None:
            with suppress(Exception):
                connection.close()

    # -- the connection

    def _connect(self) -> None:
        kombu = load_kombu()

        connection = kombu.Connection(";".join(self._urls), **self._settings)
        try:
            connection.ensure_connection(max_retries=1, timeout=CONNECT)
            for address in self._addresses:
                self._declare(connection, address)
            channel = connection.channel()
            channel.basic_qos(0, self._prefetch, False)
            for address in self._addresses:
                kombu.Consumer(
                    channel,
                    [kombu.Queue(address.queue)],
                    on_message=self._taker(address),
                    auto_declare=False,
                ).consume()
        except BaseException:
            with suppress(Exception):
                connection.close()
            raise
        self._connection = connection

    def _declare(self, connection: Any, address: Address) -> None:
        kombu = load_kombu()

        exchange = kombu.Exchange(address.exchange, type="topic", durable=self._durable)
        if not self._exists(connection, exchange.declare):
            exchange(connection.default_channel).declare()
        arguments = {"x-queue-type": "quorum"} if self._quorum else {}
        queue = kombu.Queue(
            address.queue,
            exchange,
            routing_key=address.queue,
            durable=self._durable,
            queue_arguments=arguments,
        )
        if not self._exists(connection, queue.queue_declare):
            queue(connection.default_channel).queue_declare()
        queue(connection.default_channel).queue_bind()

    def _exists(self, connection: Any, declare: Callable[..., object]) -> bool:
        """Whether there is an exchange or queue of this name, with whatever arguments."""
        channel = connection.channel()
        try:
            declare(passive=True, channel=channel)
        except connection.channel_errors as error:
            if getattr(error, "code", None) != 404:
                raise
            return False
        finally:
            with suppress(Exception):
                channel.close()
        return True

    def _taker(self, address: Address) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            body = message.body
            if not isinstance(body, str):
                body = bytes(body)
            headers = {
                "exchange": address.exchange,
                "queue": address.queue,
                "content_type": message.content_type,
                "headers": _plain(dict(message.headers or {})),
            }
            self._received.append(Delivery(body, headers, address.priority, handle=message))

        return take

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.shown, self.close)


@contextmanager
def explained(shown: str, close: Callable[[], object]) -> Iterator[None]:
    """Close a connection after an error, and say what it was without secrets.

    :param shown: what it is a connection to.
    :raises CarrierError: there was an error.
    """
    try:
        yield
    except Exception as error:
        close()
        text = " ".join(str(error).split()) or type(error).__name__
        raise CarrierError(f"{shown}: {hide(text)[:300]}") from None


def load_kombu() -> Any:
    """The library, of which only a part has types."""
    return import_module("kombu")


def _plain(value: Any) -> Any:
    """Headers as JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode("ascii")
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _flag(url: BusUrl, name: str, default: bool) -> bool:
    text = url.options.get(name)
    if text is None:
        return default
    if text.lower() not in _TRUE + _FALSE:
        raise BadInput(f"the bus {url.shown}: {name} is true or false, not {hide(text)!r}")
    return text.lower() in _TRUE


def read_settings(url: BusUrl) -> tuple[list[str], dict[str, Any]]:
    """What kombu takes: the URL of each host, and settings."""
    parts = urlsplit(url.text)
    host = unquote(parts.path[1:]) or "/"
    urls = [f"pyamqp://{one}" for one in parts.netloc.split(",")]
    try:
        heartbeat = int(url.options.get("heartbeat_timeout_threshold", "60"))
    except ValueError:
        raise BadInput(
            f"the bus {url.shown}: heartbeat_timeout_threshold is a number of seconds"
        ) from None
    settings: dict[str, Any] = {
        "virtual_host": host,
        "heartbeat": heartbeat,
        "connect_timeout": CONNECT,
    }
    if _flag(url, "ssl", False):
        import ssl

        names = {"ca_certs": "ssl_ca_file", "certfile": "ssl_cert_file", "keyfile": "ssl_key_file"}
        given = {key: url.options[name] for key, name in names.items() if name in url.options}
        settings["ssl"] = {**given, "cert_reqs": ssl.CERT_REQUIRED}
    return urls, settings
