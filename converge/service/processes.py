"""Several processes of the same program, and a parent that looks after them.

Each child is the same command again, as a new Python: nothing is forked with threads in it. A child
that dies is started again, after a pause that grows while it keeps dying. Children have a process
group each, so a Ctrl-C reaches them once, through the parent.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from converge.service import lifeline

LOG = logging.getLogger(__name__)

#: Seconds until a child that died is started again: at first, and at most.
PAUSE_FIRST = 0.5
PAUSE_MOST = 60.0
#: A child that lived for so many seconds died of something else than the one before.
STEADY = 60.0
#: Of a child that was wrongly called: EX_USAGE of converge.
WRONG = 2
_TOLD = (signal.SIGTERM, signal.SIGINT)


def pause(deaths: int) -> float:
    """Seconds until a child that died is started again.

    :param deaths: how often in a row it died soon.
    """
    return min(PAUSE_MOST, PAUSE_FIRST * 2.0 ** min(deaths - 1, 20))


@dataclass(slots=True)
class _Child:
    """One place among the children.

    :ivar deaths: how often in a row the one in it died soon.
    :ivar due: when it is started again, on the monotonic clock.
    :ivar leaving: those that were in it before, and are stopping for a reload.
    """

    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    due: float | None = 0.0
    leaving: list[subprocess.Popen[bytes]] = field(default_factory=list)


class Processes:
    """Runs children until they have ended.

    :param count: how many.
    :param command: what each is.
    :param environment: of each, besides this process's.
    :param check: called before children are replaced at SIGHUP; raises if they could not start.
    :param on_death: called with the pid of each child that has ended.
    """

    def __init__(
        self,
        count: int,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        check: Callable[[], object] = lambda: None,
        on_death: Callable[[int], object] = lambda pid: None,
    ) -> None:
        self._command = [sys.executable, *sys.orig_argv[1:]] if command is None else list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._children = [_Child(number) for number in range(count)]
        self._check = check
        self._on_death = on_death
        # SimpleQueue.put may be called in a signal handler
        self._news: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._told: int | None = None
        self._reader, self._writer = os.pipe()

    @property
    def is_stopping(self) -> bool:
        """Whether they were told to stop."""
        return self._told is not None

    def run(self) -> int:
        """Start the children, and wait until they have ended: because they were told to by a
        signal to this process, or because they were done.

        :returns: the exit status: 0 all were done, 2 they cannot start, 130 and 143 after SIGINT
            and SIGTERM.
        """
        numbers = (*_TOLD, signal.SIGHUP)
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            while True:
                if self._told is None:
                    self._start_due()
                if not any(self._all()) and (
                    self._told is not None or all(one.due is None for one in self._children)
                ):
                    break
                self._wait()
                status = self._reap()
                if status is not None:
                    self._tell(signal.SIGTERM)
                    return status
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            # children that were not told see that
            os.close(self._writer)
            os.close(self._reader)
            for process in self._all():
                process.wait()
        return 0 if self._told is None else 128 + self._told

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._news.put(number)

    def _all(self) -> list[subprocess.Popen[bytes]]:
        found = [one.process for one in self._children if one.process is not None]
        return found + [process for one in self._children for process in one.leaving]

    def _start_due(self) -> None:
        for child in self._children:
            if child.due is not None and child.due <= time.monotonic():
                self._start(child)

    def _start(self, child: _Child) -> None:
        environment = {
            **self._environment,
            lifeline.VARIABLE: lifeline.value(child.number, self._reader),
        }
        child.due = None
        child.started = time.monotonic()
        child.process = process = subprocess.Popen(
            self._command, env=environment, pass_fds=[self._reader], process_group=0
        )
        threading.Thread(target=self._await, args=[process], daemon=True).start()
        LOG.info("process %s runs as pid %s", child.number, process.pid)

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._news.put(None)

    def _wait(self) -> None:
        """Wait for a signal, the end of a child, or the time to start one."""
        dues = [one.due for one in self._children if one.due is not None and self._told is None]
        left = max(0.0, min(dues) - time.monotonic()) if dues else None
        try:
            number = self._news.get(timeout=left)
        except queue.Empty:
            return
        if number == signal.SIGHUP:
            self._replace()
        elif number is not None:
            self._told = self._told or number
            self._tell(number)

    def _tell(self, number: int) -> None:
        for process in self._all():
            process.send_signal(number)

    def _replace(self) -> None:
        """Start new children, which read the configuration, and let the old ones finish."""
        if self._told is not None:
            return
        try:
            self._check()
        except Exception as error:
            LOG.error("nothing is reloaded: %s", error)
            return
        for child in self._children:
            old = child.process
            self._start(child)
            if old is not None:
                child.leaving.append(old)
                old.terminate()

    def _reap(self) -> int | None:
        """Note which children have ended, and plan to start those that died.

        :returns: the exit status if they cannot start at all.
        """
        for child in self._children:
            for process in [one for one in child.leaving if one.poll() is not None]:
                child.leaving.remove(process)
                self._on_death(process.pid)
            if child.process is None or child.process.poll() is None:
                continue
            process, child.process = child.process, None
            self._on_death(process.pid)
            status = process.returncode
            if self._told is not None or status == 0:
                continue
            lived = time.monotonic() - child.started
            if status == WRONG and child.deaths == 0 and lived < STEADY:
                # it has said what is wrong; once more would be no better
                return WRONG
            child.deaths = 1 if lived >= STEADY else child.deaths + 1
            seconds = pause(child.deaths)
            child.due = time.monotonic() + seconds
            how = f"signal {-status}" if status < 0 else f"status {status}"
            LOG.error(
                "process %s, pid %s, ended with %s; it is started again in %g s",
                child.number,
                process.pid,
                how,
                seconds,
            )
        return None
