"""Putting off: a handler waits, so its node is READY again later, and people are told how far it
is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from converge.protocol.work import Outcome
from converge.sql import events, nested, node_moves, signals
from converge.sql.sync_points import LockedNode
from converge.sql.transaction import Transaction


@dataclass(frozen=True, slots=True)
class PutOff:
    """:ivar node: it is RUNNING, and locked.
    :ivar note: the event that says how far it is.
    """

    outcome: Outcome
    node: LockedNode
    note: dict[str, Any]

    @property
    def is_news(self) -> bool:
        """Whether it says something else than the event before."""
        work = self.outcome.work
        row = work.row
        before = None if row is None else row.reason
        return work.node.note_id is None or before != self.outcome.reason


def put_off(tx: Transaction, engine_id: int, found: Sequence[PutOff]) -> None:
    """Write the nodes of handlers that are to be called again later.

    :raises StaleLock: this engine no longer has one of them.
    """
    told = [one for one in found if one.is_news]
    old = [id_ for one in told if (id_ := one.outcome.work.node.note_id) is not None]
    ids = dict(
        zip(
            (one.node.key for one in told),
            events.replace_notes(tx, old, [one.note for one in told]),
            strict=True,
        )
    )
    waiting = [
        one.outcome.work.row.id
        for one in found
        if one.outcome.signal is not None and one.outcome.work.row is not None
    ]
    come = signals.list_untaken(tx, waiting)
    inner = [one.outcome.inner for one in found if one.outcome.inner is not None]
    over = nested.list_over(tx, inner) if inner else set()
    for one in found:
        if one.outcome.inner in over:
            # likewise, its end
            one.outcome.wait = 0.0
            tx.news.ready[one.node.lane] += 1
        row, name = one.outcome.work.row, one.outcome.signal
        if row is not None and name is not None and (row.id, name) in come:
            # it came while the handler looked: with the resource locked, nobody else can know
            one.outcome.wait = 0.0
            tx.news.ready[one.node.lane] += 1
    node_moves.put_off_nodes(tx, engine_id, [_row(one, ids) for one in found])


def _row(one: PutOff, new: dict[tuple[int, int], int]) -> dict[str, Any]:
    node = one.outcome.work.node
    return {
        "traversal_id": node.traversal_id,
        "node": node.node,
        "epoch": one.node.epoch,
        # those in which an engine died are forgotten with the deaths
        "attempts": node.attempts - node.deaths - 1,
        "pause": one.outcome.wait,
        "seconds": one.outcome.seconds,
        "note_id": new.get(one.node.key, node.note_id),
    }
