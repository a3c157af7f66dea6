"""Which resources get another name: a pure function.

A template says it (``moved``). And what a template wants by a name that nobody has, and that a
resource had before whose name it no longer wants, is that resource: so a rollback, or a file put
back, does not delete it to make another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from converge.model import Status
from converge.sql.survey import ResourceHead
from converge.template import Definitions

#: So many former names of a resource are remembered, the newest.
REMEMBERED = 20


@dataclass(frozen=True, slots=True)
class Move:
    """A new name for a resource.

    :ivar former: all names that it had before, to be remembered, oldest first.
    :ivar made: whether something was made of it.
    """

    old: str
    new: str
    former: Sequence[str]
    made: bool


@dataclass(frozen=True, slots=True)
class Renaming:
    """:ivar moves: by the id of the resource.
    :ivar clashes: old and new names of those that cannot get one, as others have them.
    """

    moves: Mapping[int, Move] = field(default_factory=dict)
    clashes: Sequence[tuple[str, str]] = ()

    def name(self, resource_id: int, name: str) -> str:
        """The name that a resource has from now on.

        :param name: the one that it had.
        """
        move = self.moves.get(resource_id)
        return name if move is None else move.new


def find_renaming(definitions: Definitions, heads: Sequence[ResourceHead]) -> Renaming:
    """The new names that the resources get when these are wanted.

    :param heads: the resources that there are.
    """
    if not any(one.name not in definitions for one in heads):
        return Renaming()
    there: dict[str, list[ResourceHead]] = {}
    for head in heads:
        there.setdefault(head.name, []).append(head)
    sources: dict[str, list[str]] = {}
    clashes: list[tuple[str, str]] = []
    back: dict[str, list[str]] = {}
    for old, versions in there.items():
        if old in definitions:
            continue
        new = definitions.moved.get(old)
        if new in definitions and new is not None:
            sources.setdefault(new, []).append(old)
            continue
        for former in reversed(versions[-1].former or ()):
            if former in definitions and former not in there:
                back.setdefault(former, []).append(old)
                break
    for new, olds in sources.items():
        if len(olds) > 1 or any(one.status is not Status.INIT for one in there.get(new, ())):
            clashes += [(old, new) for old in olds]
    moves: dict[int, Move] = {}
    clashing = {new for _, new in clashes}
    for new, olds in {**back, **sources}.items():
        if len(olds) > 1 or new in clashing:
            continue
        moves |= {one.id: _move(one, new) for one in there[olds[0]]}
        # rows of which nothing was made yet go
        moves |= {one.id: _move(one, olds[0]) for one in there.get(new, ())}
    return Renaming(moves, clashes)


def _move(one: ResourceHead, new: str) -> Move:
    former = remember(one.former, one.name, new)
    return Move(one.name, new, former, one.status is not Status.INIT)


def remember(former: Sequence[str] | None, old: str, new: str) -> list[str]:
    """The former names of a resource that gets another name."""
    names = [*(name for name in former or () if name not in (old, new)), old]
    return names[-REMEMBERED:]
