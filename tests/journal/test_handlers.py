"""The journal in a resource type's handler: ``context.step``, on another engine, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

import converge
from converge import crash_points
from converge.crash_points import Commit
from converge.errors import BadInput, ConvergeError, StaleLock
from converge.journal import Journal
from converge.protocol import recover
from converge.protocol.work import Outcome, Result, Work
from converge.resources.resource_type import Context
from converge.retry import RetryPolicy
from converge.sql import scopes
from converge.testing import FakeClock, StepEngine
from tests.dying import Died
from tests.templates import one_of_each

OpenStore = Callable[..., converge.Store]
STEPS = [f"step {number}" for number in range(1, 11)]
LEASE = 60.0
TEMPLATE = one_of_each("job")
CHANGED = one_of_each("job", size=2)


@dataclass
class Job(converge.ResourceType):
    """A resource of ten steps, which can fail and kill.

    :ivar calls: the verb and step of each call, and its key.
    """

    retry: ClassVar[RetryPolicy] = RetryPolicy(attempts=3, first=5.0)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    failing: str = ""

    def create(self, context: Context, properties: Mapping[str, Any]) -> converge.Physical:
        """All ten."""
        made = [
            context.step(name, self._act, "create", name, number)
            for number, name in enumerate(STEPS, 1)
        ]
        return converge.Physical("made", {"sum": sum(made)})

    def update(
        self, context: Context, physical_id: str, properties: Mapping[str, Any], previous: object
    ) -> None:
        """Some."""
        for item in context.each("parts", STEPS[:3]):
            self._act("update", item.value, 0, item.key)

    def delete(self, context: Context, physical_id: str) -> None:
        """One."""
        context.step("delete", self._act, "delete", "all", 0)

    def _act(self, verb: str, name: str, value: int, idempotency_key: str) -> int:
        self.calls.append((verb, name, idempotency_key))
        if name == self.failing:
            self.failing = ""
            raise RuntimeError(f"{name} failed")
        return value

    def names(self) -> list[str]:
        """The steps that were called."""
        return [name for _, name, _ in self.calls]


class Stage:
    """A store, its clock, and a resource type."""

    def __init__(self, open_store: OpenStore) -> None:
        self.clock = FakeClock()
        self.store = open_store(self.clock)
        self.job = Job()

    def engine(self) -> StepEngine:
        """A new engine."""
        return StepEngine(self.store, {"job": self.job}, clock=self.clock, lease=LEASE)

    def scopes(self) -> list[str]:
        """The scopes that are recorded."""
        with Journal(self.store) as journal:
            return [info.name for info in journal.scopes()]

    def die(self) -> None:
        """The leases of all engines end, and what they held is free."""
        self.clock.advance(LEASE + 1)
        recover.sweep(self.store.database)


@pytest.fixture
def stage(fresh_store: OpenStore) -> Stage:
    return Stage(fresh_store)


@contextmanager
def deadly(point: str, hit: int) -> Iterator[None]:
    """Whoever reaches a point for the time of that number dies, and does nothing more."""
    left = hit

    def kill(name: str) -> None:
        nonlocal left
        left -= name == point
        if left <= 0:
            raise Died

    crash_points.hook = kill
    try:
        yield
    finally:
        crash_points.hook = None


def call_and_die(engine: StepEngine, work: Work) -> None:
    """Call a handler in which the engine dies."""
    with pytest.raises(Died):
        engine.call(work)


def test_a_node_that_failed_at_step_four_goes_on_there_also_on_another_engine(
    stage: Stage,
) -> None:
    stage.store.create_stack("shop", TEMPLATE)
    first = stage.engine()
    stage.job.failing = "step 4"
    first.step()
    assert stage.job.names() == STEPS[:4]
    assert len(stage.scopes()) == 1

    # its second attempt goes on at step 4, and the engine dies when that is done, unrecorded
    stage.clock.advance(5)
    (work,) = first.claim()
    with deadly(Commit.STEP.before, 1):
        call_and_die(first, work)
    assert stage.job.names()[4:] == ["step 4"]

    stage.die()
    second = stage.engine()
    assert second.run() == ["update job", "stack"]
    assert stage.job.names()[5:] == STEPS[3:]
    # whatever was called more than once was called with the same key
    assert len(set(stage.job.calls)) == len(STEPS)
    shown = stage.store.show("shop")
    assert shown["status"] == "COMPLETE"
    assert stage.scopes() == []


def test_steps_that_a_dead_engine_recorded_are_not_done_again(stage: Stage) -> None:
    stage.store.create_stack("shop", TEMPLATE)
    first = stage.engine()
    (work,) = first.claim()
    with deadly(Commit.STEP.after, 4):
        call_and_die(first, work)
    stage.die()
    stage.engine().run()
    assert stage.job.names() == STEPS
    assert stage.scopes() == []


def test_a_handler_that_has_lost_its_node_records_nothing_more(stage: Stage) -> None:
    stage.store.create_stack("shop", TEMPLATE)
    first = stage.engine()
    (work,) = first.claim()
    context = first.core.context(work)
    assert context is not None
    context.step("step 1", int)
    stage.die()
    # nobody has taken it yet, but it is no longer this engine's
    with pytest.raises(StaleLock):
        stage_context(first, work).step("step 2", int)
    second = stage.engine()
    (again,) = second.claim()
    taken = second.core.context(again)
    assert taken is not None
    assert taken.step("step 1", pytest.fail) == 0
    with pytest.raises(StaleLock):
        context.step("step 2", int)
    taken.step("step 2", int)


def stage_context(engine: StepEngine, work: Work) -> Context:
    """A context of a work that opens its journal only now."""
    context = engine.core.context(work)
    assert context is not None
    return context


def test_an_update_and_a_delete_have_scopes_of_their_own(stage: Stage) -> None:
    stage.store.create_stack("shop", TEMPLATE)
    engine = stage.engine()
    engine.run()
    stage.job.calls.clear()
    stage.job.failing = "step 2"
    stage.store.update_stack("shop", CHANGED)
    engine.step()
    stage.clock.advance(5)
    engine.run()
    assert stage.job.names() == ["step 1", "step 2", "step 2", "step 3"]
    assert len(set(stage.job.calls)) == 3
    stage.store.delete_stack("shop")
    engine.run()
    assert stage.job.names()[-1] == "all"
    assert stage.scopes() == []


def test_a_second_update_does_its_steps_again_with_other_keys(stage: Stage) -> None:
    stage.store.create_stack("shop", TEMPLATE)
    engine = stage.engine()
    engine.run()
    stage.job.calls.clear()
    for template in (CHANGED, TEMPLATE):
        stage.store.update_stack("shop", template)
        engine.run()
    assert stage.job.names() == STEPS[:3] * 2
    assert len(set(stage.job.calls)) == 6


def test_works_that_got_the_ids_of_forgotten_ones_have_other_keys(tmp_path: Path) -> None:
    """As in a database that has forgotten all of a stack; a create that goes on in a later
    traversal has the same keys."""

    def open_store(clock: FakeClock) -> converge.Store:
        url = f"sqlite:///{tmp_path}/{len(found)}.db"
        return converge.connect(url, create_schema=True, clock=clock)

    found: list[tuple[list[str], set[str]]] = []
    for _ in range(2):
        stage = Stage(open_store)
        stage.store.create_stack("shop", TEMPLATE)
        stage.job.retry = RetryPolicy(attempts=1)  # type: ignore[misc]
        stage.job.failing = "step 4"
        engine = stage.engine()
        engine.run()
        names = stage.scopes()
        for template in (TEMPLATE, CHANGED):
            stage.store.update_stack("shop", template)
            engine.run()
        assert len(set(stage.job.calls)) == len(STEPS) + 3
        stage.store.delete_stack("shop")
        engine.run()
        found.append((names, {key for *_, key in stage.job.calls}))
        assert len(found[-1][1]) == len(STEPS) + 4
        stage.store.close()
    (names, keys), (same_names, others) = found
    assert names == same_names != []
    assert keys.isdisjoint(others)


def test_the_scope_of_a_create_that_failed_for_good_is_gone_with_the_resource(
    stage: Stage,
) -> None:
    stage.store.create_stack("shop", TEMPLATE)
    engine = stage.engine()
    for _ in range(3):
        stage.job.failing = "step 4"
        engine.step()
        stage.clock.advance(60)
        assert engine.renew() is False
        engine = stage.engine()
    engine.run()
    assert stage.store.stack("shop").status == "FAILED"
    # the next create goes on at step 4
    assert len(stage.scopes()) == 1
    stage.store.delete_stack("shop")
    engine.run()
    assert stage.scopes() == []


def test_a_handler_without_steps_has_no_scope(stage: Stage) -> None:
    stage.store.create_stack("shop", TEMPLATE)
    engine = stage.engine()
    (work,) = engine.claim()
    assert stage.scopes() == []
    engine.write(Outcome(work, Result.HANDED_BACK))
    assert stage.scopes() == []


def test_a_context_of_no_engine_has_no_journal() -> None:
    with pytest.raises(ConvergeError, match="has no journal"):
        Context("shop", "job").step("a", int)


class Patient(converge.ResourceType):
    """One step that fails, with a policy that waits for long."""

    def __init__(self) -> None:
        self.calls = 0

    def create(self, context: Context, properties: Mapping[str, Any]) -> None:
        def fail() -> None:
            self.calls += 1
            # the engine stops while it is at work
            context.cancel("the engine is stopping", interrupted=True)
            raise OSError("not now")

        context.step("call", fail, retry=RetryPolicy(attempts=8, first=30.0))

    def delete(self, context: Context, physical_id: str) -> None: ...


def test_a_step_that_waits_in_a_handler_that_is_cancelled_keeps_its_attempts(
    fresh_store: OpenStore,
) -> None:
    store = fresh_store(FakeClock())
    patient = Patient()
    engine = StepEngine(store, {"job": patient})
    store.create_stack("s", TEMPLATE)
    (work,) = engine.claim()
    outcome = engine.call(work)
    assert (outcome.result, patient.calls) == (Result.HANDED_BACK, 1)
    journal = Journal(store)
    (scope,) = journal.scopes()
    (step,) = journal.show(scope.name)[1]
    assert (step.status, step.attempts) == ("RETRY", 1)


class Forgetful(converge.ResourceType):
    """Its first call of each verb takes a step and then fails or dies; later ones take none.

    :ivar calls: the verbs.
    """

    retry: ClassVar[RetryPolicy] = RetryPolicy(attempts=2, first=0.1)

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _call(self, verb: str, context: Context) -> None:
        first = verb not in self.calls
        self.calls.append(verb)
        if first:
            context.step("a", int)
            raise OSError("not now")

    def create(self, context: Context, properties: Mapping[str, Any]) -> None:
        """Make it."""
        self._call("create", context)

    def update(
        self, context: Context, physical_id: str, properties: Mapping[str, Any], previous: object
    ) -> None:
        """Change it."""
        self._call("update", context)

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Look at it."""
        self._call("check", context)

    def delete(self, context: Context, physical_id: str) -> None:
        """Delete it."""
        self._call("delete", context)


def test_an_attempt_without_steps_leaves_nothing_of_an_earlier_one(fresh_store: OpenStore) -> None:
    clock = FakeClock()
    store = fresh_store(clock)
    forgetful = Forgetful()
    engine = StepEngine(store, {"job": forgetful}, clock=clock)

    def begin() -> Any:
        yield store.create_stack("s", TEMPLATE)
        yield store.update_stack("s", CHANGED)
        yield store.check_stack("s")
        yield store.delete_stack("s")

    with Journal(store) as journal:
        for _ in begin():
            engine.step()
            assert len(journal.scopes()) == 1
            clock.advance(1)
            engine.run()
            assert journal.scopes() == []
    assert forgetful.calls == [
        verb for verb in ("create", "update", "check", "delete") for _ in "12"
    ]


def test_a_work_whose_traversal_is_superseded_leaves_no_scope(stage: Stage) -> None:
    stage.store.create_stack("shop", TEMPLATE)
    engine = stage.engine()
    engine.run()
    # one dies in an update, which nobody will ever ask for again
    stage.store.update_stack("shop", CHANGED)
    (work,) = engine.claim()
    with deadly(Commit.ITEM.after, 2):
        call_and_die(engine, work)
    assert len(stage.scopes()) == 1
    stage.store.update_stack("shop", TEMPLATE)
    stage.die()
    recover.sweep(stage.store.database)
    assert stage.scopes() == []
    # the next one is handed back when it is superseded
    engine = stage.engine()
    (work,) = engine.claim()
    stage.job.failing = "step 2"
    outcome = engine.call(work)
    assert outcome.result is Result.RETRY
    stage.store.update_stack("shop", CHANGED)
    engine.write(outcome)
    assert stage.scopes() == []


def test_a_sweep_collects_scopes_of_resources_that_are_gone_and_leaves_the_others(
    stage: Stage,
) -> None:
    stage.store.create_stack("shop", TEMPLATE)
    engine = stage.engine()
    (work,) = engine.claim()
    stage.job.failing = "step 4"
    engine.write(engine.call(work))
    # of an update that is to be tried again, in a stack of its own
    stage.store.create_stack("other", TEMPLATE)
    engine.run()
    stage.store.update_stack("other", CHANGED)
    (update,) = engine.claim()
    stage.job.failing = "step 2"
    engine.write(engine.call(update))
    with stage.store.transaction() as tx:
        scopes.insert_scope(tx, "resource 77 create", 1, 7, resource_id=77)
        scopes.insert_scope(tx, "resource 78 update 1", 1, 7, resource_id=78)
        scopes.insert_scope(tx, "order 77", 1, 7)
    recover.sweep(stage.store.database)
    # a retry goes on there
    assert stage.scopes() == sorted(["order 77", work.scope, update.scope])


def test_a_host_cannot_take_the_scope_of_a_node(stage: Stage) -> None:
    with Journal(stage.store) as journal:
        refused = pytest.raises(BadInput, match="'resource 5 create' is reserved for work on")
        with refused, journal.scope("resource 5 create"):
            pytest.fail("it must be refused")
        with journal.scope("resource 5 creates"):
            pass
