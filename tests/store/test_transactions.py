"""Starts in the host's own transaction, and transactions of converge's own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import func, orm, select, text

import converge
from converge.sql import schema
from converge.testing import FakeWorld, StepEngine

OpenStore = Callable[..., converge.Store]

TEMPLATE = converge.Template.parse("resources: {A: {type: fake}, B: {type: fake, depends_on: A}}")


def rows(store: converge.Store) -> dict[str, int]:
    """How many rows each table has, of those that have any."""
    with store.transaction() as tx:
        counts = {
            name: int(tx.execute(select(func.count()).select_from(table)).scalar_one())
            for name, table in schema.metadata.tables.items()
        }
    return {name.removeprefix(schema.PREFIX): count for name, count in counts.items() if count}


@pytest.fixture
def store(fresh_store: OpenStore) -> converge.Store:
    return fresh_store()


@pytest.fixture
def host(store: converge.Store) -> Iterator[sqlalchemy.Engine]:
    """The host's own engine on the same database, with a table of its own."""
    engine = sqlalchemy.create_engine(store.database.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE host_order (id INTEGER PRIMARY KEY)"))
    yield engine
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE host_order"))
    engine.dispose()


def orders(engine: sqlalchemy.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT id FROM host_order ORDER BY id")).scalars())


def finish(store: converge.Store) -> FakeWorld:
    world = FakeWorld()
    StepEngine(store, world.types()).run()
    return world


# -- the host's own


def test_connection_of_the_host(store: converge.Store, host: sqlalchemy.Engine) -> None:
    with host.begin() as connection:
        connection.execute(text("INSERT INTO host_order VALUES (1)"))
        stack = store.create_stack("shop", TEMPLATE, transaction=connection)
        assert stack.status == "IN_PROGRESS"
    assert orders(host) == [1]
    assert finish(store).names() == ["A.0", "B.0"]
    assert stack.refresh().status == "COMPLETE"


def test_session_of_the_host(store: converge.Store, host: sqlalchemy.Engine) -> None:
    with orm.Session(host) as session, session.begin():
        session.execute(text("INSERT INTO host_order VALUES (1)"))
        stack = store.create_stack("shop", TEMPLATE, transaction=session)
    assert orders(host) == [1]
    assert finish(store).names() == ["A.0", "B.0"]
    assert stack.refresh().status == "COMPLETE"


def test_the_hosts_rollback_leaves_nothing(store: converge.Store, host: sqlalchemy.Engine) -> None:
    with host.connect() as connection:
        transaction = connection.begin()
        connection.execute(text("INSERT INTO host_order VALUES (1)"))
        store.create_stack("shop", TEMPLATE, transaction=connection)
        transaction.rollback()
    assert orders(host) == []
    assert rows(store) == {}


def test_the_hosts_rollback_leaves_nothing_if_the_start_comes_first(
    store: converge.Store, host: sqlalchemy.Engine
) -> None:
    with host.connect() as connection:
        transaction = connection.begin()
        store.create_stack("shop", TEMPLATE, transaction=connection)
        connection.execute(text("INSERT INTO host_order VALUES (1)"))
        transaction.rollback()
    assert orders(host) == []
    assert rows(store) == {}


def test_the_rollback_of_the_hosts_session_leaves_nothing(
    store: converge.Store, host: sqlalchemy.Engine
) -> None:
    with orm.Session(host) as session:
        store.create_stack("shop", TEMPLATE, transaction=session)
        session.rollback()
    assert rows(store) == {}


def test_every_start_can_be_the_hosts(store: converge.Store, host: sqlalchemy.Engine) -> None:
    store.create_stack("shop", TEMPLATE)
    finish(store)
    before = store.show("shop")
    other = converge.Template.parse("resources: {A: {type: fake, properties: {x: 1}}}")
    starts: list[Callable[[Any], object]] = [
        lambda tx: store.update_stack("shop", other, transaction=tx),
        lambda tx: store.converge_stack("shop", other, transaction=tx),
        lambda tx: store.converge_stack("other", other, transaction=tx),
        lambda tx: store.rollback_stack("shop", version="empty", transaction=tx),
        lambda tx: store.delete_stack("shop", transaction=tx),
        lambda tx: store.check_stack("shop", transaction=tx),
    ]
    for begin in starts:
        with host.connect() as connection:
            begin(connection)
            connection.rollback()
        assert store.show("shop") == before
        assert [one["name"] for one in store.stacks()] == ["shop"]
    store.update_stack("shop", other)
    running = store.show("shop")
    with host.connect() as connection:
        store.cancel_stack("shop", transaction=connection)
        connection.rollback()
    assert store.show("shop") == running


def test_a_conflict_leaves_the_hosts_transaction_usable(
    store: converge.Store, host: sqlalchemy.Engine
) -> None:
    store.create_stack("shop", TEMPLATE)
    with host.begin() as connection:
        connection.execute(text("INSERT INTO host_order VALUES (1)"))
        with pytest.raises(converge.Conflict):
            store.create_stack("shop", TEMPLATE, transaction=connection)
        with pytest.raises(converge.NotFound):
            store.update_stack("nothing", TEMPLATE, transaction=connection)
        connection.execute(text("INSERT INTO host_order VALUES (2)"))
    assert orders(host) == [1, 2]


def test_two_starts_in_one_transaction(store: converge.Store, host: sqlalchemy.Engine) -> None:
    with host.begin() as connection:
        store.create_stack("one", TEMPLATE, transaction=connection)
        store.create_stack("two", TEMPLATE, transaction=connection)
        first = store.delete_stack("one", transaction=connection)
        assert first.outcome == "superseded"
    finish(store)
    assert [(one["name"], one["status"]) for one in store.stacks()] == [("two", "COMPLETE")]


# -- converge's own


def test_what_is_wanted_is_worked_out_before_the_transaction(
    store: converge.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    transact = store.database.transact

    def transact_without_template(*given: Any, **more: Any) -> Any:
        with monkeypatch.context() as patch:
            for name in ("resolve_parameters", "validate", "to_dict", "definitions"):
                patch.delattr(converge.Template, name)
            return transact(*given, **more)

    monkeypatch.setattr(store.database, "transact", transact_without_template)
    types = FakeWorld().types()
    assert store.create_stack("s", TEMPLATE, types=types).outcome == "started"
    assert store.update_stack("s", TEMPLATE, types=types).outcome == "superseded"
    assert store.converge_stack("s", TEMPLATE, types=types).outcome == "resumed"
    wider = converge.Template.parse("resources: {A: {type: fake}, B: {type: fake}}")
    assert store.converge_stack("s", wider, types=types).outcome == "superseded"
    assert store.converge_stack("t", TEMPLATE, types=types).outcome == "started"


def test_own_transaction_with_statements_of_the_host(
    store: converge.Store, host: sqlalchemy.Engine
) -> None:
    with store.transaction() as tx:
        tx.connection.execute(text("INSERT INTO host_order VALUES (1)"))
        store.create_stack("shop", TEMPLATE, transaction=tx)
    assert orders(host) == [1]
    assert store.stack("shop").status == "IN_PROGRESS"


def test_own_transaction_rolls_back_on_an_exception(
    store: converge.Store, host: sqlalchemy.Engine
) -> None:
    def begin() -> None:
        with store.transaction() as tx:
            tx.connection.execute(text("INSERT INTO host_order VALUES (1)"))
            store.create_stack("shop", TEMPLATE, transaction=tx)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin()
    assert orders(host) == []
    assert rows(store) == {}


def test_a_transaction_after_one_that_was_dropped_is_a_whole_one(
    store: converge.Store, host: sqlalchemy.Engine
) -> None:
    """Pools roll back what was not closed without telling anybody."""
    dropped = store.database.engine.connect()
    dropped.begin()
    dropped.execute(text("INSERT INTO host_order VALUES (1)"))
    del dropped
    gc.collect()

    def fail() -> None:
        with store.transaction() as tx:
            tx.connection.execute(text("INSERT INTO host_order VALUES (2)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert orders(host) == []


@pytest.mark.parametrize("what", ["a string", 3, object()])
def test_what_is_no_transaction_is_refused(store: converge.Store, what: Any) -> None:
    with pytest.raises(converge.BadInput, match=f"not {type(what).__name__}"):
        store.create_stack("shop", TEMPLATE, transaction=what)
    assert rows(store) == {}


def test_bad_input_writes_nothing(store: converge.Store) -> None:
    with pytest.raises(converge.BadInput):
        store.create_stack("shop ", TEMPLATE)
    with pytest.raises(converge.BadInput):
        store.create_stack("shop", TEMPLATE, on_failure="explode")
    with pytest.raises(converge.BadInput):
        store.create_stack("shop", TEMPLATE, timeout=-1)
    with pytest.raises(converge.BadInput):
        store.create_stack("shop", TEMPLATE, parameters={"nope": 1})
    with pytest.raises(converge.BadInput, match="did you mean"):
        store.create_stack("shop", TEMPLATE, types={"fakes": FakeWorld().types()["fake"]})
    assert rows(store) == {}
