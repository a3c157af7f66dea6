"""What is a machine, and what is not: every mistake has a message that says where it is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from converge import RetryPolicy, State, Transition
from converge.errors import BadInput
from converge.machine.definition import Definition
from converge.machine.drawing import draw, draw_table
from converge.model import SYNC_POINT_MOVES, NodeState


def is_large(payloads: Mapping[str, Any], payload: Any) -> bool:
    return bool(payload > 100)


def is_odd(payloads: Mapping[str, Any], payload: Any) -> bool:
    return bool(payload % 2)


def pay(action: Any) -> None:
    """An action."""


def ship(action: Any) -> None:
    """Another one."""


async def later(*given: object) -> None:
    """Nobody would run it as a guard."""


def lazy(*given: object) -> Iterator[int]:
    """Nobody would run it."""
    yield 1


ORDER: dict[str, Any] = {
    "name": "order",
    "initial": "new",
    "states": {
        "new": {"timeout": 60.0, "on_timeout": "forget"},
        "paid": None,
        "shipped": {"terminal": True},
        "gone": State(terminal=True),
    },
    "transitions": [
        {"event": "pay", "source": "new", "target": "paid", "action": pay},
        {"event": "ship", "source": "paid", "target": "shipped"},
        Transition("forget", ("new", "paid"), "gone"),
    ],
}


class Order:
    initial = "new"
    states = ORDER["states"]
    transitions = ORDER["transitions"]

    # what a class may well have besides
    LIMIT = 3


def order(**changes: Any) -> Definition:
    """The order, but for some of it."""
    return Definition.of({**ORDER, **changes})


def refused(what: object) -> str:
    """Why something is no machine."""
    with pytest.raises(BadInput) as caught:
        Definition.of(what)
    return str(caught.value)


def changed(**changes: Any) -> str:
    """Why the order is no machine with these changes."""
    return refused({**ORDER, **changes})


def with_transition(*transitions: Any) -> str:
    return changed(transitions=[*ORDER["transitions"], *transitions])


# -- forms -------------------------------------------------------------------


def test_a_mapping_a_class_and_a_definition_say_the_same() -> None:
    made = Definition.of(Order)
    assert made == order()
    assert Definition.of(made) is made
    assert made.name == "order"
    assert made.states["paid"] == State()
    assert made.events("new") == ["forget", "pay"]
    assert made.events("shipped") == []


def test_a_definition_does_not_change_with_what_it_was_made_of() -> None:
    states = dict(ORDER["states"])
    made = order(states=states)
    states["more"] = State()
    assert "more" not in made.states


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (3, "a machine is a Definition, a mapping or a class, not int"),
        ({"nam": "a"}, "a machine has no 'nam'; did you mean 'name'?"),
        ({"name": "a"}, "machine 'a' has no initial"),
        ({**ORDER, "states": ["a"]}, "states must be a mapping, not list"),
        ({**ORDER, "states": {}}, "machine 'order': it has no states"),
        ({**ORDER, "states": {"new": 3}}, "state 'new' must be a mapping, not int"),
        (
            {**ORDER, "states": {"new": {"timeuot": 3}}},
            "state 'new' has no 'timeuot'; did you mean 'timeout'?",
        ),
        ({**ORDER, "transitions": "new"}, "transitions must be a list, not str"),
        (
            {**ORDER, "transitions": [{"evnt": "pay"}]},
            "transition 1 has no 'evnt'; did you mean 'event'?",
        ),
        ({**ORDER, "version": 0}, "machine 'order': version must be a whole number from 1, not 0"),
        ({**ORDER, "version": True}, "version must be a whole number from 1, not True"),
        ({**ORDER, "name": " a"}, "must not start or end with white space"),
    ],
)
def test_what_has_the_wrong_form_is_refused(what: object, message: str) -> None:
    assert message in refused(what)


def test_a_transition_that_lacks_something_says_what() -> None:
    assert "transition 1" in changed(transitions=[{"event": "pay", "source": "new"}])
    assert "target" in changed(transitions=[{"event": "pay", "source": "new"}])


def test_a_misspelt_attribute_of_a_class_is_not_passed_over() -> None:
    class Wrong(Order):
        migrtions: Any = {}  # noqa: RUF012

    assert refused(Wrong) == "a machine has no 'migrtions'; did you mean 'migrations'?"


def test_a_definition_made_by_hand_is_checked_as_well() -> None:
    with pytest.raises(BadInput, match="state 'new' must be a State, not dict"):
        Definition("a", "new", {"new": {}}, [])  # type: ignore[dict-item]
    with pytest.raises(BadInput, match="transition 1 must be a Transition, not dict"):
        Definition("a", "new", {"new": State()}, [{}])  # type: ignore[list-item]


# -- states and transitions --------------------------------------------------


def test_a_transition_from_or_to_no_state_is_refused() -> None:
    assert with_transition(Transition("x", "nwe", "gone")) == (
        "machine 'order': transition 4 ('x'): source: there is no state 'nwe'; did you mean 'new'?"
    )
    assert with_transition(Transition("x", "new", "gon")) == (
        "machine 'order': transition 4 ('x'): target: there is no state 'gon'; did you mean 'gone'?"
    )
    assert "transition 4 ('x') has no source" in with_transition(Transition("x", (), "gone"))
    assert "initial: there is no state 'old'" in changed(initial="old")


def test_what_nothing_leads_to_is_refused() -> None:
    states = {**ORDER["states"], "lost": State(terminal=True)}
    assert changed(states=states) == "machine 'order': no transition leads to state 'lost'"


def test_a_state_without_a_way_out_is_refused_unless_it_is_terminal() -> None:
    states = {**ORDER["states"], "stuck": None}
    more = [*ORDER["transitions"], Transition("x", "new", "stuck")]
    assert changed(states=states, transitions=more) == (
        "machine 'order': no transition leaves state 'stuck', which is not terminal; "
        "add one, or make it terminal"
    )
    order(states={**states, "stuck": State(terminal=True)}, transitions=more)


def test_states_that_go_round_and_never_end_are_refused_where_others_end() -> None:
    states = {**ORDER["states"], "a": None, "b": None}
    more = [
        Transition("x", "new", "a"),
        Transition("x", "a", "b"),
        Transition("x", "b", "a"),
    ]
    assert changed(states=states, transitions=[*ORDER["transitions"], *more]) == (
        "machine 'order': no terminal state can be reached from state 'a', 'b'"
    )


def test_a_machine_may_go_round_for_ever() -> None:
    made = Definition(
        "lamp",
        "off",
        {"off": State(), "on": State()},
        [
            Transition("press", "off", "on"),
            Transition("press", "on", "off"),
        ],
    )
    assert made.events("on") == ["press"]


def test_what_leaves_a_terminal_state_is_refused() -> None:
    assert with_transition(Transition("x", "shipped", "gone")) == (
        "machine 'order': transition 4 ('x') leaves 'shipped', which is terminal"
    )


# -- guards ------------------------------------------------------------------


def test_a_transition_that_another_hides_is_ambiguous() -> None:
    assert with_transition(Transition("ship", "paid", "gone", guard=is_large)) == (
        "machine 'order': 'ship' in state 'paid' is ambiguous: a transition without a guard "
        "comes before another, which could never be taken"
    )


def test_two_transitions_with_one_guard_are_ambiguous() -> None:
    assert "'x' in state 'new' is ambiguous: two transitions have the same guard" in (
        with_transition(
            Transition("x", "new", "gone", guard=is_large),
            Transition("x", "new", "paid", guard=is_large),
        )
    )


def test_two_actions_of_one_move_are_ambiguous_as_no_one_could_tell_which_to_resume() -> None:
    assert (
        "'x' in state 'new' is ambiguous: two transitions lead to 'gone', with different actions"
    ) in with_transition(
        Transition("x", "new", "gone", guard=is_large, action=pay),
        Transition("x", "new", "gone", guard=is_odd, action=ship),
    )


def test_the_first_guard_that_allows_it_decides() -> None:
    made = order(
        transitions=[
            *ORDER["transitions"],
            Transition("x", "new", "gone", guard=is_large),
            Transition("x", "new", "paid", guard=is_odd),
        ]
    )
    taken = [made.choose("new", "x", {}, number) for number in (101, 3, 4)]
    assert [one and one.target for one in taken] == ["gone", "paid", None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guard": 3}, "transition 1 ('x'): its guard is not a function: 3"),
        ({"action": "pay"}, "transition 1 ('x'): its action is not a function: 'pay'"),
        ({"action": lazy}, "transition 1 ('x'): its action is a generator, which"),
        ({"guard": later}, "transition 1 ('x'): its guard is an async function, which"),
        ({"retry": 3}, "transition 1 ('x'): retry must be a RetryPolicy, not 3"),
    ],
)
def test_what_is_no_guard_action_or_policy_is_refused(change: Any, message: str) -> None:
    transition = {"event": "x", "source": "new", "target": "gone", **change}
    assert message in changed(transitions=[transition, *ORDER["transitions"]])


# -- timeouts ----------------------------------------------------------------


def test_a_timeout_needs_a_transition() -> None:
    states = {**ORDER["states"], "paid": State(timeout=5.0)}
    assert changed(states=states) == (
        "machine 'order': state 'paid' has a timeout, but no transition for 'timeout'"
    )


def test_a_timeout_needs_a_transition_that_no_guard_can_refuse() -> None:
    states = {**ORDER["states"], "paid": State(timeout=5.0)}
    more = [*ORDER["transitions"], Transition("timeout", "paid", "gone", guard=is_odd)]
    assert changed(states=states, transitions=more) == (
        "machine 'order': state 'paid': its timeout must have a transition without a guard"
    )


def test_a_terminal_state_has_no_timeout() -> None:
    states = {**ORDER["states"], "shipped": State(timeout=5.0, terminal=True)}
    assert "state 'shipped' is terminal, so it cannot have a timeout" in changed(states=states)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), "5", True])
def test_a_timeout_is_a_positive_number_of_seconds(seconds: Any) -> None:
    states = {**ORDER["states"], "paid": {"timeout": seconds, "on_timeout": "forget"}}
    assert "state 'paid': timeout must be a positive number" in changed(states=states)


# -- versions ----------------------------------------------------------------


def test_a_migration_leads_from_an_older_version_to_a_state() -> None:
    made = order(version=3, migrations={1: {"open": "new"}, 2: {}})
    assert made.migrate(1, "open") == "new"
    assert made.migrate(1, "paid") == "paid"
    assert made.migrate(3, "paid") == "paid"
    assert made.versions == [1, 2, 3]


@pytest.mark.parametrize(
    ("version", "state", "message"),
    [
        (4, "new", "is of version 4, which is newer than this program's 3"),
        (2, "new", "is of version 2, and migrations has no entry for it; add migrations"),
        (1, "old", "of version 1 is in state 'old', which version 3 does not have; add it"),
    ],
)
def test_an_instance_without_a_way_is_refused(version: int, state: str, message: str) -> None:
    made = order(version=3, migrations={1: {"open": "new"}})
    with pytest.raises(BadInput, match=message):
        made.migrate(version, state)


@pytest.mark.parametrize(
    ("migrations", "message"),
    [
        ({3: {}}, "migrations are from versions 1 to 2, not from 3"),
        ({"1": {}}, "migrations are from versions 1 to 2, not from '1'"),
        (
            {1: {"open": "nwe"}},
            "migrations[1]['open']: there is no state 'nwe'; did you mean 'new'?",
        ),
        ({1: ["new"]}, "migrations[1] must be a mapping, not list"),
        ([1], "migrations must be a mapping, not list"),
    ],
)
def test_a_migration_that_leads_nowhere_is_refused(migrations: Any, message: str) -> None:
    assert message in changed(version=3, migrations=migrations)


def test_a_move_of_an_older_version_finds_its_action() -> None:
    retry = RetryPolicy(attempts=3)
    transitions = [Transition("pay", "new", "paid", action=pay, retry=retry)]
    made = order(
        version=2,
        migrations={1: {"open": "new"}},
        transitions=[*transitions, *ORDER["transitions"][1:]],
    )
    found = made.find(1, "open", "pay", "paid")
    assert found is not None
    assert found.retry is retry
    assert made.find(2, "open", "pay", "paid") is None
    assert made.find(2, "paid", "ship", "shipped") is None


# -- pictures ----------------------------------------------------------------


def test_a_machine_is_drawn_for_mermaid() -> None:
    states = {**ORDER["states"], "end": State(terminal=True), 'a "b": c': State(terminal=True)}
    more = [
        Transition("x", "new", "end", guard=is_large),
        Transition("say: hi;", "new", 'a "b": c'),
    ]
    made = order(states=states, transitions=[*ORDER["transitions"], *more])
    assert draw(made) == (
        "stateDiagram-v2\n"
        '    state "end" as 4_\n'
        '    state "a #34;b#34;#58; c" as 5_\n'
        "    [*] --> new\n"
        "    new --> paid : pay\n"
        "    paid --> shipped : ship\n"
        "    new --> gone : forget (60 s)\n"
        "    paid --> gone : forget\n"
        "    new --> 4_ : x [is_large]\n"
        "    new --> 5_ : say#58; hi#59;\n"
        "    shipped --> [*]\n"
        "    gone --> [*]\n"
        "    4_ --> [*]\n"
        "    5_ --> [*]\n"
    )


def test_a_machine_is_drawn_for_graphviz() -> None:
    assert draw(order(), "dot") == (
        'digraph "order" {\n'
        "    node [shape=box, style=rounded];\n"
        '    " begin" [shape=point, label=""];\n'
        '    "new";\n'
        '    "paid";\n'
        '    "shipped" [peripheries=2];\n'
        '    "gone" [peripheries=2];\n'
        '    " begin" -> "new";\n'
        '    "new" -> "paid" [label="pay"];\n'
        '    "paid" -> "shipped" [label="ship"];\n'
        '    "new" -> "gone" [label="forget (60 s)"];\n'
        '    "paid" -> "gone" [label="forget"];\n'
        "}\n"
    )


def test_names_with_quotes_and_other_signs_are_names_for_graphviz() -> None:
    name = 'wäit "here" \\ {now}'
    made = Definition("a", name, {name: State()}, [Transition("x", name, name)])
    text = draw(made, "dot")
    assert '"wäit \\"here\\" \\\\ {now}"' in text
    dot = shutil.which("dot")
    if dot is not None:  # where it is installed it must be able to read it
        done = subprocess.run(
            [dot, "-Tplain"], input=text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_table_of_moves_is_drawn_as_well() -> None:
    text = draw_table(SYNC_POINT_MOVES, NodeState.WAITING)
    assert text.startswith("stateDiagram-v2\n    [*] --> WAITING\n")
    assert "    BLOCKED --> READY\n" in text
    assert text.endswith("    SUPERSEDED --> [*]\n")
    assert text.count("-->") == 1 + 4 + sum(map(len, SYNC_POINT_MOVES.values()))


def test_an_unknown_kind_of_picture_is_refused() -> None:
    with pytest.raises(BadInput, match="drawn as mermaid or dot, not as 'mermaidd'; did you mean"):
        draw(order(), "mermaidd")
