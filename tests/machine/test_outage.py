"""An error of the database that goes through an action is no failure of it."""

from __future__ import annotations

import pytest

from converge.errors import StoreError
from converge.machine import Action
from converge.machine.actions import HAND_BACK
from converge.machine.move import ActionFailed

# -- once --------------------------------------------------------------------
from tests.machine.place import Place, attempts, held_by
from tests.machine.world import World, status


@pytest.mark.parametrize("how", ["raised", "caused"])
def test_an_error_of_the_database_is_no_failure_of_the_action_it_goes_through(
    place: Place, world: World, how: str
) -> None:
    """However often."""

    def away(action: Action) -> None:
        error = StoreError("the server cannot be reached")
        error.origin = place.store.database
        if how == "raised":
            raise error
        raise RuntimeError("cannot go on") from error

    machine = place.machine(world.definition(attempts=2))
    world.behaviour["k"] = [away] * 5
    with pytest.raises(ActionFailed, match=r"cannot be reached|cannot go on"):
        machine.fire("k", "press", create=True)
    assert (status(machine), machine.history("k")[0].reason) == ("PENDING", None)
    for _ in range(4):
        # not again and again in one sweep
        assert machine.sweep() == 0
        place.clock.advance(HAND_BACK)
        before = len(world.done)
        assert machine.sweep() == 0
        assert len(world.done) == before + 1
    assert (held_by(place), attempts(place)) == ([None], [0])
    place.clock.advance(HAND_BACK)
    assert machine.sweep() == 1
    assert world.done == ["k press 1"] * 6


def test_an_error_of_another_database_is_the_actions_own(place: Place, world: World) -> None:
    def away(action: Action) -> None:
        error = StoreError("the server cannot be reached")
        error.origin = object()
        raise error

    machine = place.machine(world.definition(attempts=1))
    world.behaviour["k"] = [away]
    with pytest.raises(ActionFailed, match="the server cannot be reached"):
        machine.fire("k", "press", create=True)
    assert status(machine) == "FAILED"
