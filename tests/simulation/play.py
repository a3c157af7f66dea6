"""Playing seeds, and telling what came of them."""

from __future__ import annotations

import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from converge import crash_points
from converge.crash_points import Commit
from tests.simulation.arena import Arena
from tests.simulation.faults import Fault
from tests.simulation.scheduler import ASKED, COMMON, RARE, Simulation

#: A folder in memory, where there is one.
MEMORY = Path("/dev/shm")

#: What a simulation must reach, or it proves nothing: every event, every fault, every end.
EVERYTHING: frozenset[str] = frozenset(
    {
        *COMMON,
        *RARE,
        *ASKED,
        *Fault,
        "Conflict",
        "NotFound",
        "anew",
        "late effect",
        "overdue",
        "passed over",
        "passed over by a claim",
        "recovered nodes",
        "refused",
        "blocked",
        "recovered",
        "rolled back",
        "drifted",
        "ran after a failure",
        "waits",
        "ended COMPLETE",
        "ended FAILED",
        "ended CANCELLED",
        "ended SUPERSEDED",
        *(
            commit.after
            for commit in Commit
            if commit.before in crash_points.STACKS
            # in SQLite, where one transaction follows the other, these leave nothing to do
            if commit not in (Commit.UNBLOCK, Commit.SWEEP, Commit.RELEASE)
            # nobody prunes: the oracle looks at all that was ever there; nothing is encrypted or
            # limited; and histories of nested stacks have these
            if commit
            not in (
                Commit.NEST,
                Commit.NEST_STOP,
                Commit.NEST_WAKE,
                Commit.PRUNE_STACKS,
                Commit.REENCRYPT,
                Commit.LIMIT,
                Commit.RENAME,
                Commit.ADOPT,
            )
        ),
    }
)


@dataclass
class Tally:
    """What many seeds came to.

    :ivar failed: what was wrong first, and the whole trace, by seed.
    """

    seeds: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    failed: dict[int, tuple[str, str]] = field(default_factory=dict)

    def add(self, simulation: Simulation) -> None:
        """Count one."""
        self.seeds += 1
        faults = simulation.faults
        for counter in (simulation.events, simulation.oracle.seen, faults.points, faults.struck):
            self.reached.update(+counter)
        if simulation.wrong:
            self.failed[simulation.seed] = simulation.wrong[0], "\n".join(simulation.trace)

    def merge(self, other: Tally) -> None:
        """Add another's."""
        self.seeds += other.seeds
        self.reached += other.reached
        self.failed |= other.failed

    def report(self) -> str:
        """The failed seeds with the trace of the first, in words."""
        lines = [f"seed {seed}: {what}" for seed, (what, _) in sorted(self.failed.items())]
        if self.failed:
            first = min(self.failed)
            lines += [
                "",
                f"seed {first}; again: python -m tests.simulation --seed {first} --trace",
                self.failed[first][1],
            ]
        return "\n".join(lines)


def play(arena: Arena, seed: int) -> Simulation:
    """Run one seed. An error that nobody expected is wrong, too."""
    simulation = Simulation(arena, seed)
    with arena.quiet():
        try:
            simulation.run()
        except Exception as error:
            simulation.complain(f"{type(error).__name__}: {error}")
            simulation.tell(traceback.format_exc())
    return simulation


def play_all(arena: Arena, seeds: Iterable[int]) -> Tally:
    """Run many seeds."""
    tally = Tally()
    with arena.many():
        for seed in seeds:
            tally.add(play(arena, seed))
    return tally


@contextmanager
def new_arena() -> Iterator[Arena]:
    """An arena in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        arena = Arena(Path(folder))
        try:
            yield arena
        finally:
            arena.close()
