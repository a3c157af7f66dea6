"""How the database executes each statement: what it reads from end to end, and how much in all.

A statement is explained right before it is executed, in the same transaction, so that what is
said of it is what happens.
"""

from __future__ import annotations

import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from psycopg import sql
from sqlalchemy import ColumnElement, Engine, event, insert, literal, select

import converge
from converge.sql.schema import metadata
from converge.sql.transaction import Transaction

#: What rows that fill a table have in columns that nothing depends on.
RESOURCE: dict[str, Any] = {
    "type": "fake",
    "token": "",
    "epoch": 0,
    "properties": {},
    "attributes": {},
    "requires": [],
}
NODE: dict[str, Any] = {
    "kind": "update",
    "keep": False,
    "tainted": False,
    **dict.fromkeys(("attempts", "deaths", "epoch"), 0),
    "requires": [],
    "successors": [],
}


@dataclass(frozen=True, slots=True)
class Plan:
    """:ivar shown: as the database shows it.
    :ivar scanned: the tables that are read from one end to the other, by an index or without.
    :ivar looked_at: how many rows or pages it read in fact; 0 if the plan does not say.
    """

    shown: str
    scanned: frozenset[str]
    looked_at: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A statement that was executed.

    :ivar times: with how many sets of parameters.
    :ivar looked_at: rows or pages that were read, whichever are more.
    """

    statement: str
    plans: list[Plan]
    times: int
    looked_at: int

    @property
    def scanned(self) -> frozenset[str]:
        """The tables that are read from one end to the other."""
        return frozenset().union(*(plan.scanned for plan in self.plans))

    def __str__(self) -> str:
        shown = "\n".join(plan.shown for plan in self.plans)
        return f"{self.looked_at} rows looked at\n{self.statement}\n{shown}"


class Explainer(ABC):
    """One kind of database. The connections and cursors are the driver's own."""

    def settle(self, engine: Engine) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait until the server has tidied up after what was written so far."""

    @abstractmethod
    def before(self, connection: Any, statement: str, parameters: Any) -> list[Plan]:
        """Explain a statement that is about to be executed."""

    def after(self, connection: Any, plans: Sequence[Plan]) -> int:
        """How many rows it looked at."""
        return max(plan.looked_at for plan in plans)


class PostgreSQL(Explainer):
    """Both as it is planned for its parameters, and for any, as it is after some executions."""

    def before(self, connection: Any, statement: str, parameters: Any) -> list[Plan]:
        text, values = _numbered(statement, parameters)
        arguments = sql.SQL(", ").join(map(sql.Literal, values))
        call = sql.SQL("EXECUTE plan({})" if values else "EXECUTE plan").format(arguments)
        explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) ") + call
        plans = []
        # of a statement that is a transaction by itself, this is one
        begin, end = "SAVEPOINT plan", "ROLLBACK TO SAVEPOINT plan"
        if connection.autocommit:
            begin, end = "BEGIN", "ROLLBACK"
        with connection.cursor() as cursor:
            for mode in ("force_custom_plan", "force_generic_plan"):
                cursor.execute(begin)
                cursor.execute(f"SET LOCAL plan_cache_mode = {mode}")
                cursor.execute("PREPARE plan AS " + text)
                cursor.execute(explain)
                plans.append(self._read(cursor.fetchone()[0][0]["Plan"]))
                cursor.execute("DEALLOCATE plan")
                cursor.execute(end)
        return plans

    def _read(self, root: Mapping[str, Any]) -> Plan:
        scanned = set()
        rows = 0
        lines = []
        for node, depth in self._nodes(root, 0):
            table = node.get("Relation Name")
            kind = node["Node Type"]
            condition = node.get("Index Cond") or node.get("Recheck Cond")
            loops = node["Actual Loops"]
            lines.append(
                f"{'  ' * depth}{kind} {table or ''} {node.get('Index Name', '')}"
                f" {condition or ''} rows {node['Actual Rows']} x {loops}"
            )
            if kind == "Function Scan":
                # the rows that a statement is given: as often as they are compared
                rows += loops * node["Actual Rows"]
            if table is None or "Scan" not in kind:
                continue
            removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
            rows += loops * (node["Actual Rows"] + sum(node.get(name, 0) for name in removed))
            if condition is None:
                scanned.add(table)
        pages = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
        return Plan("\n".join(lines), frozenset(scanned), max(rows, pages))

    def _nodes(
        self, node: Mapping[str, Any], depth: int
    ) -> Iterator[tuple[Mapping[str, Any], int]]:
        yield node, depth
        for child in node.get("Plans", ()):
            yield from self._nodes(child, depth + 1)


def _numbered(statement: str, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """A statement with $1 in place of %(name)s, and the values in that order."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match[1], len(names) + 1)}"

    text = re.sub(r"%\((\w+)\)s", number, statement).replace("%%", "%")
    # an enum as the driver would pass it
    values = (parameters[name] for name in names)
    return text, [str(value) if isinstance(value, str) else value for value in values]


#: The number of the next transaction; of the first one that is not purged; how many there are.
_PURGE = re.compile(
    r"Trx id counter (\d+)\nPurge done for trx's n:o < (\d+).*\nHistory list length (\d+)"
)
#: Seconds.
PATIENCE = 60.0


class MariaDB(Explainer):
    """The server counts the rows that the connection reads."""

    def __init__(self) -> None:
        self._read = 0

    def settle(self, engine: Engine) -> None:
        # until InnoDB purges entries of indexes that are no more, it looks at them
        first: int | None = None
        end = time.monotonic() + PATIENCE
        with engine.connect() as connection:
            while True:
                row = connection.exec_driver_sql("SHOW ENGINE INNODB STATUS").one()
                following, purged, left = map(int, _PURGE.findall(row[2])[0])
                connection.rollback()
                first = following if first is None else first
                if left == 0 or purged >= first:
                    return
                assert time.monotonic() < end, f"InnoDB has not purged in {PATIENCE} s"
                time.sleep(0.02)

    def before(self, connection: Any, statement: str, parameters: Any) -> list[Plan]:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN FORMAT=JSON " + statement, parameters)
            # the quotes in a condition are not escaped
            shown = _CONDITION.sub(r"\1\2", cursor.fetchone()[0])
        self._read = self._count(connection)
        # "index" is all of an index
        scanned = {
            table["table_name"]
            for table in _tables(json.loads(shown))
            if table.get("access_type") in ("ALL", "index")
        }
        return [Plan(shown, frozenset(scanned))]

    def after(self, connection: Any, plans: Sequence[Plan]) -> int:
        return self._count(connection) - self._read

    def _count(self, connection: Any) -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SHOW SESSION STATUS WHERE variable_name IN ('Rows_read', 'Handler_icp_attempts')"
            )
            return sum(int(value) for _, value in cursor.fetchall())


def _tables(plan: Any) -> Iterator[Mapping[str, Any]]:
    """The tables of a plan, however deep they are."""
    if isinstance(plan, dict):
        if "table_name" in plan:
            yield plan
        for part in plan.values():
            yield from _tables(part)
    elif isinstance(plan, list):
        for part in plan:
            yield from _tables(part)


class SQLite(Explainer):
    """The steps of its virtual machine are counted; a row that is looked at takes ten or so."""

    STEPS = 10

    def __init__(self) -> None:
        self._rows = 0

    def before(self, connection: Any, statement: str, parameters: Any) -> list[Plan]:
        lines = [
            row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)
        ]
        scanned = {line.split()[1] for line in lines if line.startswith("SCAN ")}
        self._rows = 0
        connection.set_progress_handler(self._step, self.STEPS)
        return [Plan("\n".join(lines), frozenset(scanned))]

    def _step(self) -> int:
        self._rows += 1
        return 0

    def after(self, connection: Any, plans: Sequence[Plan]) -> int:
        connection.set_progress_handler(None, 0)
        return self._rows


_EXPLAINERS: dict[str, Callable[[], Explainer]] = {
    "postgresql": PostgreSQL,
    "mysql": MariaDB,
    "sqlite": SQLite,
}
# a notification reads nothing
_CONDITION = re.compile(r'^(\s*"\w*condition": ").*(",?)$', re.MULTILINE)
_EXPLAINED = re.compile(r"\s*(SELECT(?! pg_notify)|INSERT|UPDATE|DELETE|WITH)\b")


@dataclass
class Watch:
    """A context manager: what is executed meanwhile, by all connections of an engine."""

    engine: Engine
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._explainer: Explainer = _EXPLAINERS[self.engine.dialect.name]()
        self._explainer.settle(self.engine)
        event.listen(self.engine, "before_cursor_execute", self._before)
        event.listen(self.engine, "after_cursor_execute", self._after)
        return self

    def __exit__(self, *exception: object) -> None:
        event.remove(self.engine, "before_cursor_execute", self._before)
        event.remove(self.engine, "after_cursor_execute", self._after)

    def of(self, *words: str) -> list[Seen]:
        """The statements with all of these words in them."""
        return [seen for seen in self.seen if all(word in seen.statement for word in words)]

    def _before(
        self, _: object, cursor: Any, statement: str, parameters: Any, __: object, many: bool
    ) -> None:
        self._plans: list[Plan] = []
        if _EXPLAINED.match(statement):
            self._plans = self._explainer.before(
                cursor.connection, statement, parameters[0] if many else parameters
            )

    def _after(
        self, _: object, cursor: Any, statement: str, parameters: Any, __: object, many: bool
    ) -> None:
        if self._plans:
            looked_at = self._explainer.after(cursor.connection, self._plans)
            times = len(parameters) if many else 1
            self.seen.append(Seen(statement, self._plans, times, looked_at))


def analyze(engine: Engine) -> None:
    """Bring the planner's statistics up to date."""
    tables = ", ".join(metadata.tables)
    statement = {
        "postgresql": f"VACUUM ANALYZE {tables}",
        "mysql": f"ANALYZE TABLE {tables}",
        "sqlite": "ANALYZE",
    }[engine.dialect.name]
    # not one of the pool's, which would come back with the server's isolation level
    own = sqlalchemy.create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with own.connect() as connection:
        result = connection.exec_driver_sql(statement)
        if result.returns_rows:
            result.all()
    own.dispose()


def numbers(count: int) -> tuple[Any, ColumnElement[int]]:
    """A table of the numbers below a count, and its column."""
    ten = [
        sqlalchemy.union_all(*(select(literal(i).label("n")) for i in range(10))).subquery()
        for _ in range(len(str(count - 1)))
    ]
    total: Any = sum((part.c.n * 10**i for i, part in enumerate(ten)), literal(0))
    # each with each: the condition is always true
    joined: Any = ten[0]
    for part in ten[1:]:
        joined = joined.join(part, part.c.n >= -ten[0].c.n)
    table = select(total.label("n")).select_from(joined).subquery()
    few = select(table.c.n).where(table.c.n < count).subquery()
    return few, few.c.n


def put(tx: Transaction, table: sqlalchemy.Table, source: Any, /, **values: Any) -> None:
    """Insert a row for each of a table of numbers."""
    columns = [
        value if isinstance(value, ColumnElement) else literal(value, table.c[name].type)
        for name, value in values.items()
    ]
    tx.execute(insert(table).from_select(list(values), select(*columns).select_from(source)))


def without_guess(watch: Watch, has_statistics: bool) -> list[Seen]:
    """What was seen; but MariaDB only steps through the primary key when it knows how few
    traversals there are, which it finds out by itself in some seconds."""
    guessed = [] if has_statistics else watch.of("DISTINCT", "traversal_id AS id")
    return [one for one in watch.seen if one not in guessed]


def check(big: Collection[str], seen: Sequence[Seen], most: int) -> None:
    """No statement reads a big table from end to end, or more rows than that."""
    bad = [str(one) for one in seen if one.scanned & set(big) or one.looked_at > most * one.times]
    assert not bad, "\n\n".join(bad)


@contextmanager
def filled_store(
    url: str, big: Iterable[str], fill: Callable[[Transaction], object]
) -> Iterator[converge.Store]:
    """A store of its own: what is deleted from one that others use would slow them down.

    :param big: tables in which there is so much that it matters whether there are statistics.
    """
    with converge.connect(url, create_schema=True) as store:
        with store.transaction() as tx:
            if tx.dialect == "postgresql":
                # whether there are statistics is for the tests to say
                for name in big:
                    tx.connection.exec_driver_sql(
                        f"ALTER TABLE {name} SET (autovacuum_enabled = off)"
                    )
            fill(tx)
        yield store
