"""The errors that converge raises.

Everything a caller may want to catch is a :class:`ConvergeError`. Those that different input
would avoid are :class:`BadInput`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from unicodedata import name, normalize


class ConvergeError(Exception):
    """The base of every error raised by converge."""


class BadInput(ConvergeError):
    """The request is wrong; the message says what would be right."""


class SecretKeyError(BadInput):
    """The process lacks the key that values in the database are encrypted with."""


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
    :ivar errors: all mistakes of the file, where they were looked for and there are several.
    """

    errors: tuple[TemplateError, ...] = ()

    def __init__(self, message: str, *, source: str | None = None, line: int | None = None) -> None:
        self.message = message
        self.source = source
        self.line = line
        place = ":".join(str(part) for part in (source, line) if part is not None)
        super().__init__(f"{place}: {message}" if place else message)


class PipelineError(TemplateError):
    """A pipeline file, or a file of definitions, is wrong."""


class NotFound(BadInput):
    """There is no such stack, resource, version or event."""


class Conflict(ConvergeError):
    """Another caller was first: the stack exists, or its traversal is not the expected one."""


class _FromStore(ConvergeError):
    """An error of the store itself, not of the code that called it.

    :ivar origin: the database, or other store, that raised it.
    """

    origin: object = None


class StaleLock(_FromStore):
    """The work is no longer this engine's: another engine, or a newer epoch, holds the lock."""


class Cancelled(ConvergeError):
    """A handler was told to stop (``context.cancelled``) while one of its steps was waiting for a
    retry. Let it propagate: the attempts that the step has left are kept."""


class Busy(ConvergeError):
    """Another live process holds the lock."""


class JournalMismatch(ConvergeError):
    """A program asks for steps other than the recorded ones.

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
    """A state has no transition for an event, or no guard allows it.

    :ivar legal: the events for which the state has one.
    """

    def __init__(self, message: str, *, legal: Sequence[str]) -> None:
        super().__init__(message)
        self.legal = tuple(legal)


class SchemaError(ConvergeError):
    """The database's schema is missing, too old, too new, or not converge's; or a newer converge
    has written what this one does not understand."""


class StoreError(_FromStore):
    """The database cannot be used: unreachable, read-only, full, or it refused the work."""


class CommitUnknown(StoreError):
    """The connection was lost during a commit, which may or may not have taken effect."""


class UnresolvedReference(ConvergeError):
    """A reference in a resource's properties has no value when it is needed."""


class Replace(Exception):
    """Raised by a resource type's ``update``: the change needs a new physical resource."""


class Gone(ConvergeError):
    """Raised by ``read``: the real thing is gone. The message, if there is one, says how that is
    known."""


class Drifted(ConvergeError):
    """Raised by ``check``: the real thing is not what it was made to be. The message says what
    differs. All else that ``check`` raises is a failure: it could not look."""


class Veto(ConvergeError):
    """Raised by an engine's policy: the handler must not be called. The message says why."""


class NestedFailed(ConvergeError):
    """What was to be done to a nested stack has failed, or was stopped."""


class SignalFailed(ConvergeError):
    """What a handler waits for has failed, as the signal says."""


class SignalTimeout(ConvergeError):
    """No signal came in time."""


def comes_from(error: BaseException, origin: object) -> bool:
    """Whether an error was raised by a store, or because of such an error: then it says nothing
    about the code that it passed through.

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


def find_alike(word: str, known: Iterable[str]) -> list[str]:
    """The first known word that looks the same but is spelled differently: Unicode has several
    ways to write a letter. An empty list if there is none."""
    form = normalize("NFKC", word)
    alike = (
        one
        for one in known
        if one != word and not (one.isascii() and word.isascii()) and normalize("NFKC", one) == form
    )
    return list(islice(alike, 1))


def _difference(word: str, meant: str) -> str:
    """Where two words look the same, which characters differ."""
    first = _same_length(word, meant)
    last = _same_length(word[first:][::-1], meant[first:][::-1])
    one, other = word[first : len(word) - last], meant[first : len(meant) - last]
    if normalize("NFKC", word) != normalize("NFKC", meant) and not (
        len(one) == len(other) == 1 and _script(one) != _script(other)
    ):
        return ""
    have, has = (" ".join(f"U+{ord(each):04X}" for each in text) for text in (other, one))
    if not has:
        return f", with an extra {have}"
    form = ""
    if normalize("NFC", word) == normalize("NFC", meant):
        form = ", the same text in another Unicode form"
    return f"{form}, with {have} in place of {has}" if have else f", without {has}"


def _same_length(one: str, other: str) -> int:
    """How many characters two words have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next(
        (count for count, (a, b) in pairs if a != b),
        min(len(one), len(other)),
    )


def _script(letter: str) -> str:
    # characters that are not letters have no script
    return name(letter, "").partition(" ")[0] if letter.isalpha() else ""


def with_article(noun: str) -> str:
    """A noun with "a" or "an" before it."""
    low = noun.lower()
    vowel = low[:1] in tuple("aeiou") and not low.startswith(
        ("uu", "ur", "uni", "use", "eu", "one")
    )
    return f"{'an' if vowel else 'a'} {noun}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint to append to a message about an unknown word.

    :returns: ``"; did you mean 'x'?"``, or, where nothing is close, the known words.
    """
    names = sorted(known)
    close = find_alike(word, names)
    if not close and len(word) <= 255 and len(names) <= 5000:
        close = get_close_matches(word, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}{_difference(word, close[0])}?"
    more = ", ..." if len(names) > 20 else ""
    return f"; known: {', '.join(names[:20])}{more}" if names else ""
