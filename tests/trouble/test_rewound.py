"""A database that has lost its latest commits: as after a standby was promoted that was behind,
or a crash of a server that does not wait for its disk. Ids that were given are given again.

These are real servers, killed and started again from a copy of their files.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge.errors import NotFound
from converge.sql import schema
from tests import servers
from tests.handlers import Gate, Quick
from tests.waiting import WAIT, until

#: Seconds of a lease that lasts over the outage.
LEASE = 30.0
T = converge.Template.parse


@pytest.fixture(
    params=[
        pytest.param(one, marks=[pytest.mark.database, getattr(pytest.mark, one.replace("-", "_"))])
        for one in ("own-postgresql", "own-mariadb")
    ]
)
def server(request: pytest.FixtureRequest, _databases: dict[str, Any]) -> servers.OwnServer:
    """Each server that can be made to forget."""
    server: servers.OwnServer = _databases[request.param]
    return server


@pytest.fixture
def store(server: servers.OwnServer) -> Iterator[converge.Store]:
    with converge.connect(server.migrated()) as store:
        yield store


class Gates(Quick):
    """A gate for each name of a resource, and what came to them.

    :ivar calls: stack and resource, in their order.
    :ivar tokens: those that were given for a resource.
    """

    def __init__(self) -> None:
        self.of: dict[str, Gate] = defaultdict(Gate)
        self.calls: list[tuple[str, str]] = []
        self.tokens: dict[str, set[str]] = defaultdict(set)
        self._lock = threading.Lock()

    def wait(self, name: str) -> None:
        """Wait until the handler of a resource has begun."""
        assert self._gate(name).began.acquire(timeout=WAIT), name

    def let(self, *names: str) -> None:
        for name in names:
            self._gate(name).go.set()

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        with self._lock:
            self.calls.append((context.stack, context.name))
            self.tokens[context.name].add(context.token)
        return self._gate(context.name).create(context, properties)

    def _gate(self, name: str) -> Gate:
        with self._lock:
            return self.of[name]


@pytest.fixture
def gates() -> Iterator[Gates]:
    gates = Gates()
    yield gates
    gates.let(*gates.of)


@pytest.fixture
def running(store: converge.Store, gates: Gates) -> Iterator[converge.Engine]:
    engine = converge.Engine(store, {"gate": gates}, workers=8, lease=LEASE, poll=0.1)
    engine.start()
    yield engine
    gates.let(*gates.of)
    engine.stop(grace=0)


def held(store: converge.Store) -> list[Any]:
    """What is still held, of all that can be."""
    with store.database.transaction(write=False) as tx:
        return [
            row
            for table in (schema.sync_point, schema.resource, schema.scope, schema.move)
            for row in tx.execute(select(table).where(table.c.engine_id.is_not(None)))
        ]


def test_what_was_done_is_done_again_and_what_was_taken_is_let_go(
    server: servers.OwnServer, store: converge.Store, gates: Gates, running: converge.Engine
) -> None:
    """The rows say that a living engine holds what it has finished since; and nothing of what it
    has in hand."""
    chain = T(
        "resources: {a: {type: gate}, b: {type: gate, depends_on: a}, "
        "c: {type: gate, depends_on: b}}"
    )
    stack = store.create_stack("s", chain)
    gates.wait("a")
    server.copy()
    # done, and forgotten
    gates.let("a")
    gates.wait("b")
    server.forget()
    # the rows give a to an engine that knows nothing of it, and b to nobody
    gates.wait("a")
    gates.wait("b")
    gates.let("b", "c")
    assert stack.wait(WAIT) == "COMPLETE"
    assert running.error is None
    assert gates.calls == [("s", one) for one in ("a", "b", "a", "b", "c")]
    # what was in hand was told to stop; each was called with one token
    assert {name: gate.told for name, gate in gates.of.items()} == {"a": [], "b": ["b"], "c": []}
    assert [len(tokens) for tokens in gates.tokens.values()] == [1, 1, 1]
    assert held(store) == []


def test_what_belongs_to_a_forgotten_stack_is_not_written_to_one_with_its_ids(
    server: servers.OwnServer, store: converge.Store, gates: Gates, running: converge.Engine
) -> None:
    server.copy()
    one = T("resources: {a: {type: gate}}")
    forgotten = store.create_stack("forgotten", one)
    gates.wait("a")
    server.forget()
    fresh = store.create_stack("fresh", one)
    assert (fresh.id, fresh.traversal) == (forgotten.id, forgotten.traversal)
    gates.wait("a")
    gates.let("a")
    assert fresh.wait(WAIT) == "COMPLETE"
    assert store.show("fresh")["resources"]["a"]["physical_id"] == "fresh/a"
    assert gates.calls == [("forgotten", "a"), ("fresh", "a")]
    assert len(gates.tokens["a"]) == 2
    for _ in range(2):
        with pytest.raises(NotFound, match="stack 'forgotten' is no longer in the database"):
            forgotten.refresh()
    assert [row["name"] for row in store.stacks()] == ["fresh"]


def test_who_waits_for_a_forgotten_traversal_is_told(
    server: servers.OwnServer, store: converge.Store, gates: Gates, running: converge.Engine
) -> None:
    gates.let("a")
    template = "resources: {a: {type: gate, properties: {n: %d}}}"
    assert store.create_stack("s", T(template % 1)).wait(WAIT) == "COMPLETE"
    server.copy()
    stack = store.update_stack("s", T(template % 2))
    assert stack.wait(WAIT) == "COMPLETE"
    server.forget()
    told = r"the UPDATE of stack 's' \(traversal \d+\) is no longer in the database"
    with pytest.raises(NotFound, match=told):
        stack.wait(WAIT)
    # it is as it was before
    assert (stack.refresh().status, stack.version) == ("COMPLETE", 1)
    again = store.update_stack("s", T(template % 2))
    assert again.traversal is not None
    assert again.wait(WAIT) == "COMPLETE"


def test_an_engine_that_was_forgotten_registers_again(
    server: servers.OwnServer, store: converge.Store, gates: Gates
) -> None:
    server.copy()
    first = converge.Engine(store, {"gate": gates}, lease=LEASE, poll=0.1)
    first.start()
    run = first._run
    assert run is not None
    forgotten = run._tenure
    stack = store.create_stack("s", T("resources: {a: {type: gate}}"))
    gates.wait("a")
    server.forget()
    # takes the forgotten id
    second = converge.Engine(store, {"gate": gates}, lease=LEASE, poll=0.1)
    second.start()
    try:
        with pytest.raises(NotFound):
            stack.wait(WAIT)
        stack = store.create_stack("s", T("resources: {a: {type: gate}}"))
        gates.wait("a")
        gates.let("a")
        assert stack.wait(WAIT) == "COMPLETE"
        until(lambda: run._tenure is not forgotten)
    finally:
        first.stop(grace=0)
        second.stop(grace=0)
    assert first.id != second.id
    with store.database.transaction(write=False) as tx:
        states = list(tx.execute(select(schema.engine.c.state)).scalars())
    assert set(states) == {"STOPPED"}
    assert held(store) == []


def test_scopes_and_actions_that_were_let_go_are_free(
    server: servers.OwnServer, store: converge.Store
) -> None:
    """Their owner lives, and knows nothing of them."""
    done: list[str] = []

    def act(action: Any) -> None:
        done.append(action.key)
        proceed[action.key].wait(WAIT)

    proceed: dict[str, threading.Event] = {"k": threading.Event()}
    definition = {
        "name": "lamp",
        "initial": "off",
        "states": {"off": {}},
        "transitions": [{"event": "press", "source": "off", "target": "off", "action": act}],
    }
    journal = converge.Journal(store, lease=1.5)
    machine = converge.Machine(store, definition, lease=1.5)
    machine.create("k")
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with journal.scope("job") as scope:
            scope.step("one", lambda: 1)
            entered.set()
            assert leave.wait(WAIT)

    threads = [
        threading.Thread(target=work),
        threading.Thread(target=lambda: machine.fire("k", "press")),
    ]
    for thread in threads:
        thread.start()
    assert entered.wait(WAIT)
    until(lambda: done == ["k"])
    server.copy()
    leave.set()
    proceed["k"].set()
    for thread in threads:
        thread.join(WAIT)
    assert machine.history("k")[0].action == "DONE"
    server.forget()
    other = converge.Journal(store, lease=1.5)
    with other.scope("job", wait=WAIT) as scope:
        assert scope.step("one", lambda: 2) == 1
    with converge.Machine(store, definition, lease=1.5) as sweeping:
        until(lambda: sweeping.history("k")[0].action == "DONE")
    assert done == ["k", "k"]
    for one in (journal, other, machine):
        one.close()
    assert held(store) == []


def test_an_action_that_was_over_is_called_again_while_its_holder_lives(
    server: servers.OwnServer, store: converge.Store
) -> None:
    """The lease that has it goes on; and ids that were handed to the outside do not come again."""
    began, proceed = threading.Event(), threading.Event()
    calls: list[tuple[str, str]] = []

    def act(action: converge.machine.Action) -> None:
        calls.append((action.key, action.id))
        began.set()
        assert proceed.wait(WAIT)

    definition = {
        "name": "lamp",
        "initial": "off",
        "states": {"off": {}},
        "transitions": [{"event": "press", "source": "off", "target": "off", "action": act}],
    }
    machine = converge.Machine(store, definition, lease=LEASE)
    other = converge.Machine(store, definition, lease=LEASE)
    machine.create("k")
    thread = threading.Thread(target=lambda: machine.fire("k", "press"))
    thread.start()
    assert began.wait(WAIT)
    lease = machine._actions.owner.current_lease()
    server.copy()
    proceed.set()
    thread.join(WAIT)
    assert machine.history("k")[0].action == "DONE"
    assert machine.fire("forgotten", "press", create=True).action == "DONE"
    server.forget()
    # the same numbers
    assert machine.fire("fresh", "press", create=True).action == "DONE"

    def called_again() -> bool:
        other.sweep()
        return other.history("k")[0].action == "DONE"

    until(called_again)
    assert machine._actions.owner.current_lease() is lease
    with store.database.transaction(write=False) as tx:
        assert set(tx.execute(select(schema.move.c.deaths)).scalars()) == {0}
    assert [key for key, _ in calls] == ["k", "forgotten", "fresh", "k"]
    (first, again), ids = [id_ for key, id_ in calls if key == "k"], {id_ for _, id_ in calls}
    assert (first, len(ids)) == (again, 3)
    for one in (machine, other):
        one.close()
    assert held(store) == []
