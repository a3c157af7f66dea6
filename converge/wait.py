"""What a handler raises that cannot go on yet."""

from __future__ import annotations

from converge.errors import BadInput
from converge.model import check_seconds


class Wait(Exception):
    """Raised, or returned, by a handler whose thing is not ready yet: call me again later.

    Until then no thread is held, and any engine may make the call. It is no failure and no new
    attempt: ``context.token`` and the journal stay the same, so what the earlier calls recorded
    with ``context.step`` is read from there. A ``create`` records the physical id with
    ``context.record`` before it waits, so that whatever happens meanwhile, a delete finds it. The
    resource's ``timeout`` and ``deadline`` are for all the calls of an attempt and the waits
    between them.

    :param seconds: after which the handler is called again, more than 0.
    :param progress: how far it is, for people: ``BUILDING, 40 %``. It takes the place of what the
        call before said.
    :raises BadInput: one of them is wrong.
    """

    def __init__(self, seconds: float, progress: str = "") -> None:
        self.seconds = check_seconds("Wait: seconds", seconds)
        if not isinstance(progress, str):
            raise BadInput(f"Wait: progress must be a text, not {progress!r}")
        self.progress = progress
        super().__init__(f"wait {self.seconds:g} s" + (f": {progress}" if progress else ""))


#: Seconds that a handler waits which waits until a signal comes: 31 years.
FOREVER = 1e9
#: The same of one that waits for a nested stack: another time, so that these nodes can be found.
FOREVER_INNER = 2e9


def waits_until(seconds: float) -> str | None:
    """What a handler waits for that is called again after so many seconds at the latest, in words;
    None: for that time."""
    if seconds > (FOREVER + FOREVER_INNER) / 2:
        return "its stack has ended"
    return "a signal comes" if seconds > FOREVER / 2 else None


class WaitForStack(Wait):
    """Raised where a nested stack is in progress: call me again when nothing of it is.

    :ivar stack_id: its id.
    """

    def __init__(self, stack_id: int, progress: str) -> None:
        super().__init__(FOREVER_INNER, progress)
        self.stack_id = stack_id


class WaitForSignal(Wait):
    """Raised by ``context.wait_signal()``: call me again when the signal has come.

    :ivar signal: its name.
    :param seconds: after which the handler is called even if none has come.
    """

    def __init__(self, signal: str, seconds: float, progress: str) -> None:
        super().__init__(seconds, progress)
        self.signal = signal
