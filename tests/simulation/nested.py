"""Histories of nested stacks. Callers bring a stack to random templates, of which resources are
stacks themselves; they stop it, delete it, and change their mind; they give resources other names,
and adopt things that nobody's stack has made. Three engines are stepped by a seed, and die, as
callers do, at any crash point. In the end everybody lives, and all must be as the last template
says, at every level."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import converge
from converge import crash_points
from converge.model import Json
from converge.protocol import recover
from converge.protocol.work import Outcome, Work
from converge.resources import Stack
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.dying import Died
from tests.simulation.trace import Trace

NAME = "shop"
RESOURCES = ("A", "B", "C")
LEVELS = 3
ENGINES = 3
LEASE = 30.0
STEPS = 120
#: How often somebody has to type ``up`` again at the end: handlers fail, and stops are heeded.
TRIES = 10
#: How often what can happen does.
ACTS = {
    "work": 60,
    "write": 20,
    "up": 6,
    "delete": 1,
    "cancel": 3,
    "check": 1,
    "rename": 3,
    "adopt": 3,
    "sweep": 5,
    "pass time": 4,
    "fail": 3,
    "wait": 3,
    "die": 6,
}

#: What the ids of things begin with that no stack has made.
FOUND = "found"

Body = Mapping[str, Json]


def make_body(rng: random.Random, level: int = 1) -> dict[str, Any]:
    """A random template: each resource may be a stack, and may require one before it."""
    resources: dict[str, Any] = {}
    names = [name for name in RESOURCES if rng.random() < 0.7] or ["A"]
    for name in names:
        if level < LEVELS and rng.random() < 0.4:
            properties: dict[str, Any] = {"template": make_body(rng, level + 1)}
            one: dict[str, Any] = {"type": "stack", "properties": properties}
        else:
            one = {"type": "fake", "properties": {"size": rng.randrange(3)}}
        if resources and rng.random() < 0.5:
            one["depends_on"] = rng.choice(list(resources))
        resources[name] = one
    return {"resources": resources}


class History(Trace):
    """One history.

    :param store: an empty one.
    :ivar reached: the crash points that were reached, and what happened, how often.
    :ivar wrong: what is wrong; empty if nothing is.
    """

    def __init__(self, store: converge.Store, clock: FakeClock, seed: int) -> None:
        super().__init__()
        self.store = store
        self.clock = clock
        self.rng = random.Random(seed)
        self.world = FakeWorld()
        attempts = self.rng.choice((1, 2))
        self.types = {**self.world.types(attempts=attempts, first=1, most=1), "stack": Stack()}
        self.engines: dict[int, StepEngine] = {}
        self.hands: dict[int, list[Work | Outcome]] = {}
        self.reached: Counter[str] = Counter()
        # so many crash points are passed until somebody dies; None: nobody does
        self._until_death: int | None = None
        self._dying = False

    # -- dying

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count crash points, and die where it is time, for the length of a block."""
        before, crash_points.hook = crash_points.hook, self._pass
        try:
            yield
        finally:
            crash_points.hook = before

    def _pass(self, point: str) -> None:
        if self._dying:
            # the dead do nothing more, whatever their code would catch
            raise Died(point)
        self.reached[point] += 1
        if self._until_death is None:
            return
        self._until_death -= 1
        if self._until_death <= 0:
            self._dying = True
            self.tell(f"dies at {point}")
            raise Died(point)

    @contextmanager
    def _mortal(self, number: int | None = None) -> Iterator[None]:
        """Who acts in this block may die there.

        :param number: of an engine, which is gone then; None: a caller.
        """
        try:
            yield
        except Died:
            self.reached["death"] += 1
            if number is not None:
                self.engines.pop(number, None)
                self.hands.pop(number, None)
        finally:
            if self._dying:
                self._dying, self._until_death = False, None

    # -- playing

    def play(self) -> None:
        """Play all of it, and look at the end."""
        with self.watching():
            for _ in range(STEPS):
                (act,) = self.rng.choices(list(ACTS), list(ACTS.values()))
                self.reached[act] += 1
                self.clock.advance(0.001)
                getattr(self, f"do_{act.replace(' ', '_')}")()
            self._until_death = None
            body = make_body(self.rng)
            self._settle(body)
            self._look(body)
            self._remove()

    def _engine(self, number: int) -> tuple[StepEngine, list[Work | Outcome]]:
        """An engine and what it has in hand; it registers when it is first asked for."""
        if number not in self.engines:
            self.engines[number] = StepEngine(self.store, self.types, clock=self.clock, lease=LEASE)
            self.hands[number] = []
        return self.engines[number], self.hands[number]

    def do_work(self) -> None:
        """An engine claims a node, or calls the handler of one that it has."""
        number = self.rng.randrange(ENGINES)
        with self._mortal(number):
            engine, hand = self._engine(number)
            todo = [(index, one) for index, one in enumerate(hand) if isinstance(one, Work)]
            if todo and self.rng.random() < 0.7:
                index, work = self.rng.choice(todo)
                hand[index] = engine.call(work)
            elif engine.renew():
                hand += engine.claim(self.rng.choice((1, 1, 2)))
            else:
                self.engines.pop(number)

    def do_write(self) -> None:
        """An engine writes what it has."""
        number = self.rng.randrange(ENGINES)
        with self._mortal(number):
            engine, hand = self._engine(number)
            done = [one for one in hand if isinstance(one, Outcome)]
            hand[:] = [one for one in hand if isinstance(one, Work)]
            engine.write(*done)

    def do_up(self) -> None:
        """Somebody brings the stack to another template."""
        body = make_body(self.rng)
        rolls_back = self.rng.random() < 0.4
        self.tell(f"up {body}")
        with self._mortal(), suppress(converge.Conflict):
            on_failure = "rollback" if rolls_back else "stop"
            template = converge.Template.from_dict(body)
            self.store.converge_stack(NAME, template, on_failure=on_failure)

    def do_delete(self) -> None:
        """Somebody deletes the stack."""
        self.tell("delete")
        with self._mortal(), suppress(converge.Conflict, converge.NotFound):
            self.store.delete_stack(NAME)

    def do_cancel(self) -> None:
        """Somebody stops the stack."""
        self.tell("cancel")
        with self._mortal(), suppress(converge.Conflict, converge.NotFound):
            self.store.cancel_stack(NAME)

    def do_check(self) -> None:
        """Somebody has the things looked at."""
        with self._mortal(), suppress(converge.Conflict, converge.NotFound):
            self.store.check_stack(NAME)

    def do_rename(self) -> None:
        """Somebody gives a resource another name."""
        old, new = self.rng.sample(RESOURCES, 2)
        with self._mortal(), suppress(converge.Conflict, converge.NotFound):
            self.store.move_resource(NAME, old, new)
            self.tell(f"{old} is {new}")

    def do_adopt(self) -> None:
        """Somebody finds a thing, and has the stack adopt it."""
        found = self.world.put(f"{FOUND}{len(self.world.log)}", size=self.rng.randrange(3))
        name = self.rng.choice(RESOURCES)
        body = {"resources": {name: {"type": "fake", "properties": {"size": 1}}}}
        template = converge.Template.from_dict(body)
        with self._mortal(), suppress(converge.Conflict, converge.NotFound, converge.BadInput):
            self.store.adopt_resource(NAME, name, found, template, types=self.types)
            self.tell(f"{name} is {found}")

    def do_sweep(self) -> None:
        """What the dead left is recovered."""
        with self._mortal():
            recover.sweep(self.store.database)

    def do_pass_time(self) -> None:
        """Time passes; leases may end."""
        self.clock.advance(self.rng.choice((1.0, 10.0, LEASE)))

    def do_fail(self) -> None:
        """A handler is going to fail."""
        verb = self.rng.choice(("create", "update", "delete"))
        self.world.fail(f"{verb} {self.rng.choice(RESOURCES)}", self.rng.randrange(3))

    def do_wait(self) -> None:
        """A handler is going to ask for another call."""
        verb = self.rng.choice(("create", "update"))
        self.world.wait(f"{verb} {self.rng.choice(RESOURCES)}", 1)

    def do_die(self) -> None:
        """Somebody is going to die soon."""
        self._until_death = self.rng.randrange(1, 8)

    # -- the end

    def _settle(self, body: Body) -> None:
        """Nobody dies any more, and nothing fails: it must become what it is to be."""
        self.engines, self.hands = {}, {}
        for what in ("create", "update", "delete", "check"):
            for name in RESOURCES:
                self.world.fail(f"{what} {name}", 0)
        self.tell(f"at last {body}")
        template = converge.Template.from_dict(body)
        for _ in range(TRIES):
            with suppress(converge.Conflict):
                if self.store.converge_stack(NAME, template).outcome == "done":
                    return
            if not self._work_off():
                return
        row = self.store.stack(NAME)
        self.complain(f"{NAME} is {row.action} {row.status}: {row.reason}")

    def _work_off(self) -> bool:
        """Let a new engine work until nothing is in progress."""
        engine = StepEngine(self.store, self.types, clock=self.clock, lease=10_000.0)
        for _ in range(50):
            self.clock.advance(LEASE + 1)
            recover.sweep(self.store.database)
            engine.run()
            if all(one["status"] != "IN_PROGRESS" for one in self.store.stacks(nested=True)):
                return True
        self.complain("something never ends")
        return False

    def _look(self, body: Body) -> None:
        """Compare what there is with a template."""
        things: set[str] = set()
        stacks: set[str] = set()
        self._compare(NAME, body, things, stacks)
        found = {one for one in self.world.things if one in things or not one.startswith(FOUND)}
        if found != things:
            self.complain(f"things: {sorted(found)}, not {sorted(things)}")
        names = {one["name"] for one in self.store.stacks(nested=True)}
        if names != stacks:
            self.complain(f"stacks: {sorted(names)}, not {sorted(stacks)}")

    def _compare(self, name: str, body: Body, things: set[str], stacks: set[str]) -> None:
        """Compare a stack with its template, and those that are nested in it with theirs.

        :param things: takes the ids of its things.
        :param stacks: takes the names of the stacks.
        """
        stacks.add(name)
        shown, wanted = self.store.show(name), body["resources"]
        rows: Any = shown["resources"]
        assert isinstance(wanted, dict)
        if shown["status"] != "COMPLETE" or rows.keys() != wanted.keys():
            self.complain(f"{name} is {shown['status']} with {sorted(rows)}, not {sorted(wanted)}")
            return
        for resource, one in wanted.items():
            id_, properties = rows[resource]["physical_id"], one["properties"]
            if one["type"] == "stack":
                self._compare(id_, properties["template"], things, stacks)
            elif id_ in things or self.world.properties().get(id_) != properties:
                self.complain(f"{resource} of {name} is {id_}, which is not {properties}")
            else:
                things.add(id_)

    def _remove(self) -> None:
        """Delete it: nothing may be left."""
        if self.wrong:
            return
        self.store.delete_stack(NAME)
        self._work_off()
        stacks = [one["name"] for one in self.store.stacks(nested=True)]
        things = [one for one in self.world.things if not one.startswith(FOUND)]
        if stacks or things:
            self.complain(f"left over: {stacks} {things}")
