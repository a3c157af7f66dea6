"""The rows of resources, the real things of a stack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    Integer,
    Select,
    String,
    Text,
    bindparam,
    delete,
    insert,
    literal_column,
    select,
    update,
)

from converge.errors import StaleLock
from converge.model import Action, Json, Status, make_token
from converge.sql import signals
from converge.sql.batch import CHUNK, InsertMany, among, types_of
from converge.sql.loading import Load, read_clock, take_ids
from converge.sql.schema import resource, sync_point
from converge.sql.statements import Statement
from converge.sql.transaction import Transaction
from converge.sql.types import ID


@dataclass(slots=True)
class ResourceRow:
    """A resource as it is in the database."""

    id: int
    stack_id: int
    name: str
    type: str
    token: str
    action: Action
    status: Status
    reason: str | None
    template_id: int | None
    physical_id: str | None
    properties: dict[str, Json]
    attributes: dict[str, Json]
    requires: list[int]
    replaces: int | None
    replaced_by: int | None
    engine_id: int | None
    epoch: int
    blocking: bool
    mark: int
    settings: dict[str, Json] | None = None
    former: list[str] | None = None
    drift: dict[str, Json] | None = None


_COLUMNS = [resource.c[name] for name in ResourceRow.__dataclass_fields__]
#: The enums by their texts: calling an enum takes three times as long.
ACTIONS: dict[str, Action] = {action.value: action for action in Action}
STATUSES: dict[str, Status] = {status.value: status for status in Status}


def _row(row: Any) -> ResourceRow:
    result = ResourceRow(*row)
    result.action = ACTIONS[result.action]
    result.status = STATUSES[result.status]
    return result


_INSERT = InsertMany(
    resource,
    types_of(resource, "name", "type", "token"),
    lambda row, now: {
        **row,
        "stack_id": bindparam("of_stack", type_=ID),
        "action": literal_column(f"'{Action.CREATE}'", String()),
        "status": literal_column(f"'{Status.INIT}'", String()),
        "properties": literal_column("'{}'", Text()),
        "attributes": literal_column("'{}'", Text()),
        "requires": literal_column("'[]'", Text()),
        "epoch": literal_column("0", Integer()),
        "created_at": now,
        "updated_at": now,
    },
    returning=("name", "id"),
)


_LOAD = Load(
    resource,
    "id",
    "stack_id",
    "name",
    "type",
    "token",
    "action",
    "status",
    "properties",
    "attributes",
    "requires",
    "epoch",
    "created_at",
    "updated_at",
)


def insert_resources(
    tx: Transaction, stack_id: int, names: Sequence[str], types: Iterable[str]
) -> dict[str, int]:
    """Insert resources that are yet to be created.

    :param types: of each.
    :returns: the id of each name.
    """
    if not names:
        return {}
    if tx.dialect == "postgresql":
        ids = take_ids(tx, resource, len(names))
        now = read_clock(tx)
        rest = (Action.CREATE.value, Status.INIT.value, "{}", "{}", "[]", 0, now, now)
        _LOAD.execute(
            tx,
            (
                (id_, stack_id, name, type_, make_token(), *rest)
                for id_, name, type_ in zip(ids, names, types, strict=True)
            ),
        )
        return dict(zip(names, ids, strict=True))
    values = [
        {"name": name, "type": type_, "token": make_token()}
        for name, type_ in zip(names, types, strict=True)
    ]
    return {row.name: row.id for row in _INSERT.execute(tx, values, of_stack=stack_id)}


def insert_replacement(
    tx: Transaction,
    old: ResourceRow,
    type_: str,
    engine_id: int,
    requires: Sequence[int],
    mark: int = 0,
) -> int:
    """Insert the resource that takes the place of another, locked by the engine.

    :param mark: of the claim.
    """
    key = tx.execute(
        insert(resource).values(
            stack_id=old.stack_id,
            name=old.name,
            type=type_,
            token=make_token(),
            action=Action.CREATE,
            status=Status.IN_PROGRESS,
            properties={},
            attributes={},
            requires=list(requires),
            replaces=old.id,
            former=old.former,
            engine_id=engine_id,
            epoch=1,
            mark=mark,
            created_at=tx.now,
            updated_at=tx.now,
        )
    ).inserted_primary_key
    assert key is not None
    return int(key[0])


def insert_adopted(tx: Transaction, stack_id: int, name: str, values: Mapping[str, Any]) -> int:
    """Insert a resource that is there already; its id.

    :param values: what is known of it, and the action and status of that.
    """
    key = tx.execute(
        insert(resource).values(
            stack_id=stack_id,
            name=name,
            token=make_token(),
            epoch=0,
            created_at=tx.now,
            updated_at=tx.now,
            **values,
        )
    ).inserted_primary_key
    assert key is not None
    return int(key[0])


def list_resources(tx: Transaction, stack_id: int, *, lock: bool = False) -> list[ResourceRow]:
    """All resources of a stack, by id.

    :param lock: lock them. That also shows their newest state to a host's transaction that has an
        older snapshot.
    """
    query = select(*_COLUMNS).where(resource.c.stack_id == stack_id).order_by(resource.c.id)
    return [_row(row) for row in tx.execute(query.with_for_update() if lock else query)]


def read_resources(tx: Transaction, ids: Iterable[int]) -> dict[int, ResourceRow]:
    """These resources, by id, without a lock."""
    found = {}
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        for row in tx.execute(select(*_COLUMNS).where(among(tx, resource.c.id, part))):
            found[row.id] = _row(row)
    return found


def list_settings(tx: Transaction, ids: Iterable[int]) -> dict[int, dict[str, Json]]:
    """The settings of those of these resources that have some."""
    found = {}
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), CHUNK):
        part = among(tx, resource.c.id, wanted[start : start + CHUNK])
        query = select(resource.c.id, resource.c.settings).where(part)
        rows: Any = tx.execute(query.where(resource.c.settings.is_not(None)))
        found.update({row.id: row.settings for row in rows if row.settings})
    return found


def write_settings(tx: Transaction, resource_id: int, settings: Mapping[str, Json]) -> None:
    """Give a resource of a locked stack other settings; the next traversal looks at it."""
    query = update(resource).where(resource.c.id == resource_id)
    tx.execute(query.values(settings=dict(settings) or None, basis=None))


def rename_resources(tx: Transaction, renamed: Sequence[tuple[int, str, Sequence[str]]]) -> None:
    """Give resources of a locked stack other names. An engine that works on one goes on.

    :param renamed: id, new name, and all former names of each.
    """
    for resource_id, name, former in renamed:
        query = update(resource).where(resource.c.id == resource_id)
        tx.execute(query.values(name=name, former=list(former)))


def rename_unlocked(tx: Transaction, resource_id: int, name: str, former: Sequence[str]) -> None:
    """Give a resource another name; whatever was planned before is out of date.

    :raises StaleLock: an engine has locked it.
    """
    free = update(resource).where(resource.c.id == resource_id, resource.c.engine_id.is_(None))
    values = {"name": name, "former": list(former), "epoch": resource.c.epoch + 1}
    check_found(tx.execute(free.values(**values)).rowcount, 1, "resources to rename")


def move_unlocked(
    tx: Transaction, row: ResourceRow, stack_id: int, name: str, others: Sequence[ResourceRow]
) -> None:
    """Give a resource to another stack. What required it then requires what it required; whatever
    was planned before is out of date.

    :param others: the other resources of its stack; their rows are locked, as is its own.
    :raises StaleLock: an engine has locked it.
    """
    free = update(resource).where(resource.c.id == row.id, resource.c.engine_id.is_(None))
    values: dict[str, Any] = {"stack_id": stack_id, "name": name, "requires": [], "former": None}
    values |= {"template_id": None, "basis": None, "epoch": resource.c.epoch + 1}
    check_found(tx.execute(free.values(**values)).rowcount, 1, "resources to move")
    _close_gap(tx, row, others)


def get_traceback(tx: Transaction, resource_id: int) -> str | None:
    """The traceback of the exception in a resource's reason."""
    query = select(resource.c.traceback).where(resource.c.id == resource_id)
    return tx.execute(query).scalar_one_or_none()


def lock_resources(tx: Transaction, ids: Iterable[int]) -> dict[int, ResourceRow]:
    """Lock the rows of these resources until the transaction ends, in the order of their ids."""
    wanted = set(ids)
    if not wanted:
        return {}
    return {row.id: _row(row) for row in _locked_resources().execute(tx, ids=wanted).all()}


@cache
def _locked_resources() -> Statement[Select[Any]]:
    query = select(*_COLUMNS).order_by(resource.c.id).with_for_update()
    return Statement(lambda form: query.where(form.among(resource.c.id)))


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a resource, as a signal sees it.

    :ivar waiting_traversal: with ``waiting_node``, the node whose handler waits for a signal, or
        once did.
    """

    id: int
    action: str
    replaced_by: int | None
    waiting_traversal: int | None
    waiting_node: int | None


def lock_versions(tx: Transaction, stack_id: int, name: str) -> list[Version]:
    """Lock all versions of a resource, by id."""
    columns = [resource.c[one] for one in Version.__dataclass_fields__]
    query = select(*columns).where(resource.c.stack_id == stack_id, resource.c.name == name)
    rows: Any = tx.execute(query.order_by(resource.c.id).with_for_update()).all()
    return [Version(*row) for row in rows]


def find_replaced(tx: Transaction, ids: Iterable[int]) -> set[int]:
    """Those of these resources that have a replacement."""
    wanted = set(ids)
    return set(_replaced().execute(tx, ids=wanted).scalars()) if wanted else set()


@cache
def _replaced() -> Statement[Select[Any]]:
    query = select(resource.c.id).where(resource.c.replaced_by.is_not(None))
    return Statement(lambda form: query.where(form.among(resource.c.id)))


@dataclass(frozen=True, slots=True)
class Input:
    """A required resource, as references see it."""

    id: int
    name: str
    physical_id: str | None
    attributes: dict[str, Json]
    epoch: int
    settings: dict[str, Json] | None = None


def list_inputs(tx: Transaction, nodes: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Input]:
    """The resources that update nodes, given as (traversal, node), have made or updated."""
    wanted = set(nodes)
    if not wanted:
        return {}
    rows: Any = _inputs().execute(tx, keys=wanted).all()
    return {(row.traversal_id, row.node): Input(*row[2:]) for row in rows}


@cache
def _inputs() -> Statement[Select[Any]]:
    columns = [resource.c[name] for name in Input.__dataclass_fields__]
    query = select(sync_point.c.traversal_id, sync_point.c.node, *columns).join(
        resource, resource.c.id == sync_point.c.resource_id
    )
    return Statement(lambda form: query.where(form.among_keys(sync_point)))


def delete_unlocked(tx: Transaction, row: ResourceRow, others: Sequence[ResourceRow]) -> None:
    """Delete a resource that no engine has locked. What required it then requires what it required,
    so that the order of deletes stays.

    :param others: the other resources of its stack; their rows are locked, as is its own.
    :raises StaleLock: an engine has locked it.
    """
    free = delete(resource).where(resource.c.id == row.id, resource.c.engine_id.is_(None))
    check_found(tx.execute(free).rowcount, 1, "resources to delete")
    signals.delete_signals(tx, [row.id])
    _close_gap(tx, row, others)


def _close_gap(tx: Transaction, row: ResourceRow, others: Sequence[ResourceRow]) -> None:
    """Let what required a resource that goes require what that required."""
    for other in others:
        values: dict[str, Any] = {}
        if row.id in other.requires:
            values["requires"] = sorted({*other.requires, *row.requires} - {row.id})
        values |= {
            name: None for name in ("replaces", "replaced_by") if getattr(other, name) == row.id
        }
        if values:
            tx.execute(update(resource).where(resource.c.id == other.id).values(**values))


def list_existing(tx: Transaction, ids: Iterable[int]) -> set[int]:
    """Which of these resources exist."""
    return set(tx.execute(select(resource.c.id).where(among(tx, resource.c.id, ids))).scalars())


def forget_replacement(tx: Transaction, ids: Sequence[int]) -> None:
    """Remove the pointers to replacements from versions that are kept after all."""
    if ids:
        tx.execute(update(resource).where(among(tx, resource.c.id, ids)).values(replaced_by=None))


def recall_replacement(tx: Transaction, ids: Sequence[int]) -> None:
    """Point to versions that are kept after all from those that they once replaced, if these were
    kept meanwhile and do not point there any more."""
    if not ids:
        return
    query = select(resource.c.id, resource.c.replaces).where(
        among(tx, resource.c.id, ids), resource.c.replaces.is_not(None)
    )
    for row in tx.execute(query.order_by(resource.c.id)).all():
        older = resource.c.id == row.replaces, resource.c.replaced_by.is_(None)
        tx.execute(update(resource).where(*older).values(replaced_by=row.id))


def check_found(found: int, wanted: int, what: str) -> None:
    """Check that a guarded statement met all rows.

    :param what: what they are.
    :raises StaleLock: it did not.
    """
    if found != wanted:
        raise StaleLock(f"{what}: {wanted} wanted, {found} found; another engine has the rest")
