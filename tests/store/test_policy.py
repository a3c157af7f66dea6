"""A policy: it is asked before each call of a handler, and what it refuses is not done."""

from __future__ import annotations

from typing import Any

import converge
from converge.protocol.policy import Proposal
from converge.testing import FakeWorld, StepEngine
from tests.templates import template


class Policy:
    """Refuses some operations, and notes what it was asked."""

    def __init__(self, *forbidden: str) -> None:
        self.forbidden = forbidden
        self.asked: list[Proposal] = []

    def __call__(self, proposal: Proposal) -> None:
        self.asked.append(proposal)
        if proposal.operation in self.forbidden:
            raise converge.Veto(f"no {proposal.operation} on a Friday")


def engine(store: converge.Store, world: FakeWorld, policy: Any) -> StepEngine:
    return StepEngine(store, world.types(attempts=3), policy=policy)


def test_what_is_allowed_is_done(store: converge.Store) -> None:
    world, policy = FakeWorld(), Policy()
    store.create_stack("s", template(a={"properties": {"x": 1}}, b=["a"]))
    engine(store, world, policy).run()
    store.update_stack("s", template(a={"properties": {"x": 2}}, b=["a"]))
    engine(store, world, policy).run()
    found = [(one.operation, one.resource, one.type, one.action) for one in policy.asked]
    assert found == [
        ("create", "a", "fake", "CREATE"),
        ("create", "b", "fake", "CREATE"),
        ("update", "a", "fake", "UPDATE"),
    ]
    last = policy.asked[-1]
    assert (last.previous, last.properties, last.physical_id) == ({"x": 1}, {"x": 2}, "a.0")
    assert (last.stack, last.traversal, last.attempt) == ("s", store.stack("s").traversal, 1)


def test_a_veto_fails_the_node_and_nothing_is_done(store: converge.Store) -> None:
    world = FakeWorld()
    store.create_stack("s", template(a={"properties": {"x": 1}}))
    engine(store, world, Policy()).run()
    stack = store.update_stack("s", template(a={"properties": {"x": 2}}))
    engine(store, world, Policy("update")).run()
    reason = "refused by the policy: no update on a Friday"
    assert stack.refresh().status == "FAILED"
    assert stack.reason == f"resource 'a': {reason}"
    # neither failed nor tried again
    assert store.show("s")["resources"]["a"]["status"] == "COMPLETE"
    assert world.properties() == {"a.0": {"x": 1}}
    (event,) = [one for one in store.events("s") if one["status"] == "FAILED" and one["resource"]]
    assert (event["action"], event["reason"]) == ("UPDATE", reason)
    # and on another day it is done
    store.update_stack("s", template(a={"properties": {"x": 2}}))
    engine(store, world, Policy()).run()
    assert world.properties() == {"a.0": {"x": 2}}


def test_what_must_not_be_made_or_deleted_is_not(store: converge.Store) -> None:
    world = FakeWorld()
    stack = store.create_stack("s", template(a=[]))
    engine(store, world, Policy("create")).run()
    assert stack.refresh().status == "FAILED"
    assert store.show("s")["resources"]["a"]["status"] == "FAILED"
    store.update_stack("s", template(a=[]))
    engine(store, world, Policy()).run()
    stack = store.delete_stack("s")
    engine(store, world, Policy("delete")).run()
    assert stack.refresh().status == "FAILED"
    assert store.show("s")["resources"]["a"]["status"] == "COMPLETE"
    store.delete_stack("s")
    engine(store, world, Policy()).run()
    assert world.names() == []


def test_a_policy_that_fails_is_a_handler_that_fails(store: converge.Store) -> None:
    def broken(proposal: Proposal) -> None:
        raise RuntimeError("no answer")

    world = FakeWorld()
    stack = store.create_stack("s", template(a=[]))
    StepEngine(store, world.types(), policy=broken).run()
    assert stack.refresh().status == "FAILED"
    assert "RuntimeError: no answer" in (stack.reason or "")
    assert world.names() == []
