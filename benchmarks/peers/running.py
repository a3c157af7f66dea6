"""Running the program of a peer: a session of processes, watched from outside.

What it did is read from its log of nodes: that each was done, and after those that it requires.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.graphs import Requires
from benchmarks.peers.common import VARIABLE, Case

ROOT = Path(__file__).resolve().parents[2]
#: Seconds between two looks at the memory of the processes.
_LOOK = 0.25
#: Seconds that a program may take to end when all is done.
_ENDS = 20.0
#: Seconds that a program may take until it hands the graph over.
_STARTS = 180.0


@dataclass(frozen=True, slots=True)
class Result:
    """:ivar seconds: from handing the graph over until it is known that all was done; of a process
        that was killed, from its death until another has done the next node.
    :ivar all_seconds: of a process that was killed, from its death until all was done.
    :ivar done: how many nodes were done; all, unless there is a reason.
    :ivar redone: how many were done more than once.
    :ivar memory: the most that all processes had at a time, in MB; shared pages in equal parts.
    :ivar reason: why there is no figure.
    """

    nodes: int
    seconds: float = 0.0
    all_seconds: float = 0.0
    done: int = 0
    redone: int = 0
    memory: float = 0.0
    reason: str = ""


class Failed(Exception):
    """The program did not do the case; the message says why, in one line."""


class Program:
    """The processes of one program, in a session of their own."""

    def __init__(self, python: Path, module: str, case: Path, errors: Path) -> None:
        self._errors = errors
        environment = os.environ | {"PYTHONPATH": str(ROOT), VARIABLE: str(case)}
        with errors.open("ab") as file:
            self._process = subprocess.Popen(
                [python, "-m", f"benchmarks.peers.{module}"],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
                cwd=case.parent,
                start_new_session=True,
            )
        self.memory = 0.0
        self._said: dict[str, float] = {}
        self._reason = ""
        self._changed = threading.Condition()
        self._over = False
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._listen, self._look)
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError, TypeError, KeyError):
                answer = json.loads(line)
                with self._changed:
                    if answer["what"] == "cannot":
                        self._reason = answer["reason"]
                    else:
                        self._said[answer["what"]] = answer["at"]
                    self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _look(self) -> None:
        while not self._over:
            used = sum(map(_memory, self._pids()))
            self.memory = max(self.memory, used)
            time.sleep(_LOOK)

    def await_word(self, what: str, seconds: float) -> float | None:
        """Wait until the program says something.

        :returns: when it did, None if it did not in so many seconds.
        :raises Failed: it ended without, or cannot do the case.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: what in self._said or self._reason or self._over, timeout=seconds
            )
            if self._reason:
                raise Failed(self._reason)
            if what not in self._said and self._over:
                raise Failed(self._last_error())
            return self._said.get(what)

    def _last_error(self) -> str:
        lines = [line.strip() for line in self._errors.read_text(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "it ended without a word")[:200]

    def _pids(self) -> Iterator[int]:
        """The processes of its session."""
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with suppress(OSError, IndexError):
                    text = Path(entry.path, "stat").read_text()
                    if int(text.rpartition(")")[2].split()[3]) == self._process.pid:
                        yield int(entry.name)

    def kill(self) -> None:
        """Kill all of its processes at once."""
        while pids := list(self._pids()):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(0.01)
        self._process.wait()

    def close(self) -> None:
        """If it has done all, let it end by itself; kill what is left."""
        if "ended" in self._said:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDS)
        self.kill()
        for thread in self._threads:
            thread.join()


def _memory(pid: int) -> float:
    """The memory of a process in MB, where it shares pages its part of them."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


# -- what the log says


def _read_log(case: Case) -> list[tuple[str, float]]:
    with suppress(FileNotFoundError):
        pairs = (line.split() for line in Path(case.log).read_text().splitlines())
        return [(name, float(at)) for name, at in pairs]
    return []


def _count_done(case: Case) -> int:
    return len({name for name, _ in _read_log(case)})


def check_order(requires: Requires, log: Sequence[tuple[str, float]]) -> None:
    """Look whether each node was done after those that it requires.

    :raises Failed: one was not.
    """
    first: dict[str, float] = {}
    for name, at in log:
        first.setdefault(name, at)
    for name, at in first.items():
        for one in requires[name]:
            if first.get(one, at + 1) > at:
                raise Failed(f"{name} was done before {one}, which it requires")


# -- cases


@contextmanager
def _files(case: Case) -> Iterator[tuple[Case, Path, Path]]:
    with tempfile.TemporaryDirectory(prefix="converge-peer-") as folder:
        own = replace(case, folder=folder, log=str(Path(folder, "log")))
        yield own, _write(own), Path(folder, "errors")


def _write(case: Case) -> Path:
    path = Path(case.folder, "case.json")
    path.write_text(json.dumps(asdict(case)))
    return path


def run(python: Path, module: str, case: Case, limit: float) -> Result:
    """Let a program do a graph.

    :param limit: seconds after which it is given up.
    """
    nodes = len(case.requires)
    with _files(case) as (own, path, errors):
        program = Program(python, module, path, errors)
        try:
            began = program.await_word("started", _STARTS)
            if began is None:
                return Result(nodes, reason=f"not started after {_STARTS:g} s")
            ended = program.await_word("ended", limit)
            done = _count_done(own)
            if ended is None:
                reason = f"{limit:g} s were over: {done:,} of {nodes:,} nodes done"
                return Result(nodes, done=done, memory=program.memory, reason=reason)
            log = _read_log(own)
            check_order(case.requires, log)
            if done != nodes:
                raise Failed(f"{done:,} of {nodes:,} nodes were done")
            return Result(nodes, ended - began, 0.0, done, len(log) - done, program.memory)
        except Failed as error:
            return Result(nodes, done=_count_done(own), reason=str(error))
        finally:
            program.close()


def recover(python: Path, module: str, case: Case, limit: float) -> Result:
    """Kill a program when half of the nodes are done, and start it again at once."""
    nodes = len(case.requires)
    with _files(case) as (own, path, errors):
        first = Program(python, module, path, errors)
        try:
            if first.await_word("started", _STARTS) is None:
                return Result(nodes, reason=f"not started after {_STARTS:g} s")
            give_up = time.monotonic() + limit
            while _count_done(own) < nodes // 2:
                if time.monotonic() > give_up:
                    return Result(nodes, reason=f"half of it took more than {limit:g} s")
                if first.await_word("ended", 0.02) is not None:
                    return Result(nodes, reason="it ended before it was killed")
        except Failed as error:
            return Result(nodes, reason=str(error))
        finally:
            first.close()
        killed = time.monotonic()
        before = {name for name, _ in _read_log(own)}
        _write(replace(own, resume=True))
        second = Program(python, module, path, errors)
        try:
            ended = second.await_word("ended", limit)
            log = _read_log(own)
            following = [at for name, at in log if name not in before]
            done = _count_done(own)
            if ended is None or done != nodes:
                reason = f"{limit:g} s after it, {done:,} of {nodes:,} nodes were done"
                return Result(nodes, done=done, reason=reason)
            if not following:
                return Result(nodes, done=done, reason="all of it was done before it was killed")
            check_order(case.requires, log)
            return Result(
                nodes,
                min(following) - killed,
                ended - killed,
                done,
                len(log) - done,
                second.memory,
            )
        except Failed as error:
            return Result(nodes, done=_count_done(own), reason=str(error))
        finally:
            second.close()


def measure_library(python: Path, name: str, nodes: int, edges: int) -> Mapping[str, float]:
    """Let a library for graphs build and order one.

    :raises Failed: it did not.
    """
    command = [str(python), "-m", "benchmarks.peers.graph_library", name, str(nodes), str(edges)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    found: dict[str, float] = json.loads(done.stdout)
    return found
