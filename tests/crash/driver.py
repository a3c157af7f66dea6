"""A driver that plays stories; who is killed dies with all actors."""

from __future__ import annotations

import sys
from pathlib import Path

import converge
from converge.testing import FakeClock
from tests.crash.reaper import serve
from tests.crash.story import STORIES, Player
from tests.crash.world import World


def play(store: converge.Store, story: str, world: str) -> None:
    """Play a story."""
    clock = store.database.clock = FakeClock()
    Player(store, World(Path(world)), clock).play(STORIES[story])


if __name__ == "__main__":
    serve(sys.argv[1], play)
