"""A TCP proxy between converge and a database server, for the troubles of networks.

It reads just enough of the protocols of PostgreSQL and MariaDB to see a COMMIT go by, so that
a connection can be cut on either side of it.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from enum import Enum

from sqlalchemy.engine import URL, make_url

_SIZE = 1 << 16
_PORTS = {"postgresql": 5432, "mysql": 3306}
#: The parameters that keep the traffic readable.
_PLAIN = {
    "postgresql": {"sslmode": "disable", "gssencmode": "disable"},
    "mysql": {"ssl_disabled": "1"},
}


class Mode(Enum):
    """What becomes of traffic."""

    PASS = "pass"
    #: connections are refused, and those there were are cut
    REFUSE = "refuse"
    #: connections are accepted, and nothing is passed on before it is over
    HANG = "hang"


class Loss(Enum):
    """Which side of a COMMIT is lost."""

    #: it never reaches the server, which undoes the transaction
    COMMIT = "commit"
    #: it goes through, and its answer is lost
    REPLY = "reply"
    #: the connection is lost at once, while the server is still at it
    WAIT = "wait"


class _Link:
    """One connection: a client, the server, and what is known of their conversation."""

    def __init__(self, client: socket.socket, server: socket.socket, dialect: str) -> None:
        self.client = client
        self.server = server
        self.port: int = client.getpeername()[1]
        self.reader = _Postgresql() if dialect == "postgresql" else _Mariadb()
        #: set between a COMMIT and the answer that is to be lost
        self.losing = False
        self.tail = b""


class _Reader:
    """Finds the messages in what a client sends."""

    def __init__(self) -> None:
        self._buffer = b""

    def is_commit(self, data: bytes) -> bool:
        """Whether this data completes a message that commits."""
        self._buffer += data
        return "COMMIT" in " ".join(self._statements())

    def _statements(self) -> Iterator[str]:
        raise NotImplementedError

    def is_answer(self, data: bytes) -> bool:
        """Whether this data from the server ends its answer."""
        raise NotImplementedError


class _Postgresql(_Reader):
    def __init__(self) -> None:
        super().__init__()
        # the first message of a connection has no letter in front
        self._letter = 0

    def _statements(self) -> Iterator[str]:
        while len(self._buffer) >= self._letter + 4:
            (length,) = struct.unpack_from("!I", self._buffer, self._letter)
            end = self._letter + length
            if len(self._buffer) < end:
                return
            message, self._buffer = self._buffer[:end], self._buffer[end:]
            if self._letter and message[:1] in b"QP":
                yield message[5:].decode("latin1").upper()
            self._letter = 1

    def is_answer(self, data: bytes) -> bool:
        # ReadyForQuery, outside of a transaction
        return data.endswith(b"Z\0\0\0\5I")


class _Mariadb(_Reader):
    def _statements(self) -> Iterator[str]:
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:3], "little")
            if len(self._buffer) < end:
                return
            packet, self._buffer = self._buffer[:end], self._buffer[end:]
            # the first of a command, which is a query
            if packet[3] == 0 and packet[4:5] == b"\x03":
                yield packet[5:].decode("latin1").upper()

    def is_answer(self, data: bytes) -> bool:
        return bool(data)


class Proxy:
    """A proxy in front of one server, on a port of its own. All in one thread.

    :param url: the server's.
    :param others: of further nodes of its cluster: each connection goes to the next one.
    """

    def __init__(self, url: str, *others: str) -> None:
        self.target = make_url(url)
        self._dialect = self.target.get_backend_name().replace("mariadb", "mysql")
        self._addresses = itertools.cycle(
            (one.host or "127.0.0.1", one.port or _PORTS[self._dialect])
            for one in map(make_url, (url, *others))
        )
        self._lock = threading.RLock()
        self._mode = Mode.PASS
        self._links: dict[socket.socket, _Link] = {}
        self._losses: dict[int, Loss] = {}
        self._alone: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._closed = False
        #: how many connections were made through it
        self.made = 0
        #: told of each connection attempt that is hung
        self.hung = threading.Semaphore(0)
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._loop, name="proxy", daemon=True)
        self._thread.start()

    def url(self, **query: str) -> URL:
        """The way through it to the server's database.

        :param query: parameters to add.
        """
        via = self.target.set(host="127.0.0.1", port=self.port)
        return via.update_query_dict({**_PLAIN[self._dialect], **query})

    def set(self, mode: Mode) -> None:
        """Treat all traffic in another way from now on."""
        with self._lock:
            if mode is Mode.REFUSE:
                self.cut()
                self._drop_listener()
            elif self._mode is Mode.REFUSE:
                self._listener = self._listen(self.port)
            was, self._mode = self._mode, mode
            for one in self._links:
                if mode is Mode.HANG and was is not mode:
                    self._selector.unregister(one)
                elif was is Mode.HANG and was is not mode:
                    self._selector.register(one, selectors.EVENT_READ)
        self._wake.send(b"x")

    @contextlib.contextmanager
    def being(self, mode: Mode) -> Iterator[None]:
        """In another mode for a while."""
        self.set(mode)
        try:
            yield
        finally:
            self.set(Mode.PASS)

    def cut(self) -> None:
        """Reset all connections."""
        with self._lock:
            for link in list(self._links.values()):
                self._cut(link)

    def lose(self, port: int, loss: Loss, *, alone: bool = False) -> None:
        """Cut the connection of one client at its next COMMIT.

        :param port: the client's own.
        :param alone: its next statement, whatever that is, commits.
        """
        with self._lock:
            self._losses[port] = loss
            if alone:
                self._alone.add(port)

    def close(self) -> None:
        """End it."""
        with self._lock:
            self._closed = True
        self._wake.send(b"x")
        self._thread.join()
        self.cut()
        self._listener.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()

    # -- in its thread

    def _loop(self) -> None:
        while True:
            ready = self._selector.select()
            with self._lock:
                if self._closed:
                    return
                for key, _ in ready:
                    self._serve(key.fileobj)

    def _serve(self, source: object) -> None:
        assert isinstance(source, socket.socket)
        if source is self._woken:
            source.recv(_SIZE)
        elif source is self._listener:
            # closed a moment ago, or nobody is there any more
            with contextlib.suppress(OSError):
                self._accept()
        elif (link := self._links.get(source)) is not None:
            try:
                data = source.recv(_SIZE)
                if not data:
                    self._cut(link)
                elif source is link.client:
                    self._from_client(link, data)
                else:
                    self._from_server(link, data)
            except OSError:
                self._cut(link)

    def _from_client(self, link: _Link, data: bytes) -> None:
        commits = link.reader.is_commit(data) or link.port in self._alone
        self._alone.discard(link.port)
        loss = self._losses.pop(link.port, None) if commits else None
        if loss is not None:
            if loss is Loss.COMMIT:
                self._cut(link)
                return
            link.losing = True
        link.server.sendall(data)
        if link.losing and loss is Loss.WAIT:
            self._cut(link)

    def _from_server(self, link: _Link, data: bytes) -> None:
        if link.losing:
            link.tail = (link.tail + data)[-6:]
            if link.reader.is_answer(link.tail):
                self._cut(link)
            return
        link.client.sendall(data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(next(self._addresses))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, server, self._dialect)
        except OSError:
            client.close()
            return
        self.made += 1
        for one in (client, server):
            self._links[one] = link
            if self._mode is not Mode.HANG:
                self._selector.register(one, selectors.EVENT_READ)
        if self._mode is Mode.HANG:
            self.hung.release()

    def _cut(self, link: _Link) -> None:
        for one in (link.client, link.server):
            if self._links.pop(one, None) is None:
                continue
            if self._mode is not Mode.HANG:
                self._selector.unregister(one)
            # a reset, not an orderly end
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        return listener

    def _drop_listener(self) -> None:
        self._selector.unregister(self._listener)
        self._listener.close()
