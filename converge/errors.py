"""The errors that converge raises.

Everything a caller may want to catch is a :class:`ConvergeError`. Those that a
person can mend by giving other input are :class:`BadInput`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converge.machine.moving import Move


class ConvergeError(Exception):
    """The base of every error raised by converge."""


class BadInput(ConvergeError):
    """What was asked for cannot be done as asked; the message says what would be right."""


class CircularDependency(BadInput):
    """A graph has a cycle.

    :ivar cycle: the nodes of one actual cycle; each requires the next and the last
        requires the first.
    """

    def __init__(self, cycle: Sequence[Hashable]) -> None:
        self.cycle = tuple(cycle)
        shown = [str(node) for node in self.cycle]
        if len(shown) > 12:
            shown[10:-1] = [f"... {len(shown) - 11} more ..."]
        walk = " -> ".join((*shown, shown[0]))
        super().__init__(f"circular dependency: {walk}")


class TemplateError(BadInput):
    """A template is wrong.

    :ivar source: the name of the file (or other source), None where there is none.
    :ivar line: the line, counted from 1, None where it is not known.
    """

    def __init__(self, message: str, *, source: str | None = None, line: int | None = None) -> None:
        self.message = message
        self.source = source
        self.line = line
        place = ":".join(str(part) for part in (source, line) if part is not None)
        super().__init__(f"{place}: {message}" if place else message)


class NotFound(BadInput):
    """There is no such stack, resource, version or event."""


class Conflict(ConvergeError):
    """Another caller was first: the stack exists, or its traversal is not the expected one."""


class _FromStore(ConvergeError):
    """An error of what keeps the state, which nobody who calls it has caused.

    :ivar origin: the database, or other store, that raised it.
    """

    origin: object = None


class StaleLock(_FromStore):
    """The work is no longer this engine's: another engine, or a newer epoch, has it."""


class Busy(ConvergeError):
    """Somebody else who lives has it."""


class JournalMismatch(ConvergeError):
    """A program asks for other steps than those that are recorded.

    :ivar recorded: what is recorded there, None for nothing.
    :ivar asked: what was asked for, None for nothing.
    """

    def __init__(self, message: str, *, recorded: str | None, asked: str | None) -> None:
        super().__init__(message)
        self.recorded = recorded
        self.asked = asked


class StepFailed(ConvergeError):
    """A step failed for good, now or in an earlier run.

    :ivar step: its name.
    :ivar kind: the name of the exception's type.
    :ivar reason: the exception's message.
    """

    def __init__(self, message: str, *, step: str, kind: str, reason: str) -> None:
        super().__init__(message)
        self.step = step
        self.kind = kind
        self.reason = reason


class IllegalEvent(ConvergeError):
    """An event does nothing in a state, or no guard allows it.

    :ivar legal: the events that do something there.
    """

    def __init__(self, message: str, *, legal: Sequence[str]) -> None:
        super().__init__(message)
        self.legal = tuple(legal)


class ActionFailed(ConvergeError):
    """A move of a machine was made, and its action did not come to its end. What it raised is the
    ``__cause__``.

    :ivar move: the move; ``move.action`` says whether the action is called again.
    """

    def __init__(self, message: str, *, move: Move) -> None:
        super().__init__(message)
        self.move = move


class SchemaError(ConvergeError):
    """The database's schema is missing, too old, too new, or not converge's."""


class StoreError(_FromStore):
    """The database cannot be used: unreachable, read-only, full, or it refused the work."""


class CommitUnknown(StoreError):
    """The connection was lost during a commit: what was asked for is done, or it is not."""


class UnresolvedReference(ConvergeError):
    """A reference in a resource's properties has no value when it is needed."""


class Replace(Exception):
    """Raised by a resource type's ``update``: the change needs a new physical resource."""


def comes_from(error: BaseException, origin: object) -> bool:
    """Whether an error is of a store, or was raised because of one of it: it says nothing about
    the code that it passed through.

    :param origin: the store.
    """
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, _FromStore) and one.origin is origin:
            return True
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
    return False


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint to append to a message about an unknown word.

    :returns: ``"; did you mean 'x'?"``, or, where nothing is close, the known words.
    """
    names = sorted(known)
    close = get_close_matches(word, names, n=1) if len(word) <= 255 and len(names) <= 5000 else []
    if close:
        return f"; did you mean {close[0]!r}?"
    more = ", ..." if len(names) > 20 else ""
    return f"; known: {', '.join(names[:20])}{more}" if names else ""
