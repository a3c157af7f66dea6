"""Statements that are put into words once for each driver.

SQLAlchemy builds a statement, looks it up in its cache, and converts its parameters, each time that
it is executed. For what is executed for every step, item and event, that took as long as all the
rest of our work, or longer; ``doc/decisions.rst`` has the measurement. These statements need
nothing but parameters and the time, and their columns are of types that drivers take and give as
they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Double,
    Insert,
    Select,
    Table,
    Text,
    Update,
    any_,
    bindparam,
    cast,
    column,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.types import TypeEngine

from converge.sql.batch import CHUNK, MARIADB
from converge.sql.database import Transaction
from converge.sql.types import clock, dump

Made = Select[Any] | Insert | Update
Values = Mapping[str, ColumnElement[Any]]
S = TypeVar("S", bound=Made)


class _Words(NamedTuple):
    """:ivar order: the names of the parameters, where they go by their places.
    :ivar constants: parameters whose values are always the same.
    """

    text: str
    order: Sequence[str] | None
    constants: Mapping[str, Any]

    def arrange(self, parameters: Mapping[str, Any]) -> Any:
        given = {**self.constants, **parameters}
        return given if self.order is None else tuple(given[name] for name in self.order)


class Prepared(Generic[S]):
    """A statement with parameters.

    :param make: makes it, given the time as an expression and the name of the dialect.
    """

    def __init__(self, make: Callable[[ColumnElement[Any], str], S]) -> None:
        self._make = make
        self._words: dict[tuple[type, bool], _Words] = {}

    def execute(
        self, tx: Transaction, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> CursorResult[Any]:
        """Execute it, for several rows of parameters one after the other."""
        told = {} if tx.told is None else {"now": tx.told}
        words = self._in_words(tx, bool(told))
        if isinstance(parameters, Mapping):
            given = words.arrange({**parameters, **told})
        else:
            given = [words.arrange({**row, **told}) for row in parameters]
        return tx.connection.exec_driver_sql(words.text, given)

    def _in_words(self, tx: Transaction, told: bool) -> _Words:
        dialect: Any = tx.connection.dialect
        key = (type(dialect), told)
        words = self._words.get(key)
        if words is None:
            now: Any = bindparam("now", type_=Double()) if told else clock()
            compiled = self._make(now, dialect.name).compile(dialect=type(dialect)())
            constants = {
                name: value for name, value in compiled.params.items() if value is not None
            }
            words = _Words(str(compiled), compiled.positiontup, constants)
            self._words[key] = words
        return words


class _Many(ABC, Generic[S]):
    """A statement for many rows, which PostgreSQL and MariaDB read from one JSON text.

    :param columns: of the rows: name → type.
    """

    def __init__(self, columns: Mapping[str, TypeEngine[Any]]) -> None:
        self._columns = columns
        self._statement = Prepared(self._make)

    @abstractmethod
    def _make(self, now: ColumnElement[Any], dialect: str) -> S: ...

    def _execute(
        self, tx: Transaction, rows: Sequence[Mapping[str, Any]], common: Mapping[str, Any]
    ) -> int:
        """:returns: how many rows it was about."""
        found = 0
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            if tx.dialect == "sqlite":
                single = [{f"row_{name}": row[name] for name in self._columns} for row in part]
                done = self._statement.execute(tx, [{**common, **row} for row in single])
            else:
                parameters = {**common, "rows": dump(part), **self._more(part)}
                done = self._statement.execute(tx, parameters)
            found += done.rowcount
        return found

    def _more(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return {}

    def _given(self, dialect: str) -> Any:
        """The rows as a table; on SQLite, the columns of one as parameters."""
        if dialect == "sqlite":
            return None
        text = bindparam("rows", type_=Text())
        if dialect == "postgresql":
            columns = [column(name, type_) for name, type_ in self._columns.items()]
            recordset = func.json_to_recordset(cast(text, JSON)).table_valued(*columns)
            return recordset.render_derived(name="given", with_types=True)
        # the names are our own
        shape = ", ".join(
            f"`{name}` {type_.compile(mysql.dialect())} PATH '$.{name}'"
            for name, type_ in self._columns.items()
        )
        whole: ColumnElement[Any] = literal_column(f"'$[*]' COLUMNS ({shape})")
        return func.json_table(text, whole).table_valued(*self._columns).alias("given")

    def _row(self, given: Any) -> Values:
        if given is None:
            return {
                name: bindparam(f"row_{name}", type_=type_) for name, type_ in self._columns.items()
            }
        return {name: given.c[name] for name in self._columns}


class UpdateMany(_Many[Update]):
    """An UPDATE of many rows, each to values of its own.

    :param keys: the columns that must be as given; the first one is an integer with an index.
    :param columns: what else is given of each row, name → type.
    :param values: what is written, given a row and the time: column → expression. Parameters
        of its own must not have the name of a column.
    """

    def __init__(
        self,
        table: Table,
        keys: Sequence[str],
        columns: Mapping[str, TypeEngine[Any]],
        values: Callable[[Values, ColumnElement[Any]], Mapping[str, Any]],
    ) -> None:
        self._table = table
        self._keys = keys
        self._values = values
        super().__init__({**{key: table.c[key].type for key in keys}, **columns})

    def execute(self, tx: Transaction, rows: Sequence[Mapping[str, Any]], **common: Any) -> int:
        """Update rows, and return how many were found.

        :param common: the other parameters.
        """
        return self._execute(tx, rows, common)

    def _make(self, now: ColumnElement[Any], dialect: str) -> Update:
        table = self._table
        row = self._row(self._given(dialect))
        made = update(table).where(*(table.c[key] == row[key] for key in self._keys))
        if dialect == "postgresql":
            # while a table has no statistics, only an array leads the server to the index
            first = table.c[self._keys[0]]
            array = ARRAY(first.type)
            keys = select(cast(bindparam("keys", type_=Text()), array)).scalar_subquery()
            made = made.where(first == any_(cast(keys, array)))
        return made.values(dict(self._values(row, now)))

    def _more(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return {"keys": "{" + ",".join(str(row[self._keys[0]]) for row in rows) + "}"}


class InsertMany(_Many[Insert]):
    """An INSERT of many rows.

    :param columns: what is given of each row, name → type.
    :param values: what is written, given a row and the time: column → expression. Parameters
        of its own must not have the name of a column.
    :param pass_over: leave rows alone whose unique key is there already.
    """

    def __init__(
        self,
        table: Table,
        columns: Mapping[str, TypeEngine[Any]],
        values: Callable[[Values, ColumnElement[Any]], Mapping[str, Any]],
        *,
        pass_over: bool = False,
    ) -> None:
        self._table = table
        self._values = values
        self._pass_over = pass_over
        super().__init__(columns)

    def execute(self, tx: Transaction, rows: Sequence[Mapping[str, Any]], **common: Any) -> None:
        """Insert rows.

        :param common: the other parameters.
        """
        self._execute(tx, rows, common)

    def _make(self, now: ColumnElement[Any], dialect: str) -> Insert:
        given = self._given(dialect)
        values = dict(self._values(self._row(given), now))
        made = self._passing(dialect) if self._pass_over else insert(self._table)
        if given is None:
            return made.values(values).inline()
        return made.from_select(list(values), select(*values.values())).inline()

    def _passing(self, dialect: str) -> Insert:
        if dialect == "postgresql":
            return postgresql.insert(self._table).on_conflict_do_nothing()
        if dialect == "sqlite":
            return sqlite.insert(self._table).on_conflict_do_nothing()
        assert dialect in MARIADB
        # not IGNORE, which lets everything else that is wrong pass, too
        (first,) = self._table.primary_key.columns
        return mysql.insert(self._table).on_duplicate_key_update({first.name: first})
