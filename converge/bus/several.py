"""Messages of several buses, for one agent. When one of them is down, the others go on."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from converge.bus.carrier import CarrierError
from converge.bus.pace import Backoff
from converge.bus.source import Delivery, Source

LOG = logging.getLogger(__name__)

#: Messages that are taken from one bus in a row while it has some.
IN_A_ROW = 100
#: Seconds that one bus is waited for while another one may have something.
SLICE = 0.02
#: Seconds before a bus that is down is tried again: at first, and at last.
FIRST, LONGEST = 0.5, 15.0


@dataclass(slots=True)
class _Bus:
    """One of several.

    :ivar source: None while it is down, or being connected to.
    :ivar opened: what came of connecting: a source, or why there is none.
    """

    shown: str
    open: Callable[[], Source]
    source: Source | None = None
    opener: threading.Thread | None = None
    opened: deque[Source | CarrierError] = field(default_factory=deque)
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST, LONGEST))
    not_before: float = 0.0


class SeveralSources:
    """The messages of several sources, of each in turn. It is used by one thread; connecting,
    which may take long, is done by others.

    :param buses: what each is, for people; and what connects to it.
    """

    def __init__(self, buses: Sequence[tuple[str, Callable[[], Source]]]) -> None:
        self.shown = ", ".join(shown for shown, _ in buses)
        self._buses = deque(_Bus(shown, opening) for shown, opening in buses)
        self._row = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will come by any of them."""
        return all(bus.source is not None and bus.source.ended for bus in self._buses)

    def receive(self, timeout: float) -> Delivery | None:
        """The next message of any; None if none came within so many seconds."""
        end = time.monotonic() + timeout
        wait = 0.0
        while True:
            for _ in range(len(self._buses)):
                bus = self._buses[0]
                found = self._receive(bus, wait)
                if found is not None:
                    self._row += 1
                    if self._row >= IN_A_ROW:
                        self._pass_on()
                    return replace(found, bus=bus.shown, handle=(bus.source, found))
                self._pass_on()
            left = end - time.monotonic()
            if left <= 0 or self.ended:
                return None
            open_ones = [b for b in self._buses if b.source is not None and not b.source.ended]
            wait = min(left / max(1, len(open_ones)), SLICE)
            if not open_ones:
                time.sleep(wait)

    def _pass_on(self) -> None:
        self._buses.rotate(-1)
        self._row = 0

    def _receive(self, bus: _Bus, timeout: float) -> Delivery | None:
        if bus.source is None:
            self._reach(bus)
        if bus.source is None or bus.source.ended:
            return None
        try:
            return bus.source.receive(timeout)
        except CarrierError as error:
            self._lose(bus, error)
            return None

    def _reach(self, bus: _Bus) -> None:
        """Go on with connecting to a bus."""
        if bus.opener is None:
            if time.monotonic() >= bus.not_before:
                bus.opener = threading.Thread(target=_open, args=[bus], name="connect", daemon=True)
                bus.opener.start()
            return
        if not bus.opened:
            return
        bus.opener = None
        result = bus.opened.popleft()
        if isinstance(result, CarrierError):
            self._lose(bus, result)
            return
        if bus.backoff.has_failed:
            LOG.warning("the bus %s answers again", bus.shown)
        bus.backoff.reset()
        bus.source = result

    def _lose(self, bus: _Bus, error: CarrierError) -> None:
        source, bus.source = bus.source, None
        if source is not None:
            source.close()
        if not bus.backoff.has_failed:
            LOG.warning("a bus cannot be used; the others continue: %s", error)
        bus.not_before = time.monotonic() + bus.backoff.next()

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Let each bus forget its messages. Those of a bus that is down come again."""
        self._each(deliveries, lambda source, mine: source.acknowledge(mine))

    def requeue(self, deliveries: Iterable[Delivery]) -> None:
        """Give messages back. To a bus that is down they are given back already."""
        self._each(deliveries, lambda source, mine: source.requeue(mine))

    def _each(
        self, deliveries: Iterable[Delivery], do: Callable[[Source, list[Delivery]], None]
    ) -> None:
        of_source: dict[int, list[Delivery]] = {}
        for one in deliveries:
            source, inner = one.handle
            of_source.setdefault(id(source), []).append(inner)
        for bus in self._buses:
            mine = of_source.get(id(bus.source))
            if bus.source is None or not mine:
                continue
            try:
                do(bus.source, mine)
            except CarrierError as error:
                self._lose(bus, error)

    def rest(self) -> None:
        """Keep the connections that there are."""
        for bus in self._buses:
            if bus.source is None:
                continue
            try:
                bus.source.rest()
            except CarrierError as error:
                self._lose(bus, error)

    def close(self) -> None:
        """Close all: what is not acknowledged is given back."""
        for bus in self._buses:
            source, bus.source = bus.source, None
            if source is not None:
                source.close()
            if bus.opener is not None:
                bus.opener.join()
                bus.opener = None
                while bus.opened:
                    result = bus.opened.popleft()
                    if not isinstance(result, CarrierError):
                        result.close()


def _open(bus: _Bus) -> None:
    try:
        bus.opened.append(bus.open())
    except CarrierError as error:
        bus.opened.append(error)
    except BaseException as error:
        bus.opened.append(CarrierError(f"{bus.shown}: {error}"))
