"""The last lines that a command printed, on stdout and stderr, in the order of the printing.

The two are files, so the order is not in them. The system's inotify reports in which order they
were written to, though not how much each time. Together with the number of lines since the last
look, that gives the order: exactly if each turn was one line, or each file had one turn; otherwise
nearly. Without inotify, the lines since the last look are shown with stdout first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections import deque
from itertools import groupby
from typing import IO

#: How many lines, and how many characters in all, are shown: a reason has room for 2,000.
LINES, LENGTH = 20, 1800
#: How many of the last bytes are kept of one line, and of all since the last look.
LINE, CHUNK = 1000, 64 * 1024
_MODIFIED, _OVERFLOWN = 0x2, 0x4000
_EVENT = struct.Struct("iIII")


class Printed:
    """The last lines of two files that others append to."""

    def __init__(self, stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self._files = (stdout.fileno(), stderr.fileno())
        self._read = [0, 0]
        self._begun = [b"", b""]
        self._lines: deque[bytes] = deque(maxlen=LINES)
        self._latest = 1
        self._watch, self._watched = _watch(self._files)

    def look(self) -> None:
        """Read what was printed since the last time."""
        turns: list[int] | None = []
        # until nothing is written between the reading of sizes and of events
        for _ in range(5):
            sizes = [os.fstat(file).st_size for file in self._files]
            more = self._take_turns()
            turns = None if more is None or turns is None else turns + more
            if not more:
                break
        lines = [self._take_lines(which, sizes[which]) for which in (0, 1)]
        order = [which for which, _ in groupby(turns or ())]
        order += [which for which in (0, 1) if which not in order]
        for place, which in enumerate(order):
            # the later turns of the same file have a line each, as far as there are lines
            number = max(1, len(lines[which]) - order[place + 1 :].count(which))
            self._lines.extend(lines[which][:number])
            del lines[which][:number]
        if turns:
            self._latest = turns[-1]

    def forget_stderr(self) -> None:
        """stderr was emptied."""
        self._read[1] = 0

    def close(self) -> None:
        """Close the inotify descriptor."""
        if self._watch is not None:
            os.close(self._watch)
            self._watch = None

    def __str__(self) -> str:
        """The last lines, without white space at the ends."""
        rest = [self._begun[1 - self._latest], self._begun[self._latest]]
        lines = [*self._lines, *filter(None, rest)][-LINES:]
        shown = "\n".join(map(_show, lines)).strip()
        return shown if len(shown) <= LENGTH else "..." + shown[-LENGTH:]

    def _take_turns(self) -> list[int] | None:
        """Which of the two was written to, in order; None if that is not known."""
        if self._watch is None:
            return None
        try:
            data = os.read(self._watch, CHUNK)
        except BlockingIOError:
            return []
        turns = []
        for watched, mask, _, _ in _EVENT.iter_unpack(data):
            if mask & _OVERFLOWN:
                return None
            if watched in self._watched:
                turns.append(self._watched.index(watched))
        return turns

    def _take_lines(self, which: int, size: int) -> list[bytes]:
        start = self._read[which]
        if size <= start:
            return []
        if size - start > CHUNK:
            start, self._begun[which] = size - CHUNK, b""
        data = self._begun[which] + os.pread(self._files[which], size - start, start)
        self._read[which] = size
        *lines, last = data.split(b"\n")
        self._begun[which] = last[-LINE:]
        return [line[-LINE:] for line in lines]


def _show(line: bytes) -> str:
    # show an overwritten line as a terminal does; PostgreSQL cannot store NUL
    text = line.decode(errors="replace").replace("\0", "\ufffd")
    return text.rstrip().rpartition("\r")[2]


def _watch(files: tuple[int, int]) -> tuple[int | None, list[int]]:
    """An inotify descriptor and its watch of each file; None where there is no inotify."""
    with contextlib.suppress(OSError, AttributeError):
        system = ctypes.CDLL(None, use_errno=True)
        watch = system.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if watch < 0:
            # a user's inotify instances are limited
            return None, []
        watched = [
            system.inotify_add_watch(watch, f"/proc/self/fd/{file}".encode(), _MODIFIED)
            for file in files
        ]
        if min(watched) >= 0:
            return watch, watched
        os.close(watch)
    return None, []
