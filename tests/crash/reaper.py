"""How somebody dies at a crash point: in this process, or by SIGKILL in one of its own.

The processes that are killed are forked by a driver, which has one database. So nothing is
imported again, and no statement compiled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event, text

import converge
from converge.process import process_identity
from tests.dying import Reaper

ROOT = Path(__file__).resolve().parents[2]
#: Die at each time that a point is reached, which takes some minutes.
EVERY_HIT = os.environ.get("CONVERGE_TEST_CRASHES") == "all"
#: How a process ended that died where it was to.
KILLED = -signal.SIGKILL
#: How a connection takes a lock for as long as it lives.
HOLD = {
    "postgresql": "SELECT pg_advisory_lock_shared(86)",
    "mysql": "SELECT GET_LOCK(CONCAT('crash ', DATABASE()), 0)",
}
#: How others wait for that lock.
_WAIT = {
    "postgresql": ("SELECT pg_advisory_lock(86)", "SELECT pg_advisory_unlock(86)"),
    "mysql": (
        "SELECT GET_LOCK(CONCAT('crash ', DATABASE()), 30)",
        "SELECT RELEASE_LOCK(CONCAT('crash ', DATABASE()))",
    ),
}


def gone_identity() -> str:
    """The identity of a process of this host that is gone."""
    host, pid, started = process_identity().rsplit("/", 2)
    return f"{host}/{pid}/{int(started) - 1}"


def wait_for_dead(store: converge.Store) -> None:
    """Wait until a server has rolled back what a dead process had not committed."""
    statements = _WAIT.get(store.database.dialect)
    if statements is not None:
        with store.database.engine.connect() as connection:
            for statement in statements:
                assert connection.execute(text(statement)).scalar() != 0


# -- drivers -----------------------------------------------------------------


class Driver:
    """A driver, seen from the test.

    :param module: the name of one that calls :func:`serve` when it is run.
    :param url: of a database with converge's schema.
    """

    def __init__(self, module: str, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def play(self, point: str | None = None, hit: int = 1, **request: str) -> int:
        """Play something in a new process, which is killed at a crash point.

        :param point: None to play it to its end, in the process that the others are forked from.
        :param request: what to play.
        :returns: how the new process ended; 0 if there was none.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"point": point, "hit": hit, **request}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the driver."""
        with self._process:
            pass


def serve(url: str, play: Callable[..., None]) -> None:
    """Be a driver: for each line of JSON on the standard input play what it asks for. No
    connection is open when the driver forks, and no thread runs.

    :param play: given the store, and what :meth:`Driver.play` was given.
    """
    store = converge.connect(url)
    store.close()
    event.listen(store.database.engine, "connect", _prepare(store.database.dialect))
    for line in sys.stdin:
        print(_answer(store, play, **json.loads(line)), flush=True)


def _prepare(dialect: str) -> Any:
    def connect(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        if dialect == "sqlite":
            # only a machine that goes down makes a difference
            cursor.execute("PRAGMA synchronous = OFF")
        else:
            cursor.execute(HOLD[dialect])
        cursor.close()
        connection.commit()

    return connect


def _answer(
    store: converge.Store, play: Callable[..., None], point: str | None, hit: int, **request: str
) -> int:
    if point is None:
        play(store, **request)
        store.close()
        return 0
    child = os.fork()
    if child == 0:
        try:
            with Reaper(point, hit, lambda: os.kill(os.getpid(), signal.SIGKILL)).watching():
                play(store, **request)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
