"""Engines beside others: what each of them does in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import converge
from converge.crash_points import Commit
from converge.engine import core
from converge.sql.database import Database
from converge.testing import StepEngine
from tests.templates import template

MANY = core._APART


@pytest.mark.parametrize(("count", "others"), [(MANY, 1), (MANY - 1, 1), (MANY, 0)])
def test_many_outcomes_are_written_apart_from_the_next_claim_while_others_are_alive(
    store: converge.Store,
    engine: Callable[..., StepEngine],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    others: int,
) -> None:
    """The successors that they arrive at are not locked while the claim waits for resources."""
    firsts = [f"a{number}" for number in range(count)]
    resources: dict[str, Any] = {name: [] for name in firsts}
    store.create_stack("s", template(**resources, b=firsts))
    one = engine().core
    for _ in range(others):
        engine()
    works = one.turn((), count)
    assert len(works) == count
    assert one.is_beside == bool(others)
    commits = []
    transact = Database.transact

    def watch(self: Database, function: object, commit: Commit, **rest: object) -> object:
        commits.append(commit)
        return transact(self, function, commit, **rest)  # type: ignore[arg-type]

    outcomes = [one.call_handler(work, one.context(work)) for work in works]
    monkeypatch.setattr(Database, "transact", watch)
    (last,) = one.turn(outcomes, 1)
    assert last.row is not None
    assert last.row.name == "b"
    apart = bool(others) and count == MANY
    assert commits == ([Commit.COMPLETE, Commit.CLAIM] if apart else [Commit.COMPLETE])
