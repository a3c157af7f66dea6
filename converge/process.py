"""The identity of a process, by which others on its host can tell whether it has ended."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def process_identity(pid: int | None = None) -> str:
    """What distinguishes a process from all others: host, boot, pid namespace, pid and start.

    Where the system does not provide these, it is the host's name and the pid only, and a leading
    ``?`` says that nothing can be concluded from it.

    :param pid: None for this process.
    """
    pid = os.getpid() if pid is None else pid
    host = _host()
    started = _started(pid)
    if host is None or started is None:
        return f"?{platform.node()}/{pid}"
    return f"{host}/{pid}/{started}"


def is_gone(process: str) -> bool:
    """Whether a process, given by its identity, is known to have ended on this host."""
    host = _host()
    if host is None or process.startswith("?"):
        return False
    theirs, pid, started = process.rsplit("/", 2)
    return theirs == host and _started(int(pid)) != started


def boot_identity() -> str | None:
    """What distinguishes this boot of the host, and this container, from others; None where the
    system does not provide it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def stat_fields(line: str) -> list[str]:
    """The fields of a line of ``/proc/PID/stat`` after the program's name, which may contain
    anything: the first is the state, the third the process group, the twentieth the start."""
    return line.rpartition(")")[2].split()


def _host() -> str | None:
    boot = boot_identity()
    return None if boot is None else f"{platform.node()[:64]}/{boot}"


def _started(pid: int) -> str | None:
    """The process's start in ticks since boot; None if there is no such process."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat_fields(line)
    return None if fields[0] in ("Z", "X") else fields[19]
