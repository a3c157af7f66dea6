"""What a handler's exception is told as: a reason in a line, and a traceback.

An error of converge's own (:class:`~converge.ConvergeError`), and one of an author's class that
derives from it, is meant for users: its message says what is wrong, and is the whole reason. Of
all others the type and the place are told, too.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from types import CodeType

from converge.errors import ConvergeError, StepFailed
from converge.hiding import hide

#: Bytes of a traceback that are kept: its end, which has the innermost frames.
TRACEBACK_LENGTH = 16 * 1024
#: Characters of a message, or traceback, in which secrets are looked for. It is far more than is
#: kept, so that half a secret, which would not be known for one, is never kept.
_LENGTH = 512 * 1024
#: So many members of an exception group are named, and looked at.
_NAMED, _MEMBERS = 3, 1000

_HERE = os.path.dirname(os.path.abspath(__file__))
_CONVERGE = os.path.dirname(_HERE) + os.sep
#: What calls handlers: nothing that went wrong there is told by its place.
_CALLER = os.path.join(_HERE, "call.py")
_STANDARD = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib"))
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))

_Frame = tuple[CodeType, int | None]


def describe(error: BaseException) -> str:
    """A handler's exception in words: ``KeyError: 'missing' (types.py:12 in create)``. Of one
    that was raised from another, or is a group, also those. Never raises."""
    try:
        return hide(_describe(error))
    except Exception:
        return type(error).__name__


def _describe(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return _describe_group(error)
    words = _sentence(error)
    cause = error.__cause__
    if cause is None or _is_plain(error) or isinstance(cause, BaseExceptionGroup):
        return words
    # many messages quote it
    message = _message(cause)
    return words if message and message in words else f"{words}, because of {_sentence(cause)}"


def _sentence(error: BaseException) -> str:
    message = _message(error)
    if _is_plain(error) and message:
        return message
    words = type(error).__name__
    if message:
        # of this one, the message says what failed
        words = message if type(error) is StepFailed else f"{words}: {message}"
    place = _place(error)
    return f"{words} ({place})" if place else words


def _describe_group(group: BaseExceptionGroup[BaseException]) -> str:
    members = list(_members(group))
    told = "; ".join(_sentence(one) for one in members[:_NAMED])
    more = len(members) - _NAMED
    return f"{_sentence(group)}: {told}" + (f"; and {more} more" if more > 0 else "")


def _members(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions in a group and in its groups, that are none themselves."""
    todo: list[BaseException] = list(reversed(group.exceptions))
    for _ in range(_MEMBERS):
        if not todo:
            return
        one = todo.pop()
        if isinstance(one, BaseExceptionGroup):
            todo += reversed(one.exceptions)
        else:
            yield one


def _is_plain(error: BaseException) -> bool:
    """Whether an exception is meant for users. What a step failed with is not."""
    return isinstance(error, ConvergeError) and not isinstance(error, StepFailed)


def _message(error: BaseException) -> str:
    try:
        message = str(error).strip()
    except BaseException:
        return "<its message cannot be read>"
    if len(message) > _LENGTH:
        # of a reason, the middle is left out
        message = f"{message[: _LENGTH // 2]} [...] {message[-_LENGTH // 2 :]}"
    return message


def _place(error: BaseException) -> str:
    """Where an exception was raised: the innermost frame of its author's code; empty if that is
    not known."""
    if isinstance(error, StepFailed) and error.__cause__ is not None:
        error = error.__cause__
    frames = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename != _CALLER
    ]
    found = _innermost(frames)
    if found is None:
        return ""
    code, line = found
    return f"{os.path.basename(code.co_filename)}:{line or '?'} in {code.co_name}"


def _innermost(frames: Sequence[_Frame]) -> _Frame | None:
    own = [one for one in frames if _owner(one[0]) == ""]
    if not own:
        # a type may be installed as a package, too
        packages = [package for one in frames if (package := _owner(one[0])) not in (None, "")]
        own = [one for one in frames if packages and _owner(one[0]) == packages[0]]
    found = own or frames
    return found[-1] if found else None


def _owner(code: CodeType) -> str | None:
    """Whose code it is: the folder of an installed package, None for what is of converge or
    Python, and empty for all other."""
    name = code.co_filename
    if name.startswith(_CONVERGE) or name.startswith("<frozen "):
        return None
    for folder in _INSTALLED:
        before, found, after = name.partition(folder)
        if found:
            return before + found + after.partition(os.sep)[0]
    return None if name.startswith(_STANDARD) else ""


def format_traceback(error: BaseException) -> str | None:
    """The traceback of a handler's exception and of those that led to it; None of one that is
    meant for users and that converge itself raised. Never raises."""
    try:
        if _is_plain(error) and not _is_authors(error):
            return None
        text = "".join(traceback.format_exception(error))
    except Exception:
        return None
    return hide(text[-_LENGTH:])


def _is_authors(error: BaseException | None) -> bool:
    """Whether an author's code took part in an exception."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if any(
            _owner(frame.f_code) is not None for frame, _ in traceback.walk_tb(error.__traceback__)
        ):
            return True
        error = error.__cause__
    return False


def cut_traceback(text: str) -> str:
    """The end of a traceback, made to fit :data:`TRACEBACK_LENGTH` and every database."""
    data = text.replace("\x00", "\\0").encode("utf-8", "replace")
    if len(data) > TRACEBACK_LENGTH:
        mark = b"[...] "
        data = mark + data[len(mark) - TRACEBACK_LENGTH :]
    return data.decode("utf-8", "ignore")
