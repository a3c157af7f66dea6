"""One implementation for plain callers and for async ones.

What either may call is written once, as a generator: it yields what may take its time, and gets
what came of it. :func:`run_plain` does that in the caller's thread, :func:`run_async` for a caller
on an event loop, without blocking the loop.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from converge.synchronous import ASYNC, deferred_kind

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Blocking:
    """A short call that may wait for a database."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the caller's own function: plain, or ``async def`` for an async caller."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """:ivar plainly: how a plain caller waits: it returns early, or raises, if it is cancelled."""

    seconds: float
    plainly: Callable[[float], Any]


@dataclass(frozen=True, slots=True)
class Until:
    """A wait until an event is set, or until the time is over."""

    event: Bell
    seconds: float


Doing = Generator[Any, Any, T]

#: Runs a blocking function for an async caller; None: :func:`asyncio.to_thread` does.
_IN_THREAD: ContextVar[Callable[[Callable[[], Any]], Awaitable[Any]] | None] = ContextVar(
    "converge_in_thread", default=None
)


class Bell:
    """An event that plain callers and async ones can wait for."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung: asyncio.Event | None = None

    def set(self) -> None:
        """Set it; from any thread."""
        self._event.set()
        if self._loop is not None and self._rung is not None:
            try:
                self._loop.call_soon_threadsafe(self._rung.set)
            except RuntimeError:
                # the loop is closed, so nobody waits
                self._loop = None

    def clear(self) -> None:
        """Unset it."""
        self._event.clear()
        if self._rung is not None:
            self._rung.clear()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait in this thread.

        :returns: whether it is set.
        """
        return self._event.wait(seconds)

    async def wait_async(self, seconds: float) -> None:
        """Wait on the loop that runs this."""
        import asyncio

        if self._rung is None:
            self._rung = asyncio.Event()
            self._loop = asyncio.get_running_loop()
        if self._event.is_set():
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), seconds)


def run_plain(doing: Doing[T]) -> T:
    """Do it in this thread."""
    send, value = doing.send, None
    while True:
        try:
            asked = send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            send, value = doing.send, _do(asked)
        except BaseException as error:
            send, value = doing.throw, error


def _do(asked: Any) -> Any:
    if isinstance(asked, Blocking):
        return asked.function()
    if isinstance(asked, Call):
        return asked.function(*asked.args, **asked.kwargs)
    if isinstance(asked, Pause):
        return asked.plainly(asked.seconds)
    if isinstance(asked, Until):
        return asked.event.wait(asked.seconds)
    return run_here(asked)


def run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own."""
    import asyncio

    return asyncio.run(coroutine)


async def run_async(doing: Doing[T]) -> T:
    """Do it for a caller on an event loop."""
    send, value = doing.send, None
    while True:
        try:
            asked = send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            send, value = doing.send, await _do_async(asked)
        except BaseException as error:
            send, value = doing.throw, error


async def _do_async(asked: Any) -> Any:
    import asyncio

    if isinstance(asked, Blocking):
        return await in_thread(asked.function)
    if isinstance(asked, Call):
        if deferred_kind(asked.function) == ASYNC:
            return await asked.function(*asked.args, **asked.kwargs)
        return await asyncio.to_thread(asked.function, *asked.args, **asked.kwargs)
    if isinstance(asked, Pause):
        return await asyncio.sleep(asked.seconds)
    if isinstance(asked, Until):
        return await asked.event.wait_async(asked.seconds)
    return await asked


async def in_thread(function: Callable[[], T]) -> T:
    """Run a blocking function in another thread. If the caller is cancelled, it sees that when the
    function has ended: what it does next must not meet it."""
    import asyncio

    run = _IN_THREAD.get()
    running = asyncio.ensure_future(asyncio.to_thread(function) if run is None else run(function))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if not running.done():
            await asyncio.wait([running])
        raise


def is_cancelled(error: BaseException) -> bool:
    """Whether it is what a cancelled task raises."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def use_threads(run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
    """Have :func:`in_thread` use this in the current context."""
    _IN_THREAD.set(run)
