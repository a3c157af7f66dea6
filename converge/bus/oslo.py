"""Messages carried by oslo.messaging: RabbitMQ, Kafka, or its fake driver.

Import this module only if such a bus is asked for: oslo.messaging takes as long to import as all
else.
"""

from __future__ import annotations

import importlib
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlencode

from converge.bus.carrier import CarrierError
from converge.bus.urls import BusUrl
from converge.errors import BadInput, did_you_mean
from converge.hiding import hide

#: What is set for RabbitMQ, unless the URL says otherwise: queues survive its restart. A queue of
#: a process that was killed is removed after so many seconds.
RABBIT_OPTIONS = {
    "rabbit_quorum_queue": "true",
    "amqp_durable_queues": "true",
    "rabbit_transient_quorum_queue": "true",
    "rabbit_transient_queues_ttl": "300",
}
#: oslo.messaging wants each server to have a name. On RabbitMQ it makes a queue of that name, which
#: is never removed, and nothing is sent to it: one for all is enough.
_SERVER = "any"
_METHOD = "hint"


class OsloCarrier:
    """Carries messages to all processes that listen to the topic: as fanout casts, or, where the
    driver has none, as notifications, of which each process has a consumer group of its own.

    :raises BadInput: the driver is not installed, or does not know an option.
    """

    in_transactions: bool = False
    check_every: float | None = 30.0

    def __init__(self, url: BusUrl) -> None:
        self.shown = url.shown
        if url.kind == "kafka":
            _check_installed("confluent_kafka", "confluent-kafka")
        make = _Notifications if url.kind == "kafka" else _Casts
        self._way: _Way = make(full_url(url), url)

    def send(self, text: str) -> None:
        """Send one message.

        :raises CarrierError: the broker cannot be reached, or does not take it.
        """
        with explained():
            self._way.send(text)

    def receive(
        self, heard: Callable[[object], None], ready: Callable[[], None], stop: threading.Event
    ) -> None:
        """Receive messages until ``stop`` is set. While the broker is down, oslo.messaging tries
        to reach it again by itself.

        :raises CarrierError: it cannot receive.
        """
        with explained():
            server = self._way.listen(heard)
            server.start()
            ready()
            stop.wait()
            server.stop()
            _cancel(server)
            # its queue is deleted
            server.wait()

    def wake(self) -> None:
        """Nothing to do: ``stop`` is waited for."""

    def close(self) -> None:
        """Close the connections."""
        with explained():
            self._way.close()


class _Way(Protocol):
    """How messages are sent and received."""

    def send(self, text: str) -> None: ...

    def listen(self, heard: Callable[[object], None]) -> Any: ...

    def close(self) -> None: ...


class _Casts:
    """RPC casts to all servers of a topic."""

    def __init__(self, full_url: str, url: BusUrl) -> None:
        import oslo_messaging

        self._transport = open_transport(oslo_messaging.get_rpc_transport, full_url, url)
        self._topic = url.topic
        # the fake driver has one queue for all servers of a name
        self._server = secrets.token_hex(8) if url.kind == "fake" else _SERVER
        target = oslo_messaging.Target(topic=self._topic, fanout=True)
        # the sender tries again by itself, and can say so
        self._client = oslo_messaging.get_rpc_client(self._transport, target, retry=0)

    def send(self, text: str) -> None:
        self._client.cast({}, _METHOD, text=text)

    def listen(self, heard: Callable[[object], None]) -> Any:
        import oslo_messaging

        target = oslo_messaging.Target(topic=self._topic, server=self._server)
        server = oslo_messaging.get_rpc_server(self._transport, target, [])
        server.dispatcher = _Dispatcher(heard)
        return server

    def close(self) -> None:
        self._transport.cleanup()


class _Dispatcher:
    """Takes every message, whatever it asks for: oslo.messaging's own would log each one that it
    does not know, with a traceback."""

    def __init__(self, heard: Callable[[object], None]) -> None:
        self._heard = heard

    def dispatch(self, incoming: Any) -> None:
        arguments = incoming.message.get("args")
        self._heard(arguments.get("text") if isinstance(arguments, dict) else None)


class _Notifications:
    """Notifications, each of which every listener gets, as each is a group of its own."""

    def __init__(self, full_url: str, url: BusUrl) -> None:
        import oslo_messaging

        self._transport = open_transport(oslo_messaging.get_notification_transport, full_url, url)
        self._topic = url.topic
        self._notifier = oslo_messaging.Notifier(
            self._transport, "converge", driver="messaging", topics=[self._topic], retry=0
        )

    def send(self, text: str) -> None:
        self._notifier.info({}, _METHOD, {"text": text})

    def listen(self, heard: Callable[[object], None]) -> Any:
        import oslo_messaging

        return oslo_messaging.get_notification_listener(
            self._transport,
            [oslo_messaging.Target(topic=self._topic)],
            [_Endpoint(heard)],
            pool=f"{self._topic}-{secrets.token_hex(8)}",
        )

    def close(self) -> None:
        self._transport.cleanup()


class _Endpoint:
    """Takes notifications."""

    def __init__(self, heard: Callable[[object], None]) -> None:
        self._heard = heard

    def info(self, context: Any, publisher: Any, event: Any, payload: Any, metadata: Any) -> None:
        self._heard(payload.get("text") if isinstance(payload, dict) else None)


def _cancel(server: Any) -> None:
    """Have nothing more delivered. RabbitMQ tells a consumer that its queue is deleted, and amqp
    then puts a warning into the log, or on the terminal."""
    listener = getattr(server.listener, "_poll_style_listener", None)
    reset = getattr(getattr(listener, "conn", None), "reset", None)
    if reset is not None:
        # it is about to be closed anyway
        with suppress(Exception):
            reset()


def _check_installed(module: str, package: str) -> None:
    """:raises BadInput: a driver is not installed."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise BadInput(
            f"the driver for this bus is not installed ({error}); type: pip install {package}"
        ) from None


def full_url(url: BusUrl) -> str:
    """The URL for oslo.messaging, with all options."""
    defaults = RABBIT_OPTIONS if url.kind == "rabbit" else {}
    query = urlencode({**defaults, **url.options})
    return f"{url.text}?{query}" if query else url.text


def open_transport(get_transport: Callable[..., Any], full_url: str, url: BusUrl) -> Any:
    """Open a transport; nothing is connected yet.

    :raises BadInput: there is something wrong with the URL.
    """
    from oslo_config import cfg

    wrong = None
    try:
        # oslo.messaging registers some of its options with this one only
        return get_transport(cfg.CONF, url=full_url)
    except cfg.NoSuchOptError as error:
        group = cfg.CONF.get(f"oslo_messaging_{url.kind}", {})
        name = str(error.opt_name)
        wrong = f"has no option {hide(name)!r}{did_you_mean(name, group)}"
    except Exception as error:
        wrong = f"cannot be used: {hide(str(error)) or type(error).__name__}"
    # raised without its cause, which may quote a secret
    raise BadInput(f"the bus {url.shown} {wrong}")


class explained:  # noqa: N801  (a context manager, used like a function)
    """Turns what oslo.messaging and its drivers raise into :class:`CarrierError`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            text = " ".join(str(error).split()) or type(error).__name__
            raise CarrierError(hide(text)[:300]) from None
