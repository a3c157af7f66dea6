"""Runs of stories: undisturbed, and with a death in this process or in another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import converge
from converge.testing import FakeClock
from tests.crash.reaper import KILLED, Driver, wait_for_dead
from tests.crash.rows import Ending, Rows, compare, list_held, read_ending, read_rows
from tests.crash.story import STORIES, Player, make_orders
from tests.crash.world import World
from tests.dying import Died, Reaper


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
        status = driver.play(point, hit, story=name, world=str(empty.world.path))
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
