"""Many rows in one statement.

PostgreSQL and MariaDB read any number of rows from one JSON text. psycopg parses every statement of
more than 50 parameters anew, which costs more than the statement itself. PyMySQL sends an UPDATE of
many rows as one statement for each row. SQLite runs in our process, so it takes the rows one by
one, unless the statement returns something of each. ``doc/decisions.rst`` has the measurement.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    BindParameter,
    ColumnElement,
    CursorResult,
    Insert,
    String,
    Table,
    Text,
    Update,
    and_,
    any_,
    bindparam,
    cast,
    column,
    false,
    func,
    insert,
    literal_column,
    outerjoin,
    select,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeEngine, UserDefinedType

from converge.canonical import dump
from converge.sealing import Keyring
from converge.sql.compiled import Compiled
from converge.sql.transaction import Transaction
from converge.sql.types import MARIADB, JsonText, Sealing, dialect_module

#: The most rows in one statement.
CHUNK = 5000
#: The most characters of JSON in one statement, unless one row has more. A server refuses a
#: statement that is too long (MariaDB: over 16 MB), and escaping can double its length.
MAX_CHARACTERS = 4_000_000

Values = Mapping[str, ColumnElement[Any]]
S = TypeVar("S", bound=Insert | Update)


def among(tx: Transaction, what: ColumnElement[Any], values: Iterable[int]) -> ColumnElement[bool]:
    """The condition that an integer column has one of these values."""
    given = set_of(tx.dialect, values)
    if tx.dialect == "postgresql":
        return in_array(what, bindparam(None, given, type_=ArrayText(what.type), unique=True))
    return what.in_(given)


def set_of(dialect: str, values: Iterable[int]) -> Any:
    """The values of a parameter that a column is to be among, as a dialect takes them."""
    listed = sorted(set(values))
    return array_text(listed) if dialect == "postgresql" else padded(listed)


def padded(values: list[int]) -> list[int]:
    """The values and copies of the last one: their number is a power of two, so that few different
    statements are compiled."""
    return values + values[-1:] * ((1 << max(0, len(values) - 1).bit_length()) - len(values))


class ArrayText(UserDefinedType[str]):
    """An array of PostgreSQL that is given as text: for a list, the driver needs longer than the
    server for the statement."""

    cache_ok = True
    # the server reads the text once, and knows the array when it plans
    render_bind_cast = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        self.item = item

    def get_col_spec(self, **kw: Any) -> str:
        return f"{'BIGINT' if isinstance(self.item, BigInteger) else 'INTEGER'}[]"


def array_text(values: Iterable[int]) -> str:
    """An array as :class:`ArrayText` takes it."""
    return "{" + ",".join(map(str, values)) + "}"


def in_array(what: ColumnElement[Any], array: BindParameter[Any]) -> ColumnElement[bool]:
    """The condition that a column is in an array of PostgreSQL."""
    return what == any_(array)


def types_of(table: Table, *names: str) -> dict[str, TypeEngine[Any]]:
    """The types of columns by their names."""
    return {name: table.c[name].type for name in names}


class _Many(ABC, Generic[S]):
    """A statement for many rows.

    :param columns: of the rows: name → type.
    """

    #: Whether the statement returns columns of each row.
    _returns = False

    def __init__(self, columns: Mapping[str, TypeEngine[Any]]) -> None:
        self._columns = columns
        self._json = [name for name, type_ in columns.items() if isinstance(type_, JsonText)]
        self._sealed = [
            (name, type_) for name, type_ in columns.items() if isinstance(type_, Sealing)
        ]
        self._names = [(name, f"row_{name}") for name in columns]
        self._statement: Compiled[S] = Compiled(self._make)

    @abstractmethod
    def _make(self, now: ColumnElement[Any], dialect: str) -> S: ...

    def _execute(
        self, tx: Transaction, rows: Sequence[Mapping[str, Any]], common: Mapping[str, Any]
    ) -> Iterator[CursorResult[Any]]:
        """Execute it for all rows, split into as many statements as needed."""
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            given = [self._dump(row) for row in part] if self._json else part
            if self._sealed and tx.keyring is not None:
                given = [self._seal(tx.keyring, row) for row in given]
            if self._is_single(tx.dialect):
                single = [{full: row[name] for name, full in self._names} for row in given]
                yield self._statement.execute_each(tx, single, common)
            else:
                yield from self._execute_part(tx, given, common)

    def _is_single(self, dialect: str) -> bool:
        """Whether it is executed for each row: that is faster, but returns nothing."""
        return dialect == "sqlite" and not self._returns

    def _execute_part(
        self, tx: Transaction, rows: Sequence[Mapping[str, Any]], common: Mapping[str, Any]
    ) -> Iterator[CursorResult[Any]]:
        text = dump(rows)
        if len(text) > MAX_CHARACTERS and len(rows) > 1:
            half = len(rows) // 2
            yield from self._execute_part(tx, rows[:half], common)
            yield from self._execute_part(tx, rows[half:], common)
            return
        yield self._statement.execute(tx, {**common, "rows": text, **self._more(rows)})

    def _dump(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        texts = {name: dump(row[name]) for name in self._json if row[name] is not None}
        return {**row, **texts}

    def _seal(self, keyring: Keyring, row: Mapping[str, Any]) -> Mapping[str, Any]:
        sealed = {
            name: type_.seal(keyring, row[name])
            for name, type_ in self._sealed
            if row[name] is not None
        }
        return {**row, **sealed}

    def _more(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return {}

    def _given(self, dialect: str) -> Any:
        """The rows as a table; None if it is executed for each row."""
        if self._is_single(dialect):
            return None
        text = bindparam("rows", type_=Text())
        columns = [column(name, type_) for name, type_ in self._columns.items()]
        if dialect == "sqlite":
            each = func.json_each(text).table_valued("value")
            path = "json_extract(value, '$.{}')"
            taken: list[ColumnElement[Any]] = [
                literal_column(path.format(one.name)).label(one.name) for one in columns
            ]
            return select(*taken).select_from(each).subquery("given")
        if dialect == "postgresql":
            recordset = func.json_to_recordset(cast(text, JSON)).table_valued(*columns)
            return recordset.render_derived(name="given", with_types=True)
        mariadb = dialect_module(dialect).dialect()
        # the names are our own
        shape = ", ".join(
            f"`{name}` {_wider(type_).compile(mariadb)} PATH '$.{name}'"
            for name, type_ in self._columns.items()
        )
        whole: ColumnElement[Any] = literal_column(f"'$[*]' COLUMNS ({shape})")
        return func.json_table(text, whole).table_valued(*columns).alias("given")

    def _row(self, given: Any) -> Values:
        if given is None:
            return {name: bindparam(full, type_=self._columns[name]) for name, full in self._names}
        return {name: given.c[name] for name in self._columns}


def _wider(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """A type for one more character. JSON_TABLE of MariaDB cuts a text that is too long without an
    error; with one more character, the table that it is written to refuses it."""
    if isinstance(type_, String) and type_.length is not None:
        return String(type_.length + 1)
    return type_


class _Joined(ColumnElement[Any]):
    """An expression with columns of a join, in an UPDATE of that join. Otherwise SQLAlchemy would
    join their table once more, and write each assignment twice."""

    inherit_cache = False

    def __init__(self, element: ColumnElement[Any]) -> None:
        self.element = element
        self.type = element.type


@compiles(_Joined)
def _render(joined: _Joined, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(joined.element, **kw))


def _unjudged(guard: ColumnElement[bool]) -> ColumnElement[bool]:
    """A guard of which PostgreSQL thinks that half of all rows meet it. If it thought that hardly
    any did, as statistics may say of who holds what, it would compare each row with each other."""
    return func.coalesce(guard, false())


class UpdateMany(_Many[Update]):
    """An UPDATE of many rows, each with its own values.

    :param keys: the columns that find a row; the first one is an integer with an index.
    :param columns: the other columns that are given of each row: name → type.
    :param values: makes what is written, from a row and the time: column → expression. Its own
        parameters must not have the name of a column.
    :param guards: more conditions.
    :param leading: so many of the keys are the first columns of the index, and integers.
    """

    def __init__(
        self,
        table: Table,
        keys: Sequence[str],
        columns: Mapping[str, TypeEngine[Any]],
        values: Callable[[Values, ColumnElement[Any]], Mapping[str, Any]],
        *guards: ColumnElement[bool],
        leading: int = 1,
    ) -> None:
        self._table = table
        self._keys = keys
        self._leading = list(enumerate(keys[:leading]))
        self._values = values
        self._guards = guards
        super().__init__({**types_of(table, *keys), **columns})

    def execute(self, tx: Transaction, rows: Sequence[Mapping[str, Any]], **common: Any) -> int:
        """Update rows, and return how many were found.

        :param common: the other parameters.
        """
        return sum(int(done.rowcount) for done in self._execute(tx, rows, common))

    def _make(self, now: ColumnElement[Any], dialect: str) -> Update:
        table = self._table
        given = self._given(dialect)
        row = self._row(given)
        guards = (
            [_unjudged(one) for one in self._guards] if dialect == "postgresql" else self._guards
        )
        found = and_(*(table.c[key] == row[key] for key in self._keys), *guards)
        values = {table.c[name]: value for name, value in self._values(row, now).items()}
        if dialect in MARIADB:
            # an inner join would read all rows of a small table, and wait for those that are locked
            joined = outerjoin(given, table, found)
            return update(joined).values({name: _Joined(one) for name, one in values.items()})
        made = update(table).where(found).values(values)
        if dialect == "postgresql":
            # while a table has no statistics, the server uses the index only for an array
            for number, key in self._leading:
                array = bindparam(f"keys{number}", type_=ArrayText(table.c[key].type))
                made = made.where(in_array(table.c[key], array))
        return made

    def _more(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        # each once: the planner takes every one for as many rows as any
        return {
            f"keys{number}": array_text(dict.fromkeys(row[key] for row in rows))
            for number, key in self._leading
        }


class InsertMany(_Many[Insert]):
    """An INSERT of many rows.

    :param columns: the columns that are given of each row: name → type.
    :param values: makes what is written, from a row and the time: column → expression. Its own
        parameters must not have the name of a column.
    :param skip_existing: skip rows whose unique key exists already.
    :param returning: the names of the columns that are returned.
    """

    def __init__(
        self,
        table: Table,
        columns: Mapping[str, TypeEngine[Any]],
        values: Callable[[Values, ColumnElement[Any]], Mapping[str, Any]],
        *,
        skip_existing: bool = False,
        returning: Sequence[str] = (),
    ) -> None:
        self._table = table
        self._values = values
        self._skip_existing = skip_existing
        self._returning = [table.c[name] for name in returning]
        self._returns = bool(returning)
        super().__init__(columns)

    def execute(
        self, tx: Transaction, rows: Sequence[Mapping[str, Any]], **common: Any
    ) -> list[Any]:
        """Insert rows.

        :param common: the other parameters.
        :returns: the asked columns of each row, in no order; empty if none were asked for.
        """
        done = self._execute(tx, rows, common)
        if self._returns:
            return [row for result in done for row in result]
        for _ in done:
            pass
        return []

    def _make(self, now: ColumnElement[Any], dialect: str) -> Insert:
        given = self._given(dialect)
        values = dict(self._values(self._row(given), now))
        made = self._insert_new(dialect) if self._skip_existing else insert(self._table)
        if given is None:
            made = made.values(values)
        else:
            made = made.from_select(list(values), select(*values.values()))
        return made.returning(*self._returning).inline() if self._returns else made.inline()

    def _insert_new(self, dialect: str) -> Insert:
        made: Any = dialect_module(dialect).insert(self._table)
        if dialect in MARIADB:
            # not IGNORE, which would also ignore all other errors
            (first,) = self._table.primary_key.columns
            skipping: Insert = made.on_duplicate_key_update({first.name: first})
        else:
            skipping = made.on_conflict_do_nothing()
        return skipping
