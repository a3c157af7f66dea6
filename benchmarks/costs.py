"""What a run costs, in what is steadier than time: processor seconds, row versions, bytes of WAL.

All are the server's own counts. The WAL is that of the whole server, so nobody else should write
meanwhile; the transactions that wrote, of the whole server too, show whether somebody did.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from sqlalchemy.engine import URL

from benchmarks.measuring import connect_raw

#: Seconds in which a backend whose connection is closed has ended.
_ENDS = 2.0


@dataclass(frozen=True, slots=True)
class Cost:
    """:ivar process: processor seconds of this process.
    :ivar server: those of the database's backends; None if they run on another machine.
    :ivar wal: bytes of WAL.
    :ivar inserted: rows, those of the start as well; likewise the next three.
    :ivar hot: updates that wrote no index.
    :ivar dead: row versions that nothing had removed at the end.
    :ivar transactions: that wrote, of the whole server.
    """

    process: float
    server: float | None
    wal: int
    inserted: int
    updated: int
    hot: int
    deleted: int
    dead: int
    transactions: int


class Meter:
    """:param url: the database whose backends and tables are looked at; nothing else uses it.
    :param tables: what the names of the tables begin with whose rows are counted.
    :param disconnect: closes idle connections of what is measured: a backend tells the server's
        statistics at its end what it has done.
    """

    def __init__(self, url: URL, tables: str, disconnect: Callable[[], None]) -> None:
        self._tables = tables
        self._disconnect = disconnect
        self._connection = connect_raw(url)
        self._connection.autocommit = True
        self._staying: set[int] = set()

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def prepare(self) -> None:
        """Call it before the start."""
        before = _list_pids(self._connection)
        self._rows = self._read_rows()
        # an engine keeps one for its lease; one that has come meanwhile is to end as all others do
        self._staying = before & _list_pids(self._connection)

    def begin(self) -> None:
        """Call it when the start is committed."""
        self._backends = read_backends(self._connection)
        self._server = self._read_server()
        self._process = time.process_time()

    def end(self) -> Cost:
        """Call it at the end of the run."""
        process = time.process_time() - self._process
        wal, transactions = self._read_server()
        backends = read_backends(self._connection)
        inserted, updated, hot, deleted, dead = self._read_rows()
        return Cost(
            process=process,
            server=sum(taken - self._backends.get(pid, 0.0) for pid, taken in backends.items())
            if backends
            else None,
            wal=wal - self._server[0],
            inserted=inserted - self._rows[0],
            updated=updated - self._rows[1],
            hot=hot - self._rows[2],
            deleted=deleted - self._rows[3],
            dead=dead,
            transactions=transactions - self._server[1],
        )

    def _read_server(self) -> tuple[int, int]:
        query = (
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint,"
            " pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        )
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return row[0], row[1]

    def _read_rows(self) -> tuple[int, int, int, int, int]:
        ending = _list_pids(self._connection) - self._staying
        self._disconnect()
        limit = time.monotonic() + _ENDS
        # one that was in use comes back into a cycle of objects, and ends when that is collected
        while ending & _list_pids(self._connection) and time.monotonic() < limit:
            gc.collect()
            time.sleep(0.01)
        query = (
            "SELECT sum(n_tup_ins)::bigint, sum(n_tup_upd)::bigint, sum(n_tup_hot_upd)::bigint,"
            " sum(n_tup_del)::bigint, sum(n_dead_tup)::bigint FROM pg_stat_user_tables"
            " WHERE starts_with(relname, %s)"
        )
        row = self._connection.execute(query, (self._tables,)).fetchone()
        assert row is not None
        return row[0], row[1], row[2], row[3], row[4]


def _list_pids(connection: psycopg.Connection[Any]) -> set[int]:
    query = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    return {pid for (pid,) in connection.execute(query)}


def read_backends(connection: psycopg.Connection[Any]) -> Mapping[int, float]:
    """The processor seconds of the other backends of a connection's database by their process ids;
    none if the server runs on another machine."""
    pids = _list_pids(connection)
    return {pid: taken for pid in pids if (taken := processor_seconds(f"{pid}")) is not None}


def processor_seconds(path: str) -> float | None:
    """What a process with one thread, or a thread, of this machine has computed; None if there is
    none.

    :param path: its folder in ``/proc``.
    """
    try:
        return int(Path("/proc", path, "schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return None


def core_share(seconds: float = 0.3) -> float:
    """How much of a core somebody gets who computes, between 0 and 1: less than nearly 1 if others
    compute, too."""
    begin, computed = time.perf_counter(), time.thread_time()
    while (taken := time.perf_counter() - begin) < seconds:
        pass
    return (time.thread_time() - computed) / taken


def per_node(nodes: int, costs: Sequence[Cost]) -> dict[str, str]:
    """What a node costs, medians of some runs: what → how much."""

    def each(value: Callable[[Cost], float]) -> float:
        return median(value(cost) for cost in costs) / nodes

    far = any(cost.server is None for cost in costs)
    server = "not seen" if far else f"{each(lambda cost: cost.server or 0.0) * 1e6:.0f}"
    return {
        "processor of the process, µs": f"{each(lambda cost: cost.process) * 1e6:.0f}",
        "processor of the server, µs": server,
        "WAL, bytes": f"{each(lambda cost: cost.wal):,.0f}",
        "rows inserted, with the start": f"{each(lambda cost: cost.inserted):.2f}",
        "rows updated": f"{each(lambda cost: cost.updated):.2f}",
        "of them in place": f"{each(lambda cost: cost.hot):.2f}",
        "rows deleted": f"{each(lambda cost: cost.deleted):.2f}",
        "dead at the end": f"{each(lambda cost: cost.dead):.2f}",
    }


def print_costs(what: str, nodes: int, costs: Sequence[Cost]) -> None:
    """Print what a node costs."""
    each = ", ".join(f"{name}: {text}" for name, text in per_node(nodes, costs).items())
    written = median(cost.transactions for cost in costs)
    print(f"  {what}: {each}; {written:.0f} transactions on the server wrote")
