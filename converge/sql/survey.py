"""What a start needs to know of all resources of a stack. There can be a million of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import Select, func, select

from converge import collection
from converge.model import Action, Json, Status
from converge.sql.batch import CHUNK, among
from converge.sql.resources import ACTIONS, STATUSES
from converge.sql.schema import resource
from converge.sql.transaction import Transaction
from converge.sql.types import MARIADB


@dataclass(slots=True)
class ResourceHead:
    """What every plan needs to know of a resource."""

    id: int
    name: str
    type: str
    action: Action
    status: Status
    template_id: int | None
    requires: list[int]
    replaced_by: int | None
    engine_id: int | None
    epoch: int
    basis: str | None
    settings: dict[str, Json] | None = None
    former: list[str] | None = None


#: Rows that are taken from the driver at a time.
_TOGETHER = 1000
_HEAD = [resource.c[name] for name in ResourceHead.__dataclass_fields__]


def list_heads(tx: Transaction, stack_id: int, *, locked: bool = False) -> list[ResourceHead]:
    """All resources of a stack, by id.

    :param locked: the stack and what its engines hold is locked: give what holds until the
        transaction ends, also to one of the host's that has an older snapshot.
    """
    query = select(*_HEAD).where(resource.c.stack_id == stack_id).order_by(resource.c.id)
    found = tx.execute(_newest(tx, query) if locked else query)
    # one by one, the driver would take twice as long; all at once, they would be there twice
    rows: Iterator[Any] = chain.from_iterable(found.partitions(_TOGETHER))
    heads = []
    with collection.paused():
        for row in rows:
            head = ResourceHead(*row)
            head.action = ACTIONS[head.action]
            head.status = STATUSES[head.status]
            heads.append(head)
    return heads


def _newest(tx: Transaction, query: Select[Any]) -> Select[Any]:
    """A query that shows the newest rows of a locked stack. On MariaDB a plain one shows those of
    the host's snapshot; on PostgreSQL the locks have failed if there were newer ones."""
    return query.with_for_update() if tx.dialect in MARIADB else query


def lock_held(tx: Transaction, stack_id: int) -> None:
    """Lock the resources of a stack that an engine holds. The others change only together with the
    stack or its current traversal."""
    held = (resource.c.stack_id == stack_id, resource.c.engine_id.is_not(None))
    query = select(resource.c.id).where(*held).order_by(resource.c.id)
    tx.execute(query.with_for_update()).all()


@dataclass(frozen=True, slots=True)
class Content:
    """What a resource is, and what references to it resolve to."""

    properties: dict[str, Json]
    physical_id: str | None
    attributes: dict[str, Json]


_CONTENT = [resource.c[name] for name in Content.__dataclass_fields__]


def list_contents(
    tx: Transaction, ids: Iterable[int], *, locked: bool = False
) -> dict[int, Content]:
    """What these resources are, by id.

    :param locked: see :func:`list_heads`.
    """
    found: dict[int, Content] = {}
    wanted = sorted(ids)
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        query = select(resource.c.id, *_CONTENT).where(among(tx, resource.c.id, part))
        query = query.order_by(resource.c.id)
        rows: Any = tx.execute(_newest(tx, query) if locked else query)
        found.update({row[0]: Content(*row[1:]) for row in rows})
    return found


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """As long as it is the same, so is all that a plan needs to know of a stack's resources.

    Ids and epochs only grow, and whoever writes a resource has locked it, with a new epoch. Only
    the basis of one in which nothing changed is written without; one that is out of date leads to
    a node with nothing to do.
    """

    count: int
    ids: int
    epochs: int
    held: int


#: Of a stack that has no resources.
NOTHING = Fingerprint(0, 0, 0, 0)


def get_fingerprint(tx: Transaction, stack_id: int) -> Fingerprint:
    """The fingerprint of a stack's resources."""
    query = select(
        func.count(),
        func.coalesce(func.sum(resource.c.id), 0),
        func.coalesce(func.sum(resource.c.epoch), 0),
        func.count(resource.c.engine_id),
    ).where(resource.c.stack_id == stack_id)
    return Fingerprint(*map(int, tx.execute(query).one()))
