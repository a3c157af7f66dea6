"""Many rows in one statement.

The statements are the same on the three databases, but for how the rows get there. The
psycopg driver parses every statement of more than 50 parameters anew, which cost more than
the statement itself; so PostgreSQL is handed one array, or one JSON text, whatever the
number of rows. ``doc/decisions.rst`` has the measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Table,
    Text,
    any_,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON

from converge.sql.database import Transaction
from converge.sql.types import JsonText, dump

#: Rows in one statement at most.
CHUNK = 5000
MARIADB = ("mysql", "mariadb")


def among(tx: Transaction, what: ColumnElement[Any], values: Iterable[int]) -> ColumnElement[bool]:
    """The condition that an integer column has one of these values."""
    listed = sorted(set(values))
    if tx.dialect == "postgresql":
        # as text: the driver takes longer over a list than the server over the statement;
        # in a subquery, or the server would parse the text anew for each row it looks at
        array = ARRAY(what.type)
        text = bindparam(None, "{" + ",".join(map(str, listed)) + "}", type_=Text(), unique=True)
        return what == any_(cast(select(cast(text, array)).scalar_subquery(), array))
    if listed:
        # statements of few different lengths are compiled, and prepared, once each
        listed += listed[-1:] * ((1 << (len(listed) - 1).bit_length()) - len(listed))
    return what.in_(listed)


def insert_rows(
    tx: Transaction, table: Table, rows: Sequence[Mapping[str, Any]], **common: Any
) -> None:
    """Insert rows that all have the same columns.

    :param common: columns that are the same for all of them; values or SQL expressions.
    """
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        if tx.dialect != "postgresql":
            tx.execute(insert(table).values(**common), list(part))
            continue
        names = list(part[0])
        given = _recordset(table, names, part)
        typed = [
            bindparam(None, v, type_=table.c[k].type) if not isinstance(v, ColumnElement) else v
            for k, v in common.items()
        ]
        query = select(*(given.c[name] for name in names), *typed)
        tx.execute(insert(table).from_select([*names, *common], query))


def update_rows(
    tx: Transaction,
    table: Table,
    keys: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *guards: ColumnElement[bool],
    **common: Any,
) -> int:
    """Update rows, each to values of its own.

    :param keys: the columns that must be as given; the first one is an integer with an index.
    :param rows: of each, the keys and the columns to write; all of the same columns.
    :param guards: further conditions.
    :param common: columns to write that are the same for all.
    :returns: how many rows were found.
    """
    found = 0
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        names = [name for name in part[0] if name not in keys]
        if tx.dialect == "postgresql":
            given = _recordset(table, list(part[0]), part)
            # while a table has no statistics, only the array leads the server to the index
            first = table.c[keys[0]]
            statement = (
                update(table)
                .where(among(tx, first, [row[keys[0]] for row in part]))
                .where(*(table.c[key] == given.c[key] for key in keys), *guards)
                .values(**{name: given.c[name] for name in names}, **common)
            )
            found += tx.execute(statement).rowcount
            continue
        statement = (
            update(table)
            .where(*(table.c[key] == bindparam(f"b_{key}") for key in keys), *guards)
            .values(
                **{name: bindparam(f"b_{name}", type_=table.c[name].type) for name in names},
                **common,
            )
        )
        parameters = [{f"b_{name}": value for name, value in row.items()} for row in part]
        found += tx.execute(statement, parameters).rowcount
    return found


def _plain(
    table: Table, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    json_names = {name for name in names if isinstance(table.c[name].type, JsonText)}
    return [
        {
            name: dump(value) if name in json_names and value is not None else value
            for name, value in row.items()
        }
        for row in rows
    ]


def _recordset(table: Table, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows as a table that PostgreSQL reads from one JSON text."""
    json_names = {name for name in names if isinstance(table.c[name].type, JsonText)}
    columns = [column(name, Text() if name in json_names else table.c[name].type) for name in names]
    text = bindparam(None, dump(_plain(table, names, rows)), type_=Text(), unique=True)
    function = func.json_to_recordset(cast(text, JSON))
    return function.table_valued(*columns).render_derived(with_types=True)
