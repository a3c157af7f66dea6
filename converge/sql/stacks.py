"""The stack's row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, insert, select, update

from converge import formats
from converge.errors import Conflict, NotFound, StaleLock, did_you_mean
from converge.model import STACK_MOVES, Action, Status, is_name, make_mark, sources_of
from converge.sql.batch import among
from converge.sql.faults import duplicate_errors
from converge.sql.schema import resource, stack, template, traversal
from converge.sql.transaction import Transaction

#: How often a name is looked for again that is made or deleted meanwhile.
_ROUNDS = 5

_COLUMNS = [column for column in stack.c if column.name != "edges"]


@dataclass(frozen=True, slots=True)
class StackRow:
    """A stack as it is in the database."""

    id: int
    name: str
    live: bool
    action: Action
    status: Status
    reason: str | None
    versions: int
    template_id: int | None
    completed_template_id: int | None
    previous_template_id: int | None
    traversal_id: int | None
    created_at: float
    updated_at: float
    mark: int
    source: str | None
    queue: str | None
    priority: int
    format: int
    outer_resource_id: int | None


def _row(row: Row[Any]) -> StackRow:
    values = {column.name: getattr(row, column.name) for column in _COLUMNS}
    values["live"] = bool(values["live"])
    values["action"] = Action(values["action"])
    values["status"] = Status(values["status"])
    return StackRow(**values)


def insert_stack(tx: Transaction, name: str) -> StackRow:
    """Insert a live stack.

    :raises Conflict: there is one of that name.
    """
    message = f"stack {name!r} exists already; update it, or delete it first"
    if find_stack(tx, name, any_format=True) is not None:
        raise Conflict(message)
    values = {
        "name": name,
        "live": 1,
        "action": Action.CREATE,
        "status": Status.IN_PROGRESS,
        "versions": 0,
        "priority": 0,
        "format": formats.WRITTEN,
        "mark": make_mark(),
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    try:
        # a savepoint keeps the host's transaction usable when another caller was faster
        with tx.connection.begin_nested():
            tx.execute(insert(stack).values(values))
    except duplicate_errors() as error:
        raise Conflict(message) from error
    return lock_stack(tx, name)


def take_stack(tx: Transaction, name: str) -> tuple[StackRow, bool]:
    """Lock the live stack of that name, or insert it. Of two callers at the same moment, one
    inserts it, and the other waits for that and finds it.

    :returns: it, and whether it was inserted.
    :raises Conflict: others made and deleted it again and again; or a host's transaction cannot
        see what another one has made.
    :raises SchemaError: a newer converge has written it.
    """
    lost: Conflict | None = None
    for _ in range(_ROUNDS):
        if lost is not None or find_stack(tx, name) is not None:
            # a lock shows rows that are newer than a host's snapshot
            query = select(*_COLUMNS).where(stack.c.name == name, stack.c.live == 1)
            locked = tx.execute(query.with_for_update()).one_or_none()
            if locked is not None:
                return _known(_row(locked)), False
        try:
            return insert_stack(tx, name), True
        except Conflict as error:
            lost = error
    assert lost is not None
    raise lost


def find_stack(tx: Transaction, name: str, *, any_format: bool = False) -> StackRow | None:
    """The live stack of that name.

    :param any_format: also one of a format that this converge does not know: then only its columns
        are to be read.
    :raises SchemaError: a newer converge has written it.
    """
    if not is_name(name):
        return None
    query = select(*_COLUMNS).where(stack.c.name == name, stack.c.live == 1)
    row = tx.execute(query).one_or_none()
    if row is None:
        return None
    return _row(row) if any_format else _known(_row(row))


def _known(row: StackRow) -> StackRow:
    formats.check_format(row.name, row.format)
    return row


def get_stack(tx: Transaction, name: str, *, any_format: bool = False) -> StackRow:
    """The live stack of that name.

    :param any_format: see :func:`find_stack`.
    :raises NotFound: there is none.
    :raises SchemaError: a newer converge has written it.
    """
    found = find_stack(tx, name, any_format=any_format)
    if found is None:
        names = tx.execute(select(stack.c.name).where(stack.c.live == 1).limit(50)).scalars()
        raise NotFound(f"there is no stack {name!r}{did_you_mean(name, names)}")
    return found


def get_stack_by_id(tx: Transaction, stack_id: int) -> StackRow:
    """A stack, live or deleted.

    :raises NotFound: there is none.
    """
    row = tx.execute(select(*_COLUMNS).where(stack.c.id == stack_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no stack with id {stack_id}")
    return _row(row)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the handle of a stack shows.

    :ivar version: the number of its wanted version.
    :ivar traversal_mark: of its current traversal.
    """

    stack: StackRow
    version: int | None
    traversal_mark: int | None


def get_standing(tx: Transaction, stack_id: int, *, newest: bool = False) -> Standing | None:
    """What the handle of a stack shows, live or deleted; None if no stack has this id.

    :param newest: look also for a row that is newer than a host's snapshot.
    """
    query = (
        select(*_COLUMNS, template.c.version, traversal.c.mark.label("traversal_mark"))
        .outerjoin_from(stack, template, template.c.id == stack.c.template_id)
        .outerjoin(traversal, traversal.c.id == stack.c.traversal_id)
        .where(stack.c.id == stack_id)
    )
    row = tx.execute(query).one_or_none()
    if row is None and newest:
        row = tx.execute(query.with_for_update(of=stack)).one_or_none()
    return None if row is None else Standing(_row(row), row.version, row.traversal_mark)


def find_last_stack(tx: Transaction, name: str) -> StackRow | None:
    """The live stack of that name, or the one deleted last."""
    if not is_name(name):
        return None
    query = select(*_COLUMNS).where(stack.c.name == name)
    row = tx.execute(query.order_by(stack.c.live.is_(None), stack.c.id.desc()).limit(1)).first()
    return None if row is None else _row(row)


def lock_stack(tx: Transaction, name: str) -> StackRow:
    """Lock the live stack of that name until the transaction ends.

    :raises NotFound: there is none.
    :raises SchemaError: a newer converge has written it.
    """
    if not is_name(name):
        return get_stack(tx, name)
    query = select(*_COLUMNS).where(stack.c.name == name, stack.c.live == 1)
    row = tx.execute(query.with_for_update()).one_or_none()
    return get_stack(tx, name) if row is None else _known(_row(row))


def lock_stack_by_id(tx: Transaction, stack_id: int) -> StackRow:
    """Lock a stack's row until the transaction ends.

    :raises StaleLock: it is gone: whoever worked on it has slept through its end.
    """
    query = select(*_COLUMNS).where(stack.c.id == stack_id).with_for_update()
    row = tx.execute(query).one_or_none()
    if row is None:
        raise StaleLock(f"stack {stack_id} is gone: it was deleted, and pruned")
    return _row(row)


def list_unlocked(tx: Transaction, ids: Iterable[int]) -> set[int]:
    """Those of these stacks whose rows are not locked, and those that are gone."""
    wanted = set(ids)
    query = select(stack.c.id).where(among(tx, stack.c.id, wanted))
    there = set(tx.execute(query).scalars())
    free = set(tx.execute(query.with_for_update(skip_locked=True)).scalars())
    return free | (wanted - there)


def list_stacks(
    tx: Transaction, *, nested: bool = False
) -> list[tuple[StackRow, int | None, str | None, str | None]]:
    """The live stacks by name, each with its wanted version, who asked for what is done or was
    done last, and the name of the stack that it is nested in.

    :param nested: also those that are nested in one.
    """
    outer = stack.alias("outer_stack")
    query = (
        select(*_COLUMNS, template.c.version, traversal.c.actor, outer.c.name.label("outer"))
        .outerjoin(template, template.c.id == stack.c.template_id)
        .outerjoin(traversal, traversal.c.id == stack.c.traversal_id)
        .outerjoin(resource, resource.c.id == stack.c.outer_resource_id)
        .outerjoin(outer, outer.c.id == resource.c.stack_id)
        .where(stack.c.live == 1)
        .order_by(stack.c.name)
    )
    if not nested:
        query = query.where(outer.c.id.is_(None))
    return [(_row(row), row.version, row.actor, row.outer) for row in tx.execute(query)]


def update_stack(tx: Transaction, stack_id: int, **values: Any) -> None:
    """Write columns of a stack that the transaction has locked.

    :raises StaleLock: that status may not follow the one it has.
    """
    query = update(stack).where(stack.c.id == stack_id)
    if "status" in values:
        query = query.where(stack.c.status.in_(sources_of(STACK_MOVES, values["status"])))
    done = tx.execute(query.values(updated_at=tx.now, **values))
    if done.rowcount != 1:
        found = get_stack_by_id(tx, stack_id)
        raise StaleLock(
            f"stack {found.name!r} is {found.status}; {values['status']} may not follow"
        )
    if values.get("status", Status.IN_PROGRESS) != Status.IN_PROGRESS:
        tx.news.ended.add(stack_id)


def get_edges(tx: Transaction, stack_id: int) -> bytes | None:
    """The serialized graph of the current traversal."""
    edges: bytes | None = tx.execute(
        select(stack.c.edges).where(stack.c.id == stack_id)
    ).scalar_one()
    return edges
