"""What an engine tells of itself while it works: to logs here, to metrics and spans elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from converge.protocol.work import Outcome, Work

#: The start and the end of each call of a handler.
LOG = logging.getLogger("converge.handlers")
#: What each record about a handler has besides its text, as attributes.
KEYS = ("stack", "resource", "operation", "traversal", "engine")


class Observer:
    """Is told what an engine does; this one does nothing with it.

    Its methods are called in the engine's threads, often in several at once. They must neither
    raise nor wait.
    """

    def began(self, engine_id: int, work: Work) -> None:
        """A handler is called now, in this thread."""

    def ended(self, engine_id: int, work: Work, outcome: Outcome, seconds: float) -> None:
        """It returned or raised, in the same thread.

        :param outcome: its reason is not masked yet: do not show it.
        :param seconds: how long it took.
        """

    def claimed(self, nodes: int, seconds: float) -> None:
        """A transaction claimed so many nodes, perhaps none.

        :param seconds: from its begin to the end of its commit.
        """

    def wrote(self, outcomes: Sequence[Outcome], claimed: int, seconds: float) -> None:
        """A transaction wrote these outcomes and claimed so many nodes.

        :param seconds: from its begin to the end of its commit.
        """

    def recovered(self, nodes: int) -> None:
        """A sweep made so many nodes of dead engines READY again."""


def about(engine_id: int, work: Work) -> dict[str, Any]:
    """The ``extra`` of a record about a work: :data:`KEYS`, and their names, by which oslo.log's
    JSON finds them."""
    return {
        "stack": work.traversal.stack,
        "resource": None if work.row is None else work.row.name,
        "operation": str(work.decision.operation),
        "traversal": work.traversal.id,
        "engine": engine_id,
        "extra_keys": KEYS,
    }


def spanned(engine_id: int, work: Work) -> dict[str, Any]:
    """The attributes of a handler's span."""
    extra = about(engine_id, work)
    return {f"converge.{key}": extra[key] for key in KEYS} | {
        "converge.type": work.type_name,
        "converge.attempt": work.node.attempts,
    }


def log_began(engine_id: int, work: Work) -> None:
    """Log that a handler is called."""
    _log(engine_id, work, "starts")


def log_ended(engine_id: int, work: Work, outcome: Outcome, seconds: float) -> None:
    """Log how a handler ended; why it failed is logged when it is masked."""
    _log(engine_id, work, "ended as %s after %.3f s", outcome.result, seconds)


def log_failed(engine_id: int, work: Work, outcome: Outcome) -> None:
    """Log a failure that has no traceback.

    :param outcome: with its reason masked.
    """
    _log(engine_id, work, "failed: %s", outcome.reason)


def _log(engine_id: int, work: Work, what: str, *values: object) -> None:
    # called twice for each handler, and mostly nobody listens
    if LOG.isEnabledFor(logging.INFO):
        extra = about(engine_id, work)
        subject = (extra["stack"], extra["operation"], extra["resource"])
        LOG.info(f"stack %r: %s of resource %r {what}", *subject, *values, extra=extra)
