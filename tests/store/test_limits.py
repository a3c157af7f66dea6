"""Limits on how many nodes run, and start, across engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import delete, func, select

import converge
from converge.bus.hint import NONE, Hint
from converge.crash_points import Commit
from converge.model import LimitKind, NodeState
from converge.protocol import claim
from converge.sql import limits
from converge.sql.claimable import PARKED
from converge.sql.schema import place, sync_point
from converge.sql.transaction import Transaction
from converge.testing import FakeClock, FakeType, FakeWorld, StepEngine
from tests.templates import template
from tests.waiting import WAIT

SIX = template({f"r{number}": [] for number in range(6)})


class Account(FakeType):
    """Has a key for its account."""

    def limits(self, properties: Mapping[str, Any]) -> Collection[str]:
        account = properties.get("account")
        if account == "broken":
            raise ValueError("no such account")
        return [f"account:{account}"]


class Fleet:
    """Engines of one world."""

    def __init__(self, store: converge.Store, clock: FakeClock) -> None:
        self.store, self.clock = store, clock
        self.world = FakeWorld()
        types = self.world.types(attempts=2)
        self.types = {**types, "server": Account(self.world, types["fake"].retry)}

    def engine(self, **given: Any) -> StepEngine:
        return StepEngine(self.store, self.types, **given)

    def taken(self) -> int:
        with self.store.transaction() as tx:
            return int(tx.execute(select(func.count()).select_from(place)).scalar_one())

    def waiting(self) -> int:
        """How many nodes wait for a limit."""
        parked = (sync_point.c.state == NodeState.READY, sync_point.c.due_at > PARKED)
        with self.store.transaction() as tx:
            query = select(func.count()).select_from(sync_point).where(*parked)
            return int(tx.execute(query).scalar_one())

    def end(self, *engines: StepEngine) -> None:
        """Let engines do all, one node each in turn."""
        while [one for engine in engines if (one := engine.step())]:
            pass
        assert self.taken() == self.waiting() == 0


@pytest.fixture
def fleet(store: converge.Store, clock: FakeClock) -> Fleet:
    return Fleet(store, clock)


def names(works: Collection[Any]) -> list[str]:
    return [work.row.name for work in works if work.row]


def test_no_more_of_a_type_run_than_have_a_place(fleet: Fleet) -> None:
    one, two = fleet.engine(), fleet.engine()
    fleet.store.set_limit(type="fake", places=2)
    stack = fleet.store.create_stack("s", SIX)
    (first, second) = one.claim(5)
    assert two.claim(5) == []
    assert not two.core.has_claimable()
    assert (fleet.taken(), fleet.waiting()) == (2, 4)
    one.write(one.call(first))
    # whose turn it is, in the order in which they became ready
    assert two.core.has_claimable()
    (third,) = two.claim(5)
    assert names([third]) == ["r2"]
    one.write(one.call(second))
    two.write(two.call(third))
    fleet.end(one, two)
    assert stack.refresh().status == "COMPLETE"


def test_all_ends_one_after_the_other(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=1)
    stacks = [fleet.store.create_stack(name, SIX) for name in "ab"]
    fleet.end(fleet.engine(), fleet.engine())
    assert [one.refresh().status for one in stacks] == ["COMPLETE"] * 2


def test_a_stack_has_a_limit_and_others_have_not(fleet: Fleet) -> None:
    fleet.store.set_limit(stack="a", places=1)
    for name in "ab":
        fleet.store.create_stack(name, SIX)
    works = fleet.engine().claim(20)
    assert sorted(work.traversal.stack for work in works) == ["a"] + 6 * ["b"]


def test_a_key_has_a_limit_whatever_the_type_and_the_stack(fleet: Fleet) -> None:
    fleet.store.set_limit(key="account:prod", places=1)
    prod, test = ({"type": "server", "properties": {"account": name}} for name in ("prod", "test"))
    fleet.store.create_stack("a", template(p=prod, q=prod, t=test))
    fleet.store.create_stack("b", template(r=prod, u=test))
    engine = fleet.engine()
    assert names(engine.claim(9)) == ["p", "t", "u"]
    assert fleet.waiting() == 2


def test_a_node_of_several_limits_takes_a_place_of_each_or_of_none(fleet: Fleet) -> None:
    fleet.store.set_limit(key="account:prod", places=1)
    fleet.store.set_limit(type="server", places=2)
    prod, test = ({"type": "server", "properties": {"account": name}} for name in ("prod", "test"))
    engine = fleet.engine()
    fleet.store.create_stack("s", template(p=prod, q=prod, t=test, u=test))
    works = engine.claim(9)
    assert names(works) == ["p", "t"]
    assert fleet.taken() == 3
    engine.write(engine.call(works[1]))
    # q would have a place of the type, but not of the account
    assert names(engine.claim(9)) == ["u"]
    engine.write(engine.call(works[0]))
    assert names(engine.claim(9)) == ["q"]


def test_keys_that_a_type_cannot_name_fail_the_node(fleet: Fleet) -> None:
    fleet.store.set_limit(key="account:prod", places=1)
    broken = {"type": "server", "properties": {"account": "broken"}}
    stack = fleet.store.create_stack("s", template(p=broken))
    fleet.engine().run()
    assert "limits() of type 'server' failed: ValueError: no such account" in str(
        stack.refresh().reason
    )


def test_a_dead_engine_keeps_its_places_until_it_is_recovered(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=2)
    fleet.store.create_stack("s", SIX)
    dead, alive = fleet.engine(lease=5.0), fleet.engine()
    dead.claim(2)
    fleet.clock.advance(6)
    assert alive.claim(9) == []
    fleet.store.recover()
    assert fleet.taken() == 0
    assert len(alive.claim(9)) == 2
    assert dead.claim(9) == []


def test_a_handler_that_waits_keeps_its_place(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=1)
    fleet.world.wait("create r0", 2)
    fleet.store.create_stack("s", template(r0=[], r1=[]))
    engine = fleet.engine()
    engine.run()
    assert (fleet.taken(), fleet.waiting()) == (1, 1)
    fleet.clock.advance(10)
    assert engine.run() == ["update r0"]
    assert (fleet.taken(), fleet.waiting()) == (1, 1)
    fleet.clock.advance(10)
    assert engine.run() == ["update r0", "update r1", "stack"]
    assert fleet.taken() == 0


def test_a_retry_gives_its_place_back_until_it_is_due(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=1)
    fleet.world.fail("create r0")
    stack = fleet.store.create_stack("s", template(r0=[], r1=[]))
    engine = fleet.engine()
    assert engine.run() == ["update r0", "update r1"]
    fleet.clock.advance(60)
    fleet.end(engine)
    assert stack.refresh().status == "COMPLETE"


@pytest.mark.parametrize("how", ["cancel", "update", "delete"])
def test_what_is_stopped_gives_its_places_back(fleet: Fleet, how: str) -> None:
    fleet.store.set_limit(type="fake", places=2)
    fleet.world.wait("create r0", -1)
    fleet.store.create_stack("s", SIX)
    engine = fleet.engine()
    engine.step()
    (running,) = engine.claim(9)
    assert (fleet.taken(), fleet.waiting()) == (2, 4)
    if how == "cancel":
        fleet.store.cancel_stack("s")
    elif how == "update":
        fleet.store.update_stack("s", template(other=[]))
    else:
        fleet.store.delete_stack("s")
    # what runs has its place until it is recorded
    assert (fleet.taken(), fleet.waiting()) == (1, 0)
    engine.write(engine.call(running))
    fleet.end(engine)


def test_a_replacement_has_the_places_of_its_node(fleet: Fleet) -> None:
    first = {"properties": {"replace": 1}}
    fleet.store.create_stack("s", template(a=first))
    fleet.engine().run()
    fleet.store.set_limit(type="fake", places=1)
    fleet.store.update_stack("s", template(a={"properties": {"replace": 2}}, b=[]))
    engine = fleet.engine()
    (work,) = engine.claim(9)
    (again,) = engine.core.turn([engine.call(work)], 9)
    assert (again.decision.operation, fleet.taken(), fleet.waiting()) == ("create", 1, 1)
    engine.write(engine.call(again))
    fleet.end(engine)
    assert fleet.world.names() == ["a.1", "b.0"]


def test_a_change_of_type_takes_a_place_of_the_new_one(fleet: Fleet) -> None:
    fleet.store.create_stack("s", template(a=[]))
    fleet.engine().run()
    fleet.store.set_limit(type="fixed", places=0)
    fleet.store.update_stack("s", template(a={"type": "fixed"}))
    assert fleet.engine().run() == []
    assert fleet.waiting() == 1


def test_an_engine_that_has_not_heard_of_a_limit_takes_nothing(fleet: Fleet) -> None:
    fleet.store.create_stack("s", SIX)
    engine = fleet.engine()
    (first,) = engine.claim()
    # what runs counts, too
    fleet.store.set_limit(type="fake", places=2)
    assert names(engine.claim(9)) == ["r1"]
    fleet.store.set_limit(type="fake", places=3)
    assert names(engine.claim(9)) == ["r2"]
    engine.write(engine.call(first))
    fleet.store.recover()
    assert names(engine.claim(9)) == ["r3"]


def test_what_waits_goes_on_when_its_limit_is_removed(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=0)
    stack = fleet.store.create_stack("s", SIX)
    one, two = fleet.engine(), fleet.engine()
    assert one.claim(9) == []
    fleet.store.set_limit(type="fake")
    assert fleet.store.limits() == []
    fleet.end(two, one)
    assert stack.refresh().status == "COMPLETE"


def test_places_that_an_older_engine_left_are_freed(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=1)
    fleet.store.create_stack("s", template(a=[], b=[]))
    engine = fleet.engine()
    (work,) = engine.claim()
    work.placed = False
    engine.write(engine.call(work))
    assert fleet.taken() == 1
    fleet.store.recover()
    fleet.end(engine)


def test_many_that_must_wait_do_not_hold_up_others(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "_MANY", 4)
    fleet.store.set_limit(type="fake", places=1)
    fleet.store.create_stack("many", template({f"r{n:02}": [] for n in range(30)}))
    fleet.store.create_stack("few", template(z={"type": "fixed"}))
    engine = fleet.engine()
    assert names(engine.claim(1)) == ["r00"]
    found: list[str] = []
    while not found:
        found = names(engine.claim(1))
    assert found == ["z"]


def test_what_was_counted_before_another_claim_is_not_written(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=1)
    with fleet.store.transaction() as tx:
        rows, taken, _ = limits.lock_limits(tx, [one.id for one in limits.list_limits(tx)])
        (row,) = rows
        assert taken == {}
        limits.write_limit(tx, row, None, 0.0)
    with fleet.store.transaction() as tx, pytest.raises(converge.StaleLock):
        limits.write_limit(tx, row, None, 0.0)


def meet(
    monkeypatch: pytest.MonkeyPatch,
    store: converge.Store,
    name: str,
    first: Callable[[Transaction], Any],
    second: Callable[[], Any],
) -> tuple[Any, Any]:
    """Do something in a transaction that is committed only when somebody else, in another thread,
    comes to the same statement; on SQLite, which has one writer at a time, at once.

    :param name: of the function of that statement.
    """
    done, came = threading.Event(), threading.Event()
    function = getattr(limits, name)

    def meeting(*given: Any) -> Any:
        if done.is_set():
            came.set()
        return function(*given)

    monkeypatch.setattr(limits, name, meeting)

    def begin(tx: Transaction) -> Any:
        found = first(tx)
        done.set()
        if store.database.dialect != "sqlite":
            assert came.wait(WAIT)
        return found

    with ThreadPoolExecutor() as threads:
        one = threads.submit(store.database.transact, begin, Commit.CLAIM)
        assert done.wait(WAIT)
        other = threads.submit(second)
        return one.result(WAIT), other.result(WAIT)


@pytest.mark.parametrize("places", [1, 3])
def test_two_that_come_for_the_last_place_at_once_do_not_both_get_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    fleet.store.set_limit(type="fake", places=places)
    fleet.store.create_stack("s", SIX)
    one, other = fleet.engine(), fleet.engine()
    # all but the last place are taken
    before = one.claim(places - 1) if places > 1 else []
    taken, also = meet(
        monkeypatch,
        fleet.store,
        "lock_limits",
        lambda tx: one.core._claim(tx, 1, None),
        lambda: other.claim(1),
    )
    # the second was counted when the first had the place
    assert (len(taken), also, fleet.taken()) == (1, [], places)
    one.write(*map(one.call, [*before, *taken]))
    fleet.end(one, other)


@pytest.mark.parametrize("before", [[], ["a"]], ids=["the first ever", "others"])
def test_two_limits_can_be_set_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, before: list[str]
) -> None:
    for key in before:
        fleet.store.set_limit(key=key, places=1)
    is_blind = fleet.store.database.dialect == "postgresql" and not before
    meet(
        monkeypatch,
        fleet.store,
        # on PostgreSQL it can have read that there are none; else it waits for the rows
        "insert" if is_blind else "set_limit",
        lambda tx: limits.set_limit(tx, LimitKind.KEY, "b", 1, None),
        lambda: fleet.store.set_limit(key="c", places=2),
    )
    found = {one["name"]: one["places"] for one in fleet.store.limits()}
    assert found == {**dict.fromkeys(before, 1), "b": 1, "c": 2}


def test_those_of_one_limit_take_turns_and_the_highest_priority_is_first(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=1)
    for name, priority in {"a": 0, "b": 0, "c": 5}.items():
        fleet.store.create_stack(name, template(x=[], y=[]), priority=priority)
    engine = fleet.engine()
    (first,) = engine.claim(9)
    engine.write(engine.call(first))
    order = []
    for _ in range(5):
        (work,) = [one for one in engine.claim(9) if one.row]
        order.append(work.traversal.stack)
        engine.write(engine.call(work))
    assert first.traversal.stack == "c"
    assert order in (list("cabab"), list("cbaba"))


def test_a_rate_lets_so_many_start(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", rate="2/10s")
    stack = fleet.store.create_stack("s", SIX)
    one, two = fleet.engine(), fleet.engine()
    assert one.run() == ["update r0", "update r1"]
    fleet.clock.advance(9)
    assert not two.core.has_claimable()
    assert two.run() == []
    fleet.clock.advance(1.01)
    assert two.core.has_claimable()
    assert [*two.run(), *one.run()] == ["update r2", "update r3"]
    # a clock that is set back keeps nothing waiting for longer
    fleet.clock.advance(-5000)
    one.run()
    fleet.clock.advance(10.01)
    assert len(one.run()) == 3
    assert stack.refresh().status == "COMPLETE"


def test_a_call_again_of_a_handler_that_waits_is_no_start(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", rate="1/h")
    fleet.world.wait("create r0", 3, seconds=1)
    stack = fleet.store.create_stack("s", template(r0=[]))
    engine = fleet.engine()
    for _ in range(4):
        assert engine.run()[0] == "update r0"
        fleet.clock.advance(1)
    assert stack.refresh().status == "COMPLETE"


def test_others_are_told_of_places_that_are_free(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Hint] = []
    fleet.store.set_limit(type="fake", places=1)
    fleet.store.create_stack("s", template(a=[], b=[]))
    engine = fleet.engine()
    (work,) = engine.claim(9)
    monkeypatch.setattr(fleet.store.bus, "committed", lambda hint, **sent: heard.append(hint))
    engine.write(engine.call(work))
    assert any(hint.ready != NONE for hint in heard)


def test_people_are_told(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=1)
    fleet.store.set_limit(key="k", rate="5/min")
    fleet.store.set_limit(stack="s", places=4, rate="3/10s")
    fleet.store.create_stack("s", template(a=[], b=[], c=[]))
    assert len(fleet.engine().claim(9)) == 1
    assert fleet.store.limits() == [
        {"kind": "key", "name": "k", "places": None, "rate": "5/min", "taken": 0, "waiting": 0},
        {"kind": "stack", "name": "s", "places": 4, "rate": "3/10s", "taken": 1, "waiting": 0},
        {"kind": "type", "name": "fake", "places": 1, "rate": None, "taken": 1, "waiting": 2},
    ]
    (answer,) = fleet.store.why("s", "c")
    assert answer["message"].endswith(
        "waits for a place: type 'fake' has 1, all taken: by 'a' of stack 's'"
    )
    assert answer["limit"]["name"] == "fake"
    assert fleet.store.why() == []
    fleet.store.set_limit(type="fake", rate="1/h")
    fleet.engine().claim(9)
    # b has started, so c waits
    (answer,) = fleet.store.why("s", "c")
    assert answer["message"].endswith("waits for its turn: of type 'fake', 1/h start")


def test_a_limit_can_be_set_in_a_transaction_of_the_host(fleet: Fleet) -> None:
    def begin() -> None:
        with fleet.store.transaction() as tx:
            fleet.store.set_limit(type="fake", places=0, transaction=tx)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        begin()
    assert fleet.store.limits() == []


def test_setting_it_again_changes_nothing(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", rate="2/h")
    fleet.store.create_stack("s", SIX)
    engine = fleet.engine()
    assert len(engine.claim(9)) == 2
    fleet.store.set_limit(type="fake", rate="2/h")
    # its last starts count on, also when only the places change
    fleet.store.set_limit(type="fake", rate="2/h", places=5)
    assert engine.claim(9) == []


def test_nodes_that_wait_go_with_their_traversal(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=0)
    stack = fleet.store.create_stack("s", SIX)
    engine = fleet.engine()
    engine.claim(9)
    fleet.store.cancel_stack("s")
    fleet.end(engine)
    assert stack.refresh().status == "CANCELLED"


def test_a_limit_on_a_type_that_others_have_is_kept_by_them(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fixed", places=1)
    types = fleet.world.types()
    plain = StepEngine(fleet.store, {"fake": types["fake"]})
    fleet.store.create_stack("s", template(a={"type": "fixed"}, b={"type": "fixed"}, c=[]))
    assert plain.run() == ["update c"]
    special = StepEngine(fleet.store, {"fixed": types["fixed"]})
    (work,) = special.claim(9)
    assert fleet.waiting() == 1
    assert not plain.core.has_claimable()
    special.write(special.call(work))
    assert not plain.core.has_claimable()
    fleet.end(special, plain)


def test_an_engine_that_is_stopped_frees_the_places_of_what_it_hands_back(fleet: Fleet) -> None:
    fleet.store.set_limit(type="fake", places=1)
    fleet.store.create_stack("s", template(a=[]))
    engine = fleet.engine()
    engine.claim()
    # what it does not know of, it releases
    engine.core.reconcile([])
    assert fleet.taken() == 0
    with fleet.store.transaction() as tx:
        tx.execute(delete(place))
