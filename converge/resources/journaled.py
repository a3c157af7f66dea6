"""Work that has a scope of the journal: the base of what handlers and actions are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from converge.errors import ConvergeError

if TYPE_CHECKING:
    from converge.journal import Item, Scope


class Journaled:
    """A piece of work. Its scope is opened when it is first used."""

    __slots__ = ("_open_journal", "_scope")

    #: What is said if it has none.
    no_journal: ClassVar[str] = "this was made by hand, so it has no journal"

    def __init__(self, open_journal: Callable[[], Scope] | None = None) -> None:
        self._open_journal = open_journal
        self._scope: Scope | None = None

    @property
    def journal(self) -> Scope:
        """The scope of this piece of work: steps that are done are not repeated when the work is
        retried, even by another process. It is forgotten when the work is done.

        :raises StaleLock: the work is no longer this process's; stop at once.
        :raises ConvergeError: the object was made by hand, so it has no journal.
        """
        if self._scope is None:
            if self._open_journal is None:
                raise ConvergeError(self.no_journal)
            self._scope = self._open_journal()
        return self._scope

    @property
    def has_journal(self) -> bool:
        """Whether the journal was used."""
        return self._scope is not None

    def step(self, name: str, function: Any = None, /, *args: Any, **kwargs: Any) -> Any:
        """Do a step unless it is done; see :meth:`converge.journal.Scope.step`."""
        return self.journal.step(name, function, *args, **kwargs)

    def each(
        self,
        name: str,
        items: Any,
        *,
        key: Callable[[Any], str | int] | None = None,
        every: int = 1,
    ) -> Iterator[Item[Any]]:
        """Go through items that are not done; see :meth:`converge.journal.Scope.each`."""
        return self.journal.each(name, items, key=key, every=every)
