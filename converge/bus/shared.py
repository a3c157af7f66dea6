"""Wake-ups between processes: the threads that send and receive through a carrier.

Whoever commits something only leaves a hint here. One thread sends what has been left, merged into
one message, at most some tens of times per second; another one receives. While the carrier is out
of order, both try again and again, and the log says so once: engines find their work by polling.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from weakref import WeakSet

from converge.bus.carrier import Carrier, CarrierError
from converge.bus.hint import LOOK, Hint, Malformed, decode, encode
from converge.bus.memory import MemoryBus, Watch
from converge.bus.pace import Backoff, Pace

LOG = logging.getLogger(__name__)

#: Seconds between attempts while the carrier is out of order.
FIRST_WAIT = 0.25
MOST_WAIT = 15.0
#: Seconds that a process that ends takes to send its last hint.
FLUSH = 2.0
#: Seconds that it takes for the receiver to stop.
STOP = 2.0

_NOTHING = Hint()


class SharedBus(MemoryBus):
    """Tells this process, and others through a carrier.

    :param make_carrier: makes a carrier; called again after :meth:`close`, and in a forked process.
    """

    def __init__(self, make_carrier: Callable[[], Carrier]) -> None:
        super().__init__()
        self._make_carrier = make_carrier
        # at once: the carrier may find that it cannot be made
        self._made: _Relay | None = self._make()
        _BUSES.add(self)

    def _make(self) -> _Relay:
        return _Relay(self._make_carrier(), self.tell_here)

    @property
    def _relay(self) -> _Relay:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _begin_in_child(self) -> None:
        # another thread of the parent may have held it
        self._lock = threading.Lock()
        # what the parent is connected to must not be closed here
        _ABANDONED.append(self._made)
        self._made = None

    # -- those who are told

    def add_listener(self, listener: Callable[[Hint], None]) -> None:
        """Call a function with each hint that nodes may have become READY. It must return at
        once."""
        super().add_listener(listener)
        self._relay.receive()

    @contextmanager
    def watching(self, stack_id: int, *, events: bool = False) -> Iterator[Watch]:
        """Be told of news of a stack; see :class:`~converge.bus.memory.Watch`."""
        with super().watching(stack_id, events=events) as watch:
            self._relay.receive()
            yield watch

    @property
    def is_connected(self) -> bool:
        """Whether what other processes do is heard of, too: then one may look less often."""
        relay = self._made
        return relay is not None and relay.is_connected

    # -- those who tell

    def take_payload(self, hint: Hint) -> str | None:
        """What a transaction that is about to commit is to send to other processes itself, with its
        commit; None: nothing, as the last message was sent just now."""
        return self._relay.take_payload(hint)

    def payload_of_host(self) -> str | None:
        """The same for a transaction of which nobody here sees the commit. It is always the same
        text."""
        return self._relay.payload_of_host()

    def committed(self, hint: Hint, *, sent: bool = False) -> None:
        """Tell of a commit. It returns at once, and raises nothing.

        :param sent: the transaction has sent it to other processes.
        """
        if not hint:
            return
        self.tell_here(hint)
        try:
            if not sent:
                self._relay.send(hint)
        except Exception as error:
            # a thread cannot be started, say; but it is committed, and must not look otherwise
            LOG.warning("other processes are not told of a commit: %s", error)

    def close(self) -> None:
        """Send what is left, if that is possible soon, and stop. Another use starts anew."""
        with self._lock:
            relay, self._made = self._made, None
        if relay is not None:
            relay.close()


class _Relay:
    """The threads of a bus, from its first use until it is closed: one sends, from the first hint
    on, one receives, once somebody wants to be told.

    :param tell: is called with each hint of another process.
    """

    def __init__(self, carrier: Carrier, tell: Callable[[Hint], None]) -> None:
        self._carrier = carrier
        self._tell = tell
        self._name = secrets.token_hex(8)
        # guards all that follows
        self._state = threading.Condition()
        self._pace = Pace()
        self._left = _NOTHING
        self._sending = False
        self._closing = False
        self._receiving = False
        self._threads: dict[str, threading.Thread] = {}
        self._stop = threading.Event()
        self._outage = _Outage(carrier.shown)

    @property
    def is_connected(self) -> bool:
        return self._receiving and not self._outage.is_on

    def take_payload(self, hint: Hint) -> str | None:
        if not (self._carrier.in_transactions and hint):
            return None
        with self._state:
            if not self._pace.take(time.monotonic(), urgent=hint.is_urgent):
                return None
        return encode(hint, self._name)

    def payload_of_host(self) -> str | None:
        # as if another process sent it, so that those in this one are told, too
        return encode(LOOK, "host") if self._carrier.in_transactions else None

    def send(self, hint: Hint) -> None:
        """Send a hint soon."""
        with self._state:
            self._left |= hint
            self._state.notify_all()
        self._start("send", self._send_loop)

    def receive(self) -> None:
        """Receive from now on."""
        self._start("receive", self._receive_loop)
        if self._carrier.check_every is not None:
            self._start("send", self._send_loop)

    def close(self) -> None:
        """Send what is left, if that is possible soon, and stop."""
        with self._state:
            self._closing = True
            self._state.notify_all()
            if "send" in self._threads:
                self._state.wait_for(
                    lambda: self._outage.is_on or not (self._left or self._sending), FLUSH
                )
            self._stop.set()
            self._state.notify_all()
        self._carrier.wake()
        for thread in self._threads.values():
            # one that waits for a server that does not answer ends by itself
            thread.join(0 if self._outage.is_on else STOP)
        with suppress(CarrierError):
            self._carrier.close()

    def _start(self, what: str, loop: Callable[[], None]) -> None:
        with self._state:
            if self._closing or what in self._threads:
                return
            thread = threading.Thread(target=loop, name=f"converge-bus-{what}", daemon=True)
            self._threads[what] = thread
        thread.start()

    def _send_loop(self) -> None:
        backoff = Backoff(FIRST_WAIT, MOST_WAIT)
        while (hint := self._take_left()) is not None:
            failure = None
            try:
                self._carrier.send(encode(hint, self._name))
            except CarrierError as error:
                failure = error
            if failure is None:
                backoff.reset()
                self._mend()
            else:
                self._outage.begin(failure)
            with self._state:
                self._sending = False
                if failure is not None:
                    self._left |= hint
                self._state.notify_all()
            if failure is not None:
                self._stop.wait(backoff.next())

    def _take_left(self) -> Hint | None:
        """Wait for something to send, and for its time; None: nothing will come."""
        with self._state:
            while not self._stop.is_set():
                now = time.monotonic()
                urgent = self._left.is_urgent
                wait = 0.0 if self._closing else self._pace.wait(now, urgent=urgent)
                if self._left and wait > 0:
                    self._state.wait(wait)
                elif self._left:
                    self._pace.take(now, urgent=urgent)
                    hint, self._left, self._sending = self._left, _NOTHING, True
                    return hint
                elif self._closing:
                    return None
                elif not self._state.wait(self._carrier.check_every):
                    # nothing to say: it only shows whether it could be sent
                    return _NOTHING
        return None

    def _receive_loop(self) -> None:
        backoff = Backoff(FIRST_WAIT, MOST_WAIT)

        def ready() -> None:
            self._receiving = True
            backoff.reset()
            self._mend()
            # what was sent before was missed
            self._tell(LOOK)

        while not self._stop.is_set():
            try:
                self._carrier.receive(self._hear, ready, self._stop)
            except CarrierError as error:
                self._receiving = False
                if not self._stop.is_set():
                    self._outage.begin(error)
                    self._stop.wait(backoff.next())

    def _mend(self) -> None:
        """Note that the carrier works."""
        if self._outage.end():
            # what was sent meanwhile may have been missed
            self._tell(LOOK)

    def _hear(self, text: object) -> None:
        try:
            sender, hint = decode(text)
        except Malformed as error:
            # not louder: whoever can send could fill the log
            LOG.debug("bus %s: ignored a message: %s", self._carrier.shown, error)
            return
        if sender != self._name:
            self._tell(hint)


class _Outage:
    """Says once that a carrier is out of order, and that it is back.

    :ivar is_on: whether it is out of order.
    """

    def __init__(self, shown: str) -> None:
        self.is_on = False
        self._shown = shown
        self._lock = threading.Lock()

    def begin(self, error: CarrierError) -> None:
        """Note that it is out of order."""
        with self._lock:
            if self.is_on:
                return
            self.is_on = True
        LOG.warning(
            "the bus %s does not work: %s; until it does, engines find work by polling",
            self._shown,
            error,
        )

    def end(self) -> bool:
        """Note that it works. False: that is nothing new."""
        with self._lock:
            if not self.is_on:
                return False
            self.is_on = False
        LOG.warning("the bus %s works again", self._shown)
        return True


_BUSES: WeakSet[SharedBus] = WeakSet()
_ABANDONED: list[object] = []


def _begin_in_child() -> None:
    for bus in list(_BUSES):
        bus._begin_in_child()


os.register_at_fork(after_in_child=_begin_in_child)
