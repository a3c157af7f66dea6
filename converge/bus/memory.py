"""Wake-ups within one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from converge.awaiting import Bell
from converge.bus.hint import LOOK, NONE, Hint, concerns


class Watch:
    """Somebody who waits for news of one stack.

    :param stack_id: its id.
    :param events: whether each new event is news, and not only the end of a traversal.
    :ivar news: set when there may be some.
    """

    def __init__(self, stack_id: int, *, events: bool) -> None:
        self.news = Bell()
        self._stack_id = stack_id
        self._events = events

    def tell(self, hint: Hint) -> None:
        """Set :attr:`news` if a hint concerns the stack."""
        if concerns(hint.ended, self._stack_id) or (
            self._events and concerns(hint.changed, self._stack_id)
        ):
            self.news.set()


class MemoryBus:
    """Tells the engines of this process, and whoever waits in it for news of a stack."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Hint], None]] = []
        self._watches: list[Watch] = []

    # -- those who are told

    def add_listener(self, listener: Callable[[Hint], None]) -> None:
        """Call a function with each hint that nodes may have become READY. It must return at
        once."""
        with self._lock:
            self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[Hint], None]) -> None:
        """Undo :meth:`add_listener`."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    @contextmanager
    def watching(self, stack_id: int, *, events: bool = False) -> Iterator[Watch]:
        """Be told of news of a stack; see :class:`Watch`."""
        watch = Watch(stack_id, events=events)
        with self._lock:
            self._watches.append(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._watches.remove(watch)

    @property
    def is_connected(self) -> bool:
        """Whether what other processes do is heard of, too: then one may look less often."""
        return False

    # -- those who tell

    def take_payload(self, hint: Hint) -> str | None:
        """What a transaction that is about to commit is to send to other processes itself, with its
        commit; None: nothing."""
        return None

    def payload_of_host(self) -> str | None:
        """The same for a transaction of which nobody here sees the commit. It is always the same
        text."""
        return None

    def committed(self, hint: Hint, *, sent: bool = False) -> None:
        """Tell of a commit. It returns at once, and raises nothing.

        :param sent: the transaction has sent it to other processes.
        """
        self.tell_here(hint)

    def notify(self) -> None:
        """Tell of a commit of which nothing is known."""
        self.committed(LOOK)

    def tell_here(self, hint: Hint) -> None:
        """Tell those in this process."""
        with self._lock:
            listeners = list(self._listeners) if hint.ready != NONE else []
            watches = list(self._watches)
        for watch in watches:
            watch.tell(hint)
        for listener in listeners:
            listener(hint)

    def close(self) -> None:
        """Let go of what it holds."""
