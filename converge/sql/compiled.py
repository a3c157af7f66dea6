"""Statements that are compiled once for each driver.

Each time that a statement is executed, SQLAlchemy builds it, looks it up in its cache, and converts
its parameters. For the statements of every step, item and event, that took at least as long as all
our other work; ``doc/decisions.rst`` has the measurement. The statements here need only parameters
and the time. Their columns have types that drivers take and return unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, CursorResult, Double, Insert, Select, Update, bindparam

from converge.sql.transaction import Transaction
from converge.sql.types import clock

S = TypeVar("S", bound=Select[Any] | Insert | Update)


class _Text(NamedTuple):
    """A statement as its driver takes it.

    :ivar order: the names of the parameters in order; None where the driver takes them by name.
    :ivar constants: the parameters that always have the same value.
    """

    text: str
    order: Sequence[str] | None
    constants: Mapping[str, Any]

    def arrange(self, parameters: Mapping[str, Any]) -> Any:
        if self.order is None:
            return parameters
        return tuple([parameters[name] for name in self.order])


class Compiled(Generic[S]):
    """A statement with parameters.

    :param make: makes it, given the time as an expression and the name of the dialect.
    """

    def __init__(self, make: Callable[[ColumnElement[Any], str], S]) -> None:
        self._make = make
        self._texts: dict[tuple[type, bool], _Text] = {}

    def execute(self, tx: Transaction, parameters: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it once."""
        text, common = self._compile(tx)
        return tx.connection.exec_driver_sql(text.text, text.arrange({**common, **parameters}))

    def execute_each(
        self, tx: Transaction, rows: Iterable[Mapping[str, Any]], common: Mapping[str, Any]
    ) -> CursorResult[Any]:
        """Execute it for each of several rows of parameters.

        :param common: the parameters that are the same for all rows.
        """
        text, known = self._compile(tx)
        known = {**known, **common}
        given = [text.arrange({**known, **row}) for row in rows]
        return tx.connection.exec_driver_sql(text.text, given)

    def _compile(self, tx: Transaction) -> tuple[_Text, dict[str, Any]]:
        """The statement, and the parameters that do not come from the caller."""
        given_time = tx.given_time
        dialect: Any = tx.connection.dialect
        key = (type(dialect), given_time is None)
        text = self._texts.get(key)
        if text is None:
            now: Any = clock() if given_time is None else bindparam("now", type_=Double())
            compiled = self._make(now, dialect.name).compile(dialect=type(dialect)())
            constants = {
                name: value for name, value in compiled.params.items() if value is not None
            }
            text = self._texts[key] = _Text(str(compiled), compiled.positiontup, constants)
        return text, {**text.constants} if given_time is None else {
            **text.constants,
            "now": given_time,
        }
