"""Waiting for a stack while the database is away for a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

import converge
from converge.testing import FakeWorld, StepEngine
from tests.stores import stack_store

TEMPLATE = converge.Template.parse("resources: {a: {type: fake}}")


class Outage:
    """A database that is away for some reads.

    :ivar left: how many reads fail; negative: all.
    """

    def __init__(self, store: converge.Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self._read = store.database.read
        monkeypatch.setattr(store.database, "read", self.read)

    def read(self, function: Callable[..., Any]) -> Any:
        if self.left:
            self.left -= 1
            raise converge.StoreError("the database is away")
        return self._read(function)


@pytest.fixture
def stack(fresh_store: Callable[..., converge.Store]) -> converge.Stack:
    return fresh_store().create_stack("s", TEMPLATE)


@pytest.fixture
def outage(stack: converge.Stack, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(stack_store(stack), monkeypatch)


def test_an_outage_is_waited_out_and_told_once(
    stack: converge.Stack,
    outage: Outage,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    StepEngine(stack_store(stack), FakeWorld().types()).run()
    monkeypatch.setattr("converge.stack._LOOK", 0)
    outage.left = 3
    with caplog.at_level(logging.WARNING, logger="converge.stack"):
        assert stack.wait() == "COMPLETE"
    assert outage.left == 0
    assert [record.getMessage() for record in caplog.records] == [
        "the database is away; still waiting for stack 's'"
    ]


def test_a_timeout_passes_during_an_outage_as_well(stack: converge.Stack, outage: Outage) -> None:
    outage.left = -1
    with pytest.raises(TimeoutError, match="still in progress after 0 s") as caught:
        stack.wait(timeout=0)
    assert isinstance(caught.value.__cause__, converge.StoreError)


def test_a_timeout_without_an_outage_has_no_cause(stack: converge.Stack) -> None:
    with pytest.raises(TimeoutError) as caught:
        stack.wait(timeout=0)
    assert caught.value.__cause__ is None
