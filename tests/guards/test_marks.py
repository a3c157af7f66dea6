"""Guards against ids that come again, after a database has forgotten its last seconds.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

import converge
from converge import crash_points
from converge.crash_points import Commit
from converge.engine.core import EngineCore
from converge.errors import Busy, NotFound, StaleLock, StoreError
from converge.journal.backend import Record
from converge.journal.sql import SqlBackend
from converge.lease import Lease
from converge.machine.actions import _is_taken
from converge.model import NodeState
from converge.protocol import complete as completing
from converge.protocol import recover
from converge.sql import engines, moves, schema, scopes
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.guards.tools import LEASE, state, template


def change(store: converge.Store, table: Any, **values: Any) -> None:
    """What a row would be like that has the same id and is another one."""
    with store.transaction() as tx:
        tx.execute(update(table).values(**values))


def test_a_completion_leaves_out_what_another_claim_has_taken(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    one = engine()
    (work,) = one.claim()
    outcome = one.call(work)
    change(store, schema.sync_point, mark=work.node.mark + 1)
    with store.transaction() as tx:
        assert completing.complete(tx, one.id, [outcome]) == [outcome]
    assert state(store, work) is NodeState.RUNNING


def test_a_completion_leaves_out_a_resource_that_another_claim_has_locked(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    one = engine()
    (work,) = one.claim()
    outcome = one.call(work)
    change(store, schema.resource, mark=work.node.mark + 1)
    with store.transaction() as tx:
        assert completing.complete(tx, one.id, [outcome]) == [outcome]
    assert state(store, work) is NodeState.RUNNING


def test_a_physical_id_is_not_recorded_for_another_claim(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[]))
    one = engine()
    (work,) = one.claim()
    context = one.core.context(work)
    assert context is not None
    context.record("mine")
    change(store, schema.resource, mark=work.node.mark + 1)
    with pytest.raises(StaleLock):
        context.record("late")
    with pytest.raises(StaleLock):
        context.step("one", int)


def test_nothing_is_claimed_under_an_id_that_is_another_engines(
    store: converge.Store, world: FakeWorld
) -> None:
    store.create_stack("s", template(a=[]))
    with store.transaction() as tx:
        id_ = engines.insert_engine(tx, "h", 1, "p", LEASE, mark=7)
    assert EngineCore(store.database, id_, world.types(), 8).turn((), 1) == []
    assert len(EngineCore(store.database, id_, world.types(), 7).turn((), 1)) == 1


def test_who_leaves_ends_nobody_else_with_its_id(store: converge.Store, world: FakeWorld) -> None:
    store.create_stack("s", template(a=[]))
    with store.transaction() as tx:
        id_ = engines.insert_engine(tx, "h", 1, "p", LEASE, mark=7)
    (work,) = EngineCore(store.database, id_, world.types(), 7).turn((), 1)
    with store.transaction() as tx:
        recover.leave(tx, id_, 8)
    assert state(store, work) is NodeState.RUNNING
    with store.transaction() as tx:
        assert engines.is_alive(tx, id_)
        recover.leave(tx, id_, 7)
    assert state(store, work) is NodeState.READY
    with store.transaction() as tx:
        assert not engines.is_alive(tx, id_)


def test_who_is_not_registered_any_more_finds_out_when_it_compares(
    store: converge.Store, world: FakeWorld
) -> None:
    with store.transaction() as tx:
        id_ = engines.insert_engine(tx, "h", 1, "p", LEASE, mark=7)
    assert EngineCore(store.database, id_, world.types(), 7).reconcile(()) == []
    with pytest.raises(StaleLock, match="not registered any more"):
        EngineCore(store.database, id_, world.types(), 8).reconcile(())


def test_what_the_rows_do_not_know_is_found_and_dropped(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    store.create_stack("s", template(a=[], b=[], c=[]))
    one = engine()
    first, second, third = sorted(one.claim(3), key=lambda work: work.node.node)
    one.core.outbox.put([one.call(third)])
    held = schema.sync_point.c.state == NodeState.RUNNING
    node = schema.sync_point.c.node
    with store.transaction() as tx:
        # taken anew under the same numbers, with nobody who knows of it
        other = update(schema.sync_point).where(held, node == first.node.node)
        tx.execute(other.values(mark=first.node.mark + 1))
        free = update(schema.sync_point).where(held, node != first.node.node)
        tx.execute(free.values(state=NodeState.READY, engine_id=None))
    assert one.core.reconcile([first, second]) == [first, second]
    assert state(store, first) is NodeState.READY
    assert len(one.core.outbox) == 0


class Seen(converge.ResourceType):
    def __init__(self) -> None:
        self.stacks: list[str] = []

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self.stacks.append(context.stack)

    def delete(self, context: converge.Context, physical_id: str) -> None: ...


def test_a_handler_is_not_told_what_was_known_of_another_traversal_of_that_id(
    store: converge.Store,
) -> None:
    seen = Seen()
    one = StepEngine(store, {"fake": seen})
    store.create_stack("s", template(a=[], b=[]))
    one.step()
    # the same ids, and all else is another stack's
    change(store, schema.stack, name="t")
    change(store, schema.traversal, mark=1)
    change(store, schema.sync_point, mark=1)
    one.step()
    assert seen.stacks == ["s", "t"]


@pytest.mark.parametrize("what", ["stack", "traversal"])
def test_the_handle_of_a_stack_does_not_become_another(store: converge.Store, what: str) -> None:
    stack = store.create_stack("s", template(a=[]))
    change(store, getattr(schema, what), mark=1)
    with pytest.raises(NotFound, match="is not in the database any more"):
        stack.refresh()


def test_a_token_is_not_that_of_another_traversal_with_its_id(
    store: converge.Store, engine: Callable[..., StepEngine]
) -> None:
    one = engine()
    store.create_stack("s", template(a={"properties": {"n": 1}}))
    one.run()
    store.update_stack("s", template(a={"properties": {"n": 2}}))
    (work,) = one.claim()
    context = one.core.context(work)
    work.traversal = replace(work.traversal, mark=work.traversal.mark + 1)
    other = one.core.context(work)
    assert context is not None
    assert other is not None
    assert context.token != other.token


# -- actions of machines ------------------------------------------------------


class Lamp:
    """A machine whose actions do what they are told."""

    def __init__(self, store: converge.Store, lease: float = 3600.0) -> None:
        self.calls: list[str] = []
        self.ids: list[str] = []
        self.behaviour: list[Callable[[], object]] = []
        definition = {
            "name": "lamp",
            "initial": "off",
            "states": {"off": {}},
            "transitions": [{"event": "press", "source": "off", "target": "off", "action": self}],
        }
        self.machine = converge.Machine(store, definition, lease=lease)
        self.actions = self.machine._actions

    def __call__(self, action: converge.machine.Action) -> None:
        self.calls.append(action.key)
        self.ids.append(action.id)
        if self.behaviour:
            self.behaviour.pop(0)()

    def leave(self, store: converge.Store, *keys: str) -> None:
        """Moves whose actions nobody has taken."""
        with store.transaction() as tx:
            events = [(key, "press") for key in keys]
            self.machine.fire_many(events, create=True, transaction=tx)


@pytest.fixture
def lamps(store: converge.Store) -> Iterator[Callable[..., Lamp]]:
    made: list[Lamp] = []

    def make(**how: Any) -> Lamp:
        made.append(Lamp(store, **how))
        return made[-1]

    yield make
    for one in made:
        one.machine.close()


def holders(store: converge.Store) -> list[int | None]:
    query = select(schema.move.c.engine_id).order_by(schema.move.c.instance_id)
    return store.database.read(lambda tx: list(tx.execute(query).scalars()))


def forget(store: converge.Store, lamp: Lamp) -> None:
    """The rows say that the machine holds what it knows nothing of."""
    change(store, schema.move, engine_id=lamp.actions.owner.current_id(), epoch=1, mark=1)


def test_an_action_that_its_holder_does_not_know_is_let_go_of_after_a_renewal(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    lamp, other = lamps(lease=1.0), lamps()
    compared = threading.Semaphore(0)
    real = lamp.actions.reconcile

    def reconcile(lease: Lease) -> None:
        real(lease)
        compared.release()

    lamp.actions.reconcile = reconcile  # type: ignore[method-assign]
    lamp.leave(store, "k")
    forget(store, lamp)
    assert other.machine.sweep() == 0
    # one may have begun before it was forgotten
    assert all(compared.acquire(timeout=60) for _ in range(2))
    assert holders(store) == [None]
    assert other.machine.sweep() == 1
    assert (lamp.calls, other.calls) == ([], ["k"])
    # nobody has died of it
    assert store.database.read(lambda tx: tx.execute(select(schema.move.c.deaths)).scalar()) == 0


def test_who_compares_keeps_the_actions_in_hand(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    """Also those of an event, and those that come after another one."""
    lamp, other = lamps(), lamps()
    seen: list[Any] = []

    def compare() -> None:
        lamp.actions.reconcile(lamp.actions.owner.current_lease())
        seen.append((holders(store), other.machine.sweep()))

    def chain() -> None:
        lamp.machine.fire("c", "press", create=True)
        compare()

    me = lamp.actions.owner.current_id()
    lamp.behaviour = [chain, compare, compare]
    lamp.machine.fire_many([("a", "press"), ("b", "press")], create=True)
    assert seen == [([me, me, me], 0), ([None, me, me], 0), ([None, None, me], 0)]
    lamp.leave(store, "d")
    lamp.behaviour = [compare]
    assert lamp.machine.sweep() == 1
    assert seen[3:] == [([None, None, None, me], 0)]
    assert other.calls == []
    assert not lamp.actions._in_hand


@pytest.mark.parametrize("point", [Commit.FIRE, Commit.ACTION_CLAIM])
def test_who_compares_keeps_the_actions_that_are_being_taken(
    store: converge.Store,
    lamps: Callable[..., Lamp],
    monkeypatch: pytest.MonkeyPatch,
    point: Commit,
) -> None:
    lamp = lamps()
    me = lamp.actions.owner.current_id()
    seen: list[Any] = []

    def compare(name: str) -> None:
        if name == point.after:
            lamp.actions.reconcile(lamp.actions.owner.current_lease())
            seen.append(holders(store))

    monkeypatch.setattr(crash_points, "hook", compare)
    if point is Commit.FIRE:
        lamp.machine.fire("k", "press", create=True)
    else:
        lamp.leave(store, "k")
        lamp.machine.sweep()
    # a sweep looks once more, and finds none
    assert (seen[0], lamp.calls) == ([me], ["k"])


def test_no_action_is_taken_under_an_id_that_is_another_ones(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    lamp = lamps()
    id_ = lamp.actions.owner.current_id()
    change(store, schema.engine, mark=1)
    lamp.machine.fire("a", "press", create=True)
    assert lamp.actions.owner.current_id() != id_
    change(store, schema.engine, mark=1)
    lamp.leave(store, "b")
    assert lamp.machine.sweep() == 1
    assert lamp.calls == ["a", "b"]


def test_the_id_of_an_action_does_not_come_again(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    """But at the next attempt."""

    def fail() -> None:
        raise RuntimeError

    lamp = lamps()
    lamp.behaviour = [fail]
    lamp.leave(store, "k")
    lamp.machine.sweep()
    change(store, schema.move, next_at=0)
    assert lamp.machine.sweep() == 1
    # another move of the same numbers
    change(store, schema.move, next_at=0, status="PENDING", token="0" * 32)
    assert lamp.machine.sweep() == 1
    first, again, other = lamp.ids
    assert first == again != other


def test_a_claim_whose_reply_was_lost_is_known_by_its_mark(
    store: converge.Store, lamps: Callable[..., Lamp]
) -> None:
    lamp = lamps()
    lamp.leave(store, "k")
    _, (held,) = lamp.actions.claim(1)
    with store.transaction() as tx:
        row = moves.get_move(tx, held.instance_id, held.number)
        assert row is not None
        assert _is_taken(tx, row, held.owner)
        assert not _is_taken(tx, replace(row, mark=row.mark + 1), held.owner)
    lamp.actions.release([held])


def test_an_action_that_is_no_retry_does_not_wait_for_the_clock(
    store: converge.Store, lamps: Callable[..., Lamp], clock: FakeClock
) -> None:
    """It may go back."""

    def fail() -> None:
        raise RuntimeError

    lamp = lamps()
    lamp.leave(store, "k")
    clock.advance(-1000)
    lamp.behaviour = [fail] * 10
    assert lamp.machine.sweep() == 0
    assert lamp.calls == ["k"]
    for _ in range(9):
        clock.advance(10_000)
        lamp.machine.sweep()
    assert lamp.machine.retry("k") == 1
    clock.advance(-1000)
    assert lamp.machine.sweep() == 1
    # taken, and let go of
    lamp.leave(store, "l")
    _, (held,) = lamp.actions.claim(1)
    lamp.actions.release([held])
    clock.advance(-1000)
    assert lamp.machine.sweep() == 1


def test_actions_are_called_in_the_order_of_their_moves(
    store: converge.Store, lamps: Callable[..., Lamp], clock: FakeClock
) -> None:
    lamp = lamps()
    for key in "cab":
        lamp.leave(store, key)
        clock.advance(1)
    assert lamp.machine.sweep() == 3
    assert lamp.calls == ["c", "a", "b"]


# -- scopes of journals -------------------------------------------------------


@pytest.fixture
def journals(store: converge.Store) -> Iterator[Callable[..., SqlBackend]]:
    made: list[SqlBackend] = []

    def make(lease: float = 3600.0) -> SqlBackend:
        made.append(SqlBackend(store.database, lease))
        return made[-1]

    yield make
    for one in made:
        one.close()


def scope_holders(store: converge.Store) -> list[int | None]:
    query = select(schema.scope.c.engine_id).order_by(schema.scope.c.name)
    return store.database.read(lambda tx: list(tx.execute(query).scalars()))


def test_a_scope_that_its_holder_does_not_know_is_let_go_of_after_a_renewal(
    store: converge.Store, journals: Callable[..., SqlBackend]
) -> None:
    one, other = journals(lease=1.0), journals()
    compared = threading.Semaphore(0)
    real = one.reconcile

    def reconcile(lease: Lease) -> None:
        real(lease)
        compared.release()

    one.reconcile = reconcile  # type: ignore[method-assign]
    one.release(one.take("job").lock, finished=True)
    finished = one.show("job")[0].finished
    change(store, schema.scope, engine_id=one.owner.current_id(), mark=1)
    with pytest.raises(Busy):
        other.take("job")
    # one may have begun before it was forgotten
    assert all(compared.acquire(timeout=60) for _ in range(2))
    assert scope_holders(store) == [None]
    # nobody has begun it again
    assert other.show("job")[0].finished == finished
    assert other.take("job").finished


def test_who_compares_keeps_the_scopes_in_hand(
    store: converge.Store, journals: Callable[..., SqlBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is being taken, or let go of."""
    one = journals()
    me = one.owner.current_id()
    seen: list[tuple[str, list[int | None]]] = []

    def compare(name: str) -> None:
        if name in (Commit.TAKE.after, Commit.LET_GO.before):
            one.reconcile(one.owner.current_lease())
            seen.append((name, scope_holders(store)))

    monkeypatch.setattr(crash_points, "hook", compare)
    for _ in range(2):
        lock = one.take("job").lock
        one.write(lock, Record(f"step {lock.epoch}", lock.epoch))
        one.reconcile(one.owner.current_lease())
        one.release(lock, finished=True)
    assert seen == [(name, [me]) for name in (Commit.TAKE.after, Commit.LET_GO.before)] * 2
    assert one.show("job")[0].finished is not None
    assert not one._in_hand


def test_a_scope_that_could_not_be_let_go_of_is_free_after_the_next_renewal(
    store: converge.Store, journals: Callable[..., SqlBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one whose taking went through though it was not told so."""
    one = journals()
    lock = one.take("a").lock

    def fail(*args: Any, **more: Any) -> bool:
        raise StoreError("the database is gone")

    with monkeypatch.context() as patch:
        patch.setattr(scopes, "release_scope", fail)
        with pytest.raises(StoreError):
            one.release(lock, finished=True)

    def interrupt(name: str) -> None:
        if name == Commit.TAKE.after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(crash_points, "hook", interrupt)
        with pytest.raises(KeyboardInterrupt):
            one.take("b")
    assert None not in scope_holders(store)
    one.reconcile(one.owner.current_lease())
    assert scope_holders(store) == [None, None]


def test_a_scope_that_was_taken_again_is_not_let_go_of(
    store: converge.Store, journals: Callable[..., SqlBackend]
) -> None:
    one = journals()
    lock = one.take("job").lock
    for held in [(lock.epoch + 1, lock.mark), (lock.epoch, lock.mark + 1)]:
        with store.transaction() as tx:
            assert scopes.free_scopes(tx, lock.owner, [(lock.scope, *held)]) == 0
    with store.transaction() as tx:
        assert scopes.free_scopes(tx, lock.owner, [(lock.scope, lock.epoch, lock.mark)]) == 1


def test_no_scope_is_taken_under_an_id_that_is_another_ones(
    store: converge.Store, journals: Callable[..., SqlBackend]
) -> None:
    one = journals()
    id_ = one.owner.current_id()
    change(store, schema.engine, mark=1)
    assert one.take("job").lock.owner == one.owner.current_id() != id_


def test_what_belongs_to_a_forgotten_scope_is_not_written_to_one_with_its_ids(
    store: converge.Store, journals: Callable[..., SqlBackend], engine: Callable[..., StepEngine]
) -> None:
    """Of a caller, and of an engine's node."""
    store.create_stack("s", template(a=[]))
    one = engine()
    (work,) = one.claim()
    context = one.core.context(work)
    assert context is not None
    node = context.journal
    node.step("first", lambda: 1)
    lock = journals().take("job").lock
    change(store, schema.scope, mark=1)
    with pytest.raises(StaleLock):
        node.step("second", lambda: 2)
    with pytest.raises(StaleLock):
        journals().write(lock, Record("a", 1))


@pytest.mark.parametrize("what", ["scope", "move"])
def test_who_compares_lets_go_of_nothing_under_an_id_that_is_another_ones(
    store: converge.Store,
    lamps: Callable[..., Lamp],
    journals: Callable[..., SqlBackend],
    what: str,
) -> None:
    if what == "scope":
        owner, reconcile = (journal := journals()).owner, journal.reconcile
        journals().take("job")
    else:
        owner, reconcile = (lamp := lamps()).actions.owner, lamp.actions.reconcile
        other = lamps()
        other.leave(store, "k")
        other.actions.claim(1)
    lease = owner.current_lease()
    # its id is another's, who holds this
    change(store, getattr(schema, what), engine_id=lease.id)
    change(store, schema.engine, mark=1)
    reconcile(lease)
    query = select(getattr(schema, what).c.engine_id)
    assert store.database.read(lambda tx: tx.execute(query).scalar()) == lease.id
