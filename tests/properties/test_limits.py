"""Engines that claim, work, wait, fail, stop and die, under limits that change: no limit is ever
exceeded, and all ends."""

from __future__ import annotations

import os
import random
from collections import Counter, deque
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge.protocol.work import Work
from converge.sql import schema
from converge.testing import FakeClock, FakeType, FakeWorld, StepEngine
from tests.templates import template

#: How many walks on each database; more of them for a long look.
WALKS = int(os.environ.get("CONVERGE_TEST_EXAMPLES", "20")) // 20
STEPS = 80
LEASE = 20.0
PLACES = {("type", "fake"): 3, ("stack", "a"): 2, ("key", "even"): 1, ("type", "fixed"): 2}
RATE, SECONDS = 3, 10.0


class Keyed(FakeType):
    """Half of these have the key ``even``."""

    def limits(self, properties: Mapping[str, Any]) -> Collection[str]:
        return ["even"] if properties.get("even") else []


class Walk:
    """Engines of one world, and what each has in hand."""

    def __init__(self, store: converge.Store, clock: FakeClock, seed: int) -> None:
        self.store, self.clock, self.chance = store, clock, random.Random(seed)
        self.world = FakeWorld()
        types = self.world.types(attempts=2, deaths=1000)
        self.types = {**types, "fake": Keyed(self.world, types["fake"].retry)}
        self.hands: dict[StepEngine, list[Work]] = {}
        # when nodes of the limited rate started
        self.starts: deque[float] = deque()
        for (kind, name), places in PLACES.items():
            rate = f"{RATE}/{SECONDS:g}s" if name == "fixed" else None
            of: dict[str, Any] = {kind: name}
            store.set_limit(**of, places=places, rate=rate)
        for name in "ab":
            store.create_stack(name, self.body())
        for _ in range(3):
            self.start()

    def body(self) -> converge.Template:
        def one() -> dict[str, Any]:
            kind = self.chance.choice(["fake", "fake", "fixed", "only"])
            even = self.chance.random() < 0.5
            return {"type": kind, "properties": {"even": even, "n": self.chance.random()}}

        bodies = {f"r{number}": one() for number in range(6)}
        return template({**bodies, "last": {"depends_on": ["r0", "r1"]}})

    def start(self) -> None:
        self.hands[StepEngine(self.store, self.types, lease=LEASE)] = []

    def step(self) -> None:
        engine = self.chance.choice(list(self.hands))
        works = self.hands[engine]
        what = self.chance.choice(
            ["claim", "claim", "end", "end", "die", "later", "ask", "trouble"]
        )
        if what == "claim":
            works += self.claim(engine, [])
        elif what == "end" and works:
            work = works.pop(self.chance.randrange(len(works)))
            works += self.claim(engine, [engine.call(work)])
        elif what == "die" and self.chance.random() < 0.3:
            # what it had in hand is left as it was
            del self.hands[engine]
            self.start()
        elif what == "later":
            self.pass_time()
        elif what == "ask":
            self.ask()
        elif what == "trouble":
            operation = self.chance.choice(["create", "update", "delete"])
            trouble = self.chance.choice([self.world.fail, self.world.wait])
            trouble(f"{operation} r{self.chance.randrange(6)}", 1)

    def claim(self, engine: StepEngine, outcomes: list[Any]) -> list[Work]:
        works = engine.core.turn(outcomes, self.chance.randint(0, 4))
        fresh = [one for one in works if one.node.note_id is None and one.type_name == "fixed"]
        handled = {"create", "update", "delete", "check"}
        # the second part of a replacement is no start
        fresh = [one for one in fresh if not outcomes or one.node.key not in _keys(outcomes)]
        self.starts += [self.clock() for one in fresh if one.decision.operation in handled]
        return works

    def pass_time(self) -> None:
        self.clock.advance(self.chance.choice([0.5, 3.0, 8.0]))
        for engine in self.hands:
            if not engine.renew():
                raise AssertionError("an engine lost its lease")
        self.store.recover()

    def ask(self) -> None:
        name = self.chance.choice("ab")
        if self.store.stack(name).live and self.chance.random() < 0.4:
            self.store.update_stack(name, self.body(), on_failure="continue")

    def check(self) -> None:
        """No limit is exceeded."""
        with self.store.transaction() as tx:
            limit, place = schema.limit.c, schema.place.c
            of = select(limit.kind, limit.name)
            of = of.join_from(schema.place, schema.limit, limit.id == place.limit_id)
            places: Any = tx.execute(of).all()
        taken = Counter((kind, name) for kind, name in places)
        for one, most in PLACES.items():
            assert taken[one] <= most, one
        # and what runs has its places
        running: Counter[tuple[str, str]] = Counter()
        for works in self.hands.values():
            for work in works:
                if work.decision.operation in ("create", "update", "delete", "check"):
                    running["type", work.type_name] += 1
                    running["stack", work.traversal.stack] += 1
        for one, most in PLACES.items():
            assert running[one] <= most, one
        recent = [at for at in self.starts if at > self.clock() - SECONDS]
        assert len(recent) <= RATE, recent

    def end(self) -> None:
        """Without deaths and troubles, all ends: whatever waits is let in."""
        for _ in range(200):
            for engine, works in self.hands.items():
                while works:
                    works += engine.core.turn([engine.call(works.pop())], 4)
                works += engine.core.turn([], 4)
                self.check()
            self.pass_time()
            if all(self.store.stack(name).status != "IN_PROGRESS" for name in "ab"):
                break
        else:
            raise AssertionError(self.store.why("a") + self.store.why("b"))
        with self.store.transaction() as tx:
            assert tx.execute(select(schema.place)).all() == []


def _keys(outcomes: list[Any]) -> set[Any]:
    return {one.work.node.key for one in outcomes}


@pytest.mark.parametrize("seed", range(WALKS))
def test_no_limit_is_ever_exceeded_and_all_ends(
    store: converge.Store, clock: FakeClock, seed: int
) -> None:
    walk = Walk(store, clock, seed)
    for _ in range(STEPS):
        walk.step()
        walk.check()
    walk.end()
