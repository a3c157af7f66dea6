"""How long a test waits for what is to happen: for ever, but for tests that fail."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT = 60.0


def until(look: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not look():
        assert time.monotonic() < end
        time.sleep(0.01)
