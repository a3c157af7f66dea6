"""Timeouts fire when their time has come, once, whoever sweeps."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from converge import Machine, Transition, connect
from converge.sql import machines, moves
from tests.machine.orders import ORDER, SMALL, state
from tests.machine.place import Place


def test_a_timeout_fires_when_its_time_has_come_and_nothing_happened(place: Place) -> None:
    machine = place.machine(ORDER)
    machine.fire_many([("a", "pay", SMALL), ("b", "pay", SMALL)], create=True)
    place.clock.advance(59)
    assert machine.sweep() == 0
    machine.fire("b", "ship")
    place.clock.advance(1)
    assert machine.sweep() == 1
    assert machine.sweep() == 0
    assert [state(machine, key) for key in "ab"] == ["late", "shipped"]
    assert machine.history("a")[-1].event == "remind"


def test_a_state_that_is_entered_again_has_its_whole_time_again(place: Place) -> None:
    machine = place.machine(
        {
            "name": "lease",
            "initial": "held",
            "states": {"held": {"timeout": 10.0}, "free": {"terminal": True}},
            "transitions": [
                {"event": "renew", "source": "held", "target": "held"},
                {"event": "timeout", "source": "held", "target": "free"},
            ],
        }
    )
    machine.create("k")
    place.clock.advance(9)
    machine.fire("k", "renew")
    place.clock.advance(9)
    assert machine.sweep() == 0
    assert machine.get("k").timeout == 1.0
    place.clock.advance(1)
    assert machine.sweep() == 1
    assert state(machine) == "free"


def test_of_many_sweepers_at_once_one_fires_each_timeout(place: Place) -> None:
    machine = place.machine(ORDER)
    machine.fire_many([(f"{number}", "pay", SMALL) for number in range(200)], create=True)
    place.clock.advance(60)
    sweepers = 4
    gate = threading.Barrier(sweepers)

    def sweep(machine: Machine) -> int:
        gate.wait()
        return machine.sweep()

    with ThreadPoolExecutor(sweepers) as pool:
        counts = list(pool.map(sweep, [place.machine(ORDER) for _ in range(sweepers)]))
    # who comes while another has locked them all finds nothing, and the other does it
    assert sum(counts) == 200
    assert {one.moves for one in machine.instances()} == {2}
    assert {one.state for one in machine.instances()} == {"late"}


def test_timeouts_fire_in_the_background_without_any_traffic(database_url: str) -> None:
    fired = threading.Event()
    definition = {
        "name": "bomb",
        "initial": "set",
        "states": {"set": {"timeout": 0.01}, "off": {"terminal": True}},
        "transitions": [
            {
                "event": "timeout",
                "source": "set",
                "target": "off",
                "action": lambda action: fired.set(),
            }
        ],
    }
    with connect(database_url) as store, Machine(store, definition) as machine:
        machine.start()  # it has begun already
        machine.create("k")
        assert fired.wait(60)
        machine.close()
        assert machine.get("k").state == "off"
        assert machine.history("k")[0].action == "DONE"


def test_what_cannot_time_out_does_not_keep_others_from_it(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.machine.moving.BATCH", 2)
    monkeypatch.setattr("converge.machine.worker.BATCH", 2)

    def refuse(payloads: Any, payload: Any) -> bool:
        if payloads["pay"]["amount"] == 1:
            raise RuntimeError("no")
        return False

    old = place.machine(
        {
            **ORDER,
            "states": {**ORDER["states"], "lost": {"timeout": 1.0, "on_timeout": "remind"}},
            "transitions": [
                *ORDER["transitions"],
                Transition("lose", "new", "lost"),
                Transition("remind", "lost", "late"),
            ],
        }
    )
    old.fire_many([("lost 1", "lose"), ("lost 2", "lose")], create=True)
    new = place.machine(
        {
            **ORDER,
            "version": 2,
            "migrations": {1: {}},
            "transitions": [
                Transition("remind", "paid", "shipped", guard=refuse),
                *ORDER["transitions"],
            ],
        }
    )
    new.fire_many([(f"bad {one}", "pay", {"amount": 1}) for one in range(2)], create=True)
    place.clock.advance(1)
    new.fire_many([(f"good {one}", "pay", SMALL) for one in range(5)], create=True)
    place.clock.advance(60)
    assert new.sweep() == 5
    assert (
        "lost 1: its timeout cannot fire: machine 'order': an instance of version 1" in caplog.text
    )
    assert "bad 1: its timeout cannot fire: no" in caplog.text
    caplog.clear()
    assert new.sweep() == 0
    assert caplog.text == ""
    # they are tried again, and the older program can still deal with its own
    place.clock.advance(60)
    assert old.sweep() == 2
    assert new.sweep() == 0
    assert "bad 0" in caplog.text


# -- versions ----------------------------------------------------------------


def test_no_query_of_a_sweep_reads_what_does_not_wait(place: Place) -> None:
    machine = place.machine(ORDER)
    machine.fire("k", "pay", SMALL, create=True)
    found = place.store.database.read(
        lambda tx: (
            machines.list_overdue_versions(tx, "order"),
            moves.list_due_versions(tx, "order"),
        )
    )
    assert found == ([], [])
