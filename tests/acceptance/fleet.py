"""Engines as processes: to start, stop, continue, kill and cut off, and to look at from outside."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import NullPool, create_engine, make_url

from tests import forked
from tests.acceptance import witness

T = TypeVar("T")

#: For tests that SQLite is not for: it has no connections to cut, and no locks of rows.
ON_SERVERS = pytest.mark.parametrize(
    "database",
    [
        pytest.param(name, marks=[pytest.mark.database, getattr(pytest.mark, name)])
        for name in ("postgresql", "mariadb")
    ],
    indirect=True,
)

#: Seconds after which what should have happened long ago is a failure.
LIMIT = 60.0


def wait_for(look: Callable[[], T], what: str, limit: float = LIMIT) -> T:
    """Look again and again, until there is something to be seen; what that is."""
    end = time.monotonic() + limit
    while not (found := look()):
        assert time.monotonic() < end, f"no sign of this for {limit:g} s: {what}"
        time.sleep(0.02)
    return found


class Process:
    """A process with one engine.

    :ivar orders: how it runs its engine.
    """

    def __init__(self, orders: witness.Orders) -> None:
        self.orders = orders
        self._process = forked.process(witness.main, orders)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def log(self) -> str:
        """What it has logged."""
        path = self.orders.folder / f"{self.pid}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def said(self, what: str) -> list[witness.Line]:
        """Its lines of this sort."""
        lines = witness.read(self.orders.folder / "world")
        return [line for line in lines if line.pid == self.pid and line.what == what]

    def wait(self, what: str) -> None:
        """Wait until it says something."""
        wait_for(lambda: self.said(what) or not self.is_alive, f"{self.orders} says {what!r}")
        assert self.said(what), f"it has ended without a word: {self.log}"

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def freeze(self) -> None:
        """Let it stop itself, between two transactions, at the place where it waits for that."""
        self.send(witness.FREEZE)
        self._wait_until_stopped()

    def stop(self) -> None:
        """Stop it wherever it is."""
        self.send(signal.SIGSTOP)
        self._wait_until_stopped()

    def go_on(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.join(LIMIT)

    def end(self) -> int | None:
        """Let it end in order; its exit status."""
        self.send(witness.END)
        self._process.join(LIMIT)
        return self._process.exitcode

    def _wait_until_stopped(self) -> None:
        stat = Path(f"/proc/{self.pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "a stopped process")


class Fleet:
    """The processes of a test; as a context manager, it leaves none.

    :param orders: what their own orders begin with.
    """

    def __init__(self, orders: witness.Orders) -> None:
        self.orders = orders
        self.processes: list[Process] = []

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            process.kill()

    def start(self, **orders: object) -> Process:
        """Start one more."""
        process = Process(replace(self.orders, **orders))  # type: ignore[arg-type]
        self.processes.append(process)
        return process

    def lines(self) -> list[witness.Line]:
        """What all of them told."""
        return witness.read(self.orders.folder / "world")


class Cutter:
    """Cuts the connections of a database from the server's side."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(
            make_url(url), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )

    def cut(self) -> int:
        """Cut all others than this one; how many there were."""
        with self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                cut = connection.exec_driver_sql(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                return int(cut.scalar_one())
            others = connection.exec_driver_sql(
                "SELECT id FROM information_schema.processlist"
                " WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            ).scalars()
            count = 0
            for other in others.all():
                # one that is gone meanwhile is no error
                connection.exec_driver_sql(
                    "BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END;"
                    f" KILL CONNECTION {int(other)}; END"
                )
                count += 1
            return count
