"""What notifications leave is deleted when it is old: events with their traits, stored samples, and
what steps know of keys of which nothing came any more.

Each transaction deletes one batch at most. Dead letters stay until a person drops them, and so does
a notification that is still on its way through a sink.

**Duplicates.** The row of a notification is also what duplicates are found by. It goes by the time
at which the notification was sent, and whoever prunes refuses what was sent as long ago
(:func:`refuse_old`): so what comes again after its row is gone is a dead letter, and counts no
second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from converge.crash_points import Commit
from converge.model import check_age
from converge.pipeline.pipeline import Pipeline
from converge.pipeline.steps import StatefulStep
from converge.protocol.rounds import Rounds
from converge.sql import notifications, samples, step_states
from converge.sql.database import Database, repeatable
from converge.sql.transaction import Transaction

if TYPE_CHECKING:
    from converge.sql.database import HasDatabase

T = TypeVar("T")

#: How many notifications, samples or states one transaction deletes.
BATCH = 500
#: Seconds between two rounds of an agent.
PAUSE = 60.0
#: Seconds that a row is kept for longer than such notifications are taken: a batch may take a
#: while.
MARGIN = 600.0


@dataclass(frozen=True, slots=True)
class PrunedNotifications:
    """What was pruned, or would be: how many rows.

    :ivar events: notifications, with their traits, whether they were events or not.
    :ivar samples: that a publisher ``database`` has stored.
    :ivar states: what steps knew of keys.
    """

    events: int = 0
    samples: int = 0
    states: int = 0

    def __bool__(self) -> bool:
        """Whether there was anything."""
        return any(astuple(self))

    def __add__(self, other: PrunedNotifications) -> PrunedNotifications:
        """Both together."""
        return PrunedNotifications(
            self.events + other.events, self.samples + other.samples, self.states + other.states
        )


def refuse_old(pipeline: Pipeline, age: float) -> None:
    """Let a pipeline take no notification that was sent so many seconds ago: it could have been
    recorded, and pruned."""
    limits = pipeline.limits
    pipeline.limits = replace(limits, age=min(limits.age, age))


def prune(
    store: HasDatabase,
    *,
    older_than: float,
    pipeline: Pipeline | None = None,
    dry_run: bool = False,
) -> PrunedNotifications:
    """Delete what notifications leave, once it is old. Let :func:`refuse_old` keep out what could
    come again after that.

    :param older_than: seconds since the notification was sent, or the sample measured.
    :param pipeline: whose steps forget keys of which nothing came for so long; None: states stay.
    :param dry_run: only count what would be deleted, without states.
    :raises BadInput: the age is no such number.
    :raises StoreError: the database cannot be used.
    """
    pruner = NotificationPruner(store.database, older_than, pipeline)
    return pruner.look() if dry_run else pruner.prune()


class NotificationPruner:
    """Prunes what notifications leave.

    :param age: seconds since the notification was sent, or the sample measured.
    :param pipeline: whose steps forget keys of which nothing came for so long; None: states stay.
    :param wait_for_locks: wait for rows that another transaction has locked.
    :raises BadInput: the age is no such number.
    """

    def __init__(
        self,
        database: Database,
        age: float,
        pipeline: Pipeline | None = None,
        *,
        wait_for_locks: bool = True,
    ) -> None:
        self._database = database
        self._age = check_age("older_than", age) + MARGIN
        self._places = [] if pipeline is None else _forgetful(pipeline)
        self._wait_for_locks = wait_for_locks
        self._rounds = Rounds(self._batches, 1, PAUSE)

    def look(self) -> PrunedNotifications:
        """What would be pruned, without states.

        :raises StoreError: the database cannot be used.
        """

        def count(tx: Transaction) -> PrunedNotifications:
            return PrunedNotifications(
                notifications.count_old(tx, self._age), samples.count_old(tx, self._age)
            )

        return self._database.read(count)

    def prune(self) -> PrunedNotifications:
        """Prune all there is.

        :raises StoreError: the database cannot be used.
        """
        return sum(self._batches(), PrunedNotifications())

    def step(self) -> PrunedNotifications:
        """Prune one batch, if it is time: each call goes on where the one before ended.

        :raises StoreError: the database cannot be used.
        """
        return sum(self._rounds.step(), PrunedNotifications())

    def _batches(self) -> Iterator[PrunedNotifications]:
        """Prune, and tell after each transaction."""
        while done := self._transact(_prune_events, self._age):
            yield PrunedNotifications(events=done)
            if done < BATCH:
                break
        for prune, kind in ((self._prune_samples, "samples"), (self._prune_states, "states")):
            for done in prune():
                yield PrunedNotifications(**{kind: done})

    def _prune_samples(self) -> Iterator[int]:
        """From the first one on, for as long as there are old ones: they were stored about in the
        order of their time."""
        while done := self._transact(_prune_samples, self._age):
            yield done

    def _prune_states(self) -> Iterator[int]:
        after = 0
        while self._places:
            found = self._database.read(
                lambda tx, after=after: step_states.list_idle(  # type: ignore[misc]
                    tx, self._places, self._age, after, BATCH
                )
            )
            if found is None:
                return
            ids, after = found
            yield self._transact(step_states.delete_idle, ids, self._age) if ids else 0

    def _transact(self, function: Callable[..., T], *arguments: object) -> T:
        return self._database.transact(
            lambda tx: function(tx, *arguments),
            Commit.PRUNE_NOTIFICATIONS,
            happened=repeatable,
            wait_for_locks=self._wait_for_locks,
        )


def _forgetful(pipeline: Pipeline) -> list[tuple[str, str]]:
    """The steps that forget: sink and name of each."""
    return [
        (sink.name, stage.name)
        for sink in pipeline.sinks.values()
        for stage in sink.stages
        if isinstance(stage.work, StatefulStep) and stage.work.forgets
    ]


def _prune_events(tx: Transaction, age: float) -> int:
    ids = notifications.lock_old(tx, age, BATCH)
    return notifications.delete_notifications(tx, ids) if ids else 0


def _prune_samples(tx: Transaction, age: float) -> int:
    ids = samples.list_old(tx, age, BATCH)
    return samples.delete_samples(tx, ids) if ids else 0
