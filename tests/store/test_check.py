"""What a check says of what it did not look at."""

from __future__ import annotations

import json
import re
from typing import Any

import converge
from converge.testing import FakeWorld, StepEngine


class Blind(converge.ResourceType):
    """Nobody can see whether it is there."""

    def create(self, *arguments: Any) -> None:
        """Do nothing."""

    def delete(self, *arguments: Any) -> None:
        """Do nothing."""


def test_a_check_says_what_it_did_not_look_at(store: converge.Store) -> None:
    world = FakeWorld()
    engine = StepEngine(store, {"blind": Blind(), **world.types(attempts=1)})
    wanted = {"seen": {"type": "fake"}, **{f"b{n:02}": {"type": "blind"} for n in range(12)}}
    stack = store.create_stack("s", converge.Template.parse(json.dumps({"resources": wanted})))
    engine.run()
    assert store.show("s")["unchecked"] == []
    store.check_stack("s")
    engine.run()
    named = ", ".join(f"'b{n:02}'" for n in range(10))
    unchecked = f"not checked, because they have no check: {named} and 2 more"
    assert (stack.refresh().status, stack.reason) == ("COMPLETE", unchecked)
    assert store.show("s")["unchecked"] == [f"b{n:02}" for n in range(12)]
    told = [one for one in store.events("s") if one["status"] == "UNCHECKED"]
    assert {(one["action"], one["reason"]) for one in told} == {("CHECK", "it has no check")}
    # beside what failed, too
    world.fail("read seen")
    store.check_stack("s")
    engine.run()
    assert stack.refresh().status == "FAILED"
    place = r"\(testing\.py:\d+ in check_failure\)"
    failed = rf"resource 'seen': RuntimeError: read seen failed {place}; {re.escape(unchecked)}"
    assert re.fullmatch(failed, stack.reason or "")
    # and beside what has drifted
    world.things.clear()
    store.check_stack("s")
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert stack.reason == f"drifted: 'seen'; {unchecked}"
