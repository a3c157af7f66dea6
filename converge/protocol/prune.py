"""Pruning: deletes what is old of stacks, and what nothing goes on with any more.

That is deleted stacks, with all that they have left, and of live stacks the traversals that are
over, with their events, and the versions that nothing refers to. Each transaction deletes one batch
at most; whoever dies between two of them leaves rows that the next one finds. Row locks keep two
who prune apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby, islice
from typing import TypeVar

from converge.crash_points import Commit
from converge.errors import BadInput
from converge.model import check_age
from converge.protocol.rounds import Rounds
from converge.sql import events, pruning, templates
from converge.sql.database import Database, repeatable
from converge.sql.schema import event, template, traversal
from converge.sql.transaction import Transaction

T = TypeVar("T")

#: How many rows one transaction deletes.
BATCH = 1000
#: How many stacks are looked at together.
STACKS = 100
#: How many of the newest ended traversals of a live stack stay, however old: those whose events are
#: kept anyway.
KEEP = events.KEPT_TRAVERSALS
#: How many transactions an engine's sweep has for it.
STEP = 10
#: Seconds between two rounds of an engine through all stacks.
PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was pruned, or would be: how many rows.

    :ivar stacks: deleted stacks.
    :ivar traversals: summaries of traversals.
    :ivar events: what happened in them.
    :ivar templates: versions.
    """

    stacks: int = 0
    traversals: int = 0
    events: int = 0
    templates: int = 0

    def __bool__(self) -> bool:
        """Whether there was anything."""
        return any(astuple(self))

    def __add__(self, other: Pruned) -> Pruned:
        """Both together."""
        return Pruned(
            self.stacks + other.stacks,
            self.traversals + other.traversals,
            self.events + other.events,
            self.templates + other.templates,
        )


class Pruner:
    """Prunes a database.

    :param age: seconds since the end of what is pruned.
    :param keep: how many ended traversals of each live stack stay, however old.
    :param wait_for_locks: wait for rows that another transaction has locked.
    :raises BadInput: one of them is no such number.
    """

    def __init__(
        self, database: Database, age: float, keep: int = KEEP, *, wait_for_locks: bool = True
    ) -> None:
        if type(keep) is not int or keep < 0:
            raise BadInput(f"keep must be a whole number, 0 or more, not {keep!r}")
        self._database = database
        self._age = check_age("older_than", age)
        self._keep = keep
        self._wait_for_locks = wait_for_locks
        self._rounds = Rounds(self._batches, STEP, PAUSE)

    def look(self) -> Pruned:
        """What would be pruned.

        :raises StoreError: the database cannot be used.
        """
        return sum(map(self._look_at, self._groups()), Pruned())

    def prune(self) -> Pruned:
        """Prune all there is.

        :raises StoreError: the database cannot be used.
        """
        return sum(self._batches(), Pruned())

    def step(self) -> Pruned:
        """Prune a little of it, if it is time: each call goes on where the one before ended.

        :raises StoreError: the database cannot be used.
        """
        return sum(self._rounds.step(), Pruned())

    def _groups(self) -> Iterator[list[int]]:
        """All stacks, some at a time."""
        after = 0
        while ids := self._read(pruning.list_stacks, after, STACKS):
            yield ids
            after = ids[-1]

    def _look_at(self, ids: Sequence[int]) -> Pruned:
        deleted = self._read(pruning.list_deleted, ids, self._age)
        of_deleted = [
            self._read(pruning.count_rows, table, deleted) for table in (traversal, event, template)
        ]
        ended = self._read(pruning.list_ended, ids, self._age, self._keep)
        happened = sum(
            self._read(pruning.count_events, stack_id, [row[1] for row in some])
            for stack_id, rows in groupby(ended, key=lambda row: row[0])
            for some in _batched(rows)
        )
        unused = sum(
            len(self._read(_list_unused, stack_id, self._age))
            for stack_id in self._read(pruning.list_crowded, ids, self._age)
        )
        return Pruned(len(deleted), *of_deleted) + Pruned(0, len(ended), happened, unused)

    def _batches(self) -> Iterator[Pruned]:
        """Prune, and tell after each transaction, and after each group of stacks."""
        for ids in self._groups():
            deleted = self._read(pruning.list_deleted, ids, self._age)
            more = bool(deleted)
            while more:
                done, more = self._transact(_prune_deleted, deleted)
                yield done
            more = True
            while more:
                found = self._read(pruning.list_ended, ids, self._age, self._keep, BATCH)
                more = False
                for stack_id, rows in groupby(found, key=lambda row: row[0]):
                    for done in self._prune_ended(stack_id, [row[1] for row in rows]):
                        yield done
                        # if others prune all of these, there is nothing to come back for
                        more = more or (bool(done.traversals) and len(found) == BATCH)
            for stack_id in self._read(pruning.list_crowded, ids, self._age):
                yield Pruned(templates=self._transact(_prune_unused, stack_id, self._age))
            yield Pruned()

    def _prune_ended(self, stack_id: int, ids: Sequence[int]) -> Iterator[Pruned]:
        """Prune traversals of a live stack; their events first, as only they lead to these."""
        after = 0
        while found := self._read(pruning.list_events, stack_id, ids, after, BATCH):
            done = self._transact(_prune_events, ids, found)
            if done is None:
                return
            yield Pruned(events=done)
            after = found[-1]
        yield Pruned(traversals=self._transact(_prune_traversals, ids))

    def _read(self, function: Callable[..., T], *arguments: object) -> T:
        return self._database.read(lambda tx: function(tx, *arguments))

    def _transact(self, function: Callable[..., T], *arguments: object) -> T:
        return self._database.transact(
            lambda tx: function(tx, *arguments),
            Commit.PRUNE_STACKS,
            happened=repeatable,
            wait_for_locks=self._wait_for_locks,
        )


def _batched(rows: Iterator[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Rows, a batch of them at a time."""
    while some := list(islice(rows, BATCH)):
        yield some


def _prune_deleted(tx: Transaction, ids: Sequence[int]) -> tuple[Pruned, bool]:
    """Prune a batch of what deleted stacks have left; at last the stacks.

    :returns: what was pruned, and whether there may be more.
    """
    locked = pruning.lock_deleted(tx, ids)
    counts = dict.fromkeys(pruning.OF_STACKS, 0)
    room = BATCH
    for table in pruning.OF_STACKS:
        counts[table] = pruning.delete_rows(tx, table, locked, room)
        room -= counts[table]
        if not room:
            break
    stacks = pruning.delete_stacks(tx, locked) if room else 0
    return Pruned(stacks, counts[traversal], counts[event], counts[template]), not room


def _prune_events(tx: Transaction, traversal_ids: Sequence[int], ids: Sequence[int]) -> int | None:
    """None: another one prunes these traversals."""
    return pruning.delete_events(tx, ids) if pruning.lock_ended(tx, traversal_ids) else None


def _prune_traversals(tx: Transaction, ids: Sequence[int]) -> int:
    return pruning.delete_traversals(tx, ids) if pruning.lock_ended(tx, ids) else 0


def _prune_unused(tx: Transaction, stack_id: int, age: float) -> int:
    # locked, so that no traversal to one of them starts meanwhile
    if not pruning.lock_live(tx, stack_id):
        return 0
    unused = _list_unused(tx, stack_id, age)
    templates.delete_versions(tx, unused)
    return len(unused)


def _list_unused(tx: Transaction, stack_id: int, age: float) -> list[int]:
    used = pruning.list_used(tx, stack_id)
    return templates.list_unused(tx, stack_id, used, templates.KEPT_VERSIONS, age)
