"""Plays stories in processes that die at once at a crash point, as if by SIGKILL.

It has one database, and for each line of JSON on its standard input it forks; it answers with
the exit status of the child. So nothing is imported again, and no statement compiled. No
connection is open when it forks, and no thread runs.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from sqlalchemy import event

import converge
from converge.testing import FakeClock
from tests.crash.deaths import HOLD, KILLED
from tests.crash.story import STORIES, Player, Reaper
from tests.crash.world import World


def main(url: str) -> None:
    """Answer requests until there are no more."""
    store = converge.connect(url)
    store.close()
    event.listen(store.database.engine, "connect", _prepare(store.database.dialect))
    for line in sys.stdin:
        print(_answer(store, **json.loads(line)), flush=True)


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


def _answer(store: converge.Store, story: str, world: str, point: str | None, hit: int) -> int:
    if point is None:
        _play(store, story, world, Reaper())
        store.close()
        return 0
    child = os.fork()
    if child == 0:
        try:
            _play(store, story, world, Reaper(point, hit, lambda: os._exit(KILLED)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _play(store: converge.Store, story: str, world: str, reaper: Reaper) -> None:
    clock = store.database.clock = FakeClock()
    with reaper.watching():
        Player(store, World(Path(world)), clock).play(STORIES[story])


if __name__ == "__main__":
    main(sys.argv[1])
