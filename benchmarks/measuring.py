"""What the benchmarks share: the server that they need, turns, and how figures are told.

It imports nothing of converge, so that it can measure another one than that of its folder.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any, NoReturn

import psycopg
import sqlalchemy
from sqlalchemy import make_url
from sqlalchemy.engine import URL

DEFAULT_URL = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
VARIABLE = "CONVERGE_TEST_POSTGRESQL"


def fail(message: str) -> NoReturn:
    """End with status 2: something is not as it must be to be measured."""
    print(f"benchmarks/{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(2)


# -- the server


def read_url(text: str) -> URL:
    """The URL of a database of the server, with the driver that is measured."""
    try:
        url = make_url(text)
    except sqlalchemy.exc.ArgumentError as error:
        fail(str(error))
    if url.drivername != "postgresql+psycopg":
        fail(f"{url.render_as_string()} is not PostgreSQL with psycopg, which is measured")
    return url


def connect_raw(url: URL) -> psycopg.Connection[Any]:
    """A plain psycopg connection."""
    dialect = url.get_dialect()()
    arguments, options = dialect.create_connect_args(url)
    try:
        return psycopg.connect(*arguments, **{"connect_timeout": 5, **options})
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[0]
        fail(f"{url.render_as_string()}: {reason} (name another with --url or {VARIABLE})")


@contextmanager
def own_database(url: URL, suffix: str = "") -> Iterator[URL]:
    """A new database, dropped at the end whatever happens.

    :param suffix: of its name, where there is more than one at a time.
    """
    name = f"converge_bench_{os.getpid()}{suffix}"

    def execute(statement: str) -> None:
        with connect_raw(url) as connection:
            connection.autocommit = True
            connection.execute(statement.encode())

    try:
        execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    except psycopg.Error as error:
        fail(f"{url.render_as_string()}: cannot create the database {name}: {error}")
    try:
        yield url.set(database=name)
    finally:
        execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def surroundings(url: URL, *settings: str) -> str:
    """What the figures are of, to be printed above them. Ends with status 2 if the server's
    commits are not durable.

    :param settings: names of settings of the server that are to be shown.
    """
    with connect_raw(url) as connection:

        def setting(name: str) -> str:
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            assert row is not None
            return str(row[0])

        for name in ("fsync", "synchronous_commit"):
            if setting(name) == "off":
                fail(f"{name} is off at {url.render_as_string()}: its commits are not durable")
        shown = ", ".join(f"{name} {setting(name)}" for name in settings)
        return (
            f"PostgreSQL {setting('server_version').split()[0]}{shown and f' ({shown})'},"
            f" Python {sys.version.split()[0]}, SQLAlchemy {sqlalchemy.__version__},"
            f" psycopg {psycopg.__version__}; {os.cpu_count()} CPUs, {load()}"
        )


def load() -> str:
    """What else the machine has had to do lately."""
    return f"load average {listed(os.getloadavg())}"


# -- turns


def take_turns(
    times: int, *functions: Callable[[int], object], prepare: Callable[[int], object] | None = None
) -> list[list[float]]:
    """Call functions in turns, and take the seconds of each call.

    :param prepare: called before each turn of all of them, unmeasured.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for number in range(times):
        if prepare is not None:
            prepare(number)
        # each goes first in turn
        for place in range(len(functions)):
            which = (number + place) % len(functions)
            begin = time.perf_counter()
            functions[which](number)
            seconds[which].append(time.perf_counter() - begin)
    return seconds


# -- what is printed


def microseconds(rounds: Sequence[Sequence[float]], share: int = 1) -> str:
    """Mean and median of all calls of all rounds.

    :param rounds: in seconds.
    :param share: how many things each call did, of which one is told.
    """
    every = [one / share for taken in rounds for one in taken]
    return f"{mean(every) * 1e6:,.0f} µs (median {median(every) * 1e6:,.0f})"


def listed(values: Sequence[float], digits: int = 2) -> str:
    """The rounds, for those who want to see the noise."""
    return ", ".join(f"{value:.{digits}f}" for value in values)


def verdict(what: str, ratios: Sequence[float], *, least: float = 0.0, most: float = 0.0) -> None:
    """Print the median of a ratio's rounds, beside its target if it has one."""
    value = median(ratios)
    if least or most:
        wanted = f"wanted: at least {least:g}" if least else f"wanted: at most {most:g}"
        met = value >= least if least else value <= most
        wanted += ": met" if met else ": NOT MET"
    else:
        wanted = "no target"
    print(f"{what}: {value:.2f} (rounds: {listed(ratios)}; {wanted})")
