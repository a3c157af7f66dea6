"""Guards against ids of scopes that come again, as test_marks.py has them of nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge import crash_points
from converge.crash_points import Commit
from converge.errors import Busy, StaleLock, StoreError
from converge.journal.backend import Record
from converge.journal.sql import SqlBackend
from converge.lease import Lease
from converge.sql import schema, scopes
from converge.testing import StepEngine
from tests.guards.lamps import Lamp
from tests.guards.tools import change
from tests.templates import template


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
    forgotten = threading.Event()
    compared = threading.Semaphore(0)
    real = one.reconcile

    def reconcile(lease: Lease) -> None:
        if forgotten.is_set():
            real(lease)
            compared.release()

    one.reconcile = reconcile  # type: ignore[method-assign]
    one.release(one.take("job").lock, finished=True)
    finished = one.show("job")[0].finished
    change(store, schema.scope, engine_id=one.owner.current_id(), mark=1)
    with pytest.raises(Busy):
        other.take("job")
    forgotten.set()
    # one may have begun before it was forgotten
    assert all(compared.acquire(timeout=60) for _ in range(2))
    assert scope_holders(store) == [None]
    # nobody has begun it again
    assert other.show("job")[0].finished == finished
    assert other.take("job").finished


def test_who_compares_keeps_the_scopes_in_hand(
    store: converge.Store, journals: Callable[..., SqlBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is being taken, or released."""
    one = journals()
    me = one.owner.current_id()
    seen: list[tuple[str, list[int | None]]] = []

    def compare(name: str) -> None:
        if name in (Commit.TAKE.after, Commit.SCOPE_RELEASE.before):
            one.reconcile(one.owner.current_lease())
            seen.append((name, scope_holders(store)))

    monkeypatch.setattr(crash_points, "hook", compare)
    for _ in range(2):
        lock = one.take("job").lock
        one.write(lock, Record(f"step {lock.epoch}", lock.epoch))
        one.reconcile(one.owner.current_lease())
        one.release(lock, finished=True)
    assert seen == [(name, [me]) for name in (Commit.TAKE.after, Commit.SCOPE_RELEASE.before)] * 2
    assert one.show("job")[0].finished is not None
    assert not one._own_marks


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
