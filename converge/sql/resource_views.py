"""Resources as people look at them: of each name the current version, and the status it is shown
with.

A name has several versions while one replaces another. The current one is not one that has been
replaced, nor a replacement that is no longer wanted; of several such, the newest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    Select,
    String,
    and_,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
)

from converge.model import Action, Json, Status
from converge.sql.batch import among
from converge.sql.schema import resource
from converge.sql.transaction import Transaction

#: Names in one statement at most.
_NAMES = 500


@dataclass(frozen=True, slots=True)
class ResourceView:
    """The current version of a resource.

    :ivar status: as it is shown.
    :ivar requires: the ids of resources.
    """

    id: int
    name: str
    type: str
    action: str
    status: str
    reason: str | None
    physical_id: str | None
    properties: dict[str, Json]
    attributes: dict[str, Json]
    requires: list[int]
    settings: dict[str, Json] | None
    drift: dict[str, Json] | None


@dataclass(frozen=True, slots=True)
class Count:
    """How many resources have a status and a type.

    :ivar passed: whether they are on pages before, up to the name ``after``.
    """

    status: str
    type: str
    passed: bool
    count: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which resources of a stack are looked for.

    :ivar over: whether its traversal is over.
    :ivar statuses: those that are shown with one of these; empty: any.
    :ivar types: those of one of these types; empty: any.
    :ivar after: those whose names come after it.
    """

    stack_id: int
    over: bool
    statuses: Collection[str] = ()
    types: Collection[str] = ()
    after: str | None = None


def list_current(
    tx: Transaction, wanted: Wanted, limit: int | None = None, names: Collection[str] | None = None
) -> list[ResourceView]:
    """The current versions of resources, by name.

    :param limit: the first of them, so many at most.
    :param names: only those of these names.
    """
    fields = {"status": _shown(wanted.over)}
    columns = [fields.get(name, resource.c[name]) for name in ResourceView.__dataclass_fields__]
    few = limit is not None or names is not None
    query = _select(tx, wanted, columns, few=few).order_by(resource.c.name).limit(limit)
    return [ResourceView(*row) for row in _execute(tx, query, names)]


def list_statuses(
    tx: Transaction, wanted: Wanted, names: Collection[str] | None = None
) -> dict[str, str]:
    """The status of each resource, by name.

    :param names: only of those of these names.
    """
    columns = [resource.c.name, _shown(wanted.over)]
    query = _select(tx, wanted, columns, few=names is not None).order_by(resource.c.name)
    return dict(_execute(tx, query, names))


def count_current(tx: Transaction, wanted: Wanted) -> list[Count]:
    """How many resources a stack has of each status and type, whichever are wanted."""
    everything = Wanted(wanted.stack_id, wanted.over)
    passed: ColumnElement[Any] = _ZERO
    if wanted.after is not None:
        passed = case((resource.c.name > wanted.after, _ZERO), else_=_ONE)
    # by labels that are no columns: a parameter twice in a statement is two parameters
    groups = (_shown(wanted.over), resource.c.type.label("of_type"), passed.label("passed"))
    query = _select(tx, everything, [*groups, func.count()])
    rows: Any = tx.execute(query.group_by("shown", "of_type", "passed"))
    return [Count(status, type, bool(passed), count) for status, type, passed, count in rows]


def list_names(tx: Transaction, stack_id: int) -> set[str]:
    """The names of all resources of a stack."""
    query = select(resource.c.name).where(resource.c.stack_id == stack_id)
    return set(tx.execute(query).scalars())


def list_ids(tx: Transaction, stack_id: int, name: str) -> list[int]:
    """The ids of all versions of a resource."""
    query = select(resource.c.id).where(resource.c.stack_id == stack_id, resource.c.name == name)
    return list(tx.execute(query.order_by(resource.c.id)).scalars())


def get_names(tx: Transaction, ids: Iterable[int]) -> dict[int, str]:
    """The names of resources by their ids, of those there are."""
    query = select(resource.c.id, resource.c.name).where(among(tx, resource.c.id, ids))
    return {row.id: row.name for row in tx.execute(query)}


def _select(
    tx: Transaction,
    wanted: Wanted,
    columns: Sequence[ColumnElement[Any]],
    *,
    few: bool = False,
) -> Select[Any]:
    """:param few: it will not be read to its end."""
    is_current = ~_has_better(one_by_one=few and tx.dialect == "postgresql")
    query = select(*columns).where(resource.c.stack_id == wanted.stack_id, is_current)
    if wanted.statuses:
        query = query.where(_shown(wanted.over).element.in_(sorted(wanted.statuses)))
    if wanted.types:
        query = query.where(resource.c.type.in_(sorted(wanted.types)))
    if wanted.after is not None:
        query = query.where(resource.c.name > wanted.after)
    return query


def _execute(tx: Transaction, query: Select[Any], names: Collection[str] | None) -> Iterator[Any]:
    if names is None:
        yield from tx.execute(query)
        return
    listed = sorted(names)
    for start in range(0, len(listed), _NAMES):
        some = listed[start : start + _NAMES]
        yield from tx.execute(query.where(resource.c.name.in_(some)))


_ZERO, _ONE, _TWO = (literal_column(number, Integer()) for number in "012")


@cache
def _has_better(*, one_by_one: bool) -> ColumnElement[bool]:
    """Whether the name has a better version.

    :param one_by_one: look for it in the index for each row. Otherwise PostgreSQL may sort all
        resources of the stack first to join them with themselves, which is best for all of them.
    """
    other = resource.alias("other")
    better = or_(
        _rank(other) > _rank(resource),
        and_(_rank(other) == _rank(resource), other.c.id > resource.c.id),
    )
    query: Select[Any] = select(literal_column("1")).where(
        other.c.stack_id == resource.c.stack_id,
        other.c.name == resource.c.name,
        other.c.id != resource.c.id,
        better,
    )
    return (query.offset(literal_column("0")) if one_by_one else query).exists()


def _rank(one: FromClause) -> ColumnElement[int]:
    older = resource.alias("older")
    is_unwanted = (
        exists()
        .where(
            older.c.id == one.c.replaces,
            older.c.stack_id == one.c.stack_id,
            or_(older.c.replaced_by.is_(None), older.c.replaced_by != one.c.id),
        )
        .correlate(one)
    )
    stands = case((one.c.replaced_by.is_(None), _TWO), else_=_ZERO)
    rank: ColumnElement[int] = stands + case((is_unwanted, _ZERO), else_=_ONE)
    return rank


def _shown(over: bool) -> Any:
    """The status to show. INIT is internal: the resource will be created, or never was. One that
    no engine works on waits, as long as its traversal runs. One whose engine died while the
    traversal was being stopped has failed. One whose check has found what differs has drifted."""
    init, in_progress, failed, waiting, skipped, drifted = (
        literal_column(f"'{status}'", String())
        for status in (
            Status.INIT,
            Status.IN_PROGRESS,
            Status.FAILED,
            Status.WAITING,
            Status.SKIPPED,
            Status.DRIFTED,
        )
    )
    status = resource.c.status
    checked = resource.c.action == literal_column(f"'{Action.CHECK}'", String())
    found = (and_(status == failed, checked, resource.c.drift.is_not(None)), drifted)
    nobodys = and_(status == in_progress, resource.c.engine_id.is_(None))
    if not over:
        waits = or_(status == init, nobodys)
        return case((waits, waiting), found, else_=status).label("shown")
    return case((status == init, skipped), (nobodys, failed), found, else_=status).label("shown")
