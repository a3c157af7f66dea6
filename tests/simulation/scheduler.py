"""One seed: several engines and clients, stepped by one random sequence, in one thread, over real
transactions.

What is left to chance: which engine acts next, and what it does; what is asked of the stacks; what
fails, who dies, is paused or cut off, and where; how time goes. After each commit an oracle looks
at the rows and at the world. At the end all faults stop, and everything must come to its end by
itself; then a last update and a delete must succeed, whatever happened before.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from random import Random

from converge import RetryPolicy, crash_points
from converge.crash_points import Commit
from converge.errors import StaleLock, StoreError
from converge.model import Action
from converge.protocol import recover
from converge.protocol.work import HANDLED, Outcome, Result, Work
from converge.sql import engines
from converge.stack import Stack
from converge.testing import FakeClock
from tests.simulation import templates
from tests.simulation.actors import Actor, describe, describe_outcome
from tests.simulation.arena import Arena
from tests.simulation.clients import Clients
from tests.simulation.faults import Body, Crash, Fault, Faults
from tests.simulation.invariants import HELD, Oracle, Past
from tests.simulation.trace import Trace
from tests.simulation.world import World

#: Seconds of a lease.
LEASE = 30.0
#: How many rounds everything may take to come to its end when nothing goes wrong any more.
ROUNDS = 60

#: What happens next, with how often; those of the second row only where others go on meanwhile.
COMMON = {"turn": 10, "call": 8, "ask": 4, "tick": 3, "sweep": 2, "renew": 1}
RARE = {
    "crash": 2,
    "pause": 2,
    "stall": 3,
    "repeat": 2,
    "lag": 2,
    "leave": 1,
    "join": 1,
    "give_up": 1,
    "hand_back": 1,
    "forget": 1,
    "bury": 1,
    "rewind": 1,
}
ASKED = {
    "update": 8,
    "rollback": 2,
    "delete": 2,
    "cancel": 3,
    "check": 2,
    "abandon": 1,
    "signal": 4,
    "hand": 2,
}


class Simulation(Trace):
    """:param seed: all that happens follows from it."""

    def __init__(self, arena: Arena, seed: int) -> None:
        super().__init__()
        arena.tables.clear()
        self.seed = seed
        self.random = Random(seed)
        self.clock = FakeClock()
        self.store = arena.store
        self.store.database.clock = self.clock
        self.world = World(self.random, self.complain)
        self.oracle = Oracle(arena.tables, self.world, self.complain)
        self.faults = Faults(self.oracle.look, self._let_others_act, self.tell)
        self.world.before_delete = self.oracle.check_delete
        self.world.is_late = self._is_late
        self.events: Counter[str] = Counter()
        self.clients = Clients(self)
        self.actors: list[Actor] = []
        self._calling: tuple[Actor, Work] | None = None
        #: what the database may go back to
        self._past: deque[Past] = deque(maxlen=4)
        self._choose()

    def _choose(self) -> None:
        """What can happen in this seed: few sorts of trouble at a time find more than all."""
        random = self.random
        self.names = random.choice((["s"], ["s"], ["s", "t"]))
        self.length = random.choice((5, 8, 12, 20))
        self.weights = dict(COMMON)
        for event in random.sample(sorted(RARE), random.choice((0, 2, 4, len(RARE)))):
            self.weights[event] = RARE[event]
        self.kinds = random.sample(sorted(Fault), random.choice((0, 1, 1, 2, len(Fault))))
        self.trouble = random.choice((0.1, 0.4))
        self.world.failing = random.choice((0.0, 0.0, 0.2, 0.6))
        retry = RetryPolicy(attempts=random.choice((1, 2, 3)), first=random.choice((0.0, 4.0)))
        self.types = self.world.types(retry)

    # -- the whole

    def run(self) -> None:
        """Run the seed, until its end or until something is wrong; see :attr:`wrong`."""
        crash_points.hook = self.faults
        for number in range(self.random.choice((2, 2, 2, 3))):
            self.guarded(Actor(f"E{number + 1}"), self._join)
        self.clients.ask("update")
        for number in range(self.length):
            if self.wrong:
                return
            if number == self.length // 2 and self.random.random() < 0.4:
                # most of what is done by hand is done to what is at rest; and of what is at rest,
                # mostly little changes
                self._settle()
                self.random.choice((self.clients.meddle, self.clients.adjust))()
            self._step()
        self._settle()
        if not self.wrong and self.random.random() < 0.2:
            self._last()

    def _step(self) -> None:
        possible = [event for event in self.weights if self._is_of_use(event)]
        event = self.random.choices(possible, [self.weights[one] for one in possible])[0]
        if self.kinds and self.random.random() < self.trouble:
            self.faults.plan(self.random.choice(self.kinds), self.random.choice((0, 0, 1, 2)))
        if "rewind" in self.weights and event != "rewind":
            self._past.append(self.oracle.save())
        self._act(event)
        self.faults.clear()

    def _is_of_use(self, event: str) -> bool:
        """Whether it would do anything: most of a seed's time is spent in transactions."""
        awake = self._awake()
        if event == "turn":
            return self._is_due() or any(actor.outcomes for actor in awake)
        if event == "call":
            return any(actor.todo for actor in awake)
        if event == "rewind":
            return bool(self._past)
        if event == "bury" and not any(actor.dead for actor in self.actors):
            return False
        return event in COMMON or len(awake) > 1

    def _act(self, event: str) -> None:
        self.events[event] += 1
        if event == "ask":
            self.clients.ask(self.random.choices(list(ASKED), list(ASKED.values()))[0])
        elif event == "tick":
            self._tick(self.random.choice((0.5, 2.0, 5.0)))
        elif event == "lag":
            self._lag(self.random.sample(self._awake(), self.random.randint(0, len(self._awake()))))
        elif event == "rewind":
            self._rewind()
        elif event == "join":
            self.guarded(Actor(f"E{len(self.actors) + 1}"), self._join)
        else:
            actor = self._pick(event)
            if actor is not None:
                self.guarded(actor, getattr(self, f"_{event}"))

    def _pick(self, event: str) -> Actor | None:
        """Who does it: of those who can, somebody."""
        awake = [one for one in self._awake() if one is not self.faults.current]
        if event in ("call", "give_up", "hand_back"):
            awake = [actor for actor in awake if actor.todo]
        elif event == "stall":
            awake = [actor for actor in awake if actor.in_hand()]
        elif event == "repeat":
            awake = [actor for actor in awake if actor.outcomes]
        elif event == "pause" and self.random.random() < 0.5:
            awake = [actor for actor in self.actors if actor.paused and not actor.dead]
        return self.random.choice(awake) if awake else None

    def _awake(self) -> list[Actor]:
        return [actor for actor in self.actors if not actor.dead and not actor.paused]

    def guarded(self, body: Body, action: Callable[..., None]) -> None:
        """Let somebody act; a crash ends it, and an error of the database is no surprise if it
        was planned."""
        before, self.faults.current = self.faults.current, body
        struck = sum(self.faults.struck.values())
        try:
            action(body)
        except Crash:
            self.tell(f"    {body.name} is dead")
        except StoreError as error:
            self.tell(
                f"    {body.name}: {str(error).replace(self.store.database.shown, 'database')}"
            )
            if sum(self.faults.struck.values()) == struck:
                raise
        finally:
            self.faults.current = before
        self.oracle.look()
        if isinstance(body, Actor):
            self._check_hands(body)

    def _check_hands(self, actor: Actor) -> None:
        """An engine that holds a node without knowing it would keep it as long as it lives."""
        if actor.dead or actor.engine is None or actor.core.doubtful or actor.deceived:
            return
        held = {
            key
            for key, row in self.oracle.rows.sync_points.items()
            if row.engine_id == actor.id and row.state in HELD
        }
        if not held <= actor.in_hand():
            self.complain(f"engine {actor.id} does not know that it holds {sorted(held)}")

    def _let_others_act(self) -> None:
        """Somebody stands between two transactions, and others go on."""
        calling, self._calling = self._calling, None
        event = self.random.choice(("turn", "turn", "call", "ask", "sweep", "lag"))
        if event == "lag":
            self._lag([one for one in self._awake() if one is not self.faults.current])
            event = "sweep"
        self._act(event)
        self._calling = calling

    def _rewind(self) -> None:
        """The database forgets its last seconds: some engines notice that their connections were
        broken, and the others look at their next sweep."""
        past = self.random.choice(self._past)
        self._past.clear()
        self.oracle.rewind(past)
        for actor in self.actors:
            if actor.engine is not None:
                actor.deceived = True
                actor.core.doubtful = self.random.random() < 0.5
        self.tell(f"the database forgets what came after {len(past.done)} nodes were done")

    def _tick(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.tell(f"{seconds:g} s later")

    def _lag(self, actors: list[Actor]) -> None:
        """More time than a lease passes, and only these engines renew theirs."""
        self._tick(LEASE * 2 / 3)
        for actor in actors:
            self.guarded(actor, self._renew)
        self._tick(LEASE * 2 / 3)

    # -- what engines do

    def _join(self, actor: Actor) -> None:
        self.tell(f"{actor.name} joins")
        self.actors.append(actor)
        self._register(actor)

    def _register(self, actor: Actor) -> None:
        actor.engine = None
        actor.register(self.store, self.types, LEASE, self.clock())
        self.tell(f"    {actor.name} is engine {actor.id}")

    def _turn(self, actor: Actor) -> None:
        """Write some of what it has, in any order, perhaps twice, and claim more."""
        random = self.random
        if self._starts_anew(actor):
            return
        most = len(actor.outcomes)
        outcomes = random.sample(actor.outcomes, random.choice((most, random.randint(0, most))))
        # what is delivered twice matters most where the node is at its next attempt
        todo = {work.node.key for work in actor.todo}
        twice = [one for one in actor.sent if one.work.node.key in todo] or actor.sent
        if twice and random.random() < 0.2:
            outcomes.append(random.choice(twice))
        if outcomes and random.random() < 0.1:
            outcomes.append(outcomes[0])
        self._write(actor, outcomes, random.choice((0, 1, 2, 3, 8)))

    def _write(self, actor: Actor, outcomes: list[Outcome], limit: int) -> None:
        self.tell(f"{actor.name} writes {[describe_outcome(one) for one in outcomes]}")
        before = self.oracle.rows
        doubtful = actor.core.doubtful
        alive = self._is_alive(actor)
        valid = [one for one in outcomes if self._holds(actor, one.work)]
        struck = self.faults.struck.total()
        try:
            works = actor.turn(outcomes, limit)
        except StaleLock:
            self.tell("    and is not known any more")
            self._register(actor)
            return
        if actor.core.passed:
            self.tell("    and passes over what was ready")
            self.events["passed over by a claim"] += 1
            actor.core.passed.clear()
        if works:
            self.tell(f"    and claims {[describe(work) for work in works]}")
        if self.faults.struck.total() != struck:
            return
        if len(valid) < len(outcomes):
            self.events["refused"] += 1
        if not (valid or limit or doubtful) and self.oracle.rows != before:
            self.complain("what an engine wrote that holds nothing changed something")
        replaced = {one.work.node.key for one in outcomes if one.result is Result.REPLACE}
        if not alive and any(work.node.key not in replaced for work in works):
            self.complain(f"engine {actor.id} claims after the end of its lease")
        if not actor.core.doubtful:
            for one in valid:
                if one.result is not Result.REPLACE and self._holds(actor, one.work):
                    self.complain(f"not written, and nobody was told: {describe_outcome(one)}")

    def _call(self, actor: Actor) -> None:
        """Some handlers come to their effects."""
        if self._starts_anew(actor):
            return
        for work in self.random.sample(actor.todo, self.random.randint(1, len(actor.todo))):
            self._handle(actor, work)

    def _handle(self, actor: Actor, work: Work) -> None:
        self.tell(f"{actor.name} does {describe(work)}")
        self._calling = (actor, work)
        done = len(self.world.effects)
        outcome = actor.call(work)
        self._calling = None
        effects = self.world.effects[done:]
        self.tell(f"    {effects} {outcome.result} {outcome.reason or ''}")

    def _is_late(self) -> bool:
        """Whether the handler that is called now has lost its node: only where the engine's
        lease is over can that be."""
        assert self._calling is not None
        actor, work = self._calling
        held = self._holds(actor, work)
        if not held:
            self.events["late effect"] += 1
            if self.clock() < actor.expires and not actor.deceived:
                self.complain(f"{describe(work)} is done by an engine that does not hold it")
        elif work.node.key in self.oracle.done:
            self.complain(f"{describe(work)} is done again")
        return not held

    def _holds(self, actor: Actor, work: Work) -> bool:
        rows = self.oracle.rows
        node = rows.sync_points.get(work.node.key)
        if node is None or (node.engine_id, node.epoch, node.mark) != (
            actor.id,
            work.node.epoch,
            work.node.mark,
        ):
            return False
        if work.locked and work.row is not None:
            row = rows.resources.get(work.row.id)
            if row is None or (row.engine_id, row.epoch, row.mark) != (
                actor.id,
                work.row.epoch,
                work.row.mark,
            ):
                # a replacement has taken its place; else this is what the oracle looks for
                return False
        return node.state in HELD

    def _is_alive(self, actor: Actor) -> bool:
        row = self.oracle.rows.engines.get(actor.id)
        return (
            row is not None
            and row.mark == actor.mark
            and row.state == "ALIVE"
            and row.expires_at > self.clock()
        )

    def _starts_anew(self, actor: Actor) -> bool:
        """An engine whose lease is over takes a new id; if it has noticed."""
        if actor.engine is None or (self.clock() >= actor.expires and self.random.random() < 0.5):
            self.tell(f"{actor.name} starts anew")
            self.events["anew"] += 1
            self._register(actor)
            return True
        return False

    def _renew(self, actor: Actor) -> None:
        if actor.engine is None:
            return
        before = self.clock()
        self.tell(f"{actor.name} renews its lease")
        if actor.engine.renew():
            actor.expires = before + LEASE
        else:
            self.tell("    too late")
            self._register(actor)

    def _sweep(self, actor: Actor) -> None:
        self.tell(f"{actor.name} sweeps")
        now = self.clock()
        found = recover.sweep(self.store.database)
        if actor.deceived:
            actor.core.doubtful = True
        self.tell(f"    {found.engines} engines, {found.nodes} nodes, {found.unblocked} unblocked")
        for row in self.oracle.rows.traversals.values():
            due = row.status == "RUNNING" and row.halted is None and row.deadline_at is not None
            if due and (row.deadline_at or 0.0) <= now:
                self.complain(f"traversal {row.id} is past its deadline, and the sweep let it be")
        self.events["recovered nodes"] += found.nodes
        self.events["overdue"] += found.overdue

    def _crash(self, actor: Actor) -> None:
        actor.dead = True
        raise Crash

    def _pause(self, actor: Actor) -> None:
        actor.paused = not actor.paused
        self.tell(f"{actor.name} is {'paused' if actor.paused else 'awake again'}")

    def _stall(self, actor: Actor) -> None:
        """It stands still for longer than its lease, others take over, and it goes on as if
        nothing had been: all that it writes must be refused."""
        self.tell(f"{actor.name} stands still")
        actor.paused = True
        self._lag(self._awake())
        for event in self.random.choice((("sweep",), ("sweep", "turn"), ("sweep", "turn", "call"))):
            self._act(event)
        actor.paused = False
        for work in list(actor.todo):
            if self.random.random() < 0.7:
                self._handle(actor, work)
        self._write(actor, list(actor.outcomes), self.random.choice((0, 0, 2)))

    def _repeat(self, actor: Actor) -> None:
        """An outcome is delivered again after the same engine has claimed the node again: as when
        the reply to its commit was lost, and another thread claims before it is given again."""
        again = [one for one in actor.outcomes if one.result in (Result.RETRY, Result.WAIT)]
        outcome = self.random.choice(again or actor.outcomes)
        self._write(actor, [outcome], 0)
        # not until the end of the world, for one that waits for a signal
        self._tick(min(outcome.wait, LEASE))
        self._write(actor, [], 8)
        self._write(actor, [outcome], 0)

    def _leave(self, actor: Actor) -> None:
        self.tell(f"{actor.name} leaves")
        mark = actor.mark
        actor.dead = True
        self.faults.current = None
        self.store.database.transact(lambda tx: recover.leave(tx, actor.id, mark), Commit.LEAVE)
        if not actor.deceived and any(
            row.engine_id == actor.id for row in self.oracle.rows.sync_points.values()
        ):
            self.complain(f"engine {actor.id} has left, and still holds nodes")

    def _give_up(self, actor: Actor) -> None:
        handled = [work for work in actor.todo if work.decision.operation in HANDLED]
        if handled:
            outcome = actor.give_up(self.random.choice(handled))
            self.tell(f"{actor.name} gives up {describe_outcome(outcome)}")

    def _hand_back(self, actor: Actor) -> None:
        outcome = actor.hand_back(self.random)
        if outcome is not None:
            self.tell(f"{actor.name} hands back {describe_outcome(outcome)}")

    def _forget(self, actor: Actor) -> None:
        self.tell("the rows of engines that are no more are deleted")
        self.store.database.transact(lambda tx: engines.delete_old_engines(tx, 0.0), Commit.FORGET)

    def _bury(self, actor: Actor) -> None:
        """An engine on the host of one that crashed sees that it is gone."""
        known = self.oracle.rows.engines
        gone = [
            one
            for one in self.actors
            if one.dead and one.id in known and known[one.id].mark == one.mark
        ]
        if gone:
            which = self.random.choice(gone).id
            self.tell(f"{actor.name} sees that engine {which} is gone")
            self.store.database.transact(lambda tx: engines.expire_lease(tx, which), Commit.EXPIRE)

    # -- the end

    def _settle(self) -> None:
        """Nobody dies any more; who is stopped goes on or is gone for good. Then all must come to
        its end, without anybody asking for it."""
        self.faults.clear()
        self.tell("nobody dies any more")
        for actor in self.actors:
            if actor.deceived:
                actor.core.doubtful = True
            if actor.paused:
                actor.paused = False
                if self.random.random() < 0.5:
                    actor.dead = True
        if not self._awake():
            self.guarded(Actor(f"E{len(self.actors) + 1}"), self._join)
        self._run_dry()
        if not self.wrong:
            self.oracle.check_quiet()

    def _run_dry(self) -> None:
        for _ in range(ROUNDS):
            if self.wrong:
                return
            busy = False
            for actor in self._awake():
                self.guarded(actor, self._round)
                busy = busy or bool(actor.in_hand())
            if not busy and self._is_over():
                return
            if not busy:
                self.clients.signal_all()
                self._tick(LEASE / 2)
                self.guarded(self._awake()[0], self._sweep)
        self.complain("no end in sight")

    def _round(self, actor: Actor) -> None:
        """What an engine does in one round when nothing goes wrong."""
        if actor.engine is None or self.clock() >= actor.expires:
            self._register(actor)
        elif self.clock() >= actor.expires - LEASE / 2:
            self._renew(actor)
        for _ in range(ROUNDS):
            for work in list(actor.todo):
                self._handle(actor, work)
            written = list(actor.outcomes)
            if self.wrong or not (written or actor.core.doubtful or self._is_due()):
                return
            self._write(actor, written, 8)
            if not written and not actor.todo:
                return

    def _is_due(self) -> bool:
        now = self.clock()
        return any(
            row.state == "READY" and row.due_at <= now
            for row in self.oracle.rows.sync_points.values()
        )

    def _is_over(self) -> bool:
        rows = self.oracle.rows
        return not rows.sync_points and all(
            row.status != "RUNNING" for row in rows.traversals.values()
        )

    def _last(self) -> None:
        """Whatever happened, an update brings about what it wants, and a delete removes it."""
        self.world.failing = 0.0
        for actor in self._awake()[1:]:
            actor.dead = True
        for name in self.names:
            wanted = templates.draw(self.random)
            self.tell(f"at last, {name} is to be {templates.describe(wanted)}")
            stack = self.store.converge_stack(name, templates.parse(wanted))
            self._run_dry()
            self._expect(stack, Action.UPDATE)
        for name in self.names:
            if self.wrong:
                return
            self.tell(f"at last, {name} is deleted")
            stack = self.store.delete_stack(name)
            self._run_dry()
            self._expect(stack, Action.DELETE)
        if self.wrong:
            return
        self.oracle.check_quiet()
        for table in ("resource", "template", "sync_point", "progress"):
            if self.oracle.tables.count(table):
                self.complain(f"all is deleted, and table {table} is not empty")

    def _expect(self, stack: Stack, action: Action) -> None:
        row = self.oracle.rows.stacks[stack.id]
        if row.status != "COMPLETE":
            self.complain(f"the last {action} of {row.name} is {row.status}: {row.reason}")
