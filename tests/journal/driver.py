"""Runs the programs of ``examples/pipeline.py`` in processes that are killed where they are told.

It has one database, and for each line of JSON on its standard input it forks; it answers with
how the child ended: minus the number of a signal, or its exit status. No connection is open when
it forks, and no thread runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from sqlalchemy import event

import converge
from converge import crash_points
from converge.journal import Journal
from examples import pipeline

ROOT = Path(__file__).resolve().parents[2]
#: Seconds; nobody waits for its end, as the dead are of this host.
LEASE = 3600.0
BEFORE_EFFECT = "effect.before"
AFTER_EFFECT = "effect.after"


class World(pipeline.World):
    """One whose effects have points before and after them."""

    def act(self, what: str, key: str) -> None:
        """Have an effect."""
        crash_points.hit(BEFORE_EFFECT)
        super().act(what, key)
        crash_points.hit(AFTER_EFFECT)


class Driver:
    """The process of this file, for one database.

    :param url: of a database with converge's schema.
    :ivar folder: where the effects are written, in a file for each scope; scopes of another
        folder are others.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.folder = Path()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.journal.driver", url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, scope: str, point: str | None = None, hit: int = 0) -> int:
        """Run a program in a new process.

        :param point: where it is killed; None for any.
        :param hit: at which time that this is reached; 0 for never.
        :returns: how the process ended.
        """
        name = f"{self.folder.parent.name} {self.folder.name} {scope}"
        request = {"program": program, "scope": name, "point": point, "hit": hit}
        request["path"] = str(self._path(scope))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def effects(self, scope: str) -> list[tuple[str, str]]:
        """What was done, and with which keys, in order."""
        return pipeline.World(self._path(scope)).effects()

    def close(self) -> None:
        """End the process."""
        with self._process:
            pass

    def _path(self, scope: str) -> Path:
        return self.folder / f"{scope}.log"


def main(url: str) -> None:
    """Answer requests until there are no more."""
    store = converge.connect(url)
    if store.database.dialect == "sqlite":
        event.listen(store.database.engine, "connect", _hurry)
    _warm_up(store)
    store.close()
    for line in sys.stdin:
        print(_answer(store, **json.loads(line)), flush=True)


def _warm_up(store: converge.Store) -> None:
    """Have all statements compiled, so that no child has to."""
    with Journal(store, lease=LEASE) as journal:
        for _ in range(2):
            with journal.scope("warm up") as scope, store.transaction() as tx:
                scope.step("a", int, transaction=tx)
            with journal.scope("warm up, too") as scope:
                list(scope.each("a", [1, 2]))
        for info in journal.scopes():
            journal.forget(info.name)


def _hurry(connection: Any, record: object) -> None:
    # only a machine that goes down makes a difference
    connection.execute("PRAGMA synchronous = OFF")


def _answer(store: converge.Store, point: str | None, hit: int, **request: Any) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        left = hit

        def kill(name: str) -> None:
            nonlocal left
            if point in (None, name):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        crash_points.hook = kill
        _run(store, **request)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _run(store: converge.Store, program: str, scope: str, path: str) -> None:
    world = World(Path(path))
    with Journal(store, lease=LEASE) as journal, journal.scope(scope) as taken:
        if program == "pipeline":
            pipeline.pipeline(taken, world)
        elif program == "evaluate":
            pipeline.evaluate_samples(taken, world, 1000)
        else:
            pipeline.store_samples(taken, store, 1000)


if __name__ == "__main__":
    main(sys.argv[1])
