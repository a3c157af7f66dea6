"""The trigger of ``examples/trigger.py``: both events, in any order, again and again, to several
processes at once, which are killed; each thing is reported once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import converge
from converge.errors import IllegalEvent
from examples.trigger import EVENTS, TABLES, TIMEOUT, Trigger
from tests.backends import Backend
from tests.machine.listener import Listeners
from tests.machine.place import Place

ROOT = Path(__file__).resolve().parents[2]
#: How many things; on the servers fewer, to which each statement travels.
KEYS = {"sqlite": 10_000, "postgresql": 2_000, "mariadb": 2_000}
LISTENERS = 3
#: Seconds to wait for processes on a busy machine.
PATIENCE = 250.0


@pytest.fixture
def listeners(database_url: str) -> Iterator[Listeners]:
    store = converge.connect(database_url)
    TABLES.create_all(store.database.engine)
    store.close()
    found = Listeners(database_url)
    yield found
    found.close()
    TABLES.drop_all(store.database.engine)
    store.close()


@pytest.fixture
def trigger(place: Place) -> Iterator[Trigger]:
    """One in this process, on a clock that stands still."""
    TABLES.create_all(place.store.database.engine)
    found = Trigger(place.store)
    yield found
    found.machine.close()
    TABLES.drop_all(place.store.database.engine)


def write(folder: Path, events: Sequence[str], dice: random.Random) -> list[Path]:
    """A file for each listener: all of these events, in an order of its own."""
    files = []
    for number in range(LISTENERS):
        path = folder / f"{dice.random()} {number}"
        shuffled = dice.sample(events, len(events))
        path.write_text("".join(f"{one}\n" for one in shuffled), encoding="utf-8")
        files.append(path)
    return files


def wait_until(condition: Callable[[], bool]) -> None:
    """Look at other processes' work until it has come so far."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.timeout(300)
def test_each_thing_is_reported_once_whoever_hears_of_it_and_dies(
    database: Backend, database_url: str, listeners: Listeners, tmp_path: Path
) -> None:
    dice = random.Random(17)
    names = [f"thing-{number}" for number in range(KEYS[database.name])]
    first = [f"{name}.{dice.choice(EVENTS)}" for name in names]
    both = [f"{name}.{event}" for name in names for event in EVENTS]
    with converge.connect(database_url) as store:
        trigger = Trigger(store)

        # every listener hears of one event of each thing; then the service goes down
        started = listeners.begin(*write(tmp_path, first, dice))
        listeners.wait(LISTENERS)
        listeners.kill(*started)
        assert trigger.reports() == Counter()
        states = Counter(one.state for one in trigger.machine.instances(limit=len(names) + 1))
        assert set(states) == {"started", "ended"}
        assert sum(states.values()) == len(names)

        # when it is up again, all of them hear of both; one dies in the midst of it
        started = listeners.begin(*write(tmp_path, both, dice))
        wait_until(lambda: len(trigger.reports()) > len(names) // 10)
        listeners.kill(started[0])
        listeners.wait(LISTENERS - 1)
        wait_until(lambda: len(trigger.reports()) == len(names))
        # nobody reports what was reported already
        assert trigger.machine.sweep() == 0
        assert trigger.reports() == Counter((name, "complete") for name in names)
        for name in names[:: len(names) // 100]:
            moves = trigger.machine.history(name)
            assert sorted(one.event for one in moves) == sorted(EVENTS)
            assert [one.action for one in moves] == ["NONE", "DONE"]


def test_a_thing_of_which_one_event_is_heard_is_late_after_a_restart_as_well(
    place: Place, trigger: Trigger
) -> None:
    assert trigger.hear(["a.start", "b.end", "c.start", "c.end", "c.end", ""]) == 4
    place.clock.advance(TIMEOUT - 1)
    assert trigger.machine.sweep() == 0
    trigger.machine.close()
    place.clock.advance(1)
    again = Trigger(place.store)
    assert again.machine.sweep() == 4  # two timeouts, and their actions
    assert again.machine.sweep() == 0
    assert again.reports() == Counter([("a", "late"), ("b", "late"), ("c", "complete")])
    with pytest.raises(IllegalEvent, match="in state 'late' event 'end' does nothing"):
        again.machine.fire("a", "end")
    again.machine.close()


def test_the_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "trigger.py"), "listen"],
        input="a.end\nb.start\na.start\na.start\n",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("3 events were news\n", "")
