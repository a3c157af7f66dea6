"""Runs of stories: undisturbed, and with a death in this process or in another one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

import converge
from converge.testing import FakeClock
from tests.crash.rows import Ending, Rows, compare, list_held, read_ending, read_rows
from tests.crash.story import STORIES, Died, Player, Reaper, make_orders
from tests.crash.world import World

ROOT = Path(__file__).parents[2]
#: The exit status of a process that died where it was to.
KILLED = 86
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


@dataclass(frozen=True, slots=True)
class Reference:
    """A story in which nobody dies but who has to.

    :ivar counts: how often each crash point is reached.
    """

    ending: Ending
    counts: Counter[str]


class Stage:
    """Where stories are played, each with a new world and on an empty store.

    :param open_store: gives the store for a clock.
    :param folder: where the worlds' files go.
    """

    def __init__(self, open_store: Callable[..., converge.Store], folder: Path) -> None:
        self._open_store = open_store
        self._folder = folder
        self._number = 0

    def enter(self) -> Player:
        """A player before the first step."""
        clock = FakeClock()
        store = self._open_store(clock)
        make_orders(store)
        self._number += 1
        return Player(store, World(self._folder / f"world {self._number}"), clock)

    def play_undisturbed(self, name: str) -> Reference:
        """Play a story to its end."""
        player = self.enter()
        reaper = Reaper()
        with reaper.watching():
            player.play(STORIES[name])
        return Reference(read_ending(player.store.database, player.world), reaper.counts)

    def play_with_death(self, name: str, point: str, hit: int, reference: Reference) -> list[str]:
        """Play a story in which one actor dies at a crash point; the others live on.

        :returns: what differs from the run without that death, and may not.
        """
        player = self.enter()
        seen: list[Rows] = []
        reaper = Reaper(point, hit, lambda: seen.append(read_rows(player.store.database)))
        with reaper.watching():
            number = _play_until_death(player, name, reaper)
        rows = read_rows(player.store.database)
        # what was not committed is not there, and the dead wrote nothing more
        differences = [] if seen == [rows] else ["rows were written after the death"]
        dead = player.bury()
        held = list_held(rows, [] if dead is None else [dead])
        return differences + _go_on(player, name, number, point, held, reference)

    def play_with_kill(
        self, driver: Driver, name: str, point: str, hit: int, reference: Reference
    ) -> list[str]:
        """Play a story in another process, which dies at a crash point with all actors.

        :returns: as :meth:`play_with_death`.
        """
        empty = self.enter()
        status = driver.play(name, empty.world.path, point, hit)
        assert status == KILLED, f"the process ended with {status}"
        wait_for_dead(empty.store)
        player = Player(empty.store, World(empty.world.path), empty.clock)
        rows = read_rows(player.store.database)
        held = list_held(rows, [row["id"] for row in rows["engine"]])
        return _go_on(player, name, int(player.world.note["step"]), point, held, reference)


def _play_until_death(player: Player, name: str, reaper: Reaper) -> int:
    """The number of the step in which it came."""
    for number, step in enumerate(STORIES[name]["steps"]):
        try:
            player.step(number, step)
        except Died:
            assert reaper.dying
        if reaper.dying:
            return number
    raise AssertionError(f"{reaper.point} is not reached {reaper.hit} times")


def _go_on(
    player: Player, name: str, number: int, point: str, held: Any, reference: Reference
) -> list[str]:
    called = list(player.world.calls)
    player.again(STORIES[name]["steps"][number], point)
    player.play(STORIES[name], number + 1)
    ending = read_ending(player.store.database, player.world)
    return compare(reference.ending, ending, held, called, player.world)


def wait_for_dead(store: converge.Store) -> None:
    """Wait until a server has rolled back what a dead process had not committed."""
    statements = _WAIT.get(store.database.dialect)
    if statements is not None:
        with store.database.engine.connect() as connection:
            for statement in statements:
                assert connection.execute(text(statement)).scalar() != 0


class Driver:
    """The process of ``driver.py`` for one database.

    :param url: of a database with converge's schema.
    """

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.driver", url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def play(self, name: str, world: Path, point: str | None = None, hit: int = 1) -> int:
        """Play a story in a new process, which dies at a crash point with all actors.

        :param point: None to play it to its end, in the process that the others are forked from.
        :returns: the exit status; 0 if there was no new process.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"story": name, "world": str(world), "point": point, "hit": hit}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        with self._process:
            pass
