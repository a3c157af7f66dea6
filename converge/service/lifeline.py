"""Ties a process to the one that started it: when that has ended, however, it stops, too.

The parent holds one end of a pipe. Nothing is ever written into it: the child sees its end when
the parent is gone, even if it was killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import MutableMapping

#: The variable of the environment with the child's number and its end of the pipe.
VARIABLE = "CONVERGE_PROCESS"


def value(number: int, descriptor: int) -> str:
    """What :data:`VARIABLE` is in a child's environment."""
    return f"{number}:{descriptor}"


def hold(environment: MutableMapping[str, str] = os.environ) -> int | None:
    """Hold the line, if this process was started by a parent of ours: once that is gone, this
    process gets SIGTERM.

    :returns: this process's number among its siblings; None: it was started by somebody else.
    """
    text = environment.pop(VARIABLE, "")
    number, _, descriptor = text.partition(":")
    if not (number.isdigit() and descriptor.isdigit()):
        return None
    line = int(descriptor)
    # what a handler starts must not keep it
    os.set_inheritable(line, False)

    def watch() -> None:
        while os.read(line, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="converge-lifeline", daemon=True).start()
    return int(number)
