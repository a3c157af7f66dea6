"""The second part of a batch: deliveries go through the stages of their sink.

All that are at one stage go through it together, so the number of statements does not depend on how
many there are. After each stage that has an effect, it is recorded how far they have come, with
what comes into the next stage; whoever goes on after a death goes on there.

Two processes may have the same delivery in hand, as when one was taken for dead. What the second
one records fails, as the version of the row is another one. Then it goes on from where the first
one has come to: to let go would lose the delivery if the first one dies, as the message is
acknowledged by the second. Each failure means that the other one has come a stage further, so this
ends.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converge.canonical import dump
from converge.crash_points import Commit
from converge.errors import BadInput, Busy, StaleLock, comes_from
from converge.model import Json
from converge.pipeline.items import Item, from_json_list, make_id, to_json_list
from converge.pipeline.ledger import Ledger, StaleState
from converge.pipeline.letters import letter_of_work
from converge.pipeline.pipeline import Sink
from converge.pipeline.publishers import Outlet, Publisher
from converge.pipeline.stages import Handover, Stage
from converge.pipeline.steps import StatefulStep, Step, listed
from converge.pipeline.work import LEASE, BatchResult, Guard, Work, count
from converge.reasons import describe
from converge.sql import dead_letters, deliveries, step_states
from converge.sql.database import Database
from converge.sql.deliveries import DeliveryState
from converge.sql.step_states import StateRow
from converge.sql.transaction import Transaction

if TYPE_CHECKING:
    from converge.store import Store

LOG = logging.getLogger(__name__)

#: How often a stage that remembers is tried anew, as another process was faster.
TRIES = 100
#: Seconds: no retry waits longer.
MOST_WAIT = 3600.0


class Passage:
    """The way of deliveries through one sink.

    :param now: the time when the batch began: seconds since 1970.
    :param guard: called first in each transaction.
    """

    def __init__(
        self,
        store: Store,
        sink: Sink,
        now: float,
        result: BatchResult,
        guard: Guard | None = None,
    ) -> None:
        self._store = store
        self._database: Database = store.database
        self._sink = sink
        self._now = now
        self._result = result
        self._guard = guard
        #: What the sink has handed to others.
        self.handed: list[Work] = []

    def run(self, works: Sequence[Work]) -> None:
        """Take deliveries through the sink: to its end, or to a retry, or to a dead letter.

        :raises StoreError: the store cannot be used; what was recorded stays.
        """
        start = time.monotonic()
        for work in works:
            self._find_place(work)
        self._run_stages(works)
        while self._end(works):
            # another process has taken some further than the stage at which they failed here
            self._run_stages(works)
        spent = self._result.seconds
        spent[self._sink.name] = spent.get(self._sink.name, 0.0) + time.monotonic() - start

    def _run_stages(self, works: Sequence[Work]) -> None:
        for index, stage in enumerate(self._sink.stages):
            here = [work for work in works if work.goes_on and work.position == index]
            if here:
                self._take(index, stage, here)

    def _find_place(self, work: Work) -> None:
        """Where a delivery goes on: by the name of the stage, as others may have come before."""
        if work.step is None:
            return
        names = [stage.name for stage in self._sink.stages]
        if work.step in names:
            work.position = names.index(work.step)
        else:
            work.error = BadInput(
                f"sink {self._sink.name} no longer has the stage {work.step!r}, at which this "
                "delivery was to continue"
            )

    def _take(self, index: int, stage: Stage, works: list[Work]) -> None:
        if isinstance(stage.work, StatefulStep):
            self._remember(index, stage, stage.work, works)
            return
        if isinstance(stage.work, Step):
            for work in works:
                _apply(stage.work, work)
            self._passed(index, stage, works)
            return
        if isinstance(stage.work, Handover):
            self._hand_over(index, stage.work, works)
            return
        self._publish(index, stage.work, works)

    def _passed(self, index: int, stage: Stage, works: list[Work]) -> None:
        done = [work for work in works if work.error is None]
        for work in done:
            work.position = index + 1
        if not stage.is_pure:
            self._journal(done)

    # -- publishers

    def _publish(self, index: int, publisher: Publisher, works: list[Work]) -> None:
        done = self._try_together(index, publisher, works)
        if done:
            return
        for work in works:
            if not work.lost and work.position == index:
                self._try_one(index, publisher, work)

    def _try_together(self, index: int, publisher: Publisher, works: list[Work]) -> bool:
        """Publish what all deliveries bring, at once; whether that has succeeded."""
        try:
            self._publish_all(index, publisher, works)
        except Exception as error:
            if self._is_ours(error):
                raise
            if len(works) == 1:
                works[0].error = error
                return True
            LOG.debug("a batch of %d to sink %s is published one by one", len(works), self._sink)
            return False
        return True

    def _try_one(self, index: int, publisher: Publisher, work: Work) -> None:
        try:
            self._publish_all(index, publisher, [work])
        except Exception as error:
            if self._is_ours(error):
                raise
            work.error = error

    def _is_ours(self, error: BaseException) -> bool:
        """Whether it is the store that cannot be used, or the guard that forbids to go on."""
        return comes_from(error, self._database) or isinstance(error, StaleLock)

    def _publish_all(self, index: int, publisher: Publisher, works: list[Work]) -> None:
        items = [item for work in works for item in work.items]
        if not publisher.transactional:
            if items:
                publisher.publish(items, Outlet(self._store, self._now))
            self._advance_all(index, works)
            return

        versions = {work.id: work.version for work in works}

        def publish(tx: Transaction) -> None:
            # what another process has published is not published here, too
            ours = [work for work in works if _is_still(work, versions)]
            kept = [item for work in ours for item in work.items]
            if kept:
                publisher.publish(kept, Outlet(self._store, self._now, tx))

        self._advance_all(index, works, publish)

    def _advance_all(
        self, index: int, works: list[Work], more: Callable[[Transaction], object] | None = None
    ) -> None:
        versions = {work.id: work.version for work in works}
        for work in works:
            work.position = index + 1
        try:
            self._journal(works, more)
        except BaseException:
            for work in works:
                if work.version == versions[work.id]:
                    work.position = index
            raise

    # -- other sinks

    def _hand_over(self, index: int, handover: Handover, works: list[Work]) -> None:
        versions = {work.id: work.version for work in works}

        def begin(tx: Transaction) -> list[deliveries.DeliveryRow]:
            rows = [
                {
                    "origin": make_id(work.origin, "from", self._sink.name, work.share),
                    "sink": handover.sink,
                    "share": work.share,
                    "state": DeliveryState.DUE.value,
                    "position": 0,
                    "step": None,
                    # if this process dies, a sweep goes on with it
                    "next_at": self._now + LEASE,
                    "items": to_json_list(work.items),
                }
                for work in works
                if work.items and _is_still(work, versions)
            ]
            if not rows:
                return []
            deliveries.insert_deliveries(tx, rows)
            return deliveries.list_deliveries(tx, (str(row["origin"]) for row in rows))

        begun: list[deliveries.DeliveryRow] = []

        def more(tx: Transaction) -> None:
            begun[:] = begin(tx)

        self._advance_all(index, works, more)
        self.handed += [Work.of(row) for row in begun if row.sink == handover.sink]

    # -- steps that remember

    def _remember(self, index: int, stage: Stage, step: StatefulStep, works: list[Work]) -> None:
        keyed: dict[int, list[tuple[Item, Json, str]]] = {}
        for work in works:
            try:
                keyed[work.id] = [
                    (item, key := step.key(item), "" if key is None else _digest(key))
                    for item in work.items
                ]
            except Exception as error:
                work.error = error
        before = {work.id: work.items for work in works}
        versions = {work.id: work.version for work in works}
        for attempt in range(TRIES):
            left = [work for work in works if work.goes_on and _is_still(work, versions)]
            if not left:
                return
            try:
                self._remember_once(index, stage, step, left, keyed)
                return
            except StaleState:
                LOG.debug("stage %s of sink %s: try %d", stage.name, self._sink.name, attempt)
            finally:
                for work in left:
                    if work.version == versions[work.id]:
                        work.items, work.position = before[work.id], index
        raise Busy(
            f"stage {stage.name} of sink {self._sink.name}: other processes keep changing the "
            "same keys; share the work by partitions"
        )

    def _remember_once(
        self,
        index: int,
        stage: Stage,
        step: StatefulStep,
        works: list[Work],
        keyed: dict[int, list[tuple[Item, Json, str]]],
    ) -> None:
        digests = {digest for work in works for _, _, digest in keyed[work.id] if digest}
        states: dict[str, StateRow] = {}
        if digests:
            rows = self._database.read(
                lambda tx: step_states.list_states(tx, self._sink.name, stage.name, digests)
            )
            states = {row.digest: row for row in rows}
        ledger = Ledger(self._sink.name, stage.name, states)
        for work in works:
            made: list[Item] = []
            undo = ledger.mark()
            try:
                for item, key, digest in keyed[work.id]:
                    if not digest:
                        made.append(item)
                        continue
                    moved = step.advance(ledger.get(digest), item, self._now)
                    dump(moved.state)
                    ledger.set(digest, key, work.share, moved)
                    made += listed(list(moved.made))
            except Exception as error:
                # what it has changed before it failed does not count
                ledger.back_to(undo)
                work.error = error
                continue
            work.items = made
            work.position = index + 1
        done = [work for work in works if work.error is None]
        if done:
            self._journal(done, ledger.write, together=True)

    # -- recording

    def _journal(
        self,
        works: list[Work],
        more: Callable[[Transaction], object] | None = None,
        *,
        together: bool = False,
    ) -> None:
        """Record how far deliveries have come, and do more in the same transaction. Those that
        another process went on with are brought to where it has come: the others are recorded
        without them.

        :param together: what more is done was worked out of all of them.
        :raises StaleState: there were such, and that is so.
        """
        end = len(self._sink.stages)
        mine = works
        for _ in range(TRIES):
            if not mine:
                return
            try:
                self._write(mine, end, more)
            except _StaleDelivery:
                count_before = len(mine)
                mine = self._catch_up(mine)
                if together and len(mine) < count_before:
                    raise StaleState from None
                continue
            for work in mine:
                work.version += 1
                if work.position == end:
                    count(self._result.delivered, self._sink.name)
            return
        raise Busy(f"sink {self._sink.name}: other processes keep taking the same deliveries")

    def _write(
        self, works: list[Work], end: int, more: Callable[[Transaction], object] | None
    ) -> None:
        ended = {work.id: work.version for work in works if work.position == end}
        moved = [self._row(work) for work in works if work.position != end]

        def write(tx: Transaction) -> None:
            if self._guard is not None:
                self._guard(tx)
            try:
                deliveries.end_deliveries(tx, ended)
                deliveries.advance_deliveries(tx, moved)
            except StaleLock:
                raise _StaleDelivery from None
            if more is not None:
                more(tx)

        def happened(tx: Transaction, result: None) -> bool:
            known = deliveries.list_versions(tx, (work.id for work in works))
            return all(known.get(work.id, -1) != work.version for work in works)

        self._database.transact(write, Commit.DELIVERIES, happened=happened)

    def _catch_up(self, works: Sequence[Work]) -> list[Work]:
        """Bring deliveries to where another process has come with them.

        :returns: those with which no other process went on.
        """
        rows = self._database.read(
            lambda tx: deliveries.get_deliveries(tx, [work.id for work in works])
        )
        known = {row.id: row for row in rows}
        same = []
        for work in works:
            row = known.get(work.id)
            if row is not None and row.version == work.version:
                same.append(work)
            elif row is None or row.state != DeliveryState.HELD:
                # it is over, or a sweep or a person will go on with it
                work.lost = True
            else:
                work.version, work.position, work.step = row.version, row.position, row.step
                work.items, work.error = from_json_list(row.items), None
                self._find_place(work)
        return same

    def _row(self, work: Work) -> dict[str, Any]:
        return {
            "id": work.id,
            "version": work.version,
            "state": (DeliveryState.DUE if work.due else DeliveryState.HELD).value,
            "position": work.position,
            "step": self._sink.stages[work.position].name,
            "attempts": 0,
            "next_at": self._now + LEASE if work.due else None,
            "items": to_json_list(work.items),
        }

    # -- the end

    def _end(self, works: Sequence[Work]) -> bool:
        """Record retries and dead letters.

        :returns: whether there is something left to go on with.
        """
        failed = [work for work in works if work.error is not None and not work.lost]
        if not failed:
            return False
        self._record_failures(failed)
        end = len(self._sink.stages)
        left = [work for work in failed if not work.lost]
        return any(work.error is not None or work.position < end for work in left)

    def _record_failures(self, works: list[Work]) -> None:
        token = secrets.token_hex(16)
        mine = works
        for _ in range(TRIES):
            rows = [self._failure_row(work) for work in mine]
            letters = [
                letter_of_work(work, self._stage_name(work))
                for work, row in zip(mine, rows, strict=True)
                if row["state"] == DeliveryState.FAILED
            ]

            def write(
                tx: Transaction,
                rows: list[dict[str, Any]] = rows,
                letters: list[dict[str, Any]] = letters,
            ) -> None:
                if self._guard is not None:
                    self._guard(tx)
                try:
                    deliveries.advance_deliveries(tx, rows)
                except StaleLock:
                    raise _StaleDelivery from None
                dead_letters.record_letters(tx, letters, token)

            def happened(tx: Transaction, result: None, rows: list[dict[str, Any]] = rows) -> bool:
                known = deliveries.list_versions(tx, (row["id"] for row in rows))
                return all(known.get(row["id"], -1) != row["version"] for row in rows)

            try:
                if rows:
                    self._database.transact(write, Commit.FAILURES, happened=happened)
            except _StaleDelivery:
                mine = self._catch_up(mine)
                continue
            for work, row in zip(mine, rows, strict=True):
                # no longer this process's
                work.lost = True
                failed = row["state"] == DeliveryState.FAILED
                count(self._result.failed if failed else self._result.retried, self._sink.name)
                LOG.warning(
                    "sink %s: %s has failed at stage %s (%s): %s",
                    self._sink.name,
                    work.origin,
                    self._stage_name(work),
                    "it is a dead letter now" if failed else "it will be tried again",
                    "" if work.error is None else describe(work.error, place=False),
                )
            return

    def _stage_name(self, work: Work) -> str:
        stages = self._sink.stages
        if work.step is not None and work.step not in {one.name for one in stages}:
            return work.step
        return stages[work.position].name if work.position < len(stages) else "end"

    def _failure_row(self, work: Work) -> dict[str, Any]:
        attempts = work.attempts + 1
        over = attempts >= self._sink.attempts or isinstance(work.error, BadInput)
        wait = min(self._sink.wait * 2 ** min(attempts - 1, 30), MOST_WAIT)
        return {
            "id": work.id,
            "version": work.version,
            "state": (DeliveryState.FAILED if over else DeliveryState.DUE).value,
            "position": work.position,
            "step": self._stage_name(work),
            "attempts": attempts,
            "next_at": None if over else self._now + wait,
            "items": to_json_list(work.items),
        }


def _is_still(work: Work, versions: Mapping[int, int]) -> bool:
    """Whether a delivery is where it was, with this process."""
    return not work.lost and work.version == versions[work.id]


class _StaleDelivery(Exception):
    """Another process has gone on with a delivery."""


def _apply(step: Step, work: Work) -> None:
    try:
        work.items = [made for item in work.items for made in listed(step.apply(item))]
    except Exception as error:
        work.error = error


def _digest(key: Json) -> str:
    return hashlib.sha256(dump(key).encode("ascii")).hexdigest()
