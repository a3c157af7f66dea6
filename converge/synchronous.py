"""Checks that functions are synchronous: converge calls them, and awaits nothing."""

from __future__ import annotations

import functools
import inspect
from concurrent.futures import Future
from typing import Any

from converge.errors import BadInput, with_article

#: What :func:`deferred_kind` calls an ``async def``.
ASYNC = "an async function"


def deferred_kind(function: object) -> str | None:
    """The kind of a function whose call does not run it, in words; None if a call does.

    A plain function that wraps such a function, and runs it, is fine.
    """
    seen: Any = function
    while True:
        bound = getattr(seen, "__func__", seen)
        # a partialmethod makes a plain function that refers to it
        partial = getattr(bound, "__partialmethod__", getattr(bound, "_partialmethod", None))
        inner = bound if partial is None else partial
        if not isinstance(inner, functools.partial | functools.partialmethod):
            break
        seen = inner.func
    # for a callable object, its method counts
    for one in (seen, inspect.getattr_static(type(seen), "__call__", None)):
        if inspect.iscoroutinefunction(one):
            return ASYNC
        if inspect.isasyncgenfunction(one):
            return "an async generator"
        if inspect.isgeneratorfunction(one):
            return "a generator"
    return None


def check_finished(made: object, what: str) -> None:
    """Check that the result of a function shows that its work is done.

    :param what: the function, in words.
    :raises BadInput: the result is still to be run, or still running.
    """
    if not (
        inspect.isawaitable(made)
        or inspect.isasyncgen(made)
        or inspect.isgenerator(made)
        or isinstance(made, Future)
    ):
        return
    for end in ("close", "cancel"):
        # closed, so that Python does not warn that it was never awaited
        if callable(stop := getattr(made, end, None)):
            stop()
            break
    raise BadInput(
        f"{what} returned {with_article(type(made).__name__)}, which converge does not await; "
        "it must return when its work is done"
    )
