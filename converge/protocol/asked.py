"""What is asked for by name, besides what a template wants: which resources are replaced.

What was asked for is a mark in the row of the old version. So it is done although the start fails
half-way: any later update goes on with it, and what takes the old one's place has no mark.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from converge.errors import BadInput, did_you_mean
from converge.model import Json, Status
from converge.protocol.decide import ORDERED, is_ordered
from converge.protocol.draft import Draft
from converge.protocol.request import Intent
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.sql.traversals import get_traversal


@dataclass(frozen=True, slots=True)
class Asked:
    """What a traversal, and those before it that did not complete, were asked for by name."""

    replace: Collection[str] = ()

    @classmethod
    def load(cls, stored: Mapping[str, Json] | None) -> Asked:
        """What is stored of a traversal."""
        return cls(tuple((stored or {}).get("replace", ())))

    def dump(self) -> dict[str, Any] | None:
        """As it is stored; None if there is nothing."""
        return {"replace": sorted(self.replace)} if self.replace else None

    def then(self, intent: Intent) -> Asked:
        """With what a further traversal is asked for."""
        return Asked({*self.replace, *intent.replace})


def read_asked(tx: Transaction, stack: StackRow) -> Asked:
    """What a stack was asked for since it was COMPLETE last."""
    if stack.traversal_id is None or stack.status is Status.COMPLETE:
        return Asked()
    return Asked.load(get_traversal(tx, stack.traversal_id).asked)


def list_ordered(draft: Draft, before: Asked, names: Collection[str]) -> set[int]:
    """The ids of the rows to mark, so that they are replaced. What the traversals before were asked
    to replace, and have replaced, is not replaced once more.

    :raises BadInput: nothing of such a name is wanted, or it is never touched.
    """
    externals = set(draft.definitions.externals()) if names else ()
    for name in names:
        if name not in draft.definitions:
            raise BadInput(
                f"there is no resource {name!r} in the template to replace"
                f"{did_you_mean(name, draft.definitions)}"
            )
        if name in externals:
            raise BadInput(f"resource {name!r} has an external_id: it is used, and never replaced")
    return {
        one.id
        for one in draft.heads
        if one.name in names
        and one.id in draft.plan.kept
        and one.name not in before.replace
        and not is_ordered(one.settings)
    }


def with_order(settings: Mapping[str, Json] | None) -> dict[str, Json]:
    """Settings with the mark."""
    return {**(settings or {}), ORDERED: True}


def without_order(settings: Mapping[str, Json] | None) -> dict[str, Json]:
    """Settings without the mark."""
    return {key: value for key, value in (settings or {}).items() if key != ORDERED}
