"""Wake-ups within one process."""

from __future__ import annotations

import threading
from collections.abc import Callable


class MemoryBus:
    """Notifies the engines of this process, and whoever waits in it for the end of a traversal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._ended = 0

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call a function whenever this process has changed something."""
        with self._lock:
            self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[], None]) -> None:
        """Undo :meth:`add_listener`."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def notify(self) -> None:
        """Tell the engines to look for work."""
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def notify_end(self) -> None:
        """Notify those who wait that a traversal has ended."""
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    @property
    def ended(self) -> int:
        """How often :meth:`notify_end` was called."""
        return self._ended

    def wait_for_end(self, timeout: float, seen: int) -> None:
        """Wait until a traversal has ended, or some seconds have passed.

        :param seen: what :attr:`ended` was before the caller looked, so that no end is missed
            between the look and the wait.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended != seen, timeout)
