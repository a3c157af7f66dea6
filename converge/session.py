"""An engine's dealings with the database under one id: write outcomes, claim nodes.

Both the threaded engine and the one that tests step by hand are loops around this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from converge import complete as completing
from converge import points
from converge.claim import claim, is_suspect
from converge.errors import StaleLock, StoreError
from converge.journal import Scope, node_scope
from converge.points import Commit
from converge.recovery import release_engine
from converge.resource_type import Context, ResourceType
from converge.run import (
    HANDLED,
    check_physical_id,
    failed_attempt,
    failure,
    make_context,
    run,
)
from converge.store import resources
from converge.store.database import Database, Transaction, repeatable
from converge.store.sync_points import Key
from converge.store.traversals import TraversalRow
from converge.store.trouble import is_refused
from converge.work import Outcome, Result, Step, Work

T = TypeVar("T")

LOG = logging.getLogger(__name__)

#: How many traversals' intents are remembered.
_KNOWN = 1000


class Session:
    """:param engine_id: the engine's id, which fences all it writes.
    :param types: its resource types by name.
    """

    def __init__(
        self, database: Database, engine_id: int, types: Mapping[str, ResourceType]
    ) -> None:
        self.database = database
        self.engine_id = engine_id
        self.types = types
        self._known: dict[int, TraversalRow] = {}
        # the nodes in hand that may be what kills engines
        self._suspects: set[Key] = set()
        #: A commit may have gone through though its reply was lost: what this engine holds in the
        #: database and what it has in hand may differ.
        self.doubtful = False

    def turn(self, outcomes: Sequence[Outcome], limit: int) -> list[Work]:
        """Write what became of works, and claim up to ``limit`` new nodes.

        :returns: the works to do, which includes the replacements asked for by outcomes.
        :raises StoreError: the database cannot be used; the outcomes may be given again.
        """
        try:
            return self._turn(outcomes, limit)
        except StoreError:
            self.doubtful = True
            raise

    def reconcile(self, in_hand: Iterable[Work]) -> None:
        """Let go of the nodes that this engine holds without knowing it: also of one that it
        knows from an earlier claim only.

        :param in_hand: the works that it knows of.
        """
        self.doubtful = False
        kept = {work.node.key: work.node.epoch for work in in_hand}
        self._suspects.intersection_update(kept)
        try:
            self.database.settle()
            released = self.database.transact(
                lambda tx: release_engine(tx, self.engine_id, keep=kept),
                Commit.RECONCILE,
            )
        except StoreError:
            self.doubtful = True
            raise
        if released:
            LOG.warning("engine %s let go of %s nodes", self.engine_id, released)

    def _turn(self, outcomes: Sequence[Outcome], limit: int) -> list[Work]:
        works: list[Work] = []
        group: list[Outcome] = []
        for outcome in outcomes:
            self._suspects.discard(outcome.work.node.key)
            if outcome.work.decision.step is Step.FINISH:
                self._finish(outcome.work)
            elif outcome.result is Result.REPLACE:
                replacement = self._replace(outcome.work)
                if isinstance(replacement, Work):
                    works.append(replacement)
                    self._note_suspects([replacement])
                elif replacement is not None:
                    group.append(replacement)
            elif completing.halts(outcome):
                self._write(outcome)
            else:
                group.append(outcome)
        works.extend(self._write_and_claim(group, limit - len(works)))
        return works

    def _write_and_claim(self, group: Sequence[Outcome], limit: int) -> list[Work]:
        def both(tx: Transaction) -> tuple[list[Outcome], list[Work]]:
            written = completing.complete(tx, self.engine_id, group)
            if limit <= 0:
                return written, []
            if len(self._known) > _KNOWN:
                self._known = {}
            works = claim(
                tx,
                self.engine_id,
                limit,
                self.types,
                self._known,
                suspect=not self._suspects,
            )
            return written, works

        if not group and limit <= 0:
            return []
        try:
            stale, works = self.database.transact(both, Commit.COMPLETE if group else Commit.CLAIM)
        except StaleLock:
            # rows moved between two statements; everything is read afresh next time
            if not group:
                return []
            self._write_one_by_one(group)
            return []
        except StoreError as error:
            # the commit may have gone through, with nodes claimed that nobody knows of
            self.doubtful = True
            if len(group) < 2 and not is_refused(error):
                raise
            self._write_one_by_one(group)
            return []
        self._log_stale(stale)
        self._note_suspects(works)
        return works

    def _note_suspects(self, works: Sequence[Work]) -> None:
        self._suspects.update(work.node.key for work in works if is_suspect(work.node))

    def _write_one_by_one(self, group: Sequence[Outcome]) -> None:
        """Find the outcome that a group fails for, and write the others."""
        for outcome in group:
            try:
                self._write(outcome)
            except StoreError as error:
                if not is_refused(error):
                    raise
                # a state must never be lost because a value was not taken
                reason = f"what became of it cannot be stored: {error}"
                self._write(failure(outcome.work, reason))

    def _write(self, outcome: Outcome) -> None:
        if completing.halts(outcome):
            write, commit = completing.complete_failure, Commit.FAIL
        else:
            write, commit = _complete_one, Commit.COMPLETE
        stale = self._guarded(lambda tx: write(tx, self.engine_id, outcome), commit)
        self._log_stale(stale or ())

    def _finish(self, work: Work) -> None:
        self._guarded(lambda tx: completing.finish(tx, self.engine_id, work), Commit.FINISH)

    def _replace(self, work: Work) -> Work | Outcome | None:
        return self._guarded(
            lambda tx: completing.replace(tx, self.engine_id, work), Commit.REPLACE
        )

    def _guarded(self, function: Callable[[Transaction], T], commit: Commit) -> T | None:
        """Run a transaction about one work; None if that is not this engine's any more."""
        try:
            return self.database.transact(function, commit)
        except StaleLock as error:
            LOG.warning("%s", error)
            # of what is dropped here, something may still be held
            self.doubtful = True
            return None

    def context(self, work: Work) -> Context | None:
        """The context of a work's handler; None where no handler is called."""
        if work.decision.step not in HANDLED:
            return None
        row = work.row
        assert row is not None

        def record(physical_id: str) -> None:
            check_physical_id(physical_id)
            values = {"physical_id": physical_id}
            if work.decision.step is Step.CREATE:
                values["properties"] = dict(work.decision.properties)  # type: ignore[assignment]
            self.database.transact(
                lambda tx: resources.write_locked(tx, self.engine_id, row.id, row.epoch, **values),
                Commit.RECORD,
                happened=repeatable,
                alone=True,
            )
            row.physical_id = physical_id

        def journal() -> Scope:
            return node_scope(self.database, work.scope, self.engine_id, row.id, row.epoch, wait)

        def wait(seconds: float) -> None:
            context.cancelled.wait(seconds)

        context = make_context(work, record, self.types[work.type_name].timeout, journal)
        return context

    def run(self, work: Work, context: Context | None) -> Outcome:
        """Call the work's handler, in no transaction."""
        if context is None:
            return run(work, self.types, None)
        points.hit(points.BEFORE_CALL)
        outcome = run(work, self.types, context)
        outcome.stepped = context.has_journal
        points.hit(points.AFTER_CALL)
        return outcome

    def timed_out(self, work: Work, seconds: float) -> Outcome:
        """The outcome of a handler that did not come back in time."""
        reason = f"{work.decision.step} timed out after {seconds:g} s"
        policy = self.types[work.type_name].retry
        return failed_attempt(work, policy, reason, TimeoutError(reason))

    def given_up(self, work: Work, seconds: float) -> Outcome:
        """The outcome of a handler that did not obey a cancel."""
        reason = f"{work.decision.step} did not stop within {seconds:g} s of being cancelled"
        return failure(work, reason)

    def _log_stale(self, stale: Sequence[Outcome]) -> None:
        for outcome in stale:
            work = outcome.work
            LOG.warning(
                "refused: %s of %r in traversal %s is not engine %s's work any more",
                work.decision.step,
                None if work.row is None else work.row.name,
                work.traversal.id,
                self.engine_id,
            )


def _complete_one(tx: Transaction, engine_id: int, outcome: Outcome) -> list[Outcome]:
    return completing.complete(tx, engine_id, [outcome])
