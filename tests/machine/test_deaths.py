"""Who has an action dies, or loses its lease: the action is left to the others."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import update

from converge.crash_points import Commit
from converge.errors import StoreError
from converge.lease import LEASE
from converge.machine import Action, Move
from converge.machine.move import ActionFailed
from converge.process import process_identity
from converge.sql import engines, schema
from converge.sql.database import Database

# -- once --------------------------------------------------------------------
from tests.machine.place import Place, attempts, held_by
from tests.machine.world import World, status


@pytest.mark.parametrize("point", [Commit.FIRE.after, Commit.ACTION.before])
def test_who_dies_after_the_move_leaves_its_action_to_the_sweep(
    place: Place, world: World, point: str
) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    other.create("k")
    place.die(point, machine.fire, "k", "press")
    assert other.get("k").state == "on"
    before = len(world.done)
    assert other.sweep() == 1
    assert len(world.done) == before + 1
    assert other.sweep() == 0
    assert status(other) == "DONE"


def test_who_dies_before_the_move_leaves_nothing(place: Place, world: World) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    other.create("k")
    place.die(Commit.FIRE.before, machine.fire, "k", "press")
    assert (other.get("k").state, other.history("k"), world.done) == ("off", [], [])
    assert other.sweep() == 0


@pytest.mark.parametrize("point", [Commit.ACTION_CLAIM.before, Commit.ACTION_CLAIM.after])
def test_who_dies_as_it_takes_actions_leaves_them_to_others(
    place: Place, world: World, point: str
) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    with place.store.transaction() as tx:
        machine.fire("k", "press", create=True, transaction=tx)
    place.die(point, machine.sweep)
    assert other.sweep() == 1
    assert world.done == ["k press 1"]


def test_nobody_else_calls_an_action_while_who_has_it_lives(place: Place, world: World) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    seen: list[int] = []
    world.behaviour["k"] = [lambda action: seen.append(other.sweep())]
    machine.fire("k", "press", create=True)
    assert (seen, world.done) == ([0], ["k press 1"])


def test_a_dead_process_of_this_host_is_not_waited_for(place: Place, world: World) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    child.communicate(b"\n")
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    place.patch.setattr("converge.lease.lease.process_identity", lambda: identity)
    dead = place.machine(world.definition(), lease=3600.0)
    machine.create("k")
    place.die(Commit.FIRE.after, dead.fire, "k", "press")
    place.patch.undo()
    assert other.sweep() == 1
    assert world.done == ["k press 1"]


def test_an_interrupt_leaves_what_was_not_called_to_others_at_once(
    place: Place, world: World
) -> None:
    def interrupt(action: Action) -> None:
        raise KeyboardInterrupt

    machine, other = place.machine(world.definition()), place.machine(world.definition())
    world.behaviour["a"] = [interrupt]
    with pytest.raises(KeyboardInterrupt):
        machine.fire_many([("a", "press"), ("b", "press")], create=True)
    assert other.sweep() == 2
    assert sorted(world.done) == ["a press 1", "a press 1", "b press 1"]


# -- steps -------------------------------------------------------------------


def test_a_lost_lease_is_taken_anew_and_its_actions_are_left_to_the_sweep(
    place: Place, world: World
) -> None:
    machine = place.machine(world.definition())

    def expire(action: Action) -> None:
        machine._actions.owner.give_up(machine._actions.owner.current_id())

    world.behaviour["a"] = [expire]
    results = machine.fire_many([("a", "press"), ("b", "press")], create=True)
    assert [one.action for one in results if isinstance(one, Move)] == ["DONE", "PENDING"]
    assert world.done == ["a press 1"]
    place.clock.advance(LEASE)
    assert machine.sweep() == 1
    assert world.done == ["a press 1", "b press 1"]


def test_a_machine_that_is_closed_lets_go_of_what_it_has(place: Place, world: World) -> None:
    machine, other = place.machine(world.definition()), place.machine(world.definition())
    world.behaviour["k"] = [lambda action: machine.close()]
    machine.fire("k", "press", create=True)
    found = place.store.database.read(lambda tx: engines.list_engines(tx))
    assert [row.state for row in found] in ([], ["ALIVE"])
    assert other.sweep() == 0


def test_an_unknown_holder_counts_as_dead(place: Place, world: World) -> None:
    machine = place.machine(world.definition())
    with place.store.transaction() as tx:
        machine.fire("k", "press", create=True, transaction=tx)
        tx.execute(update(schema.move).values(engine_id=123456, epoch=1))
    assert machine.sweep() == 1
    assert world.done == ["k press 1"]


# -- events that actions fire, and what the caller of an event is told --------


def test_an_outage_that_outlasts_the_lease_counts_no_death(place: Place, world: World) -> None:
    def outage(action: Action) -> None:
        patch.setattr(Database, "transact", refuse)
        error = StoreError("away")
        error.origin = place.store.database
        raise error

    def refuse(*arguments: Any, **more: Any) -> Any:
        raise StoreError("away")

    machine = place.machine(world.definition())
    world.behaviour["k"] = [outage]
    with place.patch.context() as patch, pytest.raises(ActionFailed):
        machine.fire("k", "press", create=True)
    assert held_by(place) != [None]
    with place.patch.context() as patch:
        patch.setattr(Database, "transact", refuse)
        with pytest.raises(StoreError):
            machine.sweep()
    place.clock.advance(LEASE)
    assert machine.sweep() == 1
    assert attempts(place) == [1]
    assert status(machine) == "DONE"


def test_who_cannot_let_go_gives_up_the_lease_that_holds_and_no_other(
    place: Place, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(action: Action) -> None:
        owner = machine._actions.owner
        ids.append(owner.current_id())
        owner.give_up(ids[0])
        ids.append(owner.current_id())
        patch.setattr(Database, "transact", refuse)

    def refuse(*arguments: Any, **more: Any) -> Any:
        raise StoreError("away")

    ids: list[int] = []
    machine = place.machine(world.definition())
    world.behaviour["a"] = [lose]
    with place.patch.context() as patch:
        machine.fire_many([("a", "press"), ("b", "press")], create=True)
    assert f"lease {ids[0]} is given up" in caplog.text
    assert machine._actions.owner.current_id() == ids[1] != ids[0]
