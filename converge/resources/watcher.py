"""A process group that ends with the process that started it, however that process ends.

Beside each command runs a small shell, the watcher. It reads from a pipe whose other end only the
starting process has. When that process dies, even by SIGKILL, the system closes its end; the
watcher reads the end of the file and kills the group of the command, grandchildren included.

The watcher may be killed, too. Then the command is found by the record of its process.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from typing import IO

from converge.process import boot_identity
from converge.resources.process_groups import Record

#: Waits for the end of the pipe, then kills the group whose id it read first.
_WATCH = 'read -r group || exit 0; while read -r _; do :; done; kill -s KILL -- "-$group"'
#: Tells the watcher its group before anything is done, so that no death goes unnoticed; then closes
#: its end of the pipe, which is its stdin, so that no child inherits it.
_TELL = (
    'echo "$$" >&0; '
    # before anything is done, too; where there is no /proc, there is no record
    '{ read -r line </proc/$$/stat && printf "%s\\n" "$3" "$line" >"$2"; } 2>/dev/null; '
    'exec /bin/sh -c "$1" </dev/null'
)


class Watched:
    """A shell that runs a script in a session of its own, and dies with this process.

    :raises OSError: if a process cannot be started.
    :raises ValueError: if the script contains a NUL character.
    """

    def __init__(
        self,
        script: str,
        stdout: IO[bytes],
        stderr: IO[bytes],
        directory: str | None,
        environment: Mapping[str, str],
        record: Record,
    ) -> None:
        self._record = record
        # both ends are closed in the processes that other threads start meanwhile
        reader, self._writer = os.pipe()
        try:
            try:
                self._watcher = subprocess.Popen(
                    ["/bin/sh", "-c", _WATCH],
                    stdin=reader,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    # it gets no Ctrl-C, and keeps no folder in use
                    start_new_session=True,
                    cwd="/",
                    env={},
                )
            finally:
                os.close(reader)
            try:
                self.process = subprocess.Popen(
                    ["/bin/sh", "-c", _TELL, "/bin/sh", script, record.path, boot_identity() or ""],
                    stdin=self._writer,
                    stdout=stdout,
                    stderr=stderr,
                    cwd=directory,
                    env=environment,
                    # Ctrl-C goes to the engine alone, which ends its commands in order
                    start_new_session=True,
                )
            except BaseException:
                self._end_watcher()
                raise
        except BaseException:
            os.close(self._writer)
            raise

    def close(self) -> None:
        """Leave alone what still runs. Call it before the shell is reaped, as its id is that of the
        group."""
        self._end_watcher()
        os.close(self._writer)
        self._record.remove(self.process.pid)

    def _end_watcher(self) -> None:
        self._watcher.kill()
        self._watcher.wait()
