"""An engine whose handlers are ``async def`` is killed: while they wait on its event loop, and at
the commits that they wait for. (The stories have such handlers, too, each on a loop of its own.)"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import converge
from converge import crash_points
from converge.crash_points import Commit
from tests import forked
from tests.crash.reaper import wait_for_dead
from tests.crash.world import World
from tests.dying import Reaper
from tests.templates import several
from tests.waiting import WAIT

OpenStore = Callable[..., converge.Store]
#: Where it dies, and how often the step is then done, of which nothing is known.
POINTS = {
    crash_points.BEFORE_CALL: 1,
    Commit.RECORD.before: 1,
    Commit.RECORD.after: 1,
    Commit.STEP.before: 2,
    Commit.STEP.after: 1,
    crash_points.AFTER_CALL: 1,
    Commit.COMPLETE.before: 1,
    Commit.COMPLETE.after: 1,
}


class Made(converge.ResourceType):
    """Makes a thing, records it, does a step, and waits for ever, if there is somebody to tell."""

    def __init__(self, world: World, told: Connection | None = None) -> None:
        self.world = world
        self.told = told

    async def create(self, context: converge.AsyncContext, properties: Any) -> converge.Physical:
        thing = self.world.create(context.plain, properties)
        await context.record(thing)
        await context.step("tell", self.tell, context.plain, thing)
        if self.told is not None:
            self.told.send(context.name)
            await asyncio.Event().wait()
        return converge.Physical(thing)

    async def tell(self, context: converge.Context, thing: str) -> None:
        await asyncio.sleep(0)
        self.world.call("tell", context, id=thing)

    async def find(self, context: converge.AsyncContext) -> converge.Physical | None:
        thing = self.world.find(context.token)
        return None if thing is None else converge.Physical(thing)

    async def delete(self, context: converge.AsyncContext, physical_id: str) -> None:
        self.world.delete(context.plain, physical_id)


def work(url: str, path: str, point: str | None, told: Connection | None) -> None:
    """Be an engine, until somebody kills this process."""
    crash_points.hook = Reaper(point, 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    converge.Engine(converge.connect(url), {"made": Made(World(Path(path)), told)}).start()
    threading.Event().wait()


def kill_one(
    store: converge.Store, path: Path, count: int, point: str | None
) -> tuple[converge.Stack, World]:
    """Have an engine die in the middle of a create, and another one do the rest."""
    stack = store.create_stack("s", several("made", count))
    ours, theirs = Pipe(duplex=False)
    url = store.database.url.render_as_string(hide_password=False)
    child = forked.process(work, url, str(path), point, None if point else theirs)
    child.start()
    if point is None:
        for _ in range(count):
            assert ours.poll(WAIT)
            ours.recv()
        child.kill()
    child.join(WAIT)
    assert child.exitcode == -signal.SIGKILL
    wait_for_dead(store)
    world = World(path)
    with converge.Engine(store, {"made": Made(world)}):
        stack.wait(timeout=WAIT)
    return stack, world


def check(stack: converge.Stack, world: World, count: int) -> Counter[str]:
    """Each thing was made, with one token.

    :returns: how often the step of each was done.
    """
    assert (stack.status, stack.reason) == ("COMPLETE", None)
    names = sorted(f"r{number}" for number in range(count))
    assert set(world.things) == {f"{name}.0" for name in names}
    made = {(call.name, call.token) for call in world.calls if call.verb == "create"}
    assert sorted(name for name, _ in made) == names
    return Counter(call.name for call in world.calls if call.verb == "tell")


def test_it_is_killed_while_handlers_wait(fresh_store: OpenStore, tmp_path: Path) -> None:
    count = 20
    stack, world = kill_one(fresh_store(), tmp_path / "world", count, None)
    # what was recorded is not done again
    assert set(check(stack, world, count).values()) == {1}


@pytest.mark.parametrize("point", POINTS)
def test_it_is_killed_at_a_commit(fresh_store: OpenStore, tmp_path: Path, point: str) -> None:
    stack, world = kill_one(fresh_store(), tmp_path / "world", 1, point)
    assert check(stack, world, 1) == {"r0": POINTS[point]}
