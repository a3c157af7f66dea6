"""Members of a group: who holds which partitions, and whose work is recorded."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from converge.errors import BadInput, Busy, Conflict, NotFound, StaleLock
from converge.group import group
from converge.group.group import Settings
from converge.group.member import Member
from converge.group.signing import Secrets
from converge.sql import engines, groups, schema
from converge.sql.groups import PartitionLock, Spot
from tests.group.world import LEASE, SECRET, World


def holds(member: Member) -> set[int]:
    return {lock.number for lock in member.locks.values()}


def first(member: Member) -> PartitionLock:
    return member.locks[min(member.locks)]


def check(world: World, lock: PartitionLock) -> None:
    with world.store.transaction() as tx:
        Member.check(tx, lock)


# -- shares


def test_members_have_fair_shares_and_what_can_stay_stays(world: World) -> None:
    one = world.join(8)
    world.settle()
    assert holds(one) == set(range(8))
    two = world.join(8)
    three = world.join(None)
    world.settle()
    assert world.counts() == [3, 3, 2]
    assert holds(one) <= set(range(4))
    assert holds(one) | holds(two) | holds(three) == set(range(8))


def test_a_member_that_stops_gives_back_at_once(world: World) -> None:
    one, two = world.join(), world.join()
    world.settle()
    mine = holds(one)
    world.living.remove(two)
    two.close()
    balance = one.balance()
    assert {lock.number for lock in balance.taken} == set(range(4)) - mine
    assert not balance.lost
    assert len(group.show(world.store.database, "g").members) == 1


def test_the_death_of_a_member_moves_only_its_partitions_and_only_after_its_lease(
    world: World,
) -> None:
    members = [world.join(6) for _ in range(3)]
    world.settle()
    before = world.partitions()
    dead = members[2]
    lost = holds(dead)
    world.pause(dead)
    world.wait(LEASE * 0.9)
    assert [world.step(member) for member in world.living] == [None, None]
    world.wait(LEASE * 0.2)
    world.settle()
    after = world.partitions()
    moved = {a.number for a, b in zip(before, after, strict=True) if a.epoch != b.epoch}
    assert moved == lost
    assert world.counts() == [3, 3]


def test_a_member_whose_process_is_gone_from_this_host_is_not_waited_for(world: World) -> None:
    one, two = world.join(), world.join()
    world.settle()
    world.pause(two)
    with world.store.transaction() as tx:
        gone = update(schema.engine).where(schema.engine.c.id == two._owner.current_id())
        # the same host and boot; no process started so long ago
        process = one._owner._leases.process  # type: ignore[union-attr]
        tx.execute(gone.values(process=process.rpartition("/")[0] + "/1"))
    world.settle()
    assert holds(one) == set(range(4))


# -- fencing


def test_work_under_a_lost_lock_leaves_nothing(world: World) -> None:
    one = world.join(1)
    world.settle()
    old = first(one)
    check(world, old)
    world.pause(one)
    two = world.join(1)
    world.wait(LEASE * 1.1)
    world.settle()

    def record() -> None:
        with world.store.transaction() as tx:
            groups.write_positions(tx, (), {Spot(old, "s", "me"): 7})
            Member.check(tx, old)

    with pytest.raises(StaleLock, match="partition 0 is no longer held"):
        record()
    check(world, first(two))
    with world.store.transaction() as tx:
        assert groups.read_positions(tx, first(two)) == {}


@pytest.mark.parametrize("name", ["engine_id", "epoch", "mark", "generation", "number"])
def test_a_lock_is_checked_as_a_whole(world: World, name: str) -> None:
    member = world.join(1)
    world.settle()
    lock = first(member)
    check(world, lock)
    with pytest.raises(StaleLock):
        check(world, replace(lock, **{name: getattr(lock, name) + 1}))


def test_a_member_that_lost_its_lease_goes_on_under_another_id(world: World) -> None:
    one = world.join()
    world.settle()
    old = first(one)
    sender = one.sender
    world.clock.advance(LEASE * 2)
    balance = one.balance()
    assert {lock.number for lock in balance.lost} == set(range(4))
    assert {lock.number for lock in balance.taken} == set(range(4))
    assert one.sender != sender
    with pytest.raises(StaleLock):
        check(world, old)
    check(world, first(one))


def test_what_a_lost_commit_has_taken_is_taken_again(world: World) -> None:
    one = world.join(2)
    one.balance()
    lock = first(one)
    # as if the reply had been lost
    one._locks.clear()
    assert {taken.epoch for taken in one.balance().taken} == {2}
    with pytest.raises(StaleLock):
        check(world, lock)


def test_a_row_alone_makes_nobody_a_member(world: World) -> None:
    one = world.join()
    world.settle()
    with world.store.transaction() as tx:
        phantom = engines.insert_engine(tx, "host", 1, "process", LEASE, engines.JOURNAL, mark=5)
        groups.insert_member(tx, one.row.id, phantom, 5, "f" * 64, 1)
        taken = groups.take_partition(tx, one.row.id, world_row(world, 3), phantom, 9)
    assert taken is not None
    one.balance()
    one.balance()
    assert holds(one) == set(range(4))
    with pytest.raises(StaleLock):
        check(world, taken)


def world_row(world: World, number: int) -> Any:
    return next(row for row in world.partitions() if row.number == number)


def test_members_that_join_at_the_same_moment_make_one_group(world: World) -> None:
    barrier = threading.Barrier(4)
    failed: list[BaseException] = []

    def join() -> None:
        barrier.wait()
        try:
            world.join(5)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=join) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    world.settle()
    assert sorted(world.counts()) == [1, 1, 1, 2]
    assert len(world.partitions()) == 5


# -- who may join


def refused(world: World, **settings: Any) -> str:
    with pytest.raises(BadInput) as caught:
        world.join(**settings)
    return str(caught.value)


def test_members_must_agree(world: World) -> None:
    world.join(4)
    assert refused(world, partitions=8) == (
        "group 'g' has 4 partitions, and this member is set to 8; start it with --partitions 4, or "
        "change them for all members with: converge group resize g 8"
    )
    assert "start it with --key resource_id" in refused(world, key="project_id")
    assert "has another secret" in refused(world, secrets=["some other secret, long"])
    assert len(group.show(world.store.database, "g").members) == 1


def test_a_secret_is_exchanged_while_members_come_and_go(world: World) -> None:
    new = "the next secret, long"
    world.join(secrets=[SECRET])
    world.join(secrets=[SECRET, new])
    world.settle()
    assert world.counts() == [2, 2]
    world.living.pop(0).close()
    world.join(secrets=[new, SECRET])
    world.settle()
    assert world.counts() == [2, 2]
    # the group has the new one now
    assert "another secret" in refused(world, secrets=[SECRET])
    world.living.pop(0).close()
    world.join(secrets=[new])
    world.settle()
    assert world.counts() == [2, 2]


@pytest.mark.parametrize("partitions", [0, -1, 1025, True, "4", 1.0])
def test_an_impossible_number_of_partitions_is_refused(partitions: Any) -> None:
    with pytest.raises(BadInput, match="1 to 1,024 partitions"):
        Settings("g", Secrets([SECRET]), partitions)


# -- another number of partitions


def test_the_number_of_partitions_changes_while_members_work(world: World) -> None:
    one, two = world.join(2), world.join(2)
    world.settle()
    with world.store.transaction() as tx:
        Member.check(tx, first(one))
        groups.write_positions(tx, (), {Spot(first(one), "s", "me"): 7})
    changed = group.resize(world.store.database, "g", 5)
    assert (changed.generation, changed.partitions) == (2, 5)
    # both are told; they still send to the old ones
    assert [one.balance(1).generation, two.balance(1).generation] == [2, 2]
    assert not one.balance(2).ending
    # nobody sends to the old ones any more
    two.balance(2)
    (ending,) = one.balance(2).ending
    assert (ending.generation, ending.number) == (1, first(one).number)
    one.end(ending)
    assert [row.generation for row in world.partitions()] == [1, 2, 2, 2, 2, 2]
    # the new ones are not begun with
    assert not one.balance(2).taken
    (last,) = two.balance(2).ending
    two.end(last)
    world.settle()
    assert sorted(world.counts()) == [2, 3]
    assert {row.generation for row in world.partitions()} == {2}
    with world.store.transaction() as tx:
        assert groups.read_positions(tx, ending) == {}
    # who is restarted with the old setting is told
    assert "has 5 partitions" in refused(world, partitions=2)


def test_a_member_that_died_while_the_number_changed_is_not_waited_for(world: World) -> None:
    one, two = world.join(2), world.join(2)
    world.settle()
    group.resize(world.store.database, "g", 3)
    world.pause(two)
    assert not one.balance(2).ending
    world.wait(LEASE * 1.1)
    one.balance(2)
    for lock in one.balance(2).ending:
        one.end(lock)
    one.balance(2)
    assert {lock.generation for lock in one.locks.values()} == {2}
    assert world.counts() == [3]


def test_a_number_that_is_being_changed_is_not_changed_again(world: World) -> None:
    world.join(2)
    world.settle()
    database = world.store.database
    group.resize(database, "g", 3)
    assert group.resize(database, "g", 3).generation == 2
    with pytest.raises(Busy, match="2 of the old ones still have work"):
        group.resize(database, "g", 4)
    with pytest.raises(NotFound, match="no group 'h'"):
        group.resize(database, "h", 4)
    with pytest.raises(BadInput):
        group.resize(database, "g", 0)


def test_a_group_with_members_is_not_dropped(world: World) -> None:
    member = world.join(2)
    with pytest.raises(Conflict, match="1 members"):
        group.drop(world.store.database, "g")
    world.living.remove(member)
    member.close()
    group.drop(world.store.database, "g")
    with pytest.raises(NotFound):
        group.show(world.store.database, "g")


# -- positions


def test_positions_of_senders_are_kept_and_forgotten(world: World) -> None:
    member = world.join(1)
    world.settle()
    lock = first(member)
    a, b, c = (Spot(lock, "s", sender) for sender in "abc")
    with world.store.transaction() as tx:
        groups.write_positions(tx, (), {a: 1, b: 5})
    world.clock.advance(100)
    with world.store.transaction() as tx:
        known = groups.read_positions(tx, lock)
        assert known == {a: 1, b: 5}
        groups.write_positions(tx, known, {a: 2, c: 9})
        assert groups.read_positions(tx, lock) == {a: 2, b: 5, c: 9}
        assert groups.delete_old_positions(tx, lock, 50) == 1
        assert groups.read_positions(tx, lock) == {a: 2, c: 9}
