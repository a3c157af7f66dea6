"""A scope as an async caller uses it: the same one, behind doors that do not block its loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from converge.awaiting import in_thread
from converge.errors import BadInput
from converge.retry import RetryPolicy

if TYPE_CHECKING:
    from converge.journal.items import Item
    from converge.journal.scope import Scope

T = TypeVar("T")

_END: Any = object()


class AsyncScope:
    """A :class:`~converge.journal.Scope` for an async caller. Its methods do the same, and are
    awaited. Tasks that run beside each other need a nested scope each.

    :param take: returns the scope; it may wait for the database.
    """

    def __init__(self, take: Callable[[], Scope]) -> None:
        self._take = take
        self._open: str | None = None

    async def plain(self) -> Scope:
        """The scope itself: for plain code in a thread, or within ``AsyncSession.run_sync()``."""
        return await in_thread(self._take)

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        version: int = 1,
        retry: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., T],
        /,
        *args: Any,
        version: int = 1,
        retry: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> T: ...

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        version: int = 1,
        retry: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do a step, or return its recorded value; see :meth:`Scope.step`.

        :param function: ``async def``, or a plain one, which is called in a thread.
        :raises BadInput: another step of this scope is not over yet.
        """
        with _Turn(self, name):
            step = (await self.plain()).step(name, version=version, retry=retry)
            return await step.call_async(function, *args, **kwargs)

    async def each(
        self,
        name: str,
        items: Iterable[T] | Callable[[int], Iterable[T]],
        *,
        key: Callable[[T], str | int] | None = None,
        every: int = 1,
    ) -> AsyncIterator[Item[T]]:
        """Go through items that are not done; see :meth:`Scope.each`. What gives the items is
        called in a thread."""
        scope = await self.plain()
        found = scope.each(name, items, key=key, every=every)
        while (item := await in_thread(lambda: next(found, _END))) is not _END:
            yield item

    @asynccontextmanager
    async def scope(self, name: str) -> AsyncIterator[AsyncScope]:
        """A nested scope; see :meth:`Scope.scope`."""
        with (await self.plain()).scope(name) as nested:
            yield AsyncScope(lambda: nested)

    async def key(self, name: str, index: int | None = None, *, version: int = 1) -> str:
        """The idempotency key of a step or item; see :meth:`Scope.key`."""
        return (await self.plain()).key(name, index, version=version)


class _Turn:
    """While a step of a scope is asked for or done, no other one may be: their order is recorded,
    and must be the same in each run."""

    def __init__(self, scope: AsyncScope, name: str) -> None:
        self._scope = scope
        self._name = name

    def __enter__(self) -> None:
        if self._scope._open is not None:
            raise BadInput(
                f"step {self._name!r} begins while step {self._scope._open!r} is not over; give "
                "each of the tasks a nested scope: async with context.journal.scope(...)"
            )
        self._scope._open = self._name

    def __exit__(self, *_: object) -> None:
        self._scope._open = None
