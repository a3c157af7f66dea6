"""Steps and items in the caller's transaction: there with their effects, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest

from converge.errors import BadInput, StaleLock, StepFailed
from converge.journal import Item, Journal, Scope
from converge.retry import RetryPolicy
from tests.dying import Died
from tests.journal.places import InDatabase, Place
from tests.journal.world import World, run


def add_row(connection: Any, number: int) -> int:
    connection.exec_driver_sql(f"INSERT INTO effect VALUES ({number})")
    return number


@pytest.fixture
def effects(sql: InDatabase) -> Callable[[], list[int]]:
    """A table of the caller's beside converge's; gives its rows."""
    engine = sql.store.database.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS effect")
        connection.exec_driver_sql("CREATE TABLE effect (number INTEGER)")

    def read() -> list[int]:
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT number FROM effect ORDER BY number")
            return [int(row[0]) for row in rows]

    return read


def test_a_step_in_a_transaction_is_there_with_its_effect_or_not_at_all(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    def program(scope: Scope, crash: bool) -> Any:
        with sql.store.transaction() as tx:
            value = scope.step("a", add_row, tx.connection, 1, transaction=tx)
            if crash:
                raise Died
        return value

    for _ in range(2):
        with pytest.raises(Died):
            run(sql, partial(program, crash=True))
        assert (effects(), sql.journal().show("job")[1]) == ([], [])
    assert [run(sql, partial(program, crash=False)) for _ in range(2)] == [1, 1]
    assert effects() == [1]


def test_the_transaction_can_be_a_connection_or_a_session(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    from sqlalchemy.orm import Session

    engine = sql.store.database.engine

    def program(scope: Scope) -> None:
        with engine.begin() as connection:
            scope.step("a", add_row, connection, 1, transaction=connection)
        with Session(engine) as session, session.begin():
            scope.step("b", lambda: add_row(session.connection(), 2), transaction=session)
        with engine.begin() as connection, scope.step("c", transaction=connection) as step:
            if not step.done:
                step.value = add_row(connection, 3)

    for _ in range(2):
        run(sql, program)
    assert effects() == [1, 2, 3]
    with pytest.raises(BadInput, match="transaction must be"):
        run(sql, lambda scope: scope.step("a", int, transaction=3), "other")  # type: ignore[call-overload]


def test_items_in_transactions_have_their_effect_once(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    def program(scope: Scope, crash: int) -> None:
        for item in scope.each("a", range(6)):
            with sql.store.transaction() as tx:
                add_row(tx.connection, item.value)
                item.done(transaction=tx)
                if item.index == crash:
                    raise Died
            if item.index == crash - 1:
                raise Died

    for crash in (2, 3, 5):
        with pytest.raises(Died):
            run(sql, partial(program, crash=crash))
    run(sql, partial(program, crash=-1))
    assert effects() == list(range(6))


def test_an_item_that_was_rolled_back_can_be_done_in_another_transaction(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    def attempt(item: Item[int], fail: bool) -> None:
        with sql.store.transaction() as tx:
            add_row(tx.connection, item.value)
            item.done(transaction=tx)
            if fail:
                raise RuntimeError

    def program(scope: Scope) -> None:
        for item in scope.each("a", range(3)):
            with pytest.raises(RuntimeError):
                attempt(item, fail=True)
            attempt(item, fail=False)
            raise Died

    for _ in range(3):
        with pytest.raises(Died):
            run(sql, program)
    run(sql, program)
    assert effects() == [0, 1, 2]


def test_who_lost_the_scope_has_no_effect_in_a_transaction(
    sql: InDatabase, effects: Callable[[], list[int]]
) -> None:
    lost = sql.backend()

    def write(scope: Scope) -> None:
        with sql.store.transaction() as tx:
            scope.step("a", add_row, tx.connection, 1, transaction=tx)

    with Journal(lost).scope("job") as scope:
        sql.kill(lost)
        with sql.journal().scope("job"), pytest.raises(StaleLock):
            write(scope)
    assert effects() == []


def test_a_retry_in_a_transaction_is_refused(place: Place, world: World) -> None:
    with pytest.raises(BadInput, match="retry and transaction exclude each other"):
        run(
            place,
            lambda scope: scope.step(
                "a", world.call, "a", retry=RetryPolicy(), transaction=object()
            ),  # type: ignore[call-overload]
        )
    assert world.calls == []


def test_a_journal_in_memory_has_no_transactions(world: World) -> None:
    journal = Journal("memory://")
    with pytest.raises(BadInput, match="no transactions"), journal.scope("job") as scope:
        scope.step("a", world.call, "a", transaction=object())  # type: ignore[call-overload]


@pytest.mark.parametrize("nested", [False, True])
def test_a_failure_that_was_caught_is_recorded_in_the_transaction_of_the_next_step(
    sql: InDatabase, world: World, nested: bool
) -> None:
    """Beside it, on SQLite, it would wait for the caller, who waits for it."""

    def program(scope: Scope, crash: bool) -> None:
        with sql.store.transaction() as tx:
            inner = scope.scope("bank") if nested else nullcontext(scope)
            with inner as bank, pytest.raises((RuntimeError, StepFailed)):
                bank.step("a", world.call, "a", transaction=tx)
            scope.step("b", world.call, "b", transaction=tx)
            if crash:
                raise Died

    world.failures = {"a": 2}
    with pytest.raises(Died):
        run(sql, partial(program, crash=True))
    # undone with the step that came after it
    assert sql.journal().show("job")[1] == []
    for _ in range(2):
        run(sql, partial(program, crash=False))
    assert world.calls == ["a", "b"] * 2
