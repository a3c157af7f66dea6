"""Fair shares: how many partitions each member is to have, and what one takes and gives.

Of ``n`` partitions among ``m`` members, each has ``n // m``, and ``n % m`` of them one more: those
that hold most already, so that as few as possible move. The shares add up to ``n`` whoever holds
what; so as long as somebody holds more than their share, somebody else holds less, and waits for
what is given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """What a member does now.

    :ivar take: free partitions that it may lock at once.
    :ivar give: partitions that it is to give back when it has finished what it is doing with them.
    """

    take: tuple[int, ...] = ()
    give: tuple[int, ...] = ()


def shares(partitions: int, held: Mapping[int, int]) -> dict[int, int]:
    """How many partitions each member is to have.

    :param partitions: how many there are.
    :param held: how many each member holds now, by its id.
    """
    if not held:
        return {}
    least, more = divmod(partitions, len(held))
    ranked = sorted(held, key=lambda member: (-held[member], member))
    return {member: least + (rank < more) for rank, member in enumerate(ranked)}


def decide(owners: Mapping[int, int | None], members: Collection[int], me: int) -> Change:
    """What a member takes and gives.

    :param owners: who holds each partition, by its number; None, or somebody who is no member:
        it is free.
    :param members: the ids of all living members.
    :param me: one of them.
    """
    held: dict[int, list[int]] = {member: [] for member in members}
    free: list[int] = []
    for number in sorted(owners):
        held.get(owners[number] or 0, free).append(number)
    wanted = shares(len(owners), {member: len(numbers) for member, numbers in held.items()})
    mine: Sequence[int] = held[me]
    lacking = wanted[me] - len(mine)
    # what was taken last is given first: the lowest stay where they are
    return Change(tuple(free[: max(lacking, 0)]), tuple(mine[wanted[me] :]))
