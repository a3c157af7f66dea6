"""The invariants about what is left, what callers are told, and what handlers see: 8, 9, 10."""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations_with_replacement

import pytest
import sqlalchemy
from sqlalchemy import event, select, text

import converge
from converge import Conflict
from converge.sql import schema
from converge.testing import FakeWorld, StepEngine
from tests.invariants.tools import Watched, count, crew, snapshot
from tests.templates import layers, template
from tests.threads import at_once

# -- 8


def names_of(store: converge.Store) -> list[str]:
    """The name of each resource row."""
    with store.transaction() as tx:
        return sorted(tx.execute(select(schema.resource.c.name)).scalars())


@pytest.mark.parametrize("rounds", [0, 2])
def test_invariant_8_one_resource_per_name_is_left(store: converge.Store, rounds: int) -> None:
    """Exactly one resource per name remains when a traversal COMPLETES; none when a delete does.

    Each template comes after some rounds of the one before it: while resources are being
    replaced, so that for a while there are several of a name.
    """
    world = FakeWorld()
    engines = crew(store, world.types(), 2)
    most = 0
    first = layers(2)
    kinds = {name: {**body, "type": "fixed"} for name, body in layers(2, x=1).items()}
    less = {name: body for name, body in layers(2, replace=3).items() if name[0] != "2"}
    store.create_stack("s", template(first))
    engines.run()
    for wanted in (layers(2, replace=1), kinds, less, first):
        stack = store.converge_stack("s", template(wanted))
        for _ in range(rounds):
            engines.round()
            most = max(most, *Counter(names_of(store)).values())
        if not rounds:
            engines.run()
            assert stack.refresh().status == "COMPLETE"
            assert names_of(store) == sorted(wanted)
    engines.run()
    assert stack.refresh().status == "COMPLETE"
    assert names_of(store) == sorted(first)
    shown = store.show("s")["resources"]
    assert sorted(one["physical_id"] for one in shown.values()) == world.names()
    assert most >= 2 or not rounds
    store.delete_stack("s")
    engines.run()
    assert (names_of(store), world.names(), store.stacks()) == ([], [], [])


# -- 9

ONE = template({"a": {}})
TWO = template({"a": {"properties": {"x": 2}}})


def stand(store: converge.Store, engine: StepEngine) -> converge.Stack:
    """A stack that is at template ONE, and has been at another."""
    store.create_stack("s", template({"a": {"properties": {"x": 0}}}))
    engine.run()
    stack = store.update_stack("s", ONE)
    engine.run()
    return stack


#: Every call of Store that starts something, on a stack that is at template ONE or on its way.
CALLS: dict[str, Callable[[converge.Store], converge.Stack]] = {
    "create_stack": lambda store: store.create_stack("s", ONE),
    "update_stack": lambda store: store.update_stack("s", TWO),
    "converge_stack": lambda store: store.converge_stack("s", TWO),
    "rollback_stack": lambda store: store.rollback_stack("s"),
    "delete_stack": lambda store: store.delete_stack("s"),
    "check_stack": lambda store: store.check_stack("s"),
    "cancel_stack": lambda store: store.cancel_stack("s"),
}

ANSWERS = {
    # call: on a stack at rest, on one in progress, twice in a row on one at rest
    "create_stack": ("Conflict", "Conflict", "Conflict"),
    "update_stack": ("started", "superseded", "superseded"),
    "converge_stack": ("started", "superseded", "resumed"),
    "rollback_stack": ("started", "superseded", "resumed"),
    "delete_stack": ("started", "superseded", "resumed"),
    "check_stack": ("started", "Conflict", "resumed"),
    "cancel_stack": ("Conflict", "started", "Conflict"),
}


def test_invariant_9_covers_every_call_that_starts_something() -> None:
    """Every call that starts something says what became of it: these are all there are."""
    found = {
        name
        for name, method in inspect.getmembers(converge.Store, inspect.isfunction)
        if "transaction" in inspect.signature(method).parameters and not name.startswith("_")
    } - {"adopt_resource", "forget_resource", "move_resource", "set_limit", "signal"}
    assert found == set(CALLS) == set(ANSWERS)


def answer(call: Callable[[], object]) -> str:
    """What a call says became of it."""
    try:
        said = call()
    except Exception as error:
        said = error
    return word(said)


def word(said: object) -> str:
    if isinstance(said, Conflict):
        assert "'s'" in str(said)
        return "Conflict"
    assert isinstance(said, converge.Stack), said
    assert said.outcome in ("started", "superseded", "resumed", "done")
    assert (said.superseded is not None) is (said.outcome == "superseded")
    return said.outcome


@pytest.mark.parametrize("name", CALLS)
def test_invariant_9_every_call_says_what_became_of_it(store: converge.Store, name: str) -> None:
    """Every call that starts something says what became of it: started, conflict, superseded."""
    engine = StepEngine(store, FakeWorld().types())
    stand(store, engine)
    at_rest, in_progress, again = ANSWERS[name]
    call = partial(CALLS[name], store)
    assert answer(call) == at_rest
    assert answer(call) == again
    engine.run()
    if name == "delete_stack":
        assert store.stacks() == []
        assert answer(call) == "done"
        stand(store, engine)
    # then on the way to a third template
    store.update_stack("s", template({"a": {"properties": {"x": 3}}}))
    assert answer(call) == in_progress


#: Each call against itself, and against those that can be made at any time.
PAIRS = [
    (name, other)
    for name, other in combinations_with_replacement(CALLS, 2)
    if name == other or {name, other} & {"update_stack", "delete_stack"}
]


@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_invariant_9_so_do_two_at_one_moment(store: converge.Store, name: str, other: str) -> None:
    """Every call that starts something says what became of it, also to who is second: there
    are as many traversals as were said to be started, and the last of them is the stack's."""
    engine = StepEngine(store, FakeWorld().types())
    stand(store, engine)
    before = count(store, "traversal")
    said = at_once(partial(CALLS[name], store), partial(CALLS[other], store))
    words = Counter(map(word, said))
    cancels = sum(
        isinstance(one, converge.Stack) and call == "cancel_stack"
        for one, call in zip(said, (name, other), strict=True)
    )
    new = words["started"] + words["superseded"] - cancels
    assert count(store, "traversal") == before + new
    started = [
        one.traversal
        for one, call in zip(said, (name, other), strict=True)
        if isinstance(one, converge.Stack) and call != "cancel_stack"
    ]
    superseded = [one.superseded for one in said if isinstance(one, converge.Stack)]
    assert words["superseded"] == len([one for one in superseded if one in started])
    if new:
        assert store.stack("s").traversal == max(one for one in started if one)
    engine.run()
    assert all(one["status"] in ("COMPLETE", "CANCELLED") for one in store.stacks())


def test_invariant_9_expected_turns_a_lost_race_into_a_conflict(store: converge.Store) -> None:
    """Every call that starts something says what became of it: nobody is dropped silently."""
    engine = StepEngine(store, FakeWorld().types())
    stack = stand(store, engine)
    calls: dict[str, Callable[..., converge.Stack]] = {
        "update_stack": partial(store.update_stack, "s", TWO),
        "converge_stack": partial(store.converge_stack, "s", TWO),
        "rollback_stack": partial(store.rollback_stack, "s"),
        "delete_stack": partial(store.delete_stack, "s"),
        "check_stack": partial(store.check_stack, "s"),
    }
    expecting = [
        name
        for name in CALLS
        if "expected" in inspect.signature(getattr(converge.Store, name)).parameters
    ]
    assert expecting == list(calls)
    said = at_once(*(partial(call, expected=stack.traversal) for call in calls.values()))
    assert Counter(map(word, said)) == {"started": 1, "Conflict": 4}


# -- 10


class Others:
    """Looks at the database as others do, and at what the store has taken from its pool.

    :ivar in_use: how many connections each thread has taken and not given back.
    """

    def __init__(self, store: converge.Store) -> None:
        self.dialect = store.database.dialect
        options = {"timeout": 0} if self.dialect == "sqlite" else {}
        self.engine = sqlalchemy.create_engine(store.database.url, connect_args=options)
        self.in_use: Counter[int] = Counter()
        self._takers: dict[int, int] = {}
        # on SQLite one is taken for as long as the store is open, and used for nothing
        store.stacks()
        self._pool = store.database.engine
        event.listen(self._pool, "checkout", self._taken)
        event.listen(self._pool, "checkin", self._given_back)

    def close(self) -> None:
        event.remove(self._pool, "checkout", self._taken)
        event.remove(self._pool, "checkin", self._given_back)
        self.engine.dispose()

    def _taken(self, connection: object, record: object, proxy: object) -> None:
        self._takers[id(record)] = threading.get_ident()
        self.in_use[threading.get_ident()] += 1

    def _given_back(self, connection: object, record: object) -> None:
        self.in_use[self._takers.pop(id(record), 0)] -= 1

    def check(self) -> None:
        """Nobody holds a lock on any row, and no transaction is open."""
        assert self.in_use.total() == 0
        with self.engine.connect() as connection:
            if self.dialect == "sqlite":
                # the write lock can be had at once
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.rollback()
                return
            if self.dialect == "postgresql":
                assert connection.execute(text(OPEN)).scalars().all() == []
            for table in schema.metadata.sorted_tables:
                connection.execute(select(table).with_for_update(nowait=True))
            connection.rollback()


OPEN = (
    "SELECT query FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'"
)


@pytest.fixture
def others(store: converge.Store) -> Iterator[Others]:
    others = Others(store)
    yield others
    others.close()


def test_invariant_10_the_look_sees_what_it_must(store: converge.Store, others: Others) -> None:
    """No lock is held, and no transaction open, while a handler runs: if one were, the tests
    below would see it."""
    store.create_stack("s", ONE)
    others.check()
    with store.transaction() as tx:
        tx.execute(select(schema.stack)).all()
        with pytest.raises(AssertionError):
            others.check()
    others.check()
    # and a lock that somebody else holds
    with others.engine.begin() as connection:
        connection.execute(schema.stack.update().values(reason="x"))
        with pytest.raises((AssertionError, sqlalchemy.exc.OperationalError)):
            others.check()


def test_invariant_10_no_transaction_is_open_in_any_handler(
    store: converge.Store, others: Others
) -> None:
    """No lock is held, and no transaction open, while a handler runs."""
    verbs: Counter[str] = Counter()

    def watch(verb: str, context: converge.Context) -> None:
        verbs[verb] += 1
        others.check()
        if verb == "create":
            context.record(f"{context.name}.early")
            others.check()

    watched = Watched(watch, attempts=2, first=0.0)
    engine = StepEngine(store, watched.types)
    store.create_stack("s", template({"a": {}, "b": {"depends_on": ["a"]}}))
    engine.run()
    store.update_stack("s", template({"a": {"properties": {"x": 1}}}))
    engine.run()
    # its update asks for a replacement, which is made at once; and the old one is deleted
    store.update_stack("s", template({"a": {"properties": {"replace": 1}}}))
    engine.run()
    store.check_stack("s")
    engine.run()
    assert verbs == {"create": 3, "update": 2, "delete": 2, "check": 1}
    # what a died create may have made is looked for
    store.update_stack("s", template({"a": {"type": "fixed"}, "c": {}}))
    watched.world.fail("create c", -1)
    engine.run()
    with store.transaction() as tx:
        tx.execute(
            schema.resource.update().where(schema.resource.c.name == "c").values(physical_id=None)
        )
    store.delete_stack("s")
    engine.run()
    assert verbs["find"] == 1
    assert store.stacks() == []


def test_invariant_10_no_worker_thread_has_a_connection(
    store: converge.Store, others: Others
) -> None:
    """No lock is held, and no transaction open, while a handler runs: the threads of an engine
    that call handlers have no connection at all, while the others work."""
    held: list[int] = []

    def watch(verb: str, context: converge.Context) -> None:
        held.append(others.in_use[threading.get_ident()])
        context.record(f"{context.name}.early")
        held.append(others.in_use[threading.get_ident()])

    store.database.clock = None
    with converge.Engine(store, Watched(watch).types, workers=3):
        stack = store.create_stack("s", template(layers(5)))
        assert stack.wait(60) == "COMPLETE"
    assert held == [0] * 30
    with store.transaction():
        assert others.in_use[threading.get_ident()] == 1


def test_invariant_10_rows_of_what_runs_can_be_locked_and_read(
    store: converge.Store, others: Others
) -> None:
    """No lock is held while a handler runs: other engines claim, and people look and cancel."""
    engine = StepEngine(store, FakeWorld().types())
    stack = store.create_stack("s", template(layers(2)))
    before = snapshot(store)
    works = engine.claim(2)
    others.check()
    assert snapshot(store) != before
    assert len(StepEngine(store, FakeWorld().types()).claim(2)) == 0
    stack.cancel()
    others.check()
    engine.write(*map(engine.call, works))
    engine.run()
    assert stack.refresh().status == "CANCELLED"
