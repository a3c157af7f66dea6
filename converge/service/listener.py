"""The HTTP server of a service: ``/healthz``, ``/readyz``, ``/metrics``. It only reads."""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from converge.errors import BadInput

LOG = logging.getLogger(__name__)

#: Seconds after which a client that says nothing is left.
PATIENCE = 10.0
_PLACE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:/@\s]*)):(?P<port>[0-9]{1,5})")


def parse_place(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``. Without the host it is every address of this machine, and
    port 0 is any that is free.

    :raises BadInput: it is something else.
    """
    match = _PLACE.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise BadInput(
            f"listen must be HOST:PORT, such as 127.0.0.1:9464, [::1]:9464 or :9464, not {text!r}"
        )
    return match["six"] or match["host"] or "", int(match["port"])


class Listener:
    """Answers until it is closed.

    :param place: ``HOST:PORT``.
    :param is_ready: whether the service does its work now.
    :param metrics: the content type and the text of ``/metrics``.
    :ivar address: where it listens: host and port.
    :raises BadInput: the place is wrong, or cannot be used.
    """

    def __init__(
        self, place: str, is_ready: Callable[[], bool], metrics: Callable[[], tuple[str, bytes]]
    ) -> None:
        host, port = parse_place(place)
        try:
            self._server = _make_server(host, port, is_ready, metrics)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadInput(f"cannot listen on {place}: {reason}") from error
        self.address: tuple[str, int] = self._server.server_address[:2]  # type: ignore[assignment]
        threading.Thread(
            target=self._server.serve_forever, name="converge-listen", daemon=True
        ).start()
        LOG.info("listening on %s port %s", *self.address)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


def _make_server(
    host: str, port: int, is_ready: Callable[[], bool], metrics: Callable[[], tuple[str, bytes]]
) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE
        server_version = "converge"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                self._answer(200, b"ok\n")
            elif path == "/readyz":
                ready = is_ready()
                self._answer(200 if ready else 503, b"ready\n" if ready else b"not ready\n")
            elif path == "/metrics":
                kind, text = metrics()
                self._answer(200, text, kind)
            else:
                self._answer(404, b"there are /healthz, /readyz and /metrics\n")

        do_HEAD = do_GET  # noqa: N815

        def _answer(
            self, status: int, text: bytes, kind: str = "text/plain; charset=utf-8"
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def log_message(self, *words: object) -> None:
            """Requests are not logged: there is one every few seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: object, client: object) -> None:
            LOG.warning("a request failed", exc_info=True)

    return Server((host, port), Handler)
