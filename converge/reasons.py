"""How an exception of a handler, an action or a step is reported: a reason, and a traceback.

:class:`~converge.ConvergeError` and its subclasses, also those of authors, are meant for users: the
message is the whole reason. The reason of any other exception has its type and place, too.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from types import CodeType, FrameType

from converge.errors import ConvergeError, StepFailed
from converge.hiding import hide

#: Bytes that are kept of the end of a traceback, which has the innermost frames.
TRACEBACK_LENGTH = 16 * 1024
#: Characters of a message or traceback that are searched for secrets: far more than are kept, so
#: that half a secret, which would not be recognized, is never kept.
_LENGTH = 512 * 1024
#: How many members of an exception group are named, and looked at.
_NAMED, _MEMBERS = 3, 1000

_CONVERGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STANDARD = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib"))
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))

_Frame = tuple[CodeType, int | None]


def describe(error: BaseException, *, place: bool = True) -> str:
    """An exception in words: ``KeyError: 'missing' (types.py:12 in create)``, followed by the
    exception that caused it, or by the members of a group. Never raises.

    :param place: whether to say where it was raised.
    """
    try:
        return hide(_describe(error, place))
    except Exception:
        return type(error).__name__


def _describe(error: BaseException, place: bool) -> str:
    if isinstance(error, BaseExceptionGroup):
        return _describe_group(error, place)
    words = _sentence(error, place)
    cause = error.__cause__
    if cause is None or _is_plain(error) or isinstance(cause, BaseExceptionGroup):
        return words
    # many messages quote that of their cause
    message = _message(cause).strip()
    return (
        words if message and message in words else f"{words}, because of {_sentence(cause, place)}"
    )


def _sentence(error: BaseException, place: bool) -> str:
    message = _message(error).strip()
    if _is_plain(error) and message:
        return message
    words = type(error).__name__
    if message:
        # the message of StepFailed has the type of the error
        words = message if type(error) is StepFailed else f"{words}: {message}"
    where = _place(error) if place else ""
    return f"{words} ({where})" if where else words


def _describe_group(group: BaseExceptionGroup[BaseException], place: bool) -> str:
    members = list(_members(group))
    named = "; ".join(_sentence(one, place) for one in members[:_NAMED])
    more = len(members) - _NAMED
    return f"{_sentence(group, place)}: {named}" + (f"; and {more} more" if more > 0 else "")


def _members(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions in a group and in the groups within it."""
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
    """Whether an exception is meant for users. StepFailed is not: it quotes another one."""
    return isinstance(error, ConvergeError) and not isinstance(error, StepFailed)


def read_message(error: BaseException) -> str:
    """An exception's own message, with secrets hidden. Never raises."""
    return hide(_message(error))


def _message(error: BaseException) -> str:
    try:
        message = str(error)
    except BaseException:
        return "<its message cannot be read>"
    if len(message) > _LENGTH:
        # leave out the middle
        message = f"{message[: _LENGTH // 2]} [...] {message[-_LENGTH // 2 :]}"
    return message


def _place(error: BaseException) -> str:
    """Where an exception was raised: the innermost frame of the author's code; empty if unknown."""
    if isinstance(error, StepFailed) and error.__cause__ is not None:
        error = error.__cause__
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if frames and (caller := frames[0][0].co_filename).startswith(_CONVERGE):
        # what called the author's code, and caught the exception, is not its place
        frames = [one for one in frames if one[0].co_filename != caller]
    return _place_in(frames)


def place_of(frame: FrameType) -> str:
    """Where a thread is at the moment: ``types.py:12 in create``, of the author's code.

    :param frame: its innermost one.
    """
    frames = [(one.f_code, line) for one, line in traceback.walk_stack(frame)]
    return _place_in(frames[::-1])


def _place_in(frames: Sequence[_Frame]) -> str:
    found = _innermost(frames)
    if found is None:
        return ""
    code, line = found
    return f"{os.path.basename(code.co_filename)}:{line or '?'} in {code.co_name}"


def _innermost(frames: Sequence[_Frame]) -> _Frame | None:
    own = [one for one in frames if _owner(one[0]) == ""]
    if not own:
        # the resource type may be in an installed package
        packages = [package for one in frames if (package := _owner(one[0])) not in (None, "")]
        own = [one for one in frames if packages and _owner(one[0]) == packages[0]]
    found = own or frames
    return found[-1] if found else None


def _owner(code: CodeType) -> str | None:
    """The owner of code: the folder of an installed package, None for converge or Python itself,
    empty for anything else."""
    name = code.co_filename
    if name.startswith(_CONVERGE) or name.startswith("<frozen "):
        return None
    for folder in _INSTALLED:
        before, found, after = name.partition(folder)
        if found:
            return before + found + after.partition(os.sep)[0]
    return None if name.startswith(_STANDARD) else ""


def format_traceback(error: BaseException) -> str | None:
    """The traceback of an exception and of its causes; None for one that is meant for users and
    that no author's code took part in. Never raises."""
    try:
        if _is_plain(error) and not _is_authors(error):
            return None
        text = "".join(traceback.format_exception(error))
    except Exception:
        return None
    return hide(text[-_LENGTH:])


def _is_authors(error: BaseException | None) -> bool:
    """Whether the traceback of an exception, or of its causes, has an author's code."""
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
    """The end of a traceback: at most :data:`TRACEBACK_LENGTH` bytes, storable in any database."""
    data = text.replace("\x00", "\\0").encode("utf-8", "replace")
    if len(data) > TRACEBACK_LENGTH:
        mark = b"[...] "
        data = mark + data[len(mark) - TRACEBACK_LENGTH :]
    return data.decode("utf-8", "ignore")
