"""What is planned before a stack is locked is used only if nothing has changed since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from converge import Conflict, Store, Template
from converge.protocol import answer
from converge.protocol import draft as drafts
from converge.protocol import start as starts
from converge.protocol.request import Intent, work_out
from converge.protocol.work import Result
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

NARROW = template(A="", B="A")
WIDE = template(A="", B="A", C="B", D="A")

#: What starts something, given the store of a stack `s`.
STARTS: dict[str, Callable[[Store], Any]] = {
    "update": lambda store: store.update_stack("s", WIDE),
    "converge": lambda store: store.converge_stack("s", WIDE),
    "roll back": lambda store: store.rollback_stack("s"),
    "delete": lambda store: store.delete_stack("s"),
}
#: What is there when it has ended.
LEFT = {
    "update": ["A", "B", "C", "D"],
    "converge": ["A", "B", "C", "D"],
    "roll back": ["A", "B", "C"],
    "delete": [],
}


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: Store, world: FakeWorld) -> StepEngine:
    """Of a stack with two versions that completed."""
    engine = StepEngine(store, world.types())
    for version in (template(A="", B="A", C="B"), NARROW):
        store.converge_stack("s", version)
        engine.run()
    return engine


def names(world: FakeWorld) -> list[str]:
    return sorted(name.partition(".")[0] for name in world.names())


def before_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]
) -> None:
    """Have something happen just before the next transaction begins, once it has been planned."""
    transact = store.database.transact

    def transact_later(*given: Any, **more: Any) -> Any:
        monkeypatch.setattr(store.database, "transact", transact)
        happen()
        return transact(*given, **more)

    monkeypatch.setattr(store.database, "transact", transact_later)


@pytest.mark.parametrize("what", STARTS)
def test_nothing_is_planned_while_the_stack_is_locked(
    what: str,
    store: Store,
    world: FakeWorld,
    engine: StepEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transact = store.database.transact

    def transact_without_a_plan(*given: Any, **more: Any) -> Any:
        with monkeypatch.context() as patch:
            for module, name in (
                (drafts, "plan"),
                (starts, "draft_version"),
                (Template, "from_store"),
            ):
                patch.delattr(module, name)
            return transact(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "transact", transact_without_a_plan)
        STARTS[what](store)
    engine.run()
    assert names(world) == LEFT[what]


def test_a_rollback_by_an_engine_is_not_planned_while_the_stack_is_locked(
    store: Store, world: FakeWorld, engine: StepEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fail("create D")
    store.update_stack("s", WIDE, on_failure="rollback")
    with monkeypatch.context() as patch:
        patch.delattr(starts, "draft_version")
        engine.run()
    assert store.stack("s").status == "COMPLETE"
    assert names(world) == ["A", "B"]


@pytest.mark.parametrize("what", ["converge", "roll back", "delete"])
def test_what_goes_on_is_not_planned_again(
    what: str, store: Store, engine: StepEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    STARTS[what](store)
    monkeypatch.delattr(drafts, "plan")
    assert STARTS[what](store).outcome == "resumed"


def update_and_claim(store: Store, engine: StepEngine) -> None:
    store.update_stack("s", template(A="", B="A", E="B", F=""))
    for work in engine.claim(2):
        engine.write(engine.call(work))


def update_and_end(store: Store, engine: StepEngine) -> None:
    store.update_stack("s", template(B="", E=""))
    engine.run()


def forget(store: Store, engine: StepEngine) -> None:
    store.forget_resource("s", "B")


def make_anew(store: Store, engine: StepEngine) -> None:
    store.delete_stack("s")
    engine.run()
    store.create_stack("s", template(A="", C=""))
    engine.run()
    store.update_stack("s", template(C=""))
    engine.run()


@pytest.mark.parametrize("meanwhile", [update_and_claim, update_and_end, forget, make_anew])
@pytest.mark.parametrize("what", ["update", "converge", "delete"])
def test_what_changed_meanwhile_counts(
    what: str,
    meanwhile: Callable[[Store, StepEngine], None],
    store: Store,
    world: FakeWorld,
    engine: StepEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before_transaction(store, monkeypatch, lambda: meanwhile(store, engine))
    STARTS[what](store)
    engine.run()
    # what was forgotten stays as it is, and an update makes it anew
    forgotten = ["B"] if meanwhile is forget else []
    assert names(world) == sorted([*LEFT[what], *forgotten])
    if LEFT[what]:
        assert sorted(store.show("s")["resources"]) == LEFT[what]


def test_a_choice_between_versions_is_made_again_if_a_handler_works_on_one(
    store: Store, engine: StepEngine
) -> None:
    other = template(A="", B={"properties": {"replace": 2}})
    store.update_stack("s", other)
    (asking,) = [engine.call(work) for work in engine.claim(1)]
    assert asking.result is Result.REPLACE
    (making,) = engine.core.turn([asking], 0)
    wanted = work_out("s", NARROW, None, None)

    def draft() -> drafts.Draft:
        return store.database.read(lambda tx: answer.draft_wanted(tx, "s", wanted, Intent()))

    # the replacement is being made
    assert draft().fingerprint is None
    engine.write(engine.call(making))
    engine.run()
    assert draft().fingerprint is not None


def test_a_rollback_goes_where_it_should_when_it_starts(
    store: Store, world: FakeWorld, engine: StepEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_transaction(store, monkeypatch, lambda: update_and_end(store, engine))
    store.rollback_stack("s")
    engine.run()
    assert names(world) == ["A", "B"]


def test_too_many_resources_are_not_planned_while_the_stack_is_locked(
    store: Store, engine: StepEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "LIMIT", 5)
    before_transaction(store, monkeypatch, lambda: update_and_claim(store, engine))
    with pytest.raises(Conflict, match=r"stack 's' .* 6 resources .* `converge cancel s`"):
        store.update_stack("s", WIDE)
    assert store.stack("s").status == "IN_PROGRESS"
    # as it does when nothing changes in between
    store.update_stack("s", WIDE)
