"""A carrier without a server: the processes of a test are the buses that share one ether."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from converge.bus.carrier import CarrierError
from converge.bus.shared import SharedBus

GARBAGE: tuple[object, ...] = (
    None,
    b"\x00\xff",
    "",
    "{",
    '{"v": 2, "from": "x", "ready": true}',
    '{"v": 1, "from": "x", "ready": "yes"}',
    '{"v": 1, "from": "forger", "ready": true, "changed": "any", "ended": "any"}',
    '{"v": 1, "from": "forger", "ready": false, "ended": [1, 2, 3]}',
    '{"v": 1, "from": "forger", "ready": true, "lanes": [0, 99999]}',
)


class Ether:
    """What all carriers send into, and receive from.

    :ivar sent: all that was sent.
    :ivar down: nothing can be sent.
    :ivar open: whoever sends waits until it is set.
    """

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.down = False
        self.open = threading.Event()
        self.open.set()
        self.carriers: list[EtherCarrier] = []

    def bus(self) -> SharedBus:
        """A bus of another process."""
        return SharedBus(lambda: EtherCarrier(self))

    def carry(self, text: str) -> None:
        """Bring a message to all who receive."""
        for carrier in self.carriers:
            carrier.hear(text)


class HostileEther(Ether):
    """Loses, doubles, delays and reorders messages, and forges others."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._late: list[str] = []

    def carry(self, text: str) -> None:
        with self._lock:
            what = self._random.choice(("lose", "double", "delay", "forge", "carry"))
            messages: list[object] = []
            if what == "delay":
                self._late.append(text)
            elif what == "forge":
                messages = [*GARBAGE, text]
            elif what != "lose":
                messages = [text] * (2 if what == "double" else 1)
                messages += self._late
                self._late.clear()
            self._random.shuffle(messages)
        for carrier in self.carriers:
            for message in messages:
                carrier.hear(message)


class EtherCarrier:
    """One process's end of it."""

    shown = "ether://"
    in_transactions = False
    check_every: float | None = None

    def __init__(self, ether: Ether) -> None:
        self._ether = ether
        self._heard: Callable[[object], None] | None = None
        self._failed = threading.Event()
        self.woken = threading.Event()
        ether.carriers.append(self)

    def hear(self, text: object) -> None:
        """Receive one message, if it receives at all."""
        if self._heard is not None:
            self._heard(text)

    def send(self, text: str) -> None:
        self._ether.open.wait()
        if self._ether.down:
            raise CarrierError("the ether is gone")
        self._ether.sent.append(text)
        self._ether.carry(text)

    def fail(self) -> None:
        """Lose the connection of who receives."""
        self._failed.set()
        self.woken.set()

    def receive(
        self, heard: Callable[[object], None], ready: Callable[[], None], stop: threading.Event
    ) -> None:
        self._failed.clear()
        self.woken.clear()
        self._heard = heard
        ready()
        self.woken.wait()
        self._heard = None
        if self._failed.is_set():
            raise CarrierError("the ether is gone")

    def wake(self) -> None:
        self.woken.set()

    def close(self) -> None:
        if self in self._ether.carriers:
            self._ether.carriers.remove(self)
