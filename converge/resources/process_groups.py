"""Process groups: how one is ended, and how that of an earlier attempt is found.

While a command runs, a file has its process id. If the engine and the watcher were both killed,
the next attempt on the same host finds the process by it and ends it. The file is in a folder of
the user's own, in the folder for temporary files. The shell itself writes it, before anything else.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable

from converge.process import boot_identity, stat_fields

#: Seconds between two looks at a group that is to end.
POLL = 0.05


class Record:
    """The file with the process id of a resource's command.

    :param token: of the resource; empty for no file.
    :ivar path: of the file; empty if there can be none.
    """

    def __init__(self, token: str) -> None:
        folder = _folder() if token else ""
        self.path = folder and os.path.join(folder, token)

    def find(self) -> int | None:
        """The process group of an earlier attempt, if its shell still runs."""
        if not self.path:
            return None
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                system, _, line = file.read().partition("\n")
            pid, start = _identify(line)
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                # the system may give a free id to another process
                is_same = _identify(file.read()) == (pid, start)
        except (OSError, ValueError, IndexError):
            return None
        return pid if is_same and system == (boot_identity() or "") else None

    def remove(self, pid: int) -> None:
        """Remove the file, unless it is about another process."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(self.path, encoding="utf-8", errors="replace") as file:
                told = _identify(file.read().partition("\n")[2])[0]
            if told == pid:
                os.unlink(self.path)


def stop_group(group: int, has_ended: Callable[[], bool], grace: float) -> None:
    """End a process group, with SIGTERM and then with SIGKILL.

    :param has_ended: whether its leader has ended; it must not be reaped before this returns.
    :param grace: seconds to wait after each signal.
    """
    never = threading.Event()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        deadline = time.monotonic() + grace
        while (alive := not has_ended() or group_lives(group)) and time.monotonic() < deadline:
            never.wait(POLL)
        if not alive:
            # its id may soon be that of another group
            return


def group_lives(group: int) -> bool:
    """Whether anything in a process group still runs."""
    # signal 0 would also reach zombies, the leader among them
    for path in glob.iglob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            state, _, own = stat_fields(file.read())[:3]
            if int(own) == group and state not in ("Z", "X"):
                return True
    return False


def _identify(line: str) -> tuple[int, str]:
    """A process's id and start time, from its line in /proc."""
    return int(line.partition(" ")[0]), stat_fields(line)[19]


def _folder() -> str:
    """The user's folder for such files; empty if it belongs to another user."""
    folder = os.path.join(tempfile.gettempdir(), f"converge-{os.geteuid()}")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        there = os.lstat(folder)
    except OSError:
        return ""
    is_own = stat.S_ISDIR(there.st_mode) and there.st_uid == os.geteuid()
    return folder if is_own and not there.st_mode & 0o022 else ""
