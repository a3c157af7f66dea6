"""How a command ends: the reason once, and what to type next."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest

from converge.cli.endings import PrintedFailures, failed_document, find_json, next_line, repeat_line
from converge.cli.parser import parse
from converge.sql.types import fit_text


def event(resource: str | None, status: str, reason: str | None, traversal: int = 1) -> Any:
    return {"traversal": traversal, "resource": resource, "status": status, "reason": reason}


def test_a_reason_that_was_told_is_told_as_its_resource() -> None:
    told = PrintedFailures(stacks=True)
    assert told.note(event("bad", "FAILED", "no luck"))["reason"] == "no luck"
    whole = "resource 'bad': no luck (and 2 more failed)"
    short = "resource 'bad' (and 2 more failed)"
    assert told.note(event(None, "FAILED", whole))["reason"] == short
    assert told.shorten(f"version 1, rolled back: {whole}") == f"version 1, rolled back: {short}"
    # others are told in full
    for reason in ("resource 'good': no luck", "resource 'bad': worse", "cancelled", None):
        assert told.shorten(reason) == reason


def test_a_long_reason_that_was_cut_elsewhere_is_told_once_as_well() -> None:
    told = PrintedFailures(stacks=False)
    reason = fit_text("".join(f"{number:06}" for number in range(2000)))
    told.note(event("bad", "FAILED", reason))
    assert told.shorten(fit_text(f"rolled back: resource 'bad': {reason}")) == (
        "rolled back: resource 'bad'"
    )


def test_the_reason_of_a_traversal_is_told_by_its_event_or_at_the_end() -> None:
    told = PrintedFailures(stacks=True)
    assert told.note(event(None, "FAILED", "timed out"))["reason"] == "timed out"
    assert told.shorten("timed out") is None
    assert told.shorten("4 nodes, rolled back: timed out") == "4 nodes, rolled back"
    told = PrintedFailures(stacks=False)
    told.note(event(None, "FAILED", "timed out"))
    assert told.shorten("timed out") == "timed out"


def test_the_first_resource_that_failed_in_the_last_traversal_is_the_one_to_ask_about() -> None:
    told = PrintedFailures(stacks=True)
    for name in ("one", "two"):
        told.note(event(name, "RETRY", "no"))
        told.note(event(name, "FAILED", "no"))
    assert told.last == "one"
    told.note(event(None, "IN_PROGRESS", None, traversal=2))
    assert told.last is None
    told.note(event("two", "FAILED", "no", traversal=2))
    assert told.last == "two"


def arguments(words: str) -> Namespace:
    return parse(words.split())


@pytest.mark.parametrize(
    ("words", "status", "failed", "reason", "following"),
    [
        ("up t.yaml", "FAILED", "a b", "resource 'a b': no", "converge why s 'a b'"),
        ("up t.yaml", "FAILED", None, "resource 'a': no", "converge why s"),
        ("up t.yaml", "FAILED", None, "timed out after 3 s", "converge up t.yaml"),
        ("up t.yaml", "CANCELLED", "a", "cancelled", "converge up t.yaml"),
        ("up t.yaml", "COMPLETE", None, "rolled back: ...", "converge events s"),
        ("down s --db sqlite:///a.db", "FAILED", "a", "", "converge why s a --db sqlite:///a.db"),
        ("check s", "CANCELLED", None, "", "converge check s"),
    ],
)
def test_what_to_type_next(
    words: str, status: str, failed: str | None, reason: str, following: str
) -> None:
    assert next_line(arguments(words), "s", status, failed, reason) == f"next: {following}"


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (
            "up t.yaml --stack x --param p=s3cret --on-failure rollback",
            "up t.yaml --stack x --param p=... --on-failure rollback",
        ),
        (
            "up t.yaml -e a.yaml --keep-params --replace db",
            "up t.yaml -e a.yaml --keep-params --replace db",
        ),
        ("rollback s --to 3 --workers 2", "rollback s --to 3"),
        ("rollback s --to empty", "rollback s --to empty"),
        ("down s", "down s"),
    ],
)
def test_the_same_command_again_has_no_secrets(words: str, same: str) -> None:
    assert repeat_line(arguments(words)) == f"next: converge {same}"


def test_a_stack_that_is_not_what_was_asked_for_is_an_error() -> None:
    def kind(status: str) -> tuple[str, str]:
        error = failed_document("UPDATE", status, None)["error"]
        assert error["exit"] == 1
        return error["kind"], error["message"]

    assert kind("FAILED") == ("StackFailed", "the UPDATE is FAILED")
    assert kind("CANCELLED")[0] == "StackCancelled"
    assert kind("SUPERSEDED") == ("StackSuperseded", "the UPDATE is SUPERSEDED")
    assert kind("COMPLETE")[0] == "StackRolledBack"


def test_json_is_asked_for_before_the_end_of_options() -> None:
    assert find_json(["show", "s", "--json"])
    assert not find_json(["machine", "show", "m", "--", "--json"])
