"""The event loop of a run of an engine: it runs the handlers that are ``async def``.

What a call does before and after the handler, and what the handler asks of the database, is done
in a few threads beside it, so that the loop only waits. The log names a handler that keeps it
from that.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from converge.awaiting import Doing, use_threads
from converge.reasons import place_of

if TYPE_CHECKING:
    import asyncio

LOG = logging.getLogger(__name__)

#: How many threads serve the handlers on the loop; each needs a connection to the database.
THREADS = 4
#: Seconds for which a handler may hold up the loop before the log says so.
STILL = 5.0
#: Seconds that what still runs at the end has to end.
_GRACE = 1.0
#: The name of the call whose task, or whose task's task, this is.
_CALL: ContextVar[str] = ContextVar("converge_call", default="")


class Threads:
    """A few threads, which start when they are needed, and keep no program from ending."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queued: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = 0
        self._busy = 0
        self._lock = threading.Lock()

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Call a function in one of them."""
        future: Future[Any] = Future()

        def call() -> None:
            try:
                made = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(made)
            with self._lock:
                self._busy -= 1

        with self._lock:
            self._busy += 1
            more = self._count < min(self._most, self._busy)
            self._count += more
        self._queued.put(call)
        if more:
            threading.Thread(target=self._loop, name="converge-beside", daemon=True).start()
        return future

    def close(self) -> None:
        """End each when it has nothing to do."""
        with self._lock:
            ending, self._count, self._most = self._count, 0, 1
        for _ in range(ending):
            self._queued.put(None)

    def _loop(self) -> None:
        while (call := self._queued.get()) is not None:
            call()


class Running:
    """A call on the loop; see :meth:`Loop.start`."""

    def __init__(self, doing: Doing[object], over: Callable[[], object], name: str) -> None:
        self.doing = doing
        self.over = over
        self.name = name
        self.task: asyncio.Task[Any] | None = None
        # to be cancelled before it has begun to wait
        self.cancelled = False


class Loop:
    """Starts with the first call.

    :param most: how many calls run at once; others wait.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._threads = Threads(THREADS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Running] = deque()
        self._count = 0
        # the loop knows its tasks only weakly
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # when it was asked for a sign of life that has not come yet, and whether the log has it
        self._asked: float | None = None
        self._told = False

    def start(
        self, doing: Doing[object], over: Callable[[], object], name: str = "a call"
    ) -> Running:
        """Run a call; what it yields is awaited on the loop, all else happens in a thread.

        :param over: is called when it has ended.
        :param name: what it is, for the log.
        """
        running = Running(doing, over, name)
        with self._lock:
            if self._loop is None:
                self._loop = self._make()
            if self._closed:
                return running
            if self._count >= self.most:
                self._waiting.append(running)
                return running
            self._count += 1
        self._loop.call_soon_threadsafe(self._begin, running)
        return running

    def cancel(self, running: Running) -> None:
        """Have its handler raise :class:`asyncio.CancelledError`."""
        running.cancelled = True
        loop = self._loop
        if loop is not None:
            self._call_soon(lambda: running.task is not None and running.task.cancel())

    def close(self) -> None:
        """Cancel what still runs, and end. Safe to repeat."""
        with self._lock:
            closed, self._closed = self._closed, True
            self._waiting.clear()
        if self._loop is not None and not closed:
            self._call_soon(self._end)

    def look(self, at: float) -> None:
        """Ask the loop for a sign of life. If one has not come for :data:`STILL` seconds, the log
        says, once, which handler holds it up. To be called again and again, by another thread.

        :param at: seconds on the monotonic clock.
        """
        asked = self._asked
        if self._closed or self._loop is None:
            return
        if asked is None:
            if self._count:
                self._asked = at
                self._call_soon(self._answer)
        elif not self._told and at - asked > STILL:
            self._told = True
            LOG.warning(
                "%s holds up the event loop, for %.0f s by now%s: no other async handler of this "
                "engine goes on meanwhile; give what blocks to asyncio.to_thread(), or write a "
                "plain handler",
                *self._find_culprit(at - asked),
            )

    def _find_culprit(self, seconds: float) -> tuple[str, float, str]:
        import asyncio

        assert self._loop is not None
        assert self._thread is not None
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._thread.ident or 0)
        place = "" if frame is None else place_of(frame)
        name = "something" if task is None else task.get_name()
        return name, seconds, f" ({place})" if place else ""

    # -- on the loop

    def _make(self) -> asyncio.AbstractEventLoop:
        import asyncio

        loop = asyncio.new_event_loop()
        loop.set_task_factory(_make_task)
        self._thread = threading.Thread(
            target=self._run, args=(loop,), name="converge-loop", daemon=True
        )
        self._thread.start()
        return loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            # what runs in a thread goes on there, and its outcome is no longer waited for
            self._threads.close()
            loop.close()

    def _call_soon(self, function: Callable[[], object]) -> None:
        assert self._loop is not None
        # if it is closed, nothing runs on it
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def _answer(self) -> None:
        self._asked, self._told = None, False

    def _begin(self, running: Running) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._call(running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self) -> None:
        import asyncio

        assert self._loop is not None
        left = asyncio.all_tasks(self._loop)

        async def end() -> None:
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=_GRACE)
            for task in asyncio.all_tasks():
                # nobody waits for it, so nobody is to be told
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            asyncio.get_running_loop().stop()

        self._ending = self._loop.create_task(end())

    async def _call(self, running: Running) -> None:
        own = contextvars.copy_context()
        own.run(use_threads, self._in_thread)
        own.run(_CALL.set, running.name)
        doing = running.doing
        go: Callable[[], Any] = partial(doing.send, None)
        try:
            while True:
                asked = await self._in_thread(partial(_step, own, go))
                if asked is None:
                    return
                go = await self._await(running, asked, own)
        except Exception:
            LOG.exception("a call on the event loop")
        finally:
            running.over()
            self._next()

    async def _await(
        self, running: Running, asked: Coroutine[Any, Any, Any], own: contextvars.Context
    ) -> Callable[[], Any]:
        """Await what a handler returned.

        :returns: goes on with the call.
        """
        assert self._loop is not None
        running.task = task = self._loop.create_task(_guard(asked), context=own)
        if running.cancelled:
            task.cancel()
        try:
            made, error = await task
        except BaseException as cancelled:
            # it may not have begun
            asked.close()
            made, error = None, cancelled
        running.task = None
        if error is not None:
            return partial(running.doing.throw, error)
        return partial(running.doing.send, made)

    def _in_thread(self, function: Callable[[], Any]) -> Awaitable[Any]:
        import asyncio

        return asyncio.wrap_future(self._threads.submit(function), loop=self._loop)

    def _next(self) -> None:
        with self._lock:
            following = self._waiting.popleft() if self._waiting else None
            self._count -= following is None
        if following is not None:
            self._begin(following)


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, **keywords: Any
) -> asyncio.Task[Any]:
    """A task that has the name of its call, also if the handler has made it."""
    import asyncio

    context = keywords.get("context")
    name = _CALL.get() if context is None else context.get(_CALL, "")
    task = asyncio.Task(coroutine, loop=loop, **keywords)
    if name:
        task.set_name(name)
    return task


async def _guard(asked: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """Await it. A loop would end with some exceptions, so they are returned."""
    try:
        return await asked, None
    except BaseException as error:
        return None, error


def _step(own: contextvars.Context, go: Callable[[], Any]) -> Any:
    """Go on with a call, to the next thing to be awaited; None: it has ended."""
    try:
        return own.run(go)
    except StopIteration:
        return None
