"""The journal against an oracle in plain Python: programs that die anywhere, and that change.

A run that comes to its end must have had all the effects that the oracle foretold, and recorded
each where it said; one that died, the first of them and no others.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, String, Table, insert, select

from converge import RetryPolicy, crash_points
from converge.errors import JournalMismatch, NotFound, StaleLock, StepFailed
from converge.journal import Record, Scope, items
from converge.journal.backend import Backend, ScopeLock, StepStatus, Taken
from tests.dying import Died
from tests.journal.conftest import DATABASES, MEMORY, REDIS, _place
from tests.journal.oracle import (
    ATTEMPTS,
    FULL,
    LIVES,
    Each,
    Nest,
    Program,
    Step,
    asked,
    change,
    expect,
    keeps,
    programs,
    written,
)
from tests.journal.places import InDatabase, InMemory, Place

#: Half as many examples as on SQLite; more of them for a long look.
EXAMPLES = int(os.environ.get("CONVERGE_TEST_EXAMPLES", "20"))
SCOPES = itertools.count(1)
#: A host's own table, with the effects that are in its transactions.
EFFECT = Table(
    "oracle_effect", MetaData(), Column("scope", String(40)), Column("effect", String(200))
)


class Flaky(Exception):
    """A failure that is worth another attempt."""


class Life:
    """A process: between a journal and its backend, it passes places until it dies at one, after
    which it writes nothing.

    :param left: how many places it passes.
    :param log: gets what is committed.
    """

    def __init__(self, backend: Backend, left: float, log: list[str]) -> None:
        self.backend = backend
        self.origin = backend.origin
        self.left = left
        self.log = log
        self.began = False
        self.lock: ScopeLock | None = None
        self._writing: list[str] = []

    def reach(self, place: str) -> None:
        """Pass a place, or die there."""
        if place.endswith(".after_commit"):
            self._note()
        self.left -= 1
        if self.left < 0:
            raise Died(place)

    def _note(self) -> None:
        self.log += self._writing
        self._writing.clear()

    def take(self, name: str) -> Taken:
        self.reach("before take")
        self.began = True
        taken = self.backend.take(name)
        self.lock = taken.lock
        self.reach("after take")
        return taken

    def write(
        self, lock: ScopeLock, record: Record, tx: Any = None, *, replaces: bool = False
    ) -> None:
        write = partial(self.backend.write, lock, record, tx, replaces=replaces)
        self._commit(written(record), tx, write)

    def advance(
        self, lock: ScopeLock, name: str, position: int, value: str, tx: Any = None
    ) -> None:
        advance = partial(self.backend.advance, lock, name, position, value, tx)
        self._commit(f"advance {name} {position}", tx, advance)

    def release(self, lock: ScopeLock, *, finished: bool) -> None:
        release = partial(self.backend.release, lock, finished=finished)
        self._commit("finished" if finished else "left", None, release)

    def _commit(self, entry: str, tx: Any, function: Callable[[], None]) -> None:
        self.reach(f"before {entry}")
        self._writing.append(entry)
        function()
        if tx is None:
            self._note()
        # what is in the caller's transaction is committed with it, and not before
        assert bool(self._writing) == (tx is not None)
        self.reach(f"after {entry}")


class Trial:
    """A scope of two processes in turn, and what the oracle says of it.

    :ivar log: all effects and commits.
    :ivar recorded: what must be recorded.
    :ivar again: effects that were had without being recorded, as their process died.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.name = f"job {next(SCOPES)}"
        self.journals = [place.journal(), place.journal()]
        self.log: list[str] = []
        self.recorded: dict[str, Record] = {}
        self.again: Counter[str] = Counter()
        self._rows: list[str] = []
        self._keys: dict[str, str] = {}
        self._holds: list[tuple[Backend, ScopeLock]] = []
        self.finished = False

    def close(self) -> None:
        for journal in self.journals:
            journal.close()

    def run(self, program: Program, left: float = math.inf) -> BaseException | None:
        """Run a program, see that all is as foretold, and return what ended it before its end.

        :param left: after how many places the process dies.
        """
        events, refused = expect(program, self.recorded, finished=self.finished)
        start = len(self.log)
        journal = self.journals[0]
        life = Life(journal.backend, left, self.log)
        ended: BaseException | None = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crash_points, "hook", life.reach)
            patch.setattr(journal, "backend", life)
            try:
                with journal.scope(self.name) as scope:
                    assert scope.finished == self.finished
                    self._perform(scope, program, life)
            except (Died, JournalMismatch) as error:
                ended = error
        log = self.log[start:]
        foretold = [one.entry for one in events]
        if isinstance(ended, Died):
            assert log == foretold[: len(log)]
            self._lose(program, log)
        else:
            assert log == foretold
            told = (ended.recorded, ended.asked) if isinstance(ended, JournalMismatch) else None
            assert told == refused
        for event in events[: len(log)]:
            if event.record is not None:
                self.recorded[event.record.name] = event.record
            if event.row is not None:
                self._rows.append(event.row)
            if event.entry in ("finished", "left"):
                self.finished = event.entry == "finished"
        if life.lock is not None:
            self._holds.append((life.backend, life.lock))
            self._write_late()
        if life.began:
            self.journals.reverse()
            if isinstance(ended, Died):
                self.place.kill(life.backend)
        self._look()
        return ended

    def _lose(self, program: Program, log: list[str]) -> None:
        """Note the effects on whose edge a process died; there are few."""
        told = [one for one in log if not one.endswith(f" {StepStatus.KEYS}")]
        lost = list(itertools.takewhile(is_effect, reversed(told)))
        assert len(lost) <= max((getattr(op, "every", 1) for _, op in asked(program)), default=0)
        self.again.update(lost)

    def _write_late(self) -> None:
        """Those whom the scope was taken from cannot write, not even who has taken it again."""
        for backend, lock in self._holds[-3:-1]:
            with pytest.raises(StaleLock):
                backend.write(lock, Record("late", 99))
            for record in list(self.recorded.values())[-1:]:
                with pytest.raises(StaleLock):
                    backend.write(lock, replace(record, value='"late"'), replaces=True)
                with pytest.raises(StaleLock):
                    backend.advance(lock, record.name, 99, "null")
            backend.release(lock, finished=not self.finished)

    def _look(self) -> None:
        """What others see is what the oracle says."""
        try:
            info, records = self.journals[0].show(self.name)
        except NotFound:
            assert not self._holds
            return
        steps = (one for one in self.recorded.values() if one.status is not StepStatus.KEYS)
        wanted = sorted(steps, key=lambda one: (one.number, one.name))
        assert [replace(one, at=0.0) for one in records] == wanted
        seen = (info.steps, info.owner, info.finished is not None)
        assert seen == (len(wanted), None, self.finished)
        assert len(set(self._keys.values())) == len(self._keys)
        if isinstance(self.place, InDatabase):
            effects = select(EFFECT.c.effect).where(EFFECT.c.scope == self.name)
            with self.place.store.transaction() as tx:
                assert sorted(tx.execute(effects).scalars()) == sorted(self._rows)
        assert len(set(self._rows)) == len(self._rows)

    # -- performing programs

    def _perform(self, scope: Scope, program: Program, life: Life, path: str = "") -> None:
        for op in program:
            if isinstance(op, Nest):
                with scope.scope(op.name) as inner:
                    self._perform(inner, op.program, life, f"{path}{op.name}/")
            elif isinstance(op, Each):
                self._go_through(scope, op, life, path + op.name)
            else:
                self._do(scope, op, life, path + op.name)

    def _go_through(self, scope: Scope, op: Each, life: Life, name: str) -> None:
        items: Any = (lambda done: op.values[done:]) if op.lazy else op.values
        key = str if op.keyed else None
        for item in scope.each(op.name, items, key=key, every=op.every):
            assert item.value == op.first + item.index
            called = f"key {item.value}" if op.keyed else item.index
            with self._transaction(op.items[item.index] == "own") as tx:
                self._have_effect(f"call {name} {called}", item.key, life, tx)
                if op.items[item.index] != "next":
                    item.done(transaction=tx)

    def _do(self, scope: Scope, op: Step, life: Life, name: str) -> None:
        """Do a step in its form; each run must come to the same."""
        call = f"call {name} version {op.version}"
        failure = f"write {name} version {op.version} RETRY"

        def function(idempotency_key: str) -> Any:
            self._have_effect(call, idempotency_key, life, tx)
            if self.log.count(failure) < (op.fails or 0):
                raise Flaky(call)
            return op.value

        retry = None if op.fails is None else RetryPolicy(ATTEMPTS, first=0.0)
        with self._transaction(op.own) as tx:
            how: dict[str, Any] = {"version": op.version, "retry": retry, "transaction": tx}
            value: Any
            try:
                if op.form == "call":
                    value = scope.step(op.name, function, **how)
                elif op.form == "decorated":
                    decorated: Any = scope.step(op.name, **how)(function)
                    value = decorated()
                else:
                    with scope.step(op.name, **how) as step:
                        if not step.done:
                            step.value = function(step.key)
                    value = step.value
            except StepFailed as error:
                value = (error.kind, error.reason)
        wanted = ("Flaky", call) if op.fails == ATTEMPTS else op.value
        assert (value, type(value)) == (wanted, type(wanted))

    def _transaction(self, own: bool) -> Any:
        if own and isinstance(self.place, InDatabase):
            return self.place.store.transaction()
        return nullcontext()

    def _have_effect(self, call: str, key: str, life: Life, tx: Any) -> None:
        """Have an effect; its key is the same each time."""
        life.reach(f"before {call}")
        assert self._keys.setdefault(call, key) == key
        self.log.append(call)
        if tx is not None:
            tx.execute(insert(EFFECT).values(scope=self.name, effect=call))
        life.reach(f"after {call}")


def is_effect(entry: str) -> bool:
    return entry.startswith("call ")


def count_effects(log: Iterable[str]) -> Counter[str]:
    return Counter(filter(is_effect, log))


# -- tests -------------------------------------------------------------------


@pytest.fixture(params=[MEMORY, *DATABASES, REDIS])
def everywhere(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    _databases: Any,
    _stores: Any,
) -> Iterator[Place]:
    """An empty place of each kind that answers; databases tell the time themselves, and have a
    host's table. Keys soon get records of their own."""
    monkeypatch.setattr(items, "FULL", FULL)
    place = _place(request, _databases, _stores, real=True)
    if isinstance(place, InDatabase):
        EFFECT.metadata.create_all(place.store.database.engine)
    yield place
    place.close()
    if isinstance(place, InDatabase):
        EFFECT.metadata.drop_all(place.store.database.engine)


def looking(place: Place) -> settings:
    """More examples in memory, and fewer on the servers, which take longer over each. To make a
    failing one smaller would take minutes in a database; what is wrong everywhere is so in memory.
    """
    phases = {Phase.explicit, Phase.reuse, Phase.generate}
    if isinstance(place, InMemory):
        phases.add(Phase.shrink)
    count = 10 * EXAMPLES if isinstance(place, InMemory) else EXAMPLES // 2 + 1
    if isinstance(place, InDatabase) and place.store.database.dialect == "sqlite":
        count = EXAMPLES
    return settings(
        max_examples=count,
        phases=phases,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=True,
    )


def test_a_program_that_dies_anywhere_has_each_effect_once_but_for_those_on_the_edge(
    everywhere: Place,
) -> None:
    @looking(everywhere)
    @given(program=programs(), lives=st.lists(LIVES, max_size=10))
    def look(program: Program, lives: list[int]) -> None:
        with closing(Trial(everywhere)) as trial:
            for left in lives:
                trial.run(program, left)
            assert trial.run(program) is None
            whole = [one.entry for one in expect(program, {})[0]]
            assert count_effects(trial.log) == count_effects(whole) + trial.again
            records = [one for one in trial.log if one.startswith(("write ", "advance "))]
            assert records == [one for one in whole[:-1] if not is_effect(one)]
            end = len(trial.log)
            assert trial.run(program) is None
            assert trial.log[end:] == ["finished"]

    look()


def test_a_program_that_changes_goes_on_or_is_refused_before_it_does_anything_wrong(
    everywhere: Place,
) -> None:
    @looking(everywhere)
    @given(program=programs(), left=st.integers(5, 60), data=st.data())
    def look(program: Program, left: int, data: st.DataObject) -> None:
        changed = change(data, program)
        with closing(Trial(everywhere)) as trial:
            trial.run(program, left)
            before, end = dict(trial.recorded), len(trial.log)
            finished = trial.finished
            ended = trial.run(changed)
            assert (ended is None) == keeps(changed, before)
            if ended is not None and not any(isinstance(op, Nest) for op in program + changed):
                assert trial.log[end:] == ["finished" if finished else "left"]
            retried = {
                f"call {one.name} version {one.version}"
                for one in before.values()
                if one.status is StepStatus.RETRY
            }
            recorded = {*count_effects(trial.log[:end])} - {*trial.again} - retried
            assert recorded.isdisjoint(trial.log[end:])
            end = len(trial.log)
            if ended is None:
                assert trial.run(changed) is None
                assert trial.log[end:] == ["finished"]
            unspoilt = trial.recorded == before
            assert trial.run(program) is None or not unspoilt

    look()
