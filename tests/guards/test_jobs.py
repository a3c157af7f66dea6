"""Guards of the journal's and machines' rows: what is locked, and what is refused.

As of the other guards, each of these tests fails without the one that it is about, though others
would make good for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Table, event, select, update

import converge
from converge.crash_points import Commit
from converge.errors import StaleLock
from converge.journal import Record
from converge.journal.backend import ScopeLock, StepStatus
from converge.journal.sql import SqlBackend
from converge.lease import LEASE
from converge.machine.actions import Actions
from converge.machine.moving import TakenAction
from converge.model import SUSPECT_DEATHS
from converge.sql import machines, moves, schema
from converge.sql.database import Database
from converge.sql.transaction import Transaction
from converge.testing import FakeClock, StepEngine
from tests.guards.tools import SERVERS

EACH = Record("each", 2, status=StepStatus.OPEN)
WRITES: dict[str, Callable[[SqlBackend, ScopeLock, Transaction], None]] = {
    "a step": lambda backend, lock, tx: backend.write(lock, Record("new", 3), tx),
    "a step again": lambda backend, lock, tx: backend.write(
        lock, Record("old", 1, version=2), tx, replaces=True
    ),
    "an item": lambda backend, lock, tx: backend.advance(lock, "each", 1, "null", tx),
}


class Recording(converge.ResourceType):
    """Stores its physical id before it has ended."""

    def create(self, context: converge.Context, properties: Any) -> None:
        context.record("made")

    def delete(self, context: converge.Context, physical_id: str) -> None:
        pass


@pytest.fixture
def backend(store: converge.Store) -> Iterator[SqlBackend]:
    one = SqlBackend(store.database, LEASE)
    yield one
    one.close()


@pytest.fixture
def machine(store: converge.Store) -> Iterator[converge.Machine]:
    """A lamp that goes out by itself, and whose switching has an action."""
    definition: dict[str, Any] = {
        "name": "lamp",
        "initial": "off",
        "states": {"off": {}, "on": {"timeout": 10.0, "on_timeout": "press"}},
        "transitions": [
            {"event": "press", "source": "off", "target": "on", "action": lambda action: None},
            {"event": "press", "source": "on", "target": "off"},
        ],
    }
    one = converge.Machine(store, definition)
    yield one
    one.close()


def leave(machine: converge.Machine, *keys: str) -> None:
    """Leave actions to the sweep."""
    with machine._database.transaction() as tx:
        machine.fire_many([(key, "press") for key in keys], create=True, transaction=tx)


def count_free(second: Transaction, table: Table) -> int:
    """How many rows of a table another transaction could lock at once."""
    key = next(iter(table.primary_key))
    return len(second.execute(select(key).with_for_update(skip_locked=True)).all())


@SERVERS
@pytest.mark.parametrize("what", WRITES)
def test_nobody_takes_a_scope_while_a_record_of_it_is_not_committed(
    store: converge.Store, backend: SqlBackend, what: str
) -> None:
    """Or the next one would not see the step, and do it again."""
    lock = backend.take("job").lock
    backend.write(lock, Record("old", 1))
    backend.write(lock, EACH)
    with store.transaction() as tx, store.transaction() as second:
        WRITES[what](backend, lock, tx)
        assert count_free(second, schema.scope) == 0


@SERVERS
def test_nobody_takes_an_action_over_while_its_scope_is_taken(
    store: converge.Store, machine: converge.Machine
) -> None:
    leave(machine, "a")
    _, (held,) = machine._actions.claim(1)
    with store.transaction() as tx, store.transaction() as second:
        moves.hold_action(tx, held.lock)
        assert count_free(second, schema.move) == 0


def claim(tx: Transaction, machine: converge.Machine, owner: int) -> list[str]:
    """The keys of the instances whose actions are taken, one at a time."""
    return [one.key for one in moves.claim_actions(tx, machine.name, [1], owner, 1, 7)]


@SERVERS
def test_nobody_waits_for_actions_or_timeouts_that_another_one_looks_at(
    store: converge.Store, machine: converge.Machine, clock: FakeClock
) -> None:
    leave(machine, "a", "b")
    owner = machine._actions.owner.current_id()
    clock.advance(10)
    other = Database(store.database.url, clock=clock)
    with store.transaction() as tx, other.transaction() as second:
        if other.dialect == "postgresql":
            second.connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
        else:
            second.connection.exec_driver_sql("SET innodb_lock_wait_timeout = 1")
        assert claim(tx, machine, owner) == ["a"]
        # MariaDB may lock what it has looked at; nobody waits for it all the same
        assert claim(second, machine, owner) in ([], ["b"])
        taken = machines.lock_overdue(tx, "lamp", [1], 1)
        left = machines.lock_overdue(second, "lamp", [1], 1)
        assert len(taken) == 1
        assert [row.key for row in left] in ([], [key for key in "ab" if key != taken[0].key])
    other.close()


def test_a_move_from_an_epoch_that_is_no_more_is_refused(
    store: converge.Store, machine: converge.Machine
) -> None:
    machine.create("a", "b")
    with store.transaction() as tx:
        rows = machines.lock_instances(tx, "lamp", ["a", "b"])
    machine.fire("b", "press")
    moved = [
        {"id": row.id, "epoch": 0, "state": "on", "payloads": "{}", "timeout": None}
        for row in rows.values()
    ]
    with pytest.raises(StaleLock, match="2 instances to move, 1 found"), store.transaction() as tx:
        machines.move_instances(tx, moved, 1)
    assert [one.state for one in machine.instances()] == ["off", "on"]


@pytest.mark.parametrize("place", [2, 3, 4], ids=["owner", "epoch", "mark"])
def test_the_end_of_an_action_names_its_owner_its_epoch_and_its_mark(
    store: converge.Store, machine: converge.Machine, place: int
) -> None:
    leave(machine, "a")
    _, (held,) = machine._actions.claim(1)
    numbers = list(held.lock)
    numbers[place] += 1
    lock: Any = tuple(numbers)
    with store.transaction() as tx:
        assert not moves.end_action(tx, lock, "DONE")
        with pytest.raises(StaleLock):
            moves.hold_action(tx, lock)
        moves.release_actions(tx, [lock])
        assert moves.list_locks(tx, [held.instance_id]) == {held.lock}
        assert moves.end_action(tx, held.lock, "DONE")
        # only once
        assert not moves.end_action(tx, held.lock, "FAILED")


@pytest.mark.parametrize("place", ["owner", "epoch", "mark"])
def test_a_scope_is_written_to_and_let_go_of_by_its_owner_at_its_epoch_and_mark_only(
    backend: SqlBackend, place: str
) -> None:
    lock = backend.take("job").lock
    backend.write(lock, EACH)
    other = replace(lock, **{place: getattr(lock, place) + 1})
    with pytest.raises(StaleLock):
        backend.write(other, Record("a", 3))
    with pytest.raises(StaleLock):
        backend.write(other, EACH, replaces=True)
    with pytest.raises(StaleLock):
        backend.advance(other, "each", 1, "null")
    backend.release(other, finished=True)
    assert backend.show("job")[0].owner is not None
    assert [one.position for one in backend.show("job")[1]] == [0]


def test_a_record_that_replaces_another_finds_it(backend: SqlBackend) -> None:
    lock = backend.take("job").lock
    with pytest.raises(StaleLock, match="no record"):
        backend.write(lock, EACH, replaces=True)


def test_what_is_a_transaction_by_itself_is_one_statement(
    store: converge.Store,
    backend: SqlBackend,
    machine: converge.Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two, the first would be committed without the second."""
    transact = Database.transact
    counts: dict[str, set[int]] = {}

    def watched(
        database: Database,
        function: Any,
        commit: Commit,
        *,
        one_statement: bool = False,
        **more: Any,
    ) -> Any:
        def counted(tx: Transaction) -> Any:
            statements = []

            def execute(connection: object, cursor: object, statement: str, *rest: object) -> None:
                statements.append(statement)

            event.listen(database.engine, "before_cursor_execute", execute)
            try:
                return function(tx)
            finally:
                event.remove(database.engine, "before_cursor_execute", execute)
                if one_statement and tx.dialect != "mysql":
                    counts.setdefault(commit.name, set()).add(len(statements))

        return transact(database, counted, commit, one_statement=one_statement, **more)

    monkeypatch.setattr(Database, "transact", watched)
    lock = backend.take("job").lock
    backend.write(lock, EACH)
    backend.advance(lock, "each", 1, "null")
    backend.write(lock, EACH, replaces=True)
    backend.release(lock, finished=False)
    backend.owner.current_lease().renew()
    leave(machine, "a")
    assert machine.sweep() == 1
    template = converge.Template.parse("resources: {a: {type: recording}}")
    stack = store.create_stack("s", template)
    StepEngine(store, {"recording": Recording()}).run()
    assert stack.wait(0) == "COMPLETE"
    if backend._database.dialect != "mysql":
        assert counts == {
            key: {1} for key in ("STEP", "ITEM", "SCOPE_RELEASE", "RENEW", "ACTION", "RECORD")
        }


def test_actions_whose_holder_is_unknown_are_counted_as_deaths(
    store: converge.Store, machine: converge.Machine
) -> None:
    """What a holder released is none; what it left is one."""
    leave(machine, "a", "b")
    actions = Actions(store.database, machine.definition, LEASE)
    _, held = actions.claim(2)
    actions.release(held[:1])
    actions.owner.close()
    _, held = machine._actions.claim(2)
    with store.transaction() as tx:
        rows = {one.key: _row(tx, one).deaths for one in held}
    assert rows == {"a": 0, "b": 1}


def test_of_the_actions_on_which_many_died_one_is_taken_and_comes_last(
    store: converge.Store, machine: converge.Machine
) -> None:
    leave(machine, *"abcd")
    owner = machine._actions.owner.current_id()
    with store.transaction() as tx:
        ids = [row.id for row in machines.lock_instances(tx, "lamp", "ab").values()]
        several = update(schema.move).where(schema.move.c.instance_id.in_(ids))
        tx.execute(several.values(deaths=SUSPECT_DEATHS))
        taken = [one.key for one in moves.claim_actions(tx, "lamp", [1], owner, 9, 7)]
    assert sorted(taken[:-1]) == ["c", "d"]
    assert taken[-1] in "ab"


def _row(tx: Transaction, held: TakenAction) -> moves.MoveRow:
    found = moves.get_move(tx, held.instance_id, held.number)
    assert found is not None
    return found
