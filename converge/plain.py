"""Functions that must be over when they return: converge calls them, and awaits nothing."""

from __future__ import annotations

import functools
import inspect
from concurrent.futures import Future
from typing import Any

from converge.errors import BadInput, with_article


def lazy_kind(function: object) -> str | None:
    """In words, what a function is whose call does not run it; None if a call does.

    A plain function that wraps such a one, and runs it, is good.
    """
    seen: Any = function
    while True:
        bound = getattr(seen, "__func__", seen)
        # what a partialmethod makes is a plain function, which names it
        partial = getattr(bound, "__partialmethod__", getattr(bound, "_partialmethod", None))
        inner = bound if partial is None else partial
        if not isinstance(inner, functools.partial | functools.partialmethod):
            break
        seen = inner.func
    # of an object that can be called, its method counts
    for one in (seen, inspect.getattr_static(type(seen), "__call__", None)):
        if inspect.iscoroutinefunction(one):
            return "an async function"
        if inspect.isasyncgenfunction(one):
            return "an async generator"
        if inspect.isgeneratorfunction(one):
            return "a generator"
    return None


def check_over(made: object, what: str) -> None:
    """Whether what a function returned shows that it is over.

    :param what: the function, in words.
    :raises BadInput: it returned something that is still to be run, or that still runs.
    """
    if not (
        inspect.isawaitable(made)
        or inspect.isasyncgen(made)
        or inspect.isgenerator(made)
        or isinstance(made, Future)
    ):
        return
    for end in ("close", "cancel"):
        # it is not run, so that Python need not say that it was never awaited
        if callable(stop := getattr(made, end, None)):
            stop()
            break
    raise BadInput(
        f"{what} returned {with_article(type(made).__name__)}, which nobody runs to its end; "
        "it must return when it is done"
    )
