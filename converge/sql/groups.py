"""Groups, their members, their partitions, and how far each partition has come."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from converge.errors import Conflict, StaleLock
from converge.sql.batch import InsertMany, UpdateMany, types_of
from converge.sql.engines import has_lease
from converge.sql.faults import duplicate_errors
from converge.sql.schema import engine, group, member, partition, position
from converge.sql.transaction import Transaction


class GroupRow(NamedTuple):
    """A group as it is in the database.

    :ivar generation: of the partitions that its members send to.
    :ivar key: what is hashed.
    :ivar proof: that its secret is known.
    """

    id: int
    name: str
    generation: int
    partitions: int
    key: str
    proof: str


class MemberRow(NamedTuple):
    """A member that has a lease.

    :ivar generation: of the partitions that it sends to.
    :ivar mark: of its lease.
    """

    engine_id: int
    mark: int
    proof: str
    generation: int
    joined_at: float
    host: str
    pid: int
    process: str
    expires_at: float


class PartitionRow(NamedTuple):
    """A partition as it is in the database."""

    generation: int
    number: int
    engine_id: int | None
    epoch: int
    mark: int
    taken_at: float | None
    worked_at: float | None


@dataclass(frozen=True, slots=True)
class PartitionLock:
    """A partition that a member has taken: what its work is checked by."""

    group_id: int
    generation: int
    number: int
    engine_id: int
    epoch: int
    mark: int


_GROUP = [group.c[name] for name in GroupRow._fields]
_PARTITION = [partition.c[name] for name in PartitionRow._fields]
_MEMBER = [
    (engine if name in ("host", "pid", "process", "expires_at") else member).c[name]
    for name in MemberRow._fields
]

# -- groups


def find_group(tx: Transaction, name: str) -> GroupRow | None:
    """A group by its name."""
    found: Any = tx.execute(select(*_GROUP).where(group.c.name == name)).one_or_none()
    return None if found is None else GroupRow(*found)


def lock_group(tx: Transaction, name: str) -> GroupRow | None:
    """Lock a group until the transaction ends: who changes who has what waits for it."""
    query = select(*_GROUP).where(group.c.name == name).with_for_update()
    found: Any = tx.execute(query).one_or_none()
    return None if found is None else GroupRow(*found)


def insert_group(tx: Transaction, name: str, partitions: int, key: str, proof: str) -> GroupRow:
    """Make a group, with partitions that nobody holds.

    :raises Conflict: another process has made it at the same moment.
    """
    values = {"name": name, "partitions": partitions, "key": key, "proof": proof}
    new = insert(group).values(generation=1, created_at=tx.now, updated_at=tx.now, **values)
    try:
        made = tx.execute(new)
    except duplicate_errors() as error:
        raise Conflict(f"another process is making group {name!r}") from error
    assert made.inserted_primary_key is not None
    id_ = int(made.inserted_primary_key[0])
    insert_partitions(tx, id_, 1, partitions)
    return GroupRow(id=id_, generation=1, **values)  # type: ignore[arg-type]


def update_group(tx: Transaction, group_id: int, **values: Any) -> None:
    """Change a group that this transaction has locked.

    :param values: generation and partitions, or proof.
    """
    tx.execute(update(group).where(group.c.id == group_id).values(updated_at=tx.now, **values))


def list_groups(tx: Transaction) -> list[GroupRow]:
    """All groups, by name."""
    rows: Any = tx.execute(select(*_GROUP).order_by(group.c.name))
    return [GroupRow(*row) for row in rows]


def delete_group(tx: Transaction, group_id: int) -> None:
    """Delete a group that this transaction has locked, with all that it has."""
    for table in (position, partition, member):
        tx.execute(delete(table).where(table.c.group_id == group_id))
    tx.execute(delete(group).where(group.c.id == group_id))


# -- members


def insert_member(
    tx: Transaction, group_id: int, engine_id: int, mark: int, proof: str, generation: int
) -> None:
    """Let the holder of a lease join. Whoever had joined under its id before is forgotten."""
    tx.execute(delete(member).where(member.c.group_id == group_id, member.c.engine_id == engine_id))
    tx.execute(
        insert(member).values(
            group_id=group_id,
            engine_id=engine_id,
            mark=mark,
            proof=proof,
            generation=generation,
            joined_at=tx.now,
        )
    )


def set_generation(
    tx: Transaction, group_id: int, engine_id: int, mark: int, generation: int
) -> None:
    """Note of which generation the partitions are that a member sends to."""
    tx.execute(
        update(member).where(*_is_member(group_id, engine_id, mark)).values(generation=generation)
    )


def check_member(
    tx: Transaction, group_id: int, engine_id: int, mark: int, generation: int
) -> None:
    """Check that a member is one, and sends to these partitions; the others end none of them before
    this transaction ends.

    :raises StaleLock: the others take it for dead.
    """
    sends = update(member).where(*_is_member(group_id, engine_id, mark))
    if tx.execute(sends.values(generation=generation)).rowcount != 1:
        raise StaleLock(
            f"engine {engine_id} is no longer a member of its group: what it received goes back"
        )


def list_members(tx: Transaction, group_id: int) -> list[MemberRow]:
    """The members that have a lease, by id."""
    query = (
        select(*_MEMBER)
        .join(engine, and_(engine.c.id == member.c.engine_id, engine.c.mark == member.c.mark))
        .where(member.c.group_id == group_id, has_lease(tx.now))
    )
    rows: Any = tx.execute(query.order_by(member.c.engine_id))
    return [MemberRow(*row) for row in rows]


def delete_members(tx: Transaction, group_id: int, keep: Collection[int]) -> None:
    """Delete all other members than these."""
    gone = delete(member).where(member.c.group_id == group_id)
    tx.execute(gone.where(member.c.engine_id.not_in(sorted(keep))))


def delete_member(tx: Transaction, group_id: int, engine_id: int, mark: int) -> None:
    """Let a member leave."""
    tx.execute(delete(member).where(*_is_member(group_id, engine_id, mark)))


def _is_member(group_id: int, engine_id: int, mark: int) -> list[ColumnElement[bool]]:
    return [
        member.c.group_id == group_id,
        member.c.engine_id == engine_id,
        member.c.mark == mark,
    ]


# -- partitions

_INSERT_PARTITIONS = InsertMany(
    partition,
    types_of(partition, "group_id", "generation", "number", "epoch"),
    lambda row, now: row,
)


def insert_partitions(tx: Transaction, group_id: int, generation: int, partitions: int) -> None:
    """Make the partitions of a generation; nobody holds them."""
    common = {"group_id": group_id, "generation": generation, "epoch": 0}
    _INSERT_PARTITIONS.execute(tx, [{**common, "number": number} for number in range(partitions)])


def list_partitions(tx: Transaction, group_id: int) -> list[PartitionRow]:
    """The partitions of a group, those of the oldest generation first."""
    query = select(*_PARTITION).where(partition.c.group_id == group_id)
    rows: Any = tx.execute(query.order_by(partition.c.generation, partition.c.number))
    return [PartitionRow(*row) for row in rows]


def take_partition(
    tx: Transaction, group_id: int, row: PartitionRow, engine_id: int, mark: int
) -> PartitionLock | None:
    """Take a partition whose holder is gone, or that has none; None: somebody was faster.

    :param row: the partition as it was read.
    :param mark: a random number of this take.
    """
    done = tx.execute(
        update(partition)
        .where(
            partition.c.group_id == group_id,
            partition.c.generation == row.generation,
            partition.c.number == row.number,
            partition.c.epoch == row.epoch,
            partition.c.mark == row.mark,
        )
        .values(engine_id=engine_id, epoch=row.epoch + 1, mark=mark, taken_at=tx.now)
    )
    if done.rowcount != 1:
        return None
    return PartitionLock(group_id, row.generation, row.number, engine_id, row.epoch + 1, mark)


def _is_held(lock: PartitionLock) -> list[ColumnElement[bool]]:
    return [
        partition.c[name] == getattr(lock, name)
        for name in ("group_id", "generation", "number", "engine_id", "epoch", "mark")
    ]


def check_lock(tx: Transaction, lock: PartitionLock) -> None:
    """Check that a partition is still this holder's, and keep others from taking it until the
    transaction ends: it comes first in each transaction that records work of the partition.

    :raises StaleLock: it is another one's by now.
    """
    done = tx.execute(update(partition).where(*_is_held(lock)).values(worked_at=tx.now))
    if done.rowcount != 1:
        raise StaleLock(
            f"partition {lock.number} is no longer held by this member (epoch {lock.epoch}): "
            "what it did is not recorded"
        )


_CHECK = UpdateMany(
    partition,
    ["group_id", "generation", "number", "engine_id", "epoch", "mark"],
    {},
    lambda row, now: {"worked_at": now},
    leading=3,
)


def check_locks(tx: Transaction, locks: Collection[PartitionLock]) -> None:
    """Check several partitions, as :func:`check_lock` does one.

    :raises StaleLock: one of them is another one's by now.
    """
    listed = sorted(locks, key=lambda one: (one.generation, one.number))
    if _CHECK.execute(tx, [asdict(one) for one in listed]) != len(listed):
        raise StaleLock(
            f"one of {len(listed)} partitions is no longer held by this member: "
            "what it did is not recorded"
        )


def is_held(tx: Transaction, lock: PartitionLock) -> bool:
    """Whether a partition is still this holder's."""
    return tx.execute(select(partition.c.number).where(*_is_held(lock))).first() is not None


def free_partition(tx: Transaction, lock: PartitionLock) -> bool:
    """Give a partition back. False: it is another one's by now."""
    done = tx.execute(update(partition).where(*_is_held(lock)).values(engine_id=None))
    return done.rowcount == 1


def delete_partition(tx: Transaction, lock: PartitionLock) -> bool:
    """Delete a partition of a generation that has been worked off, with its positions. False: it
    is another one's by now."""
    if tx.execute(delete(partition).where(*_is_held(lock))).rowcount != 1:
        return False
    tx.execute(delete(position).where(*_is_place(lock)))
    return True


def count_held(tx: Transaction, group_id: int) -> int:
    """How many partitions are held by somebody who has a lease."""
    alive = select(engine.c.id).where(engine.c.id == partition.c.engine_id, has_lease(tx.now))
    query = select(func.count()).select_from(partition)
    return int(
        tx.execute(query.where(partition.c.group_id == group_id, alive.exists())).scalar_one()
    )


# -- positions

_POSITION_KEYS = ("group_id", "generation", "number", "sink", "sender")
_INSERT_POSITIONS = InsertMany(
    position,
    types_of(position, *_POSITION_KEYS, "sequence"),
    lambda row, now: {**row, "at": now},
)
_UPDATE_POSITIONS = UpdateMany(
    position,
    _POSITION_KEYS,
    types_of(position, "sequence"),
    lambda row, now: {"sequence": row["sequence"], "at": now},
)


def _is_place(lock: PartitionLock) -> list[ColumnElement[bool]]:
    return [
        position.c[name] == getattr(lock, name) for name in ("group_id", "generation", "number")
    ]


class Spot(NamedTuple):
    """Where a sender's messages come to: a partition of a holder, and a sink."""

    lock: PartitionLock
    sink: str
    sender: str


def read_positions(tx: Transaction, lock: PartitionLock) -> dict[Spot, int]:
    """The number of the last message of each sender that was handled in a partition."""
    query = select(position.c.sink, position.c.sender, position.c.sequence)
    found = tx.execute(query.where(*_is_place(lock)))
    return {Spot(lock, row.sink, row.sender): row.sequence for row in found}


def write_positions(tx: Transaction, known: Collection[Spot], reached: Mapping[Spot, int]) -> None:
    """Note which messages were handled. The transaction has checked the locks.

    :param known: those that :func:`read_positions` returned to these holders, or that they wrote
        since.
    :param reached: the number of the last message, of those that have changed.
    """
    made: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for spot, sequence in sorted(reached.items(), key=lambda one: str(one[0])):
        (changed if spot in known else made).append(
            {
                "group_id": spot.lock.group_id,
                "generation": spot.lock.generation,
                "number": spot.lock.number,
                "sink": spot.sink,
                "sender": spot.sender,
                "sequence": sequence,
            }
        )
    _INSERT_POSITIONS.execute(tx, made)
    _UPDATE_POSITIONS.execute(tx, changed)


def delete_old_positions(tx: Transaction, lock: PartitionLock, age: float) -> int:
    """Forget senders of which nothing was handled for so many seconds. The transaction has checked
    the lock."""
    old = delete(position).where(*_is_place(lock), position.c.at < tx.now - age)
    return int(tx.execute(old).rowcount)
