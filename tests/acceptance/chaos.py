"""Blows that fall on engines at random, and the account of what they led to."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.acceptance.fleet import Cutter, Fleet, Process
from tests.acceptance.witness import Line


class Kind(StrEnum):
    """What can befall engines."""

    #: SIGKILL; a new one is started on another host, where nobody sees that the process is gone
    KILL = "kill"
    #: SIGKILL; a new one is started on the same host
    KILL_AT_HOME = "kill at home"
    #: SIGSTOP for longer than the lease, then SIGCONT
    PAUSE = "pause"
    #: the server ends all connections of the database, which explains no further call
    CUT = "cut"
    #: none of ours: an engine that could not renew its lease in time, as it has noticed
    STALL = "stall"


@dataclass
class Blow:
    """:ivar pid: whom it hit; None for all.
    :ivar at: when it began, on the monotonic clock.
    :ivar until: when it was over.
    """

    kind: Kind
    pid: int | None
    at: float
    until: float


class Chaos:
    """Kills, pauses and cuts, one after the other in random order.

    At least two engines are well at any time, so that there is somebody to recover the others.

    :param seed: the same one gives the same order of blows, of victims and of pauses between.
    :param lease: seconds.
    :ivar slowest: seconds that the slowest start of an engine took, which tell how busy the
        machine is.
    """

    def __init__(self, fleet: Fleet, cutter: Cutter, seed: int, lease: float) -> None:
        self.blows: list[Blow] = []
        self.slowest = 0.0
        self._fleet = fleet
        self._cutter = cutter
        self._random = random.Random(seed)
        self._lease = lease
        self._kinds = self._order()
        self._hosts = (f"host{number}" for number in itertools.count())
        self._paused: tuple[Process, Blow] | None = None
        self._well: list[Process] = []
        self._starting: list[Process] = []
        self._started: dict[int, float] = {}

    def start_engine(self, host: str | None = None) -> None:
        """Start an engine, on a host of its own if none is given."""
        at = time.monotonic()
        process = self._fleet.start(host=host or next(self._hosts))
        self._started[process.pid] = at
        self._starting.append(process)

    def run(self, seconds: float, look: Callable[[], object]) -> None:
        """Let blows fall.

        :param look: called all the time.
        """
        end = time.monotonic() + seconds
        due = time.monotonic()
        kind = next(self._kinds)
        while (now := time.monotonic()) < end:
            look()
            self._see_who_is_well()
            if self._paused is not None and now > self._paused[1].until:
                self.relent()
            if now > due and self._strike(kind):
                kind = next(self._kinds)
                due = now + self._random.uniform(0.1, 0.6) * self._lease
            time.sleep(0.02)
        self.relent()

    def relent(self) -> None:
        """Continue the engine that is stopped."""
        if self._paused is not None:
            process, blow = self._paused
            process.go_on()
            blow.until = time.monotonic()
            self._starting.append(process)
            self._paused = None

    def _order(self) -> Iterator[Kind]:
        while True:
            kinds = [Kind.KILL, Kind.KILL, Kind.KILL_AT_HOME, Kind.PAUSE, Kind.CUT]
            self._random.shuffle(kinds)
            yield from kinds

    def _see_who_is_well(self) -> None:
        for process in self._starting.copy():
            if not process.is_alive:
                # cut off before it had begun: whoever looks after such services starts it again
                self._starting.remove(process)
                self.start_engine(process.orders.host)
                continue
            # one that was stopped has lost its lease, and registers again
            began = max((blow.until for blow in self.blows if blow.pid == process.pid), default=0.0)
            registered = [line.at for line in process.said("registered") if line.at > began]
            if registered:
                if process.pid in self._started:
                    took = registered[0] - self._started.pop(process.pid)
                    self.slowest = max(self.slowest, took)
                self._starting.remove(process)
                self._well.append(process)

    def _strike(self, kind: Kind) -> bool:
        """Let a blow fall, if it may now."""
        if kind is Kind.CUT:
            at = time.monotonic()
            self._cutter.cut()
            self.blows.append(Blow(kind, None, at, time.monotonic()))
            return True
        if len(self._well) < 3 or (kind is Kind.PAUSE and self._paused is not None):
            return False
        process = self._choose()
        self._well.remove(process)
        at = time.monotonic()
        if kind is Kind.PAUSE:
            process.stop()
            blow = Blow(kind, process.pid, at, at + self._random.uniform(1.2, 2.0) * self._lease)
            self._paused = (process, blow)
        else:
            process.kill()
            blow = Blow(kind, process.pid, at, time.monotonic())
            self.start_engine(process.orders.host if kind is Kind.KILL_AT_HOME else None)
        self.blows.append(blow)
        return True

    def _choose(self) -> Process:
        """A victim: mostly the one that has most in hand."""
        if self._random.random() < 0.3:
            return self._random.choice(self._well)
        said = Counter((line.pid, line.what) for line in self._fleet.lines())
        return max(self._well, key=lambda one: said[one.pid, "begin"] - said[one.pid, "end"])


@dataclass
class Account:
    """What handlers were called for, beside what befell their engines.

    :ivar calls: the calls of each node's handler, in order.
    :ivar again: the calls beyond the first of a node, by what explains them.
    :ivar unexplained: those that nothing explains.
    :ivar redone: calls for nodes that were completed before.
    :ivar delays: seconds from each kill to the next call for what the victim had begun as the
        first engine.
    """

    calls: Mapping[str, Sequence[Line]]
    again: Counter[Kind] = field(default_factory=Counter)
    unexplained: list[tuple[Line, Line]] = field(default_factory=list)
    redone: list[Line] = field(default_factory=list)
    delays: dict[Kind, list[float]] = field(default_factory=dict)


def settle(lines: Sequence[Line], blows: Sequence[Blow], completed: Mapping[str, float]) -> Account:
    """Draw up the account.

    :param completed: when each node was first seen to be completed in the database.
    """
    blows = [*blows, *(Blow(Kind.STALL, x.pid, x.at, x.at) for x in lines if x.what == "lost")]
    calls: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda line: line.at):
        if line.what == "begin":
            calls.setdefault(line.node, []).append(line)
    account = Account(calls)
    for node, begins in calls.items():
        account.redone += [line for line in begins if line.at > completed[node]]
        for before, after in itertools.pairwise(begins):
            why = _explain(before, after, blows)
            if why is None:
                account.unexplained.append((before, after))
                continue
            account.again[why.kind] += 1
            # After a second death a node waits for an engine that has no other such node. And
            # another claim between, which counts as an attempt, was another victim's.
            first = (before.attempt, after.attempt) == (1, 2)
            if why.kind in (Kind.KILL, Kind.KILL_AT_HOME) and first:
                account.delays.setdefault(why.kind, []).append(after.at - why.at)
    return account


def _explain(before: Line, after: Line, blows: Sequence[Blow]) -> Blow | None:
    """What befell an engine between its call for a node and the next call for it."""
    for blow in blows:
        if blow.pid == before.pid and blow.at < after.at and blow.until > before.at:
            return blow
    return None


def report(account: Account, blows: Sequence[Blow], lease: float) -> str:
    """The account, for people."""
    struck = Counter(blow.kind for blow in blows)
    total = sum(map(len, account.calls.values()))
    lines = [
        "blows: " + ", ".join(f"{count} x {kind}" for kind, count in struck.items()),
        f"{total} calls for {len(account.calls)} nodes; again because of: "
        + (", ".join(f"{kind} {count}" for kind, count in account.again.items()) or "nothing"),
    ]
    for kind, delays in account.delays.items():
        lines.append(
            f"from {kind} to the next call: median {statistics.median(delays):.2f} s, most "
            f"{max(delays):.2f} s, of {len(delays)} (lease {lease:g} s + sweep {lease / 3:.2f} s)"
        )
    return "\n".join(lines)
