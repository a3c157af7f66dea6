"""Spans of OpenTelemetry: from whoever starts a traversal to each handler, across processes.

Only its API is used, and only in a program that has imported it: who has no tracer pays one look
into a dictionary. Which spans go where is the program's affair. The context of a start is kept in
the traversal's row, in the format of W3C's ``traceparent``, so that every engine finds it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

#: The longest context that is kept, in characters: one of version 00 has 55.
LENGTH = 64
_API = "opentelemetry.trace"
_HEADER = "traceparent"

P = ParamSpec("P")
R = TypeVar("R")


def current() -> str | None:
    """The context of the caller's span; None if there is none."""
    if _API not in sys.modules:
        return None
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    context = carrier.get(_HEADER, "")
    return context if 0 < len(context) <= LENGTH else None


@contextmanager
def span(
    name: str, attributes: Callable[[], Mapping[str, Any]], parent: str | None = None
) -> Iterator[Callable[[], None]]:
    """A span around the block.

    An exception is not recorded: its message may have a secret that is not masked yet.

    :param attributes: gives them, if somebody traces; those that are None are left out.
    :param parent: the context of the span that led to it, in another process perhaps; None: the
        caller's own.
    :returns: what to call if the block failed.
    """
    if _API not in sys.modules:
        yield lambda: None
        return
    from opentelemetry import trace

    with trace.get_tracer("converge").start_as_current_span(
        name,
        context=None if parent is None else _propagator().extract({_HEADER: parent}),
        attributes={key: value for key, value in attributes().items() if value is not None},
        record_exception=False,
    ) as made:
        yield lambda: made.set_status(trace.StatusCode.ERROR)


def traced(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method whose first argument is the name of a stack: each call is a span."""

    @wraps(method)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        if _API not in sys.modules:
            return method(*args, **keywords)
        name = keywords["name"] if "name" in keywords else args[1] if len(args) > 1 else None
        with span(f"converge.{method.__name__}", lambda: {"converge.stack": name}):
            return method(*args, **keywords)

    return call


def _propagator() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()
