"""What ``async def`` handlers and actions are given: the same as plain ones, behind doors that are
awaited, so that no database keeps the event loop waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from converge.awaiting import in_thread
from converge.journal.asynchronous import AsyncScope
from converge.model import Json
from converge.resources.journaled import Journaled
from converge.resources.resource_type import Context

if TYPE_CHECKING:
    from converge.journal import Item

W = TypeVar("W", bound=Journaled)


class AsyncJournaled(Generic[W]):
    """A piece of work with a journal, for an async caller. All attributes are those of the plain
    one.

    :ivar plain: the plain one, for plain code in a thread, or in ``AsyncSession.run_sync()``.
    :ivar journal: its scope, with the same methods, to be awaited.
    """

    def __init__(self, plain: W) -> None:
        self.plain = plain
        self.journal = AsyncScope(lambda: plain.journal)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    async def step(self, name: str, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Do a step unless it is done; see :meth:`converge.journal.AsyncScope.step`."""
        return await self.journal.step(name, function, *args, **kwargs)

    def each(
        self,
        name: str,
        items: Any,
        *,
        key: Callable[[Any], str | int] | None = None,
        every: int = 1,
    ) -> AsyncIterator[Item[Any]]:
        """Go through items that are not done; see :meth:`converge.journal.Scope.each`."""
        return self.journal.each(name, items, key=key, every=every)


class AsyncContext(AsyncJournaled[Context]):
    """What an ``async def`` handler is given: a :class:`~converge.Context` whose ``record``,
    ``step``, ``each`` and ``wait_signal`` are awaited.

    Where a plain handler looks at ``cancelled``, an async one gets
    :class:`asyncio.CancelledError`; ``cancel_reason`` then says why.
    """

    async def record(self, physical_id: str | None) -> None:
        """Store the physical id at once; see :meth:`converge.Context.record`."""
        await in_thread(lambda: self.plain.record(physical_id))

    async def wait_signal(
        self, name: str = "signal", *, timeout: float | None = None, progress: str | None = None
    ) -> Json:
        """The data of the next signal; see :meth:`converge.Context.wait_signal`. The
        :class:`~converge.Wait` that it may raise must propagate."""
        return await in_thread(
            lambda: self.plain.wait_signal(name, timeout=timeout, progress=progress)
        )
