"""The locks of resources against a dictionary.

Several engines take, use, give back and lose locks, with epochs that are good, old or never
were. The dictionary says what each call must do; a call that is refused must change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import converge
from converge.errors import StaleLock
from converge.model import Action, Status
from converge.sql import resource_locks, resources
from converge.sql.resources import ResourceRow
from converge.sql.transaction import Transaction

#: How many examples on SQLite; more of them for a long look.
EXAMPLES = int(os.environ.get("CONVERGE_TEST_EXAMPLES", "20"))
STACK = 1
ENGINES = (1, 2)

#: Who believes to have a lock: engine, resource, epoch.
Ticket = tuple[int, int, int]

engines = st.sampled_from(ENGINES)
picks = st.lists(st.integers(0, 1000), min_size=1, max_size=3)
# tickets: those that are good, if any are; those, but one with the epoch before, or in the hand of
# another; or of all times
ages = st.sampled_from(["good", "good", "one is old", "one is another's", "any"])


@dataclass(frozen=True)
class Row:
    """What the dictionary knows of a resource."""

    engine_id: int | None = None
    epoch: int = 0
    blocking: bool = False
    status: Status = Status.INIT
    reason: str | None = None
    physical_id: str | None = None
    requires: tuple[int, ...] = ()
    replaces: int | None = None
    replaced_by: int | None = None


def seen(row: ResourceRow) -> Row:
    """A row of the database as the dictionary has it."""
    values = {name: getattr(row, name) for name in Row.__dataclass_fields__}
    return Row(**values | {"requires": tuple(row.requires)})


class Locks(RuleBasedStateMachine):
    """:param store: an open store without rows."""

    def __init__(self, store: converge.Store) -> None:
        super().__init__()
        self.store = store
        self.rows: dict[int, Row] = {}
        # all that ever were given out, in the order of their making
        self.tickets: list[Ticket] = []
        self.epochs: dict[int, int] = {}
        self.count = 0

    @initialize(count=st.integers(1, 3))
    def insert(self, count: int) -> None:
        with self.store.transaction() as tx:
            names = [f"r{number}" for number in range(count)]
            ids = resources.insert_resources(tx, STACK, names, ["fake"] * count)
            self.rows = {key: Row() for key in ids.values()}

    # -- what is drawn

    def some(self, numbers: Sequence[int]) -> list[int]:
        """Resources that exist."""
        known = sorted(self.rows)
        return sorted({known[number % len(known)] for number in numbers}) if known else []

    def drawn(self, numbers: Sequence[int], age: str) -> list[Ticket]:
        """Tickets of one engine, one of a resource."""
        among = self.tickets
        if age != "any":
            among = [one for one in among if self.holds(one)] or among
        by_key = {one[1]: one for n in numbers for one in [among[n % len(among)]]}
        first, *rest = by_key.values()
        rest = [one for one in rest if one[0] == first[0]]
        if age == "one is old":
            first = (first[0], first[1], first[2] - 1)
        if age == "one is another's":
            first, rest = (first[0] + 1, first[1], first[2]), []
        return [*rest, first]

    def holds(self, ticket: Ticket) -> bool:
        engine_id, key, epoch = ticket
        row = self.rows.get(key)
        return row is not None and (row.engine_id, row.epoch) == (engine_id, epoch)

    def attempt(self, function: Callable[[Transaction], object], *, valid: bool) -> None:
        """A transaction that must go through, or be refused."""
        if valid:
            with self.store.transaction() as tx:
                function(tx)
            return
        with pytest.raises(StaleLock), self.store.transaction() as tx:
            function(tx)

    def text(self) -> str:
        """A value that was never written before."""
        self.count += 1
        return f"value {self.count}"

    # -- what engines do

    @precondition(lambda self: self.rows)
    @rule(engine_id=engines, numbers=picks, off=st.sampled_from([0, 0, 0, -1, 1]), more=picks)
    def take(self, engine_id: int, numbers: list[int], off: int, more: list[int]) -> None:
        """With the epoch that was seen, or one that is too old or too new."""
        ids = self.some(numbers)
        lots: list[dict[str, Any]] = []
        for number, key in enumerate(ids):
            epoch = self.rows[key].epoch + (off if number == 0 else 0)
            lot: dict[str, Any] = {
                "id": key,
                "epoch": epoch,
                "action": Action.CREATE,
                "type": "fake",
            }
            lot["status"] = Status.IN_PROGRESS
            if more[0] % 2 == number % 2:
                lot["requires"] = more
            lots.append(lot)
        valid = off == 0 and all(self.rows[key].engine_id is None for key in ids)
        self.attempt(lambda tx: resource_locks.take_locks(tx, engine_id, lots), valid=valid)
        if not valid:
            return
        for lot in lots:
            key = lot["id"]
            self.rows[key] = replace(
                self.rows[key],
                engine_id=engine_id,
                epoch=lot["epoch"] + 1,
                status=Status.IN_PROGRESS,
                requires=tuple(lot.get("requires", self.rows[key].requires)),
            )
            self.tickets.append((engine_id, key, lot["epoch"] + 1))

    @precondition(lambda self: self.tickets)
    @rule(numbers=picks, age=ages, shapes=st.integers(0, 3))
    def release(self, numbers: list[int], age: str, shapes: int) -> None:
        """Several at once, which write different columns."""
        tickets = self.drawn(numbers, age)
        engine_id = tickets[0][0]
        writes: list[tuple[int, int, dict[str, Any]]] = []
        for number, (_, key, epoch) in enumerate(tickets):
            values: dict[str, Any] = {"reason": self.text()}
            if shapes >> number & 1:
                values["status"] = Status.COMPLETE
            writes.append((key, epoch, values))
        valid = all(map(self.holds, tickets))
        self.attempt(lambda tx: resource_locks.release_locks(tx, engine_id, writes), valid=valid)
        if valid:
            for key, _, values in writes:
                self.rows[key] = replace(self.rows[key], engine_id=None, blocking=False, **values)

    @precondition(lambda self: self.tickets)
    @rule(numbers=picks, age=ages, other=st.none() | engines)
    def write(self, numbers: list[int], age: str, other: int | None) -> None:
        """As its holder, or as somebody who has heard of its epoch."""
        engine_id, key, epoch = self.drawn(numbers, age)[0]
        engine_id = other or engine_id
        value = self.text()
        valid = self.holds((engine_id, key, epoch))
        self.attempt(
            lambda tx: resource_locks.write_locked(tx, engine_id, key, epoch, physical_id=value),
            valid=valid,
        )
        if valid:
            self.rows[key] = replace(self.rows[key], physical_id=value)

    @precondition(lambda self: self.tickets)
    @rule(numbers=picks, age=ages)
    def swap(self, numbers: list[int], age: str) -> None:
        """A new version, locked from the start; the lock on the old one goes."""
        ticket = engine_id, key, epoch = self.drawn(numbers, age)[0]
        made: list[int] = []

        def write(tx: Transaction) -> None:
            old = resources.lock_resources(tx, [key])[key]
            made.append(resources.insert_replacement(tx, old, "fake", engine_id, [key]))
            resource_locks.release_locks(tx, engine_id, [(key, epoch, {"replaced_by": made[0]})])

        valid = self.holds(ticket)
        if key not in self.rows:
            return
        self.attempt(write, valid=valid)
        if valid:
            (new,) = made
            self.rows[key] = replace(
                self.rows[key], engine_id=None, blocking=False, replaced_by=new
            )
            self.rows[new] = Row(
                engine_id, 1, status=Status.IN_PROGRESS, requires=(key,), replaces=key
            )
            self.tickets.append((engine_id, new, 1))

    @precondition(lambda self: self.tickets)
    @rule(numbers=picks, age=ages)
    def delete(self, numbers: list[int], age: str) -> None:
        """Several at once; the versions that are left forget those that are gone."""
        # of what is gone there is no row to hand over
        tickets = [one for one in self.drawn(numbers, age) if one[1] in self.rows]
        if not tickets:
            return
        engine_id = tickets[0][0]

        def delete(tx: Transaction) -> None:
            found = resources.lock_resources(tx, [key for _, key, _ in tickets])
            for _, key, epoch in tickets:
                found[key].epoch = epoch
            resource_locks.delete_locked(tx, engine_id, list(found.values()))

        valid = all(map(self.holds, tickets))
        self.attempt(delete, valid=valid)
        if valid:
            for _, key, _ in tickets:
                gone = self.rows.pop(key)
                older, newer = gone.replaces, gone.replaced_by
                if older in self.rows and self.rows[older].replaced_by == key:
                    self.rows[older] = replace(self.rows[older], replaced_by=None)
                if newer in self.rows and self.rows[newer].replaces == key:
                    self.rows[newer] = replace(self.rows[newer], replaces=None)

    # -- what others do

    @precondition(lambda self: self.rows)
    @rule(engine_id=engines, numbers=picks)
    def free(self, engine_id: int, numbers: list[int]) -> None:
        """The engine is dead: what it has of these is free; what others have stays theirs."""
        ids = self.some(numbers)
        self.attempt(lambda tx: resource_locks.free_engine_locks(tx, engine_id, ids), valid=True)
        for key in ids:
            row = self.rows[key]
            if row.engine_id == engine_id:
                self.rows[key] = replace(row, engine_id=None, epoch=row.epoch + 1, blocking=False)

    @precondition(lambda self: self.rows)
    @rule(numbers=picks)
    def wait_for(self, numbers: list[int]) -> None:
        ids = self.some(numbers)
        self.attempt(lambda tx: resource_locks.set_blocking(tx, ids), valid=True)
        for key in ids:
            self.rows[key] = replace(self.rows[key], blocking=True)

    # -- what must be so

    @invariant()
    def rows_are_as_the_dictionary_says(self) -> None:
        with self.store.transaction() as tx:
            found = {row.id: seen(row) for row in resources.list_resources(tx, STACK)}
            states = resource_locks.lock_states(tx, found)
        assert found == self.rows
        for key, row in found.items():
            state = states[key]
            assert (state.engine_id, state.epoch) == (row.engine_id, row.epoch)
            assert state.blocking is row.blocking

    @invariant()
    def epochs_only_grow(self) -> None:
        for key, row in self.rows.items():
            assert row.epoch >= self.epochs.get(key, 0)
            self.epochs[key] = row.epoch
        assert len(set(self.tickets)) == len(self.tickets)

    @precondition(lambda self: self.tickets)
    @rule()
    def nobody_but_its_holder_can_write_a_resource(self) -> None:
        """Of all the locks that were ever given out, at most one is good for anything."""
        accepted: dict[int, list[Ticket]] = {}
        with self.store.transaction() as tx:
            for ticket in self.tickets:
                engine_id, key, epoch = ticket
                try:
                    resource_locks.write_locked(tx, engine_id, key, epoch, physical_id="probe")
                except StaleLock:
                    continue
                accepted.setdefault(key, []).append(ticket)
            tx.connection.rollback()
        assert all(len(tickets) == 1 for tickets in accepted.values())
        assert [one for one in self.tickets if one in accepted.get(one[1], [])] == [
            one for one in self.tickets if self.holds(one)
        ]


def examples(store: converge.Store) -> Mapping[str, Any]:
    """Fewer on the servers, which take longer over each."""
    return {"max_examples": EXAMPLES if store.database.dialect == "sqlite" else EXAMPLES // 5 + 1}


def test_locks(fresh_store: Callable[..., converge.Store]) -> None:
    class Fresh(Locks):
        def __init__(self) -> None:
            super().__init__(fresh_store())

    run_state_machine_as_test(
        Fresh,
        settings=settings(
            **examples(fresh_store()),
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            print_blob=True,
        ),
    )
