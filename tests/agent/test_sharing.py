"""Agents of a group: what has the same key is done by one of them, in order, and once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select

from converge import Store
from converge.agent.agent import Agent
from converge.bus.post import QUEUE, REDELIVERED
from converge.bus.source import Delivery
from converge.crash_points import Commit
from converge.errors import BadInput
from converge.group import group
from converge.group.inbox import Place
from converge.group.keys import partition_of
from converge.group.signing import Message as Hint
from converge.group.signing import Secrets
from converge.pipeline import Event, Message, Pipeline, receive, sweep
from converge.sql import deliveries, schema
from converge.testing import FakeClock
from tests.agent.fleet import HINTS_ONLY, SECRET, Fleet, MemorySource, held, note, sharing
from tests.agent.world import recorded
from tests.dying import Died, Reaper
from tests.notifications import world as worlds
from tests.notifications.samples import EVENT_DEFINITIONS, METERS, START
from tests.notifications.world import OUT, World

KEYS = 7


def make_pipeline() -> Pipeline:
    """One that hands on events, sums up sizes, and says how fast they change."""
    sums = {"aggregate": {"by": ["name", "resource_id"], "window": 86_400, "grace": 0}}
    # longer than it takes to notice a death
    rates = {"rate_of_change": {"grace": 86_400}}
    return Pipeline.load(
        {
            "sources": [
                {"name": "events", "events": ["*"], "sinks": ["out"]},
                {"name": "meters", "meters": ["*"], "sinks": ["sums", "rates"]},
            ],
            "sinks": [
                {"name": "out", "publishers": [OUT]},
                {"name": "sums", "steps": [sums], "publishers": ["database"]},
                {"name": "rates", "steps": [rates], "publishers": ["database"]},
            ],
        },
        event_definitions=EVENT_DEFINITIONS,
        meters=METERS,
    )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    monkeypatch.setattr(worlds, "WORLD", found)
    return found


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def fleet(fresh_store: Callable[..., Store], clock: FakeClock, world: World) -> Iterator[Fleet]:
    found = Fleet(fresh_store(clock), clock, make_pipeline)
    yield found
    found.close()


def send(fleet: Fleet, numbers: range) -> None:
    fleet.bus.send(*(note(number, number % KEYS) for number in numbers))


def by_key(world: World) -> dict[Any, list[str]]:
    """The ids that came out, of each volume."""
    found: dict[Any, list[str]] = {}
    for _, item in world.got:
        assert isinstance(item, Event)
        found.setdefault(item.get("resource_id"), []).append(item.id)
    return found


def in_order(numbers: range) -> dict[Any, list[str]]:
    return {
        f"vol-{key}": [f"m-{number}" for number in numbers if number % KEYS == key]
        for key in range(KEYS)
    }


def samples(store: Store, name: str) -> list[tuple[str, float, float]]:
    table = schema.sample
    query = select(table.c.resource_id, table.c.at, table.c.volume).where(table.c.name == name)
    return sorted(map(tuple, store.database.read(lambda tx: tx.execute(query).all())))


def check(fleet: Fleet, world: World, numbers: range) -> None:
    """Everything is there once, in order, and summed up."""
    assert sorted(recorded(fleet.store)) == sorted(f"m-{number}" for number in numbers)
    assert by_key(world) == in_order(numbers)
    fleet.wait(2 * 86_400)
    for _ in range(3):
        fleet.turn()
    sums = {
        f"vol-{key}": sum(10 + number for number in numbers if number % KEYS == key)
        for key in range(KEYS)
    }
    found = samples(fleet.store, "volume.size")
    assert {key: volume for key, _, volume in found} == sums
    assert len(found) == KEYS
    rates = samples(fleet.store, "volume.size.rate")
    assert len(rates) == len(numbers) - KEYS
    assert all(volume == 1.0 for _, _, volume in rates)
    assert fleet.store.database.read(deliveries.count_deliveries) == {}


def test_what_one_receives_the_owners_of_the_partitions_do(fleet: Fleet, world: World) -> None:
    agents = [fleet.join(pace=HINTS_ONLY) for _ in range(3)]
    fleet.settle()
    assert sorted(len(held(agent)) for agent in agents) == [1, 1, 2]
    send(fleet, range(60))
    agents[0].turn()
    assert (agents[0].counts.recorded, world.got) == (5, [])
    fleet.work()
    check(fleet, world, range(60))
    counts = [sharing(agent).counts for agent in agents]
    assert all(one.hints for one in counts)
    assert [one.partitions for one in counts] == [len(held(agent)) for agent in agents]
    assert sum(agent.counts.delivered["out"] for agent in agents) == 60
    assert [one.refused for one in counts] == [{}] * 3


def test_an_agent_that_dies_loses_nothing_and_only_its_partitions_move(
    fleet: Fleet, world: World
) -> None:
    agents = [fleet.join() for _ in range(4)]
    fleet.settle()
    send(fleet, range(70))
    fleet.turn()
    dying = agents[1]
    # it has recorded a batch and told nobody, and has received another one
    dying.turn()
    assert dying._source is not None
    dying._source.receive(0)
    fleet.kill(dying)
    before = [held(agent) for agent in fleet.living]
    fleet.bus.touched.clear()
    fleet.wait()
    fleet.work()
    assert all(old <= held(agent) for old, agent in zip(before, fleet.living, strict=True))
    moved = {f".{number}." for number in held(dying)}
    # no other consumer was touched
    assert all(any(one in queue for one in moved) for _, queue in fleet.bus.touched)
    assert fleet.bus.touched
    check(fleet, world, range(70))


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("commit", [Commit.NOTIFICATIONS, Commit.DELIVERIES, Commit.POSITIONS])
def test_wherever_an_agent_dies_the_others_go_on(
    fleet: Fleet,
    world: World,
    commit: Commit,
    side: str,
) -> None:
    for _ in range(3):
        fleet.join()
    fleet.settle()
    send(fleet, range(42))
    dying, reaper = fleet.living[1], Reaper(getattr(commit, side), 2)

    def live() -> None:
        for _ in range(20):
            with reaper.watching():
                dying.turn()
                sharing(dying).turn()
            fleet.turn()

    with pytest.raises(Died):
        live()
    fleet.kill(dying)
    fleet.wait()
    fleet.work()
    # what a sink does outside is done at least once
    world.got = list(dict.fromkeys(world.got))
    check(fleet, world, range(42))


def test_an_agent_that_stops_gives_its_partitions_back_at_once(fleet: Fleet, world: World) -> None:
    agents = [fleet.join() for _ in range(2)]
    fleet.settle()
    send(fleet, range(30))
    fleet.turn()
    stopping = fleet.living.pop()
    stopping._close()
    sharing(stopping).close()
    fleet.work()
    assert held(agents[0]) == {0, 1, 2, 3}
    check(fleet, world, range(30))
    fleet.gone.append(stopping)


def test_who_was_paused_beyond_its_lease_writes_nothing(fleet: Fleet, world: World) -> None:
    paused, other = fleet.join(), fleet.join()
    fleet.settle()
    send(fleet, range(40))
    for _ in range(8):
        paused.turn()
    lost = held(paused)

    def pause() -> None:
        # as its sink works, the world goes on
        world.before = lambda: None
        fleet.pause(paused)
        fleet.wait()
        for _ in range(5):
            sharing(other).turn()
        world.got.clear()

    world.before = pause
    sharing(paused).turn()
    assert sharing(paused).counts.stale == 1
    assert held(other) == {0, 1, 2, 3}
    # what it did outside is all that is left of it
    assert {partition_of(key, 4) for key in by_key(world)} <= lost
    assert paused.counts.delivered.get("out", 0) == 0
    fleet.living.append(paused)
    fleet.gone.remove(paused)
    fleet.work()
    assert sorted(recorded(fleet.store)) == sorted(f"m-{number}" for number in range(40))
    fleet.wait(2 * 86_400)
    for _ in range(3):
        fleet.turn()
    assert sum(volume for _, _, volume in samples(fleet.store, "volume.size")) == sum(range(10, 50))


def test_who_lost_its_membership_records_nothing(fleet: Fleet, world: World) -> None:
    paused, other = fleet.join(), fleet.join()
    fleet.settle()
    send(fleet, range(10))
    fleet.pause(paused)
    fleet.wait()
    sharing(other).turn()
    assert paused.turn()
    assert paused.counts.given_back == 5
    assert (recorded(fleet.store), fleet.bus.left) == ([], 10)
    # it notices, and goes on
    fleet.living.append(paused)
    fleet.gone.remove(paused)
    fleet.work()
    check(fleet, world, range(10))


def test_without_hints_what_is_open_is_found(fleet: Fleet, world: World) -> None:
    one, _ = fleet.join(), fleet.join()
    fleet.settle()
    fleet.bus.is_down = True
    send(fleet, range(30))
    fleet.work()
    assert sharing(one).counts.unsent
    fleet.bus.is_down = False
    check(fleet, world, range(30))


def queue_of(fleet: Fleet, number: int, sink: str = "out") -> str:
    return Place("g", 1, number, sink).queue


def forge(number: int, secret: str = SECRET, **more: Any) -> bytes:
    given = {"sink": "out", "sender": "phantom", "sequence": 1, "at": 1.0, "items": [1]}
    return Secrets([secret]).sign(
        Hint(**{"group": "g", "generation": 1, "partition": number, **given, **more})
    )


def test_what_is_not_of_the_group_is_refused_and_counted(fleet: Fleet, world: World) -> None:
    agent = fleet.join(pace=HINTS_ONLY)
    fleet.settle()
    send(fleet, range(7))
    agent.turn()
    agent.turn()
    # what the agent has told itself is recorded by somebody, and lost
    stolen = {name: [one.body for one in queue] for name, queue in fleet.bus.queues.items()}
    fleet.bus.queues.clear()
    altered = forge(0).replace(b'"items":[1]', b'"items":[2]')
    for body in (
        b"hello",
        altered,
        forge(0, "another secret, not the group's"),
        forge(1),
        forge(0, generation=2),
        forge(0, sink="sums"),
        forge(0, sequence=True),
    ):
        fleet.bus.queues[queue_of(fleet, 0)].append(_delivery(queue_of(fleet, 0), body))
    sharing(agent).turn()
    assert sharing(agent).counts.refused == {
        "unsigned": 1,
        "forged": 2,
        "foreign": 3,
        "malformed": 1,
    }
    assert (world.got, fleet.bus.left) == ([], 0)
    # what it told itself comes after all, and then again
    for redelivered in (False, False, True):
        for name, bodies in stolen.items():
            fleet.bus.queues[name].extend(_delivery(name, one, redelivered) for one in bodies)
        sharing(agent).turn()
    number = sum(map(len, stolen.values()))
    counts = sharing(agent).counts
    assert (counts.hints, counts.refused["replayed"], counts.redelivered) == (number,) * 3
    check(fleet, world, range(7))


def _delivery(queue: str, body: bytes | str, redelivered: bool = False) -> Delivery:
    return Delivery(body, {QUEUE: queue, REDELIVERED: redelivered})


def test_what_was_handled_is_known_to_the_next_owner(fleet: Fleet, world: World) -> None:
    one = fleet.join(partitions=1, pace=HINTS_ONLY)
    fleet.settle()
    send(fleet, range(5))
    one.turn()
    stolen = {name: [one.body for one in queue] for name, queue in fleet.bus.queues.items()}
    sharing(one).turn()
    fleet.kill(one)
    fleet.wait()
    two = fleet.join(partitions=1, pace=HINTS_ONLY)
    fleet.settle()
    for name, bodies in stolen.items():
        fleet.bus.queues[name].extend(_delivery(name, body) for body in bodies)
    sharing(two).turn()
    assert sharing(two).counts.refused == {"replayed": sum(map(len, stolen.values()))}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partitions": 5}, "has 4 partitions, and this member is set to 5"),
        ({"key": "host"}, "partitioned by 'resource_id', and this member is set to 'host'"),
        ({"secrets": ["a phantom does not know it"]}, "has another secret than this member"),
    ],
)
def test_who_thinks_otherwise_of_the_group_gets_nothing(
    fleet: Fleet, settings: dict[str, Any], message: str
) -> None:
    fleet.join()
    fleet.settle()
    with pytest.raises(BadInput, match=message):
        fleet.join(**{"partitions": None, **settings})
    assert held(fleet.living[0]) == {0, 1, 2, 3}


def test_with_another_number_of_partitions_nothing_is_lost_and_order_is_kept(
    fleet: Fleet, world: World
) -> None:
    agents = [fleet.join(2), fleet.join(2)]
    fleet.settle()
    send(fleet, range(100))
    fleet.turn()
    group.resize(fleet.store.database, "g", 5)
    # what is sent to the new ones waits until the old ones are worked off
    for _ in range(4):
        agents[0].turn()
        agents[1].turn()
    fleet.turn()
    fleet.work()
    view = group.show(fleet.store.database, "g")
    assert (view.draining, sum(len(held(agent)) for agent in agents)) == (0, 5)
    assert not any(".1." in name[: len("converge.g.1.")] for name in fleet.bus.queues)
    check(fleet, world, range(100))


def test_what_steps_wait_with_moves_when_the_number_changes(fleet: Fleet, world: World) -> None:
    fleet.join(2)
    fleet.settle()
    send(fleet, range(21))
    fleet.work()
    group.resize(fleet.store.database, "g", 3)
    for _ in range(5):
        fleet.turn()
    assert group.show(fleet.store.database, "g").draining == 0
    # nothing came to these keys since
    check(fleet, world, range(21))


def test_what_was_begun_without_a_group_is_done_in_it(fleet: Fleet, world: World) -> None:
    pipeline = make_pipeline()
    bodies = [note(number, number % KEYS) for number in range(14)]
    # an agent without a group died with it; the broker gives it to one with a group
    receive(fleet.store, pipeline, [Message(body) for body in bodies])
    fleet.bus.send(*bodies)
    fleet.join()
    fleet.settle()
    fleet.work()
    assert fleet.living[0].counts.resumed == 14
    check(fleet, world, range(14))
    assert sweep(fleet.store, pipeline).delivered == {}


@pytest.mark.parametrize("members", [1, 4])
def test_four_see_the_same_rates_as_one(fleet: Fleet, world: World, members: int) -> None:
    for _ in range(members):
        fleet.join()
    fleet.settle()
    bodies = [note(number, number % KEYS, size=number**2) for number in range(70)]
    rng = random.Random(members)
    if members > 1:
        # a member may be slow, and one that dies gives back what it has, behind all others
        rng.shuffle(bodies)
    while bodies or fleet.bus.left or fleet.open:
        fleet.bus.send(*bodies[:9])
        del bodies[:9]
        rng.shuffle(fleet.living)
        fleet.turn()
        if len(bodies) == 16 and members > 1:
            fleet.kill(fleet.living[0])
            fleet.wait()
    fleet.wait(2 * 86_400)
    fleet.turn()
    fleet.work()
    rates = [(number**2 - (number - KEYS) ** 2) / KEYS for number in range(KEYS, 70)]
    found = samples(fleet.store, "volume.size.rate")
    assert [(key, volume) for key, _, volume in found] == sorted(
        (f"vol-{number % KEYS}", rate) for number, rate in zip(range(KEYS, 70), rates, strict=True)
    )


def test_an_agent_receives_nothing_while_the_owners_are_behind(fleet: Fleet, world: World) -> None:
    first = fleet.join(most=5, most_open=8)
    fleet.settle()
    send(fleet, range(20))
    # each notification is open in three sinks
    first.turn()
    sharing(first)._measure()
    counts = sharing(first).counts
    assert (counts.lag, sharing(first).is_behind, counts.rests) == (15, True, 0)
    fleet.clock.advance(3)
    sharing(first)._measure()
    assert counts.lag_seconds == pytest.approx(3.0)
    for _ in range(2):
        first.turn()
    assert (first.counts.received, counts.rests) == (5, 1)
    sharing(first).turn()
    assert (counts.lag, counts.lag_seconds, sharing(first).is_behind) == (0, 0.0, False)
    fleet.work()
    assert first.counts.received == 20
    check(fleet, world, range(20))


def test_an_agent_alone_ends_with_its_messages_done(fleet: Fleet, world: World) -> None:
    agent = fleet.join()
    send(fleet, range(12))
    _end_with_the_queue(fleet, agent)
    agent.run()
    assert by_key(world) == in_order(range(12))
    assert group.show(fleet.store.database, "g").members == []


@pytest.mark.parametrize("left", [True, False], ids=["left", "dead"])
def test_an_agent_ends_when_what_it_recorded_for_others_is_done(
    fleet: Fleet, world: World, left: bool
) -> None:
    one, other = fleet.join(most=20), fleet.join()
    fleet.settle()
    send(fleet, range(20))
    one.turn()
    sharing(one)._asked.set()
    for _ in range(3):
        sharing(one).turn()
        assert not sharing(one)._idle.is_set()
    assert 0 < len(world.got) < 20
    # what others record from now on is not waited for
    last = fleet.store.database.read(deliveries.read_last)
    send(fleet, range(20, 40))
    other.turn()
    if left:
        fleet.pause(other)
        sharing(other).close()
    else:
        fleet.kill(other)
        fleet.wait()
    sharing(one).turn()
    assert held(one) == {0, 1, 2, 3}
    for _ in range(5):
        sharing(one).turn()
    assert sharing(one)._idle.is_set()
    assert sharing(one)._last == last
    assert sorted(by_key(world)) == sorted(in_order(range(20)))


def _end_with_the_queue(fleet: Fleet, agent: Agent) -> None:
    class Ending(MemorySource):
        def receive(self, timeout: float) -> Any:
            one = super().receive(timeout)
            self.ended = one is None
            return one

    agent._open = lambda: Ending(fleet.bus)
