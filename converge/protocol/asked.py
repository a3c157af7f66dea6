"""What is asked for by name, besides what a template wants: which resources are replaced, and
which ones are touched at all.

What was asked for is a mark in the row of the old version. So it is done although the start fails
half-way: any later update goes on with it, and what takes the old one's place has no mark.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from converge.errors import BadInput, did_you_mean
from converge.model import Json, Status
from converge.protocol.draft import Draft
from converge.protocol.request import Intent
from converge.protocol.settings import ORDERED, is_ordered
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.sql.traversals import get_traversal

#: How many resources a remark names.
NAMED = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """What a traversal was asked for by name.

    :ivar replace: also what those before it were asked for that did not complete.
    :ivar target: the resources that are touched, with what they require; none: all.
    :ivar left: how many are not.
    """

    replace: Collection[str] = ()
    target: Collection[str] = ()
    left: int = 0

    @classmethod
    def load(cls, stored: Mapping[str, Json] | None) -> Asked:
        """What is stored of a traversal."""
        found = stored or {}
        return cls(found.get("replace", ()), found.get("target", ()), found.get("left", 0))

    def dump(self) -> dict[str, Any] | None:
        """As it is stored; None if there is nothing."""
        names = {"replace": sorted(self.replace), "target": sorted(self.target)}
        said: dict[str, Any] = {key: value for key, value in names.items() if value}
        return said | ({"left": self.left} if self.target else {}) or None

    def then(self, intent: Intent, draft: Draft) -> Asked:
        """What a further traversal is asked for."""
        return Asked({*self.replace, *intent.replace}, intent.target, len(draft.plan.left))

    @property
    def remark(self) -> str | None:
        """What a traversal that is over has not done, in words; None if it has done all."""
        if not self.target:
            return None
        some = ", ".join(map(repr, sorted(self.target)[:NAMED]))
        some += ", ..." if len(self.target) > NAMED else ""
        what = "1 resource was left as it was"
        if self.left != 1:
            what = f"{self.left} resources were left as they were"
        return f"only {some}, with what is required: {what}"


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
        if name in draft.plan.left:
            raise BadInput(
                f"resource {name!r} is to be replaced, and is neither a target nor required by one"
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
