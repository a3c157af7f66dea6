"""Who a process is, so that others on its host can see that it is gone."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def process_identity(pid: int | None = None) -> str:
    """What tells this process from every other: host, boot, process namespace, pid and start.

    Where the system does not tell, it is the host's name and the pid only, and a leading
    ``?`` says that nothing can be concluded from it.
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


def _host() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
    return f"{platform.node()[:64]}/{boot}/{namespace}"


def _started(pid: int) -> str | None:
    """The process's start in ticks since boot; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after_name = fields.rpartition(")")[2].split()
    return None if after_name[0] in ("Z", "X") else after_name[19]
