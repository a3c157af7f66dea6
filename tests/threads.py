"""Calls that tests make at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def at_once(*functions: Callable[[], T]) -> list[T | Exception]:
    """Call functions in threads, at the same moment; their results, or what they raised."""
    barrier = threading.Barrier(len(functions))

    def call(function: Callable[[], T]) -> T | Exception:
        barrier.wait()
        try:
            return function()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(call, functions))
