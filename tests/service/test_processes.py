"""A parent and its processes: who is started again, who is told what, and who outlives whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.service.processes import PAUSE_FIRST, PAUSE_MOST, pause

#: Each child says its number and pid on stdout, and ends as the test says.
CHILD = """
import os, signal, sys
from converge.service import lifeline
# a handler could be called just before a wait for it begins
ends = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, ends)
number = lifeline.hold()
os.write(1, b"%d %d\\n" % (number, os.getpid()))
if "wrong" in sys.argv:
    os._exit(2)
if "done" in sys.argv:
    os._exit(0)
if signal.sigwait(ends) == signal.SIGTERM:
    os.write(1, b"stopped %d\\n" % os.getpid())
os._exit(0)
"""
PARENT = """
import logging, sys
from converge.service.processes import Processes
logging.basicConfig(level=logging.ERROR)
def check():
    if "refuse" in sys.argv:
        raise ValueError("the file is wrong")
child = [sys.executable, "-c", sys.argv[1], *sys.argv[2:]]
sys.exit(Processes(2, child, check=check).run())
"""


class Parent:
    """A parent of two, as a process of its own."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, CHILD, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(converge.__file__).parents[1])},
        )

    def line(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def children(self, count: int = 2) -> dict[int, int]:
        """The next children that begin: pid by number."""
        found = [self.line() for _ in range(count)]
        return {int(number): int(pid) for number, pid in found}

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def begin() -> Iterator[Any]:
    parents: list[Parent] = []

    def begin(*words: str) -> Parent:
        parents.append(Parent(*words))
        return parents[-1]

    yield begin
    for one in parents:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def test_the_pause_grows_up_to_a_limit() -> None:
    assert [pause(deaths) for deaths in (1, 2, 3)] == [
        PAUSE_FIRST,
        2 * PAUSE_FIRST,
        4 * PAUSE_FIRST,
    ]
    assert pause(8) == pause(10_000) == PAUSE_MOST


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_parent_stops_all(number: signal.Signals, status: int, begin: Any) -> None:
    parent = begin()
    pids = parent.children()
    assert pids.keys() == {0, 1}
    parent.process.send_signal(number)
    code, out, _ = parent.end()
    assert code == status
    if number is signal.SIGTERM:
        assert sorted(out.split()) == sorted(["stopped", "stopped", *map(str, pids.values())])


def test_one_that_was_killed_is_started_again(begin: Any) -> None:
    parent = begin()
    pids = parent.children()
    os.kill(pids[1], signal.SIGKILL)
    (again,) = parent.children(1).items()
    assert again[0] == 1
    assert again[1] not in pids.values()
    parent.process.terminate()
    code, _, err = parent.end()
    assert code == 143
    assert "process 1, pid" in err
    assert "ended with signal 9; it is started again in 0.5 s" in err


def test_none_outlives_a_parent_that_is_killed(begin: Any) -> None:
    parent = begin()
    pids = parent.children()
    parent.process.kill()
    # the end of their stdout: both are gone
    _, out, _ = parent.end()
    assert {line.split()[-1] for line in out.splitlines()} == {str(pid) for pid in pids.values()}


def test_children_that_are_done_are_not_started_again(begin: Any) -> None:
    assert begin("done").end()[0] == 0


def test_children_that_are_wrongly_called_are_not_started_again(begin: Any) -> None:
    code, out, _ = begin("wrong").end()
    assert code == 2
    assert len([line for line in out.splitlines() if "stopped" not in line]) <= 2


def test_a_hangup_replaces_the_children(begin: Any) -> None:
    parent = begin()
    before = parent.children()
    parent.process.send_signal(signal.SIGHUP)
    lines = [parent.line() for _ in range(4)]
    stopped = {int(pid) for word, pid in lines if word == "stopped"}
    after = {int(pid) for word, pid in lines if word != "stopped"}
    assert stopped == set(before.values())
    assert not after & stopped
    parent.process.terminate()
    assert parent.end()[0] == 143


def test_a_hangup_changes_nothing_if_the_new_ones_could_not_start(begin: Any) -> None:
    parent = begin("refuse")
    pids = parent.children()
    parent.process.send_signal(signal.SIGHUP)
    assert "nothing is reloaded: the file is wrong" in parent.process.stderr.readline()
    parent.process.terminate()
    code, out, _ = parent.end()
    assert (code, out.count("stopped")) == (143, len(pids))
