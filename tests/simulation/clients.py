"""What clients ask of the stacks, and whether they are told what became of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from converge import Template
from converge.errors import Conflict, NotFound
from converge.stack import Stack
from tests.simulation import tables as rows
from tests.simulation import templates
from tests.simulation.faults import Body
from tests.simulation.templates import Wanted

if TYPE_CHECKING:
    from tests.simulation.scheduler import Simulation

#: How often a call names the traversal that it expects, and how often a host's transaction is
#: around it.
EXPECTING = 0.2
HOSTED = 0.2
#: How often an update is asked for with :meth:`converge.Store.converge_stack`.
CONVERGING = 0.3


class Clients:
    """All who ask for something.

    :ivar wanted: the template that was asked for last, by stack.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.wanted: dict[str, Wanted] = {}

    def ask(self, verb: str) -> None:
        """Ask for something of some stack: a new template, a rollback, a delete ..."""
        simulation = self.simulation
        simulation.events[verb] += 1
        name = simulation.random.choice(simulation.names)
        others = {"abandon": self._abandon, "signal": self._signal, "hand": self._hand}
        act = others.get(verb, partial(self._ask, verb))
        # one of its own for each call, as it may die
        simulation.guarded(Body("a client"), lambda client: act(name))

    def _abandon(self, name: str) -> None:
        """Let go of a resource; its thing stays in the world, for nobody."""
        simulation = self.simulation
        resources = simulation.oracle.rows.resources.values()
        stacks = simulation.oracle.rows.stacks
        # what can be there only once would stand in the way of another
        mine = [
            one for one in resources if stacks[one.stack_id].name == name and one.type != "only"
        ]
        if not mine:
            return
        one = simulation.random.choice(mine)
        simulation.tell(f"{name} is to let go of {one.name}, resource {one.id}")
        # whether it is done or not, and heard of or not
        simulation.world.unsure.add(one.token)
        try:
            simulation.store.forget_resource(name, one.name, id=one.id)
        except (Conflict, NotFound) as error:
            simulation.tell(f"    {error}")
            simulation.events[type(error).__name__] += 1

    def _signal(self, name: str) -> None:
        """Tell a resource what it waits for, perhaps before it does."""
        simulation = self.simulation
        asked = sorted({one.name for one in self._list_asked(name)})
        if asked:
            resource = simulation.random.choice(asked)
            simulation.tell(f"signal {name} {resource}")
            simulation.store.signal(name, resource, simulation.random.random())

    def _hand(self, name: str) -> None:
        """Somebody changes or removes a thing behind converge's back."""
        simulation = self.simulation
        found = simulation.oracle.rows
        mine = [
            row
            for row in found.resources.values()
            if found.stacks[row.stack_id].name == name
            and row.type == "seen"
            and row.physical_id in simulation.world.things
        ]
        if not mine:
            return
        row = simulation.random.choice(mine)
        thing = simulation.world.things[row.physical_id or ""]
        # until the next effect on it, nothing can be said of it
        simulation.world.unsure.add(thing.token)
        if simulation.random.random() < 0.3:
            simulation.tell(f"somebody removes {thing.id}")
            del simulation.world.things[thing.id]
        else:
            simulation.tell(f"somebody changes {thing.id}")
            thing.properties = {**thing.properties, "size": 99}
        if simulation.random.random() < 0.7:
            self._ask("check", name)

    def meddle(self) -> None:
        """Somebody does something by hand to each stack, and looks."""
        for name in self.simulation.names:
            self.simulation.guarded(Body("a client"), lambda client, name=name: self._hand(name))

    def adjust(self) -> None:
        """Let each stack change in one resource, and keep all else."""
        for name in self.simulation.names:
            if self.wanted.get(name):
                body = Body("a client")
                self.simulation.guarded(body, lambda client, name=name: self._ask("adjust", name))

    def signal_all(self) -> None:
        """Tell all that they need not wait any longer."""
        simulation = self.simulation
        for name in simulation.names:
            for one in self._list_asked(name):
                if one.status != "COMPLETE":
                    simulation.tell(f"signal {name} {one.name}, as nothing else happens")
                    simulation.store.signal(name, one.name)

    def _list_asked(self, name: str) -> list[rows.Resource]:
        found = self.simulation.oracle.rows
        live = {row.id for row in found.stacks.values() if row.name == name and row.live}
        return [
            one for one in found.resources.values() if one.type == "asked" and one.stack_id in live
        ]

    def _ask(self, verb: str, name: str) -> None:
        simulation, random = self.simulation, self.simulation.random
        stacks = simulation.oracle.rows.stacks.values()
        current = next((row for row in stacks if row.name == name and row.live), None)
        options: dict[str, Any] = {"timeout": random.choice((None, None, None, 20.0))}
        policy = random.choice(("stop", "continue", "rollback"))
        what = f"{verb} {name} {options['timeout']}"
        if verb == "adjust":
            verb = "update"
            self.wanted[name] = templates.adjust(random, self.wanted[name])
            options["on_failure"] = policy
            what += f" {policy} {templates.describe(self.wanted[name])}"
        elif verb == "update":
            self.wanted[name] = templates.change(random, self.wanted.get(name, {}))
            options["on_failure"] = policy
            what += f" {policy} {templates.describe(self.wanted[name])}"
        call = self._method(verb, current is not None)
        if current is not None and verb != "cancel" and call != simulation.store.converge_stack:
            expected = (current.traversal_id or 0) - random.choice((0, 0, 0, 1))
            if random.random() < EXPECTING:
                options["expected"] = expected
                what += f" expecting {expected}"
        if verb == "cancel":
            del options["timeout"]
        simulation.tell(what)
        try:
            if random.random() < HOSTED:
                with simulation.store.transaction() as tx:
                    stack = call(name, *self._template(verb, name), transaction=tx, **options)
            else:
                stack = call(name, *self._template(verb, name), **options)
        except (Conflict, NotFound) as error:
            simulation.tell(f"    {error}")
            simulation.events[type(error).__name__] += 1
            return
        simulation.tell(f"    {stack.outcome} traversal {stack.traversal}")
        self._check_answer(verb, stack, current, options.get("expected"))

    def _method(self, verb: str, there: bool) -> Callable[..., Stack]:
        store = self.simulation.store
        if verb == "update" and self.simulation.random.random() < CONVERGING:
            return store.converge_stack
        if verb == "update" and not there:
            return store.create_stack
        methods: dict[str, Callable[..., Stack]] = {
            "update": store.update_stack,
            "rollback": store.rollback_stack,
            "delete": store.delete_stack,
            "check": store.check_stack,
            "cancel": store.cancel_stack,
        }
        return methods[verb]

    def _template(self, verb: str, name: str) -> tuple[Template, ...]:
        return (templates.parse(self.wanted[name]),) if verb == "update" else ()

    def _check_answer(
        self, verb: str, stack: Stack, before: rows.Stack | None, expected: int | None
    ) -> None:
        """Invariant 9: every call that starts something says what became of it."""
        simulation = self.simulation
        if simulation.faults.struck.total():
            return  # others may have acted before it came back
        running = before is not None and before.status == "IN_PROGRESS"
        if stack.outcome == "superseded":
            old = simulation.oracle.rows.traversals[stack.superseded or 0]
            if old.status != "SUPERSEDED":
                simulation.complain(f"{stack} says that it superseded {old}")
        elif stack.outcome == "started" and running and verb != "cancel":
            simulation.complain(f"{stack} started without a word of what was running")
        if expected is not None and before is not None and expected != before.traversal_id:
            simulation.complain(f"{stack} started though traversal {expected} was expected")
