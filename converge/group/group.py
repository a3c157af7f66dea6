"""Groups as rows: made by the first member, changed by a person."""

from __future__ import annotations

from dataclasses import dataclass

from converge.crash_points import Commit
from converge.errors import BadInput, Busy, Conflict, NotFound
from converge.group.keys import MOST_PARTITIONS
from converge.group.signing import Secrets
from converge.model import check_name
from converge.sql import groups
from converge.sql.database import Database, repeatable
from converge.sql.groups import GroupRow, MemberRow, PartitionRow
from converge.sql.transaction import Transaction

#: How many partitions a group has, unless its first member says otherwise.
PARTITIONS = 16
#: What is hashed, unless its first member says otherwise.
KEY = "resource_id"


def check_partitions(partitions: object) -> int:
    """Check a number of partitions, and give it back.

    :raises BadInput: it is none.
    """
    if (
        isinstance(partitions, bool)
        or not isinstance(partitions, int)
        or not 1 <= partitions <= MOST_PARTITIONS
    ):
        raise BadInput(
            f"a group has 1 to {MOST_PARTITIONS:,} partitions, not {partitions!r}; "
            "choose more than it will ever have members"
        )
    return partitions


@dataclass(frozen=True, slots=True)
class Settings:
    """What a member thinks of its group.

    :ivar partitions: how many it has; None: as many as it has, or 16 if this member makes it.
    :ivar key: what is hashed; None: as the group has it, or ``resource_id``.
    """

    name: str
    secrets: Secrets
    partitions: int | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        check_name("group", self.name)
        if self.partitions is not None:
            check_partitions(self.partitions)
        if self.key is not None:
            check_name("key", self.key)


def enter(tx: Transaction, settings: Settings) -> GroupRow:
    """Lock the group of a member, which is made if there is none.

    :raises BadInput: the member thinks otherwise of it than those before, or has another secret.
    :raises Conflict: another process has made it at the same moment; try again.
    """
    about = ("group", settings.name)
    row = groups.lock_group(tx, settings.name)
    if row is None:
        return groups.insert_group(
            tx,
            settings.name,
            settings.partitions or PARTITIONS,
            settings.key or KEY,
            settings.secrets.prove(*about),
        )
    if not settings.secrets.is_proof(row.proof, *about):
        raise BadInput(
            f"group {row.name!r} has another secret than this member; give all members the same "
            "one; how to exchange it is in doc/coordination.rst"
        )
    if settings.partitions not in (None, row.partitions):
        raise BadInput(
            f"group {row.name!r} has {row.partitions} partitions, and this member is set to "
            f"{settings.partitions}; start it with --partitions {row.partitions}, or change them "
            f"for all members with: converge group resize {row.name} {settings.partitions}"
        )
    if settings.key not in (None, row.key):
        raise BadInput(
            f"group {row.name!r} is partitioned by {row.key!r}, and this member is set to "
            f"{settings.key!r}; start it with --key {row.key}"
        )
    if not settings.secrets.is_newest(row.proof, *about):
        groups.update_group(tx, row.id, proof=settings.secrets.prove(*about))
    return row


@dataclass(frozen=True, slots=True)
class View:
    """A group as people see it.

    :ivar draining: the number of partitions that are still worked off after a change; 0 if none.
    """

    group: GroupRow
    members: list[MemberRow]
    partitions: list[PartitionRow]

    @property
    def draining(self) -> int:
        """How many partitions of an older generation are left."""
        return sum(one.generation != self.group.generation for one in self.partitions)


def show(database: Database, name: str) -> View:
    """A group, its members that are alive, and its partitions.

    :raises NotFound: there is none of this name.
    :raises StoreError: the database cannot be used.
    """

    def read(tx: Transaction) -> View:
        row = _check_exists(groups.find_group(tx, name), name)
        return View(row, groups.list_members(tx, row.id), groups.list_partitions(tx, row.id))

    return database.read(read)


def list_all(database: Database) -> list[GroupRow]:
    """All groups, by name.

    :raises StoreError: the database cannot be used.
    """
    return database.read(groups.list_groups)


def resize(database: Database, name: str, partitions: int) -> GroupRow:
    """Change the number of a group's partitions while its members work.

    Members send to the new partitions as soon as they notice; the old ones are worked off first, so
    that what has the same key stays in order.

    :raises NotFound: there is none of this name.
    :raises Busy: it is still being changed.
    :raises BadInput: it is not a number of partitions.
    :raises StoreError: the database cannot be used.
    """
    check_partitions(partitions)

    def change(tx: Transaction) -> GroupRow:
        row = _check_exists(groups.lock_group(tx, name), name)
        if row.partitions == partitions:
            return row
        left = sum(one.generation != row.generation for one in groups.list_partitions(tx, row.id))
        if left:
            raise Busy(
                f"group {name!r} is still being changed to {row.partitions} partitions: {left} of "
                "the old ones still have work; wait until `converge group show "
                f"{name}` lists none of them"
            )
        generation = row.generation + 1
        groups.update_group(tx, row.id, generation=generation, partitions=partitions)
        groups.insert_partitions(tx, row.id, generation, partitions)
        return GroupRow(row.id, name, generation, partitions, row.key, row.proof)

    return database.transact(change, Commit.RESIZE, happened=repeatable)


def drop(database: Database, name: str) -> None:
    """Delete a group that has no members.

    :raises NotFound: there is none of this name.
    :raises Conflict: it has members.
    :raises StoreError: the database cannot be used.
    """

    def delete(tx: Transaction) -> int:
        row = _check_exists(groups.lock_group(tx, name), name)
        members = groups.list_members(tx, row.id)
        if members:
            raise Conflict(f"group {name!r} has {len(members)} members; stop them first")
        groups.delete_group(tx, row.id)
        return row.id

    database.transact(
        delete,
        Commit.RESIZE,
        happened=lambda tx, id_: groups.find_group(tx, name) is None,
    )


def _check_exists(row: GroupRow | None, name: str) -> GroupRow:
    if row is None:
        raise NotFound(f"there is no group {name!r}; the first agent with --group makes it")
    return row
