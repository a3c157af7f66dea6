"""One seed of a group of agents: members that share notifications, stepped by one random sequence,
in one thread, over real transactions.

What is left to chance: who receives, who works on partitions, who joins, dies, is paused for longer
than its lease, or stands still between two transactions while others go on; when the broker takes
back what a member has; which notifications come twice and in which order; which hints are lost,
doubled, reordered or made up; when the number of partitions changes; which transactions fail, and
which publishers. After each commit an oracle looks at the rows. At the end all trouble stops, and
everything must come to its end by itself, exactly once.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

from converge import Store, crash_points
from converge.agent import outbox, sharing
from converge.agent.agent import Agent
from converge.agent.gathering import Batching
from converge.agent.sharing import Pace, Sharing
from converge.bus.carrier import CarrierError
from converge.bus.post import QUEUE, REDELIVERED
from converge.bus.source import Delivery
from converge.crash_points import AFTER_CALL, BEFORE_CALL
from converge.errors import Busy, Conflict, StoreError
from converge.group import group
from converge.group.group import Settings
from converge.group.keys import share_of
from converge.group.signing import Secrets
from converge.pipeline import Item, Outlet, Pipeline, Publisher
from converge.sql.schema import metadata
from converge.testing import FakeClock
from tests.agent.fleet import LEASE, SECRET, Bus, MemoryPost, MemorySource, note
from tests.notifications.samples import EVENT_DEFINITIONS, METERS, START
from tests.simulation.faults import Body, Crash, Fault, Faults
from tests.simulation.trace import Trace

#: Notifications are about so many volumes.
KEYS = 4
#: How many rounds everything may take to come to its end when nothing goes wrong any more.
ROUNDS = 60
#: Everything at every turn, and nothing is waited for.
PACE = Pace(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
#: What happens next, with how often.
COMMON = {"send": 4, "receive": 8, "share": 10}
RARE = {
    "tick": 2,
    "lag": 2,
    "join": 1,
    "kill": 1,
    "pause": 2,
    "cut": 1,
    "lose": 2,
    "double": 2,
    "reorder": 2,
    "forge": 1,
    "resize": 1,
    "leave": 1,
}


class Out(Publisher):
    """Tells the simulation what it gets."""

    simulation: Members

    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        crash_points.hit(BEFORE_CALL)
        self.simulation.publish(items)
        crash_points.hit(AFTER_CALL)


SUMS = {"aggregate": {"by": ["name", "resource_id"], "window": 86_400, "grace": 0}}
#: Seconds: longer than a seed lasts.
GRACE = 1e7
RATES = {"rate_of_change": {"grace": GRACE}}
PIPELINE: dict[str, Any] = {
    "sources": [
        {"name": "events", "events": ["*"], "sinks": ["out"]},
        {"name": "meters", "meters": ["*"], "sinks": ["sums", "rates"]},
    ],
    "sinks": [
        {"name": "out", "publishers": [f"{__name__}:Out"], "attempts": 50, "wait": 0},
        {"name": "sums", "steps": [SUMS], "publishers": ["database"], "attempts": 50, "wait": 0},
        {"name": "rates", "steps": [RATES], "publishers": ["database"], "attempts": 50, "wait": 0},
    ],
}


@dataclass
class Source(MemorySource):
    """A connection that the broker can end."""

    is_cut: bool = False

    def cut(self) -> None:
        """The broker has back what is not acknowledged; the member does not know that."""
        super().close()
        self.is_cut = True

    def _check(self) -> None:
        if self.is_cut:
            raise CarrierError("the connection is lost")

    def receive(self, timeout: float) -> Delivery | None:
        self._check()
        return super().receive(timeout)

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        self._check()
        super().acknowledge(deliveries)

    def requeue(self, deliveries: Iterable[Delivery]) -> None:
        self._check()
        super().requeue(deliveries)


class Post(MemoryPost):
    """The same, to the queues of partitions."""

    is_cut = False

    def cut(self) -> None:
        """The broker has back what is not acknowledged."""
        self.close()
        self.is_cut = True

    def _check(self) -> None:
        if self.is_cut:
            raise CarrierError("the connection is lost")
        super()._check()


class Actor(Body):
    """A member.

    :ivar paused: it does nothing, as a stopped process does.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.paused = False
        self.agent: Agent | None = None

    @property
    def sharing(self) -> Sharing:
        """Its half that works on partitions."""
        assert self.agent is not None
        assert self.agent.sharing is not None
        return self.agent.sharing

    def cut(self) -> None:
        """The broker ends its connections."""
        if self.agent is not None:
            for one in (self.agent._source, self.sharing._post, self.sharing.outbox._post):
                if isinstance(one, Source | Post):
                    one.cut()


class Rows(NamedTuple):
    """What the oracle looks at.

    :ivar partitions: engine and epoch, by generation and number.
    :ivar deliveries: origin, sink, share, and version, by id.
    :ivar alive: the engines whose lease is not over.
    """

    partitions: dict[tuple[int, int], tuple[int | None, int]]
    deliveries: dict[int, tuple[str, str, int, int]]
    alive: set[int]


@dataclass
class Oracle:
    """Remembers what it has seen, and compares."""

    connection: sqlite3.Connection
    clock: FakeClock
    complain: Callable[[str], None]
    rows: Rows = field(init=False)
    #: deliveries to the sink ``out``, by origin
    order: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = self.read()

    def read(self) -> Rows:
        """What is committed."""
        execute = self.connection.execute
        partitions = execute("SELECT generation, number, engine_id, epoch FROM converge_partition")
        held = {row[:2]: (row[2], row[3]) for row in partitions}
        ways = execute("SELECT id, origin, sink, share, version FROM converge_delivery")
        deliveries = {row[0]: row[1:] for row in ways}
        engines = execute(
            "SELECT id FROM converge_engine WHERE state = 'ALIVE' AND expires_at > ?",
            [self.clock()],
        )
        return Rows(held, deliveries, {row[0] for row in engines})

    def look(self, actor: Body | None = None) -> None:
        """Check all that must be so between two transactions.

        :param actor: whose transaction was committed.
        """
        before, self.rows = self.rows, self.read()
        for id_, (origin, sink, _, _) in self.rows.deliveries.items():
            if sink == "out":
                self.order.setdefault(origin, id_)
        self._check_owners(before)
        if isinstance(actor, Actor) and actor.agent is not None:
            self._check_work(before, actor)

    def _check_owners(self, before: Rows) -> None:
        """At most one owner: a partition is taken only from who is not alive any more, or has
        given it back, and each taking has a higher epoch."""
        for place, (engine, epoch) in self.rows.partitions.items():
            old_engine, old_epoch = before.partitions.get(place, (None, 0))
            if epoch < old_epoch:
                self.complain(f"the epoch of partition {place} shrank")
            if engine is not None and engine != old_engine:
                if epoch <= old_epoch:
                    self.complain(f"partition {place} was taken with an old epoch")
                if old_engine is not None and old_engine in self.rows.alive:
                    self.complain(f"partition {place} was taken from {old_engine}, which is alive")

    def _check_work(self, before: Rows, actor: Actor) -> None:
        """Who goes on with a delivery of a partition holds it."""
        held = {
            share_of(hold.generation, hold.number): (hold.engine_id, hold.epoch)
            for hold in actor.sharing._member.locks.values()
        }
        rows = {share_of(*place): one for place, one in before.partitions.items()}
        for id_, (origin, sink, share, version) in before.deliveries.items():
            now = self.rows.deliveries.get(id_)
            moved = now is None or now[3] != version
            # what is in no partition that there is, the holder of the first one does
            if moved and share in rows and held.get(share) != rows[share]:
                self.complain(f"{actor.name} went on with {origin} to {sink}, and does not hold it")


class Members(Trace):
    """:param seed: all that happens follows from it.

    :ivar sent: the numbers of notifications by volume, in the order in which they were sent.
    """

    def __init__(self, store: Store, seed: int) -> None:
        super().__init__()
        self.seed, self.random, self.store = seed, Random(seed), store
        self.clock = FakeClock(START)
        self.events: Counter[str] = Counter()
        self.bus = Bus()
        self.actors: list[Actor] = []
        self.sent: dict[int, list[int]] = defaultdict(list)
        self.malformed: set[bytes] = set()
        self.published: list[str] = []
        self.failing: Counter[str] = Counter()
        self.number = 0
        store.database.clock = self.clock
        assert store.database.url.database is not None
        self._connection = _clear(Path(store.database.url.database))
        self.oracle = Oracle(self._connection, self.clock, self.complain)
        self.faults = Faults(self._committed, self._let_others_act, self.tell)
        self._choose()

    def _choose(self) -> None:
        """What can happen in this seed: few sorts of trouble at a time find more than all."""
        random = self.random
        self.length = random.choice((10, 16, 24))
        self.weights = dict(COMMON)
        for event in random.sample(sorted(RARE), random.choice((0, 3, 6, len(RARE)))):
            self.weights[event] = RARE[event]
        self.kinds = random.sample(sorted(Fault), random.choice((0, 1, 1, 2, len(Fault))))
        if random.random() < 0.5:
            self.kinds = [*self.kinds, Fault.SWITCH]
        self.trouble = random.choice((0.2, 0.6))
        self.most = random.choice((2, 5))

    # -- the whole

    def run(self) -> None:
        """Run the seed, until its end or until something is wrong; see :attr:`wrong`."""
        Out.simulation = self
        database: Any = self.store.database
        # the leases share the one connection that there is
        database.separate = lambda: database
        with (
            mock.patch.object(sharing, "_HINTS", Batching(1000, 60.0)),
            mock.patch.object(outbox, "PAUSE", 0.0),
        ):
            try:
                crash_points.hook = self.faults
                self._run()
            finally:
                crash_points.hook = None
                self._end()
                del database.separate
                self._connection.close()

    def _run(self) -> None:
        for _ in range(self.random.choice((2, 2, 3))):
            self._join()
        for _ in range(self.length):
            if self.wrong:
                return
            if self.kinds and self.random.random() < self.trouble:
                self.faults.plan(self.random.choice(self.kinds), self.random.choice((0, 1, 3)))
            self._act(self.random.choices(list(self.weights), list(self.weights.values()))[0])
            self.faults.clear()
        self._settle()

    def _act(self, event: str) -> None:
        self.events[event] += 1
        getattr(self, f"_{event}")()

    def _end(self) -> None:
        for actor in self.actors:
            if actor.agent is not None:
                actor.agent._close()
                actor.sharing.close()
                actor.sharing.outbox.close()

    def _committed(self) -> None:
        self.oracle.look(self.faults.current)

    def _let_others_act(self) -> None:
        """Somebody stands between two transactions, and others go on; perhaps for so long that
        they take over what it has in hand."""
        if self.random.random() < 0.5:
            self._act(self.random.choice(("receive", "share", "lag", "send")))
            return
        self.events["stall"] += 1
        others = [one for one in self._awake() if one is not self.faults.current]
        self._pass_lease(others)
        for _ in range(self.random.choice((1, 2, 3))):
            for actor in others:
                # it may take a partition, and not come to its work yet
                takes = self.random.random() < 0.5
                self.tell(f"{actor.name} {'takes' if takes else 'works on'} partitions")
                self.guarded(actor, actor.sharing._balance if takes else actor.sharing.turn)

    def _awake(self) -> list[Actor]:
        return [one for one in self.actors if not (one.dead or one.paused)]

    def _pick(self) -> Actor | None:
        free = [one for one in self._awake() if one is not self.faults.current]
        return self.random.choice(free) if free else None

    def guarded(self, actor: Actor, action: Callable[[], object]) -> None:
        """Let a member act; a crash ends it."""
        before, self.faults.current = self.faults.current, actor
        try:
            action()
        except Crash:
            self.tell(f"    {actor.name} is dead")
            actor.cut()
        except StoreError as error:
            self.tell(f"    {actor.name}: {type(error).__name__}")
        finally:
            self.faults.current = before
        self.oracle.look()

    # -- what comes

    def _send(self) -> None:
        """Notifications, some of them twice, some malformed, in any order but that of a volume:
        a broker keeps that of what it has."""
        bodies = []
        for _ in range(self.random.choice((1, 2, 4))):
            self.number += 1
            key = self.random.randrange(KEYS)
            self.sent[key].append(self.number)
            bodies.append(note(self.number, key))
            if self.random.random() < 0.2:
                self.failing[f"m-{self.number}"] = self.random.choice((1, 2))
        if self.random.random() < 0.3:
            bodies.append(self.random.choice(bodies))
        if self.random.random() < 0.3:
            bad = b'{"number": %d' % self.number
            self.malformed.add(bad)
            bodies.append(bad)
        self.tell(f"{len(bodies)} messages are sent, up to m-{self.number}")
        self.bus.send(*bodies)

    def publish(self, items: Sequence[Item]) -> None:
        """A publisher got items."""
        bad = [item.id for item in items if self.failing[item.id]]
        if bad:
            self.failing[bad[0]] -= 1
            self.events["publisher failed"] += 1
            raise RuntimeError(f"{bad[0]} is not taken")
        self.tell(f"    published {[item.id for item in items]}")
        self.published += [item.id for item in items]

    # -- what members do

    def _join(self) -> None:
        if len(self._awake()) >= 4:
            return
        actor = Actor(f"A{len(self.actors) + 1}")
        self.actors.append(actor)
        self.tell(f"{actor.name} joins")
        self.guarded(actor, lambda: self._make(actor))
        actor.dead = actor.dead or actor.agent is None

    def _make(self, actor: Actor) -> None:
        pipeline = Pipeline.load(PIPELINE, event_definitions=EVENT_DEFINITIONS, meters=METERS)
        is_first = not self._connection.execute("SELECT 1 FROM converge_group").fetchall()
        settings = Settings("g", Secrets([SECRET]), 3 if is_first else None)
        share = partial(
            Sharing,
            self.store,
            pipeline,
            settings,
            lambda: Post(self.bus),
            lease=LEASE,
            pace=PACE,
        )
        agent = Agent(
            self.store, pipeline, lambda: Source(self.bus), Batching(self.most, 60.0), share=share
        )
        for stopping in (agent.stopping, agent.sharing and agent.sharing.stopping):
            # nothing is waited for
            stopping.wait = lambda timeout=None: False  # type: ignore[union-attr, method-assign]
        actor.agent = agent

    def _receive(self) -> None:
        actor = self._pick()
        if actor is not None and actor.agent is not None:
            self.tell(f"{actor.name} receives")
            self.guarded(actor, actor.agent.turn)

    def _share(self) -> None:
        actor = self._pick()
        if actor is not None:
            self.tell(f"{actor.name} works on partitions")
            self.guarded(actor, actor.sharing.turn)

    def _leave(self) -> None:
        actor = self._pick()
        if actor is not None and len(self._awake()) > 1:
            self.tell(f"{actor.name} leaves")
            actor.cut()
            self.guarded(actor, actor.sharing.close)
            actor.dead = True

    def _kill(self) -> None:
        actor = self._pick()
        if actor is not None and len(self._awake()) > 1:
            self.tell(f"{actor.name} is killed")
            actor.dead = True
            actor.cut()

    def _pause(self) -> None:
        paused = [one for one in self.actors if one.paused and not one.dead]
        actor = self.random.choice(paused) if paused else self._pick()
        if actor is not None and (paused or len(self._awake()) > 1):
            actor.paused = not actor.paused
            self.tell(f"{actor.name} is {'paused' if actor.paused else 'awake again'}")

    def _cut(self) -> None:
        """The broker takes a member for dead."""
        actor = self.random.choice([one for one in self.actors if not one.dead] or [None])
        if actor is not None:
            self.tell(f"the connections of {actor.name} are lost")
            actor.cut()

    # -- time

    def _tick(self) -> None:
        self._advance(self.random.choice((1.0, 20.0, 70.0)))

    def _advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.tell(f"{seconds:g} s later")

    def _lag(self) -> None:
        """More time than a lease passes, and only some renew theirs."""
        awake = [one for one in self._awake() if one is not self.faults.current]
        alive = self.random.sample(awake, self.random.randint(0, len(awake)))
        self._pass_lease(alive)

    def _pass_lease(self, alive: Sequence[Actor]) -> None:
        for _ in range(2):
            self._advance(LEASE * 2 / 3)
            for actor in alive:
                self.guarded(actor, lambda actor=actor: actor.sharing._member.lease.renew())  # type: ignore[misc]

    # -- hints

    def _hints(self) -> list[Any]:
        return [queue for _, queue in sorted(self.bus.queues.items()) if queue]

    def _lose(self) -> None:
        for queue in self._hints():
            self.tell("a hint is lost")
            queue.pop()

    def _double(self) -> None:
        for queue in self._hints():
            one = self.random.choice(queue)
            queue.append(replace(one, headers={**one.headers, REDELIVERED: True}))

    def _reorder(self) -> None:
        for queue in self._hints():
            self.random.shuffle(queue)

    def _forge(self) -> None:
        """Somebody who has no secret writes into a queue, or into another one what was signed."""
        queues = sorted(self.bus.queues)
        if queues:
            name = self.random.choice(queues)
            known = [one.body for queue in self._hints() for one in queue]
            body = self.random.choice([b"give me work", b"0" * 64 + b" {}", *known])
            self.bus.queues[name].append(Delivery(body, {QUEUE: name, REDELIVERED: False}))

    def _resize(self) -> None:
        wanted = self.random.choice((1, 2, 5))
        try:
            group.resize(self.store.database, "g", wanted)
        except (Busy, Conflict, StoreError) as error:
            self.tell(f"not resized: {type(error).__name__}")
            return
        self.tell(f"there are to be {wanted} partitions")

    # -- the end

    def _settle(self) -> None:
        """Nothing goes wrong any more. All must come to its end by itself."""
        if self.wrong:
            return
        self.tell("nobody dies any more")
        for actor in self.actors:
            if actor.paused and not actor.dead:
                actor.paused = False
                if self.random.random() < 0.5:
                    actor.dead = True
                    actor.cut()
        if not self._awake():
            self._join()
        self._pass_lease(self._awake())
        for _ in range(ROUNDS):
            self._round()
            if self.wrong or self._is_over():
                break
        else:
            self.complain(f"no end in sight: {self.oracle.rows}")
        self._advance(2 * GRACE)
        self._pass_lease(self._awake())
        for _ in range(8):
            self._round()
        if not self.wrong:
            self.check()

    def _round(self) -> None:
        for actor in self._awake():
            assert actor.agent is not None
            self.guarded(actor, actor.agent.turn)
            self.guarded(actor, actor.sharing.turn)
        self._advance(20)

    def _is_over(self) -> bool:
        return not (self.bus.waiting or self.oracle.rows.deliveries)

    def check(self) -> None:
        """Each event once, each effect once or with the same id, in order, and nothing else."""
        execute = self._connection.execute
        numbers = sorted(number for some in self.sent.values() for number in some)
        wanted = [f"m-{number}" for number in numbers]
        recorded = [row[0] for row in execute("SELECT message_id FROM converge_notification")]
        self._expect("events", Counter(recorded), Counter(wanted))
        self._expect("published", set(self.published), set(wanted))
        letters = execute("SELECT raw, reason FROM converge_dead_letter").fetchall()
        self._expect(
            "dead letters", [row[1] for row in letters], ["not_json"] * len(self.malformed)
        )
        for key in range(KEYS):
            self._check_key(key)
        if self.oracle.rows.deliveries:
            self.complain(f"left: {self.oracle.rows.deliveries}")
        free = [place for place, (engine, _) in self.oracle.rows.partitions.items() if not engine]
        self._expect("free partitions", free, [])

    def _check_key(self, key: int) -> None:
        mine = {f"m-{number}" for number in self.sent[key]}
        # what is tried again comes later
        orderly = {one for one in mine if one not in self.failing}
        first = list(dict.fromkeys(one for one in self.published if one in orderly))
        order = self.oracle.order
        begun = sorted((one for one in orderly if one in order), key=lambda one: order[one])
        self._expect(f"the order of volume {key}", first, begun)
        found = self._samples("volume.size", key)
        self._expect(f"the sum of volume {key}", sum(found), sum(10 + n for n in self.sent[key]))
        rates = self._samples("volume.size.rate", key)
        self._expect(f"the rates of volume {key}", rates, [1.0] * max(0, len(mine) - 1))

    def _samples(self, name: str, key: int) -> list[float]:
        query = "SELECT volume FROM converge_sample WHERE name = ? AND resource_id = ?"
        return [row[0] for row in self._connection.execute(query, [name, f"vol-{key}"])]

    def _expect(self, what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            self.complain(f"{what}: {found} instead of {wanted}")


def _clear(path: Path) -> sqlite3.Connection:
    """Delete all rows, and count ids from 1 again, so that a seed is the same every time."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    for table in metadata.sorted_tables:
        connection.execute(f"DELETE FROM {table.name}")
    connection.execute("DELETE FROM sqlite_sequence")
    connection.execute("COMMIT")
    return connection
