"""What a resource was last brought to, as a short text.

A resource whose basis is what is wanted now, as is that of all that it requires, has nothing to do
in a traversal, so it has no node: of a million resources of which ten changed, the ten, and what
depends on them, are planned. Of these, all but the ten can be passed over, as long as nothing that
they require turns out to be another than before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from converge.canonical import dump
from converge.model import Action, Status
from converge.sql.survey import ResourceHead
from converge.template.definitions import Definitions

#: Bytes of each of the two digests.
_SIZE = 16
#: Actions that leave nothing of which it is known what it is.
_BREAKING = (Action.DELETE, Action.REPLACE)


def make_basis(definition: str, own: tuple[int, int], inputs: Iterable[tuple[int, int]]) -> str:
    """The basis of a resource.

    A resource's epoch is another one after each work on it, a check too. As long as it is the same,
    so is the resource, and what references to it resolve to.

    :param definition: as :meth:`~converge.template.definitions.Definitions.text` gives it.
    :param own: id and epoch of the resource, which also an engine that knows nothing of bases has
        changed when it worked on it.
    :param inputs: id and epoch of each resource that it requires.
    """
    return f"{_digest(definition)}{_digest(dump([own, *sorted(inputs)]))}"


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=_SIZE).hexdigest()


def is_made_by(basis: str | None, definition: str, blind: Callable[[str], str] = str) -> bool:
    """Whether a resource of this basis was last brought to this definition.

    :param blind: makes digests as they are stored.
    """
    return basis is not None and basis.startswith(blind(_digest(definition)))


class Settled(NamedTuple):
    """The names of the resources that are as they are wanted.

    :ivar unchanged: as is all that they require.
    :ivar passable: as long as nothing that they require changes; something of that may.
    """

    unchanged: Collection[str]
    passable: Collection[str]


def find_settled(
    definitions: Definitions,
    heads: Sequence[ResourceHead],
    blind: Callable[[str], str] = str,
    replaced: Collection[str] = (),
) -> Settled:
    """Find the resources for which nothing is to be done.

    :param heads: the resources that there are.
    :param blind: makes digests as they are stored.
    :param replaced: names of those that are to be replaced all the same.
    """
    by_name: dict[str, ResourceHead | None] = {}
    for head in heads:
        # of several versions, the plan chooses one and deletes the others
        by_name[head.name] = None if head.name in by_name else head
    always, graph = definitions.always(), definitions.graph
    unchanged: set[str] = set()
    passable: set[str] = set()
    # likewise, by their numbers in the graph
    numbered: list[ResourceHead | None] = []
    is_unchanged = bytearray(len(graph))
    # each comes after all that it requires, and what requires something that changes may change
    for number, name in enumerate(graph):
        one = by_name.get(name)
        numbered.append(one)
        if one is None or not _is_settled(one) or name in replaced:
            continue
        required = graph.required(number)
        inputs = [(found.id, found.epoch) for other in required if (found := numbered[other])]
        own = (one.id, one.epoch)
        if len(inputs) != len(required) or one.basis != blind(
            make_basis(definitions.text(name), own, inputs)
        ):
            continue
        if all(map(is_unchanged.__getitem__, required)):
            is_unchanged[number] = True
            unchanged.add(name)
        elif name not in always:
            passable.add(name)
    return Settled(unchanged, passable)


def _is_settled(head: ResourceHead) -> bool:
    return (
        head.basis is not None
        and head.status is Status.COMPLETE
        and head.action not in _BREAKING
        and head.engine_id is None
        and head.replaced_by is None
    )
