"""Garbage collection, put off while a great many objects are made that all stay, and for a program.

Python looks for garbage each time that a quarter more objects live than at the last look, through
all of them: a third of the time of a template of 100,000 resources went into that, and nothing was
found. The modules of a program are as many objects, and stay as well.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Collect no garbage meanwhile, in any thread. It is for what computes and does not wait."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def spare() -> None:
    """Look from now on only through what is made later, and seldom: for a process that is a
    program of its own, when it has imported its modules or is about to, and again when it ends, as
    Python looks through all of it once more then."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
