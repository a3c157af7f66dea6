"""Names, and the tables of allowed moves."""

from __future__ import annotations

import pytest

from converge.errors import BadInput
from converge.model import (
    SYNC_POINT_MOVES,
    TRAVERSAL_MOVES,
    NodeState,
    TraversalStatus,
    check_name,
)


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "two words",
        'it\'s "quoted" `thrice`',
        "a/b\\c:d*?%_;--",
        "é",
        "e\N{COMBINING ACUTE ACCENT}",
        "日本語",
        "👩‍🚀 🚀",
        "\N{RIGHT-TO-LEFT MARK}עברית",
        "a\N{NO-BREAK SPACE}b",
        "x" * 255,
        "🚀" * 255,
        "NULL",
        "0",
        "$(rm -rf)",
    ],
)
def test_good_names_are_given_back_as_they_are(name: str) -> None:
    assert check_name("stack", name) is name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "must not be empty"),
        ("x" * 256, "256 characters; at most 255"),
        ("🚀" * 300, "300 characters; at most 255"),
        ("a\nb", r"unprintable character '\\n'"),
        ("a\tb", "unprintable"),
        ("a\0", r"unprintable character '\\x00'"),
        ("a\x7f", "unprintable"),
        ("a\ud800", "unprintable"),
        ("a\N{LINE SEPARATOR}b", "unprintable"),
        ("a\N{PARAGRAPH SEPARATOR}b", "unprintable"),
        ("\U0010ffff", "unprintable"),
        (" a", "white space"),
        ("a ", "white space"),
        ("a\N{NO-BREAK SPACE}", "white space"),
        (None, "must be a string, not NoneType"),
        (1, "must be a string, not int"),
        (b"a", "must be a string, not bytes"),
    ],
)
def test_bad_names_are_refused(name: object, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        check_name("stack", name)


def test_a_long_bad_name_is_not_shown_in_full() -> None:
    with pytest.raises(BadInput) as caught:
        check_name("resource", "x" * 10_000)
    assert len(str(caught.value)) < 200
    assert str(caught.value).startswith("resource name 'xxx")


def test_moves_are_declared_for_every_state() -> None:
    assert set(SYNC_POINT_MOVES) == set(NodeState)
    assert set(TRAVERSAL_MOVES) == set(TraversalStatus)


def test_no_state_moves_to_itself_and_ends_are_ends() -> None:
    for state, moves in SYNC_POINT_MOVES.items():
        assert state not in moves
    for end in (NodeState.DONE, NodeState.FAILED, NodeState.SKIPPED, NodeState.SUPERSEDED):
        assert SYNC_POINT_MOVES[end] == frozenset()
    for status, further in TRAVERSAL_MOVES.items():
        assert bool(further) is (status is TraversalStatus.RUNNING)
        assert status not in further


def test_nothing_runs_without_being_ready_first() -> None:
    before = {state for state, moves in SYNC_POINT_MOVES.items() if NodeState.RUNNING in moves}
    assert before == {NodeState.READY}
    done = {state for state, moves in SYNC_POINT_MOVES.items() if NodeState.DONE in moves}
    # those on which nobody works can be passed over
    assert done == {NodeState.RUNNING, NodeState.WAITING, NodeState.READY}


def test_every_state_comes_about_and_leads_to_an_end() -> None:
    reached = {NodeState.WAITING}
    while (more := reached.union(*(SYNC_POINT_MOVES[state] for state in reached))) != reached:
        reached = more
    assert reached == set(NodeState)
    for state in (NodeState.WAITING, NodeState.READY, NodeState.RUNNING, NodeState.BLOCKED):
        assert NodeState.SKIPPED in SYNC_POINT_MOVES[state]
