"""The threaded engine on real databases: it waits for signals, never for a time to pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from oslo_db.exception import DBDataError

import converge
from converge.engine.core import EngineCore
from converge.errors import BadInput, ConvergeError, StoreError
from converge.process import is_gone, process_identity
from converge.protocol import complete as completing
from converge.protocol.work import Outcome, Result, Work
from converge.testing import FakeWorld, StepEngine
from tests.handlers import Gate, Quick
from tests.templates import several, template
from tests.waiting import WAIT


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.go.set()


def test_a_chain_and_a_wide_graph_complete(store: converge.Store) -> None:
    with converge.Engine(store, {"quick": Quick()}, workers=4):
        chain = store.create_stack("chain", several("quick", 20, chain=True))
        wide = store.create_stack("wide", several("quick", 300))
        assert chain.wait(WAIT) == "COMPLETE"
        assert wide.wait(WAIT) == "COMPLETE"
        assert store.show("wide")["progress"]["done"] == 300
        store.delete_stack("chain")
        assert store.delete_stack("wide").wait(WAIT) == "COMPLETE"


def test_three_engines_share_the_work_and_none_is_done_twice(store: converge.Store) -> None:
    calls: list[str] = []

    class Counted(Quick):
        def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
            calls.append(context.name)

    types = {"counted": Counted()}
    engines = [converge.Engine(store, types, workers=2) for _ in range(3)]
    with engines[0], engines[1], engines[2]:
        stack = store.create_stack("s", several("counted", 200))
        assert stack.wait(WAIT) == "COMPLETE"
    assert sorted(calls) == sorted(f"r{number}" for number in range(200))


def test_no_more_handlers_run_than_there_are_workers(store: converge.Store, gate: Gate) -> None:
    with converge.Engine(store, {"gate": gate}, workers=3) as engine:
        stack = store.create_stack("s", several("gate", 9))
        for _ in range(3):
            assert gate.began.acquire(timeout=WAIT)
        assert len(store.running("s")) >= 3
        gate.go.set()
        assert stack.wait(WAIT) == "COMPLETE"
        assert engine.wait_idle(WAIT)
    assert gate.most == 3


def test_a_stop_lets_running_handlers_finish_and_leaves_the_rest(
    store: converge.Store, gate: Gate
) -> None:
    engine = converge.Engine(store, {"gate": gate}, workers=1)
    engine.start()
    stack = store.create_stack("s", several("gate", 3))
    assert gate.began.acquire(timeout=WAIT)
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    gate.go.set()
    stopper.join(WAIT)
    assert not stopper.is_alive()
    assert stack.refresh().status == "IN_PROGRESS"
    done = store.progress("s")["done"]
    assert done == len(gate.calls)
    with converge.Engine(store, {"gate": gate}, workers=1):
        assert stack.wait(WAIT) == "COMPLETE"
    assert sorted(gate.calls) == ["r0", "r1", "r2"]


def test_a_stop_without_grace_cancels_and_hands_back(store: converge.Store, gate: Gate) -> None:
    engine = converge.Engine(store, {"gate": gate}, workers=2)
    engine.start()
    stack = store.create_stack("s", several("gate", 2))
    for _ in range(2):
        assert gate.began.acquire(timeout=WAIT)
    engine.stop(grace=0)
    assert gate.cancelled.is_set()
    resources = store.show("s")["resources"]
    # begun, so what it may have made must not be forgotten
    assert {one["status"] for one in resources.values()} == {"WAITING"}
    gate.go.set()
    with converge.Engine(store, {"gate": gate}, workers=2):
        assert stack.wait(WAIT) == "COMPLETE"


def test_a_node_timeout_ends_a_handler_that_listens(store: converge.Store, gate: Gate) -> None:
    with converge.Engine(store, {"gate": gate}, workers=1, poll=0.05):
        stack = store.create_stack("s", several("gate", 1), node_timeout=0.1)
        assert stack.wait(WAIT) == "FAILED"
    assert gate.cancelled.is_set()


def test_a_node_timeout_gives_up_a_handler_that_does_not_listen(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.engine.run.GRACE", 0.1)
    deaf = Gate(deaf=True)
    with converge.Engine(store, {"deaf": deaf}, workers=1, poll=0.05):
        stack = store.create_stack("s", several("deaf", 1), node_timeout=0.1)
        assert stack.wait(WAIT) == "FAILED"
        assert "longer than 0.1 s" in (stack.reason or "")
        # its late result is refused, and another worker has taken its place
        deaf.go.set()
        assert store.update_stack("s", several("deaf", 1)).wait(WAIT) == "COMPLETE"


def test_cancel_tells_the_running_handlers(store: converge.Store, gate: Gate) -> None:
    with converge.Engine(store, {"gate": gate}, workers=1, lease=1.0):
        stack = store.create_stack("s", several("gate", 2, chain=True))
        assert gate.began.acquire(timeout=WAIT)
        stack.cancel()
        assert stack.wait(WAIT) == "CANCELLED"
    assert gate.cancelled.is_set()
    assert gate.calls == ["r0"]


def test_a_deadline_ends_the_traversal(store: converge.Store, gate: Gate) -> None:
    with converge.Engine(store, {"gate": gate}, workers=1, lease=1.0):
        stack = store.create_stack("s", several("gate", 2, chain=True), timeout=0.2)
        assert stack.wait(WAIT) == "FAILED"
        assert "timed out after 0.2 s" in (stack.reason or "")


def test_a_handler_that_exits_fails_and_leaves_the_engine_alive(store: converge.Store) -> None:
    class Exits(Quick):
        def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
            raise SystemExit("bye")

    with converge.Engine(store, {"exits": Exits(), "quick": Quick()}, workers=1):
        assert store.create_stack("a", several("exits", 1)).wait(WAIT) == "FAILED"
        assert store.create_stack("b", several("quick", 1)).wait(WAIT) == "COMPLETE"


@pytest.mark.parametrize(
    ("made", "saying"),
    [
        (object(), "must return converge.Physical"),
        ("x" * 1025, "1 to 1024 characters"),
        ("a\x00b", "NUL"),
        (converge.Physical("x", {"a": object()}), "cannot be stored as JSON"),
        (converge.Physical("x", {"a": float("nan")}), "cannot be stored as JSON"),
    ],
)
def test_what_cannot_be_stored_fails_the_resource(
    store: converge.Store, made: object, saying: str
) -> None:
    class Returns(Quick):
        def create(self, context: converge.Context, properties: Mapping[str, Any]) -> Any:
            return made

    with converge.Engine(store, {"returns": Returns()}, workers=1):
        stack = store.create_stack("s", several("returns", 1))
        assert stack.wait(WAIT) == "FAILED"
        assert saying in (stack.reason or "")


def test_run_until_idle_comes_back(store: converge.Store) -> None:
    stack = store.create_stack("s", several("quick", 5))
    engine = converge.Engine(store, {"quick": Quick()})
    engine.run(until_idle=True)
    assert stack.refresh().status == "COMPLETE"


def test_a_fresh_engine_passes_over_nodes_without_handlers_many_at_a_time(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def converge_by_a_fresh_engine() -> None:
        converge.Engine(store, {"quick": Quick()}, workers=4).run(until_idle=True)

    stack = store.create_stack("s", several("quick", 500))
    converge_by_a_fresh_engine()
    claims: list[int] = []
    for method in ("turn", "claim"):
        original = getattr(EngineCore, method)

        def counted(core: EngineCore, *arguments: Any, original: Any = original) -> Any:
            works = original(core, *arguments)
            claims.append(len(works))
            return works

        monkeypatch.setattr(EngineCore, method, counted)
    # its type has no check
    store.check_stack("s")
    converge_by_a_fresh_engine()
    assert stack.refresh().status == "COMPLETE"
    # by fours it would be 125 times
    assert sum(claims) >= 500
    assert sum(map(bool, claims)) < 40


def test_the_engine_refuses_numbers_out_of_range(store: converge.Store) -> None:
    for options in ({"workers": 0}, {"workers": 1001}, {"lease": 0}, {"poll": -1}):
        with pytest.raises(BadInput):
            converge.Engine(store, **options)  # type: ignore[arg-type]


def test_an_engine_starts_only_once_at_a_time(store: converge.Store) -> None:
    with converge.Engine(store) as engine, pytest.raises(ConvergeError, match="already running"):
        engine.start()


def test_a_process_is_known_by_its_start() -> None:
    me = process_identity()
    assert not is_gone(me)
    if not me.startswith("?"):
        host, pid, started = me.rsplit("/", 2)
        assert is_gone(f"{host}/{pid}/{int(started) + 1}")
        assert not is_gone(f"elsewhere/{pid}/{started}")
    assert not is_gone("?host/1")


def test_the_stored_graph_of_a_traversal(store: converge.Store) -> None:
    store.create_stack("s", several("quick", 2, chain=True))
    edges = set(store.traversal_graph("s").edges())
    assert edges == {("update r1", "update r0"), ("stack", "update r1")}
    assert set(store.graph("s").edges()) == {("r1", "r0")}


@pytest.mark.parametrize("every", [2, 5])
def test_lost_replies_of_commits_lose_no_node(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """The commit went through, but the connection broke before the engine was told."""
    world = FakeWorld()
    types = {"quick": Quick(), "fixed": world.types()["fixed"]}
    turns = 0

    class Flaky(EngineCore):
        def turn(self, outcomes: Sequence[Outcome], *limits: Any) -> list[Work]:
            nonlocal turns
            works = super().turn(outcomes, *limits)
            turns += 1
            if turns % every == 0 and (works or outcomes):
                self.doubtful = True
                raise StoreError("the connection was lost")
            return works

    monkeypatch.setattr("converge.engine.run.EngineCore", Flaky)
    with converge.Engine(store, types, workers=2, poll=0.02):
        chain = {
            f"r{n}": {"type": ("quick", "fixed")[n % 2], "depends_on": [f"r{n - 1}"] if n else []}
            for n in range(12)
        }
        stack = store.create_stack("s", template(chain))
        assert stack.wait(WAIT) == "COMPLETE"
        changed = store.update_stack("s", template(chain, properties={"new": 1}))
        assert changed.wait(WAIT) == "COMPLETE"
        assert set(store.show("s")["resources"]) == set(chain)
        assert len(world.things) == 6
        assert store.delete_stack("s").wait(WAIT) == "COMPLETE"
    assert world.things == {}


@pytest.mark.parametrize(("on_failure", "others"), [("continue", "COMPLETE"), ("stop", "SKIPPED")])
def test_a_value_that_the_database_refuses_fails_its_resource_only(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch, on_failure: str, others: str
) -> None:
    complete = completing.complete

    def picky(tx: Any, engine_id: int, outcomes: Sequence[Outcome], *most: int) -> list[Outcome]:
        for outcome in outcomes:
            row = outcome.work.row
            if row is not None and row.name == "r0" and outcome.result is Result.DONE:
                raise StoreError("refused") from DBDataError()
        return complete(tx, engine_id, outcomes, *most)

    for module in ("engine.core", "protocol.halt"):
        monkeypatch.setattr(f"converge.{module}.complete", picky)
    store.create_stack("s", several("fake", 3), on_failure=on_failure)
    StepEngine(store, FakeWorld().types()).run()
    shown = store.show("s")
    assert shown["status"] == "FAILED"
    assert {name: one["status"] for name, one in shown["resources"].items()} == {
        "r0": "FAILED",
        "r1": others,
        "r2": others,
    }
    assert "cannot be stored" in shown["resources"]["r0"]["reason"]
