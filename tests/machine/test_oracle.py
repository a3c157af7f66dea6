"""A machine against one that is only a dictionary: whatever is fired, both come to the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converge import RetryPolicy
from converge.errors import IllegalEvent, NotFound
from converge.machine import Action, Move
from tests.machine.place import Place

KEYS = ("a", "b", "c")
TIMEOUT = 10.0
#: state → event → (target, whether it has an action)
TABLE = {
    "off": {"press": ("on", True), "break": ("broken", False)},
    "on": {"press": ("off", False), "break": ("broken", True), "timeout": ("off", True)},
    "broken": {"mend": ("off", False)},
}


@dataclass
class Oracle:
    """What should be: by key the state, the seconds in it, and the moves."""

    states: dict[str, str] = field(default_factory=dict)
    ages: dict[str, float] = field(default_factory=dict)
    moves: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    #: key and number of the moves with an action
    actions: list[tuple[str, int]] = field(default_factory=list)

    def fire(self, key: str, event: str, create: bool) -> type[Exception] | None:
        """What an event does; the error, if it is one."""
        if key not in self.states:
            if not create:
                return NotFound
            self.states[key], self.ages[key], self.moves[key] = "off", 0.0, []
        found = TABLE[self.states[key]].get(event)
        if found is None:
            return IllegalEvent
        self.states[key], acts = found
        self.ages[key] = 0.0
        self.moves[key].append((event, found[0]))
        if acts:
            self.actions.append((key, len(self.moves[key])))
        return None

    def advance(self, seconds: float) -> None:
        """Let time pass, and sweep."""
        for key in self.states:
            self.ages[key] += seconds
            if self.states[key] == "on" and self.ages[key] >= TIMEOUT:
                self.fire(key, "timeout", False)


EVENTS = st.tuples(st.sampled_from(KEYS), st.sampled_from(["press", "break", "mend", "spin"]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fire"), st.lists(EVENTS, min_size=1, max_size=6), st.booleans()),
        st.tuples(st.just("undone"), st.lists(EVENTS, min_size=1, max_size=3), st.booleans()),
        st.tuples(st.just("host"), st.lists(EVENTS, min_size=1, max_size=3), st.booleans()),
        st.tuples(st.just("advance"), st.sampled_from([4.0, 10.0]), st.booleans()),
    ),
    max_size=12,
)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, failing=st.sets(st.integers(0, 8)))
def test_a_machine_does_what_a_dictionary_would(
    place: Place, steps: Any, failing: set[int]
) -> None:
    called: list[str] = []
    calls = 0

    def act(action: Action) -> None:
        nonlocal calls
        calls += 1
        if calls in failing:
            raise RuntimeError
        called.append(action.id)

    retry = RetryPolicy(attempts=20, first=0.0)
    machine = place.machine(
        {
            "name": "lamp",
            "initial": "off",
            "states": {"off": {}, "on": {"timeout": TIMEOUT}, "broken": {}},
            "transitions": [
                {
                    "event": event,
                    "source": source,
                    "target": target,
                    "action": act if acts else None,
                    "retry": retry,
                }
                for source, events in TABLE.items()
                for event, (target, acts) in events.items()
            ],
        }
    )
    machine.delete(*KEYS)
    oracle = Oracle()
    for what, argument, create in steps:
        if what == "advance":
            place.clock.advance(argument)
            machine.sweep()
            oracle.advance(argument)
            continue
        if what == "undone":
            with place.store.transaction() as tx:
                machine.fire_many(argument, create=create, transaction=tx)
                tx.connection.rollback()
            continue
        if what == "host":
            with place.store.transaction() as tx:
                results = machine.fire_many(argument, create=create, transaction=tx)
        else:
            results = machine.fire_many(argument, create=create)
        wanted = [oracle.fire(key, event, create) for key, event in argument]
        assert [None if isinstance(one, Move) else type(one) for one in results] == wanted
    # what failed, and what hosts left
    for _ in range(25):
        machine.sweep()
    assert {one.key: one.state for one in machine.instances()} == oracle.states
    done = []
    for key, moves in oracle.moves.items():
        history = machine.history(key)
        assert [(one.event, one.target) for one in history] == moves
        assert [one.number for one in history] == list(range(1, len(moves) + 1))
        assert {one.action for one in history} <= {"NONE", "DONE"}
        done += [(key, one.number) for one in history if one.action == "DONE"]
    assert sorted(done) == sorted(oracle.actions)
    # each was called until it did not fail, and then no more
    assert len(called) == len(set(called)) == len(oracle.actions)
