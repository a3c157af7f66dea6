"""Statements that are built once, and executed with parameters.

To build a statement takes SQLAlchemy, and its search for it in its cache, twice as long as all the
rest of executing it; ``doc/decisions.rst`` has the measurement. What every claim and completion
sends is therefore built once for each form that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Delete,
    Double,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    or_,
)

from converge.sql.batch import ArrayText, in_array, padded, set_of
from converge.sql.transaction import Transaction
from converge.sql.types import clock

S = TypeVar("S", bound=Select[Any] | Update | Delete)


class Form:
    """What a statement is built for.

    :param dialect: the name of the SQLAlchemy dialect.
    :param is_timed: the time is given, and does not come from the database; for tests.
    :param parts: of how many traversals its keys are.
    :ivar asks_time: the time was asked for.
    """

    def __init__(self, dialect: str, is_timed: bool, parts: int) -> None:
        self._dialect = dialect
        self._is_timed = is_timed
        self._parts = parts
        self.asks_time = False

    @property
    def now(self) -> ColumnElement[Any]:
        """The time, in seconds since 1970."""
        self.asks_time = True
        if self._is_timed:
            return bindparam("now", type_=Double())
        return cast("ColumnElement[Any]", clock())

    def among(self, what: ColumnElement[Any], name: str = "ids") -> ColumnElement[bool]:
        """The condition that an integer column has one of the values of a parameter."""
        if self._dialect == "postgresql":
            return in_array(what, bindparam(name, type_=ArrayText(what.type)))
        return what.in_(bindparam(name, expanding=True))

    def among_keys(self, table: Table) -> ColumnElement[bool]:
        """The condition for the keys of nodes. Row values would keep MariaDB from its index.

        :param table: sync points, or what is of them.
        """
        traversal_id = table.c.traversal_id
        return or_(
            *(
                and_(
                    traversal_id == bindparam(f"traversal{number}", type_=traversal_id.type),
                    self.among(table.c.node, f"nodes{number}"),
                )
                for number in range(self._parts)
            )
        )


class Statement(Generic[S]):
    """A statement with parameters.

    :param make: makes it for a form. Its parameters must not have the name of a column.
    """

    def __init__(self, make: Callable[[Form], S]) -> None:
        self._make = make
        self._built: dict[tuple[str, bool, int], tuple[S, bool]] = {}

    def execute(
        self,
        tx: Transaction,
        parameters: Mapping[str, Any] | None = None,
        *,
        ids: Iterable[int] | None = None,
        keys: Iterable[tuple[int, int]] | None = None,
    ) -> CursorResult[Any]:
        """Execute it.

        :param ids: what :meth:`Form.among` looks for; at least one.
        :param keys: what :meth:`Form.among_keys` looks for; at least one.
        """
        given = dict(parameters or {})
        given_time = tx.given_time
        if ids is not None:
            given["ids"] = set_of(tx.dialect, ids)
        nodes = by_traversal(keys or ())
        # padded to a power of two, so that few different statements are built
        parts = padded(sorted(nodes))
        for number, traversal_id in enumerate(parts):
            given[f"traversal{number}"] = traversal_id
            given[f"nodes{number}"] = set_of(tx.dialect, nodes[traversal_id])
        form = (tx.dialect, given_time is not None, len(parts))
        built = self._built.get(form)
        if built is None:
            made = Form(*form)
            built = self._built[form] = (self._make(made), made.asks_time)
        statement, asks_time = built
        if asks_time and given_time is not None:
            given["now"] = given_time
        return tx.execute(statement, given)


def by_traversal(keys: Iterable[tuple[int, int]]) -> Mapping[int, list[int]]:
    """The nodes of keys by their traversals."""
    found: dict[int, list[int]] = {}
    for traversal_id, node in keys:
        found.setdefault(traversal_id, []).append(node)
    return found
