"""Jobs for the journal and for machines, and a driver that runs them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import update

import converge
from converge import Conflict, IllegalEvent, Journal, Machine, NotFound, RetryPolicy, Scope
from converge.journal import items
from converge.machine import Action
from converge.sql import schema, scopes
from converge.sql.transaction import Transaction
from converge.testing import FakeClock
from tests.crash.job import LEASE, Job
from tests.crash.reaper import serve

#: Seconds that an instance may be in some states.
TIMEOUT = 60.0
#: A machine without actions.
DOOR = {
    "name": "door",
    "initial": "open",
    "states": {"open": {}, "shut": {"terminal": True}},
    "transitions": [{"event": "shut", "source": "open", "target": "shut"}],
}


class JournalJob(Job):
    """Scopes with steps and items, outside and in transactions of the host's."""

    def work(self, journal: Journal, scope: Scope) -> None:
        """Steps, items, other scopes."""
        self._do_steps(scope)
        self._do_items(scope)
        scope.step("drafts", self._draft, journal)
        scope.step("forget", self._forget, journal)
        scope.step("inherit", self._inherit, journal)

    def leave_behind(self, tx: Transaction, engine_id: int) -> None:
        """A scope with a step."""
        scope = scopes.insert_scope(tx, "inherited", engine_id, 7)
        values = {"number": 1, "version": 1, "status": "DONE", "value": '"begin"'}
        values |= {"attempts": 1, "position": 0, "wait": 0.0}
        scopes.insert_step(tx, scope, engine_id, 1, 7, "begin", **values)

    def _do_steps(self, scope: Scope) -> None:
        scope.step("register", self.act, "register")
        with self.store.transaction() as tx:
            scope.step("note", self.insert, tx, "note", transaction=tx)
        policy = RetryPolicy(attempts=2, exceptions=(ConnectionError,))
        scope.step("call", self._call, retry=policy)
        with scope.scope("page") as page:
            page.step("print", self.act, "print page")
            with self.store.transaction() as tx:
                page.step("note", self.insert, tx, "page", transaction=tx)

    def _call(self, idempotency_key: str) -> str:
        if self.is_first("call"):
            raise ConnectionError
        return self.act("call", idempotency_key)

    def _do_items(self, scope: Scope) -> None:
        for name in scope.each("tell", ["Ada", "Ben", "Cleo"]):
            self.act(f"tell {name.value}", name.key)
        for number in scope.each("store", lambda done: range(done, 2)):
            with self.store.transaction() as tx:
                self.insert(tx, f"item {number.value}")
                number.done(tx)
        # whoever goes on goes the other way round
        letters = "abc" if self.is_first("sort") else "cba"
        # keys soon get records of their own
        with mock.patch.object(items, "FULL", 1):
            for letter in scope.each("sort", letters, key=str):
                self.act(f"sort {letter.value}", letter.key)

    def _draft(self, journal: Journal) -> None:
        for name in ("draft 1", "draft 2"):
            with journal.scope(name) as scope:
                scope.step("write", self.act, f"write {name}")

    def _forget(self, journal: Journal) -> None:
        with suppress(NotFound):  # a process that died did so
            journal.forget("draft 1")
        journal.prune(age=0.0)

    def _inherit(self, journal: Journal) -> None:
        with journal.scope("inherited") as scope:
            scope.step("begin", self.act, "begin")
            scope.step("end", self.act, "end")


class Refused(Exception):
    """What an action cannot do."""


class Interrupted(BaseException):
    """As if by a person, who then runs the rest."""


def is_large(payloads: Mapping[str, Any], payload: object) -> bool:
    """A guard."""
    return bool(payloads["pay"]["amount"] > 10)


class Parcels(Job):
    """What jobs have in common that are about the machine ``parcel``, of two versions."""

    def leave_behind(self, tx: Transaction, engine_id: int) -> None:
        """An action."""
        events = [("p", "pay", {"amount": 5}), ("p", "send", None)]
        self.machine(1).fire_many(events, create=True, transaction=tx)
        pending = update(schema.move).where(schema.move.c.status == "PENDING")
        tx.execute(pending.values(engine_id=engine_id, epoch=1))

    def machine(self, version: int) -> Machine:
        """The machine of one of the versions."""
        return Machine(self.store, self._definition(version), lease=LEASE)

    def fire(self, machine: Machine, *event: Any) -> None:
        """Fire an event."""
        with suppress(IllegalEvent):  # a process that died fired it
            machine.fire(*event, create=True)

    def _definition(self, version: int) -> dict[str, Any]:
        sent, late = ("sent", "late") if version == 1 else ("shipped", "lost")
        once = {"retry": RetryPolicy(attempts=1)}
        definition: dict[str, Any] = {
            "name": "parcel",
            "version": version,
            "initial": "new",
            "states": {
                "new": {},
                "paid": {"timeout": TIMEOUT, "on_timeout": "remind"},
                "reminded": {"timeout": TIMEOUT, "on_timeout": "give up"},
                sent: {},
                late: {},
                "closed": {"terminal": True},
                "spoilt": {"terminal": True},
            },
            "transitions": [
                _transition("pay", "new", "paid"),
                _transition("send", "paid", sent, action=self.send),
                _transition("remind", "paid", late, guard=is_large, action=self.note),
                _transition("remind", "paid", "reminded"),
                _transition("give up", "reminded", "closed", action=self.note),
                _transition("close", sent, "closed", action=self.close),
                _transition("close", late, "closed"),
                _transition("spoil", "new", "spoilt", action=self.refuse, **once),
            ],
        }
        if version == 2:
            definition["migrations"] = {1: {"sent": sent, "late": late}}
            definition["states"] |= {
                late: {"timeout": TIMEOUT, "on_timeout": "archive"},
                "archived": {"terminal": True},
            }
            definition["transitions"] += [
                _transition("archive", late, "archived", action=self.archive)
            ]
        return definition

    def send(self, action: Action) -> None:
        """Steps outside and in a transaction of the host's."""
        action.step("book", self.act, f"{action.key} book")
        with self.store.transaction() as tx:
            action.step("note", self.insert, tx, f"{action.key} send", transaction=tx)

    def note(self, action: Action) -> None:
        """An effect in the transaction in which the action is over."""
        with self.store.transaction() as tx:
            self.insert(tx, f"{action.key} {action.event}")
            action.done(tx)

    def close(self, action: Action) -> None:
        """The same, but at the first attempt, which alone has a step."""
        if self.is_first("close"):
            action.step("look", int)
            raise Interrupted
        self.note(action)

    def archive(self, action: Action) -> None:
        """Items, and an end in a transaction of the host's, in which the scope is deleted."""
        for item in action.each("label", [1, 2]):
            self.act(f"{action.key} label {item.value}", item.key)
        self.note(action)

    def refuse(self, action: Action) -> None:
        """A step, and no end."""
        action.step("try", self.act, f"{action.key} try")
        raise Refused


class MachineJob(Parcels):
    """Events, timeouts and actions."""

    def work(self, journal: Journal, scope: Scope) -> None:
        """The life of some instances, and the end of one."""
        scope.step("live", self._live)
        scope.step("delete", self._delete)

    def _live(self) -> None:
        with closing(self.machine(1)) as machine:
            self._create(machine)
            self.fire(machine, "a", "pay", {"amount": 5})
            self.fire(machine, "a", "send")
            self._fire_many(machine, ("c", "pay", {"amount": 50}), ("f", "pay", {"amount": 5}))
            # one of them is illegal, and the action of the first interrupts
            self._fire_many(machine, ("a", "close"), ("d", "spoil"), ("a", "pay"))
            self._fire_in_transaction(machine, "b", "pay", "send", "close")
            # as a thread does when a third of the lease has passed
            machine._actions.owner.current_lease().renew()
            for _ in ("remind", "give up"):
                self.clock.advance(TIMEOUT)
                with suppress(Interrupted):
                    machine.sweep()

    def _delete(self) -> None:
        with closing(self.machine(1)) as machine, suppress(NotFound):
            machine.retry("d")
            machine.delete("d")

    def _create(self, machine: Machine) -> None:
        with suppress(Conflict):  # a process that died made them
            machine.create("a", "b")
        with suppress(Conflict), self.store.transaction() as tx:
            self.insert(tx, "d is made")
            machine.create("d", transaction=tx)

    def _fire_many(self, machine: Machine, *events: Any) -> None:
        with suppress(Interrupted):  # what is not done is left to the sweep
            for result in machine.fire_many(events, create=True):
                if isinstance(result, Exception) and not isinstance(result, IllegalEvent):
                    raise result

    def _fire_in_transaction(self, machine: Machine, key: str, *events: str) -> None:
        with suppress(IllegalEvent), self.store.transaction() as tx:
            for event in events:
                payload = {"amount": 5} if event == "pay" else None
                machine.fire(key, event, payload, create=True, transaction=tx)
                self.insert(tx, f"{key} is to {event}")


class UpgradeJob(Parcels):
    """The next version of a program, which finds what the one before it has left."""

    def work(self, journal: Journal, scope: Scope) -> None:
        """Bring instances to the new version, and delete others."""
        scope.step("upgrade", self._upgrade)
        scope.step("prune", self._prune)

    def leave_behind(self, tx: Transaction, engine_id: int) -> None:
        """An instance that was late besides, whose action nobody has taken."""
        super().leave_behind(tx, engine_id)
        events = [("c", "pay", {"amount": 50}), ("c", "remind", None)]
        self.machine(1).fire_many(events, create=True, transaction=tx)

    def _upgrade(self) -> None:
        with closing(self.machine(2)) as machine:
            machine.migrate()
            machine.sweep()
            self.clock.advance(TIMEOUT)
            machine.sweep()

    def _prune(self) -> None:
        door = Machine(self.store, DOOR)
        self.fire(door, "front", "shut")
        door.prune(age=0.0)


def _transition(event: str, source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"event": event, "source": source, "target": target, **more}


JOBS: dict[str, type[Job]] = {
    "journal": JournalJob,
    "machine": MachineJob,
    "upgrade": UpgradeJob,
}


def play(store: converge.Store, job: str, folder: str) -> None:
    """Run a job."""
    clock = store.database.clock = FakeClock()
    JOBS[job](store, Path(folder), clock).run()


if __name__ == "__main__":
    serve(sys.argv[1], play)
