"""What engines do, in words."""

from __future__ import annotations

from typing import Any

import pytest

from converge.cli.words import grouped, holds, lease, recovered
from converge.protocol.recover import Sweep


def node(resource: str | None, kind: str = "update", since: float = 3.0) -> dict[str, Any]:
    return {"stack": "shop", "resource": resource, "kind": kind, "since_seconds": since}


@pytest.mark.parametrize(
    ("state", "left", "words"),
    [
        ("ALIVE", 12.0, "12 s left"),
        ("EXPIRED", -3.0, "ended 3.0 s ago"),
        ("DEAD", -300.0, "ended 5 min 00 s ago"),
        # when it would have ended does not matter any more
        ("STOPPED", 8.0, ""),
    ],
)
def test_leases(state: str, left: float, words: str) -> None:
    assert lease({"state": state, "lease_seconds": left}) == words


def test_what_an_engine_holds_is_named_and_the_rest_counted() -> None:
    assert holds({"nodes": 0, "holds": []}) == ""
    some = [node("db"), node("web", "cleanup", 70), node(None, "stack", 0)]
    words = "shop/db for 3.0 s, shop/web (cleanup) for 1 min 10 s, shop/(its end) for 0.0 s"
    assert holds({"nodes": 3, "holds": some}) == words
    assert holds({"nodes": 2000, "holds": [*some, node("x")]}) == f"{words}, 1997 more"


def test_answers_that_differ_in_the_resource_alone_are_one_line() -> None:
    def answer(resource: str | None, message: str, stack: str = "shop") -> dict[str, Any]:
        return {"stack": stack, "resource": resource, "message": message}

    alike = [answer(one, f"resource {one!r} waits for 'db'") for one in "abcdef"]
    own = answer("x", "resource 'x' waits for 'net'")
    # what names itself twice could be told from others in another way
    twice = [answer(one, f"{one!r} waits for {one!r}") for one in "gh"]
    ends = [answer(None, "the CREATE is FAILED"), answer("a", "resource 'a' waits", "other")]
    assert grouped([*alike[:2], own, *alike[2:], *twice, *ends]) == [
        "resource 'a' waits for 'db' (the same: 'b', 'c', 'd', 2 more)",
        "resource 'x' waits for 'net'",
        "'g' waits for 'g'",
        "'h' waits for 'h'",
        "the CREATE is FAILED",
        "resource 'a' waits",
    ]
    assert grouped(alike[:2]) == ["resource 'a' waits for 'db' (the same: 'b')"]


def test_hostile_names_are_escaped() -> None:
    assert "\\x1b" in holds({"nodes": 1, "holds": [node("\x1b[2J")]})


@pytest.mark.parametrize(
    ("done", "lines"),
    [
        (Sweep(), ["nothing to recover"]),
        (Sweep(ready=1), ["nothing to recover", "1 node waits for an engine"]),
        (
            Sweep(engines=1, nodes=2, ready=2),
            [
                "1 dead engine found",
                "2 nodes of dead engines made ready for others",
                "2 nodes wait for an engine",
            ],
        ),
        (
            Sweep(unblocked=1, overdue=1, leftovers=3, scopes=2),
            [
                "1 node unblocked, as the resource was free",
                "1 traversal timed out",
                "3 nodes of ended traversals removed",
                "2 scopes of finished work removed",
            ],
        ),
    ],
)
def test_what_was_recovered(done: Sweep, lines: list[str]) -> None:
    assert recovered(done) == lines
