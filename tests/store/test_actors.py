"""Who asked for a traversal is kept with it, and shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import converge
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

ADA, BOB = "ada@build7", "Bob, on call ☎"


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld) -> StepEngine:
    return StepEngine(store, world.types(attempts=1))


def _shown(store: converge.Store) -> set[str | None]:
    """Whom a live stack's outputs name."""
    last = store.events("s")[-1]
    return {store.show("s")["actor"], store.stacks()[0]["actor"], last["actor"]}


VERBS: dict[str, Callable[[converge.Store, str | None], converge.Stack]] = {
    "update": lambda store, who: store.update_stack("s", template(b=[]), actor=who),
    "converge": lambda store, who: store.converge_stack("s", template(b=[]), actor=who),
    "rollback": lambda store, who: store.rollback_stack("s", version="empty", actor=who),
    "check": lambda store, who: store.check_stack("s", actor=who),
    "delete": lambda store, who: store.delete_stack("s", actor=who),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("who", [BOB, None])
def test_each_verb_says_who(
    store: converge.Store, engine: StepEngine, verb: str, who: str | None
) -> None:
    store.create_stack("s", template(a=[]), actor=ADA)
    assert _shown(store) == {ADA}
    engine.run()
    before = store.events("s")
    assert {one["actor"] for one in before} == {ADA}
    stack = VERBS[verb](store, who)
    assert _shown(store) == {who}
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    after = store.events("s")
    assert after[: len(before)] == before
    assert {one["actor"] for one in after[len(before) :]} == {who}


def test_who_comes_to_what_is_running_has_not_asked_for_it(
    store: converge.Store, engine: StepEngine
) -> None:
    wanted = template(a=[])
    store.converge_stack("s", wanted, actor=ADA)
    assert store.converge_stack("s", wanted, actor=BOB).outcome == "resumed"
    assert _shown(store) == {ADA}
    engine.run()
    assert store.converge_stack("s", wanted, actor=BOB).outcome == "done"
    assert _shown(store) == {ADA}


def test_who_asked_for_what_fails_has_asked_for_the_rollback(
    store: converge.Store, world: FakeWorld, engine: StepEngine
) -> None:
    store.create_stack("s", template(a=[]), actor=ADA)
    engine.run()
    stack = store.update_stack("s", template(b=[]), on_failure="rollback", actor=BOB)
    world.fail("create b")
    engine.run()
    assert (stack.refresh().action, stack.status) == ("ROLLBACK", "COMPLETE")
    assert _shown(store) == {BOB}


@pytest.mark.parametrize(
    ("actor", "message"),
    [
        ("", "the name of an actor must not be empty"),
        ("a" * 256, "has 256 characters; at most 255 are allowed"),
        ("a\nb", "unprintable character"),
        (7, "must be a string, not int"),
    ],
)
def test_what_cannot_be_shown_is_refused(store: converge.Store, actor: str, message: str) -> None:
    with pytest.raises(converge.BadInput, match=message):
        store.create_stack("s", template(a=[]), actor=actor)
    assert store.stacks() == []
