"""Limits for people: what is taken of them, and what a node waits for that one keeps from
starting."""

from __future__ import annotations

from typing import Any

from converge.model import LimitKind
from converge.protocol.rates import tell_rate
from converge.sql import limits
from converge.sql.limits import LimitView
from converge.sql.transaction import Transaction

#: How many of those that hold places are named.
_NAMED = 3


def list_limits(tx: Transaction) -> list[dict[str, Any]]:
    """The limits that are set; see :meth:`converge.Store.limits`."""
    return [_answer(one) for one in limits.list_views(tx)]


def _answer(one: LimitView) -> dict[str, Any]:
    return {
        "kind": str(one.row.kind),
        "name": one.row.name,
        "places": one.row.places,
        "rate": tell_rate(one.row),
        "taken": one.taken,
        "waiting": one.waiting,
    }


class Limited:
    """What nodes wait for that limits keep from starting. It is read when first asked for."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._views: dict[int, LimitView] | None = None

    def facts(self, limit_id: int) -> dict[str, Any]:
        """The limit, for programs."""
        one = self._find(limit_id)
        return {} if one is None else {"limit": _answer(one)}

    def tell(self, limit_id: int) -> str:
        """What a node waits for, as the rest of a sentence."""
        one = self._find(limit_id)
        if one is None:
            return "waits for a limit that is gone; the next claim takes it"
        row = one.row
        what = f"{'key' if row.kind is LimitKind.KEY else row.kind} {row.name!r}"
        if row.places is not None and one.taken >= row.places:
            return f"waits for a place: {what} has {row.places}" + self._holders(one)
        if row.rate_count is not None:
            return f"waits for its turn: of {what}, {tell_rate(row)} start"
        return f"waits for a place: {what} has {row.places}, and one is free now"

    def _holders(self, one: LimitView) -> str:
        found = limits.list_holders(self._tx, one.row.id, _NAMED)
        if not found:
            return ""
        names = [f"{resource!r} of stack {stack!r}" for stack, resource in found]
        more = one.taken - len(names)
        names += [f"{more} more"] if more > 0 else []
        return ", all taken: by " + " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))

    def _find(self, limit_id: int) -> LimitView | None:
        if self._views is None:
            self._views = {one.row.id: one for one in limits.list_views(self._tx)}
        return self._views.get(limit_id)
