"""What people are told: what waits for what, who holds it, what is stuck, which engines run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import update

import converge
from converge.inspection import why as asking
from converge.model import EngineState
from converge.sql import engines, schema
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.store.plans import Watch, analyze
from tests.templates import template

LEASE = 15.0


class Stage:
    """A store with a clock that stands still, and engines stepped by hand."""

    def __init__(self, fresh_store: Callable[..., converge.Store]) -> None:
        self.clock = FakeClock()
        self.store = fresh_store(self.clock)
        self.world = FakeWorld()

    def engine(self, lease: float = LEASE) -> StepEngine:
        types = self.world.types(attempts=5, first=10)
        return StepEngine(self.store, types, clock=self.clock, lease=lease)

    def why(self, *names: str) -> list[str]:
        return [one["message"] for one in self.store.why(*names)]


@pytest.fixture
def stage(fresh_store: Callable[..., converge.Store]) -> Stage:
    return Stage(fresh_store)


# One stack


def test_what_waits_names_who_holds_what_it_waits_for(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": "", "b": "a"}))
    engine = stage.engine()
    engine.claim()
    stage.clock.advance(5)
    (answer,) = stage.store.why("s", "b")
    assert answer["waits_for"] == ["a"]
    assert (answer["engine"], answer["since_seconds"]) == (engine.id, pytest.approx(5))
    assert answer["lease_seconds"] == pytest.approx(LEASE - 5)
    words = f"'b' waits for 'a', which engine {engine.id} on {answer['host']} has held for 5 s"
    assert answer["message"] == f"resource {words}; its lease ends in 10 s"
    (held,) = stage.store.why("s")
    assert held["message"].startswith(f"resource 'a' is held by engine {engine.id} on ")
    assert held["message"].endswith(" (for 5 s, attempt 1); its lease ends in 10 s")


def test_what_waits_through_others_names_what_holds_it_up_in_the_end(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": "", "b": "a", "c": "b", "d": "c"}))
    engine = stage.engine()
    engine.claim()
    (answer,) = stage.store.why("s", "d")
    assert answer["waits_for"] == ["c"]
    assert answer["engine"] == engine.id
    assert answer["message"].startswith("resource 'd' waits for 'c'; resource 'a' is held by")


def test_of_many_that_are_waited_for_some_are_named(stage: Stage) -> None:
    names = [f"r{number}" for number in range(9)]
    needs = {**dict.fromkeys(names, ""), "z": " ".join(names)}
    stage.store.create_stack("s", template(needs))
    stage.engine().claim(4)
    (answer,) = stage.store.why("s", "z")
    assert sorted(answer["waits_for"]) == names
    assert "waits for 'r0', 'r1', 'r2' and 6 more; resource 'r0' is held" in answer["message"]
    assert answer["message"].endswith("; and for 6 more")


def test_a_retry_says_which_it_is_and_when_and_why_and_is_not_stuck(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": "", "b": "a"}))
    stage.world.fail("create a", 2)
    engine = stage.engine(lease=100)
    engine.run()
    stage.clock.advance(10)
    engine.run()
    stage.clock.advance(3)
    (answer,) = stage.store.why("s")
    assert answer["message"] == (
        f"resource 'a' will be retried in 17 s (retry 2 of 4); it failed: {answer['reason']}"
    )
    assert answer["reason"].startswith("RuntimeError: create a failed (testing.py:")
    assert (answer["attempt"], answer["max_attempts"]) == (2, 5)
    assert answer["ready_in_seconds"] == pytest.approx(17, abs=0.1)
    assert "waits for 'a'; resource 'a' will be retried in 17 s" in stage.why("s", "b")[0]
    assert stage.why() == []


def test_the_deaths_of_engines_are_told_and_are_no_retries(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": ""}))
    stage.engine().claim()
    stage.clock.advance(LEASE)
    stage.store.recover()
    assert stage.why("s")[0].endswith("none is alive; 1 engine died while working on it")
    stage.world.fail("create a")
    stage.engine().run()
    (answer,) = stage.store.why("s")
    died = f"(retry 1 of 4); it failed: {answer['reason']}; 1 engine died"
    assert died in answer["message"]
    assert stage.store.why("s")[0]["max_attempts"] == 5


def test_what_is_blocked_names_the_older_traversal_and_its_engine(stage: Stage) -> None:
    old = stage.store.create_stack("s", template({"a": "", "b": "a"})).traversal
    first = stage.engine()
    first.claim()
    stage.store.update_stack("s", template({"a": "", "b": "a"}, properties={"value": 2}))
    stage.clock.advance(4)
    stage.engine().claim()
    (answer,) = stage.store.why("s")
    assert (answer["state"], answer["blocked_by"]) == ("BLOCKED", old)
    assert (answer["engine"], answer["since_seconds"]) == (first.id, pytest.approx(4))
    words = f"by traversal {old}'s update of 'a', which engine {first.id} on {answer['host']}"
    assert answer["message"] == (
        f"resource 'a' is blocked {words} has held for 4 s; its lease ends in 11 s"
    )
    assert stage.why() == [f"stack 's': {answer['message']}"]
    (behind,) = stage.store.why("s", "b")
    assert (behind["blocked_by"], behind["engine"]) == (old, first.id)


def test_what_is_being_stopped_says_so(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": "", "b": "a"}))
    stage.engine().claim()
    stage.store.cancel_stack("s")
    first, second = stage.why("s")
    assert first == "the CREATE is being stopped, and will be CANCELLED: cancelled by request"
    assert second.startswith("resource 'a' is held by")
    assert stage.why("s", "b") == [
        "resource 'b' is skipped: the traversal is stopping, or what it requires failed"
    ]


def test_what_is_done_says_so_while_the_rest_goes_on(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": "", "b": "a"}))
    engine = stage.engine()
    engine.step()
    assert stage.why("s", "a") == ["resource 'a' is done"]
    stage.world.fail("create b", -1)
    engine.claim()
    assert stage.why("s", "a") == ["resource 'a' is done"]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("x",), converge.NotFound, "no stack 'x'"),
        (("s", "aa"), converge.NotFound, "did you mean 'a'"),
        ((None, "a"), converge.BadInput, "name the stack"),
    ],
)
def test_what_is_not_there_is_named(
    names: tuple[str, ...], error: type[Exception], message: str, stage: Stage
) -> None:
    stage.store.create_stack("s", template({"a": ""}))
    with pytest.raises(error, match=message):
        stage.store.why(*names)


# The whole database


def test_nothing_is_stuck_while_engines_are_at_work(stage: Stage) -> None:
    assert stage.why() == []
    stage.store.create_stack("s", template({"a": "", "b": "a", "c": ""}))
    stage.engine().claim()
    stage.clock.advance(5)
    assert stage.why() == []


def test_what_a_dead_engine_holds_is_stuck_until_it_is_recovered(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": "", "b": "a"}))
    dead, alive = stage.engine(), stage.engine(lease=100)
    dead.claim()
    stage.clock.advance(LEASE + 3)
    (answer,) = stage.store.why()
    assert (answer["stack"], answer["resource"]) == ("s", "a")
    assert (answer["engine"], answer["lease_seconds"]) == (dead.id, pytest.approx(-3))
    assert answer["message"].startswith("stack 's': resource 'a' is held by engine")
    assert answer["message"].endswith("its lease ended 3 s ago; it is not recovered yet")
    done = stage.store.recover()
    assert (done.engines, done.nodes, done.ready) == (1, 1, 1)
    assert not stage.store.recover()
    assert stage.why() == []
    assert alive.run()[-1] == "stack"


@pytest.mark.parametrize("state", [engines.STOPPED, engines.DEAD, None])
def test_what_an_engine_left_behind_that_is_no_more_is_stuck(
    state: EngineState | None, stage: Stage
) -> None:
    stage.store.create_stack("s", template({"a": ""}))
    gone = stage.engine()
    gone.claim()
    stage.engine(lease=1000)
    with stage.store.transaction() as tx:
        row = schema.engine.c.id == gone.id
        if state is None:
            tx.execute(schema.engine.delete().where(row))
        else:
            tx.execute(update(schema.engine).where(row).values(state=state))
    (message,) = stage.why()
    words = {
        engines.STOPPED: "has stopped",
        engines.DEAD: "has died",
        None: "which is not in the database",
    }
    assert words[state] in message
    listed = [one["id"] for one in stage.store.engines() if one["nodes"]]
    assert listed == ([] if state is None else [gone.id])
    assert stage.store.recover().nodes == 1
    assert stage.why() == []


def test_what_no_engine_is_there_for_is_stuck_at_once(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": "", "b": "a"}))
    stage.clock.advance(2)
    words = "resource 'a' has been ready for 2 s and waits for an engine; none is alive"
    assert stage.why() == [f"stack 's': {words}"]
    assert stage.why("s") == [words]
    stage.engine(lease=1)
    assert stage.why() == []
    stage.clock.advance(1)
    assert len(stage.why()) == 1


def test_what_engines_pass_over_is_stuck_and_what_they_have_not_reached_is_not(
    stage: Stage,
) -> None:
    stage.store.create_stack("s", template({"a": "", "b": ""}))
    stage.clock.advance(asking.LONG + 1)
    stage.store.create_stack("t", template({"c": ""}))
    engine = stage.engine(lease=1000)
    assert [one["resource"] for one in stage.store.why()] == ["a", "b"]
    engine.claim()
    # it was claimed in its turn, just now: the others will be
    assert stage.why() == []
    stage.clock.advance(asking.LONG - 1)
    assert stage.why() == []
    stage.clock.advance(2)
    # nothing was claimed for long
    assert [one["resource"] for one in stage.store.why()] == ["b", "c"]
    with stage.store.transaction() as tx:
        running = schema.sync_point.c.state == "RUNNING"
        claimed = {"claimed_at": tx.now, "ready_at": tx.now}
        tx.execute(update(schema.sync_point).where(running).values(**claimed))
    # one of its stack was claimed now that is younger; the other stack will have its turn
    assert [one["resource"] for one in stage.store.why()] == ["b"]
    with stage.store.transaction() as tx:
        older = {"ready_at": tx.now - 1000}
        tx.execute(update(schema.sync_point).where(running).values(**older))
    assert stage.why() == []


def test_a_handler_beyond_its_limit_is_stuck(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": ""}), node_timeout=20)
    stage.engine(lease=1000).claim()
    stage.clock.advance(20)
    assert stage.why() == []
    stage.clock.advance(1)
    (message,) = stage.why()
    assert "(for 21 s, attempt 1)" in message
    assert message.endswith("; that is longer than its timeout")


def test_a_traversal_past_its_deadline_is_stuck(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": ""}), timeout=20)
    engine = stage.engine(lease=1000)
    (work,) = engine.claim()
    stage.clock.advance(23)
    (message,) = stage.why()
    assert message == ("stack 's': the CREATE should have ended 3 s ago, but no engine has noticed")
    assert stage.store.recover().overdue == 1
    (message,) = stage.why()
    assert message.endswith("ended 3 s ago; it will be FAILED when the running handlers have ended")
    engine.write(engine.call(work))
    assert engine.run() == ["stack"]
    assert stage.why() == []
    assert stage.store.stack("s").status == "FAILED"


def test_the_answers_are_bounded_and_say_how_many_more_there_are(stage: Stage) -> None:
    names = {f"r{number}": "" for number in range(130)}
    stage.store.create_stack("s", template(names))
    for found in (stage.store.why(), stage.store.why("s")):
        assert len(found) == asking.LIMIT + 1
        assert (found[-1]["message"], found[-1]["more"]) == ("and 30 more", 30)
        assert len({one["resource"] for one in found[:-1]}) == asking.LIMIT
    stage.engine().claim(70)
    stage.clock.advance(LEASE)
    found = stage.store.why()
    assert [one["state"] for one in found[:-1]] == ["RUNNING"] * 70 + ["READY"] * 30
    assert found[-1]["more"] == 30


# Engines


def test_engines_are_listed_with_what_they_hold(stage: Stage) -> None:
    stage.store.create_stack("s", template({"a": "", "b": "", "c": ""}))
    first = stage.engine()
    first.claim(2)
    stage.clock.advance(LEASE)
    second = stage.engine()
    second.claim()
    stage.clock.advance(1)
    one, two = stage.store.engines()
    assert (one["id"], one["state"], one["nodes"]) == (first.id, "EXPIRED", 2)
    assert one["lease_seconds"] == pytest.approx(-1)
    assert [node["resource"] for node in one["holds"]] == ["a", "b"]
    assert (two["id"], two["state"], two["lease"]) == (second.id, "ALIVE", LEASE)
    assert two["started"] == pytest.approx(stage.clock() - 1)
    (held,) = two["holds"]
    assert held.pop("since_seconds") == pytest.approx(1)
    traversal = stage.store.stack("s").traversal
    assert held == {"stack": "s", "traversal": traversal, "resource": "c", "kind": "update"}


def test_engines_that_ended_are_listed_when_asked_for(stage: Stage) -> None:
    dead = stage.engine()
    stage.clock.advance(LEASE)
    assert stage.store.recover().engines == 1
    alive = stage.engine()
    assert [one["id"] for one in stage.store.engines()] == [alive.id]
    listed = {one["id"]: one["state"] for one in stage.store.engines(ended=True)}
    assert listed == {dead.id: "DEAD", alive.id: "ALIVE"}


def test_an_engine_with_many_nodes_is_listed_with_the_first_and_the_count(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.inspection.queries._HOLDS", 2)
    stage.store.create_stack("s", template({"a": "", "b": "", "c": ""}))
    first, second = stage.engine(), stage.engine()
    first.claim(1)
    stage.clock.advance(1)
    second.claim(1)
    first.claim(1)
    with stage.store.transaction() as tx:
        tx.execute(update(schema.sync_point).values(engine_id=first.id))
    one, two = stage.store.engines()
    assert (one["nodes"], len(one["holds"]), one["holds"][0]["resource"]) == (3, 2, "a")
    assert (two["nodes"], two["holds"]) == (0, [])


# Speed


def test_what_is_stuck_is_found_without_looking_at_what_waits(
    fresh_store: Callable[..., converge.Store],
) -> None:
    store = fresh_store()
    names = [f"r{number}" for number in range(1000)]
    store.create_stack("s", template({"a": "", **dict.fromkeys(names, "a")}))
    StepEngine(store, {})
    analyze(store.database.engine)
    with Watch(store.database.engine) as watch:
        assert store.why() == []
        assert len(store.engines()) == 1
    about = watch.of(schema.sync_point.name)
    assert len(about) >= 5
    for seen in about:
        assert seen.looked_at <= 100, seen
