"""Run many seeds, or one of them again.

``python -m tests.simulation --seeds 0:20000 --jobs 2``
    says which seeds failed, with the trace of the first of them
``python -m tests.simulation --seed 4711 --trace``
    replays one, and shows all that happened in it
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.play import Tally, new_arena, play, play_all

#: How many seeds a process takes at a time.
PORTION = 100


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="this seed only")
    which.add_argument("--seeds", type=_seeds, default=range(1000), metavar="FROM:TO")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; default is 1")
    parser.add_argument("--trace", action="store_true", help="show what happens in each seed")
    arguments = parser.parse_args()
    seeds = arguments.seeds if arguments.seed is None else range(arguments.seed, arguments.seed + 1)
    if arguments.trace:
        return _show(seeds)
    started = time.monotonic()
    tally = Tally()
    portions = [seeds[start : start + PORTION] for start in range(0, len(seeds), PORTION)]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for done in as_completed([pool.submit(_portion, portion) for portion in portions]):
            tally.merge(done.result())
            failed = f", {len(tally.failed)} failed" if tally.failed else ""
            print(f"\r{tally.seeds} of {len(seeds)} seeds{failed}", end="", file=sys.stderr)
    print(file=sys.stderr)
    for what, count in sorted(tally.reached.items()):
        print(f"{count:9} {what}")
    print(f"{tally.seeds} seeds in {time.monotonic() - started:.1f} s, {len(tally.failed)} failed")
    if tally.failed:
        print(tally.report())
    return 1 if tally.failed else 0


def _show(seeds: range) -> int:
    wrong = 0
    with new_arena() as arena:
        for seed in seeds:
            simulation = play(arena, seed)
            wrong += bool(simulation.wrong)
            print(f"seed {seed}")
            print("\n".join(simulation.trace))
    return 1 if wrong else 0


def _portion(seeds: range) -> Tally:
    with new_arena() as arena:
        return play_all(arena, seeds)


def _seeds(text: str) -> range:
    first, _, last = text.partition(":")
    try:
        seeds = range(int(first), int(last))
    except ValueError:
        seeds = range(0)
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text!r} is not FROM:TO, as in 0:1000")
    return seeds


if __name__ == "__main__":
    sys.exit(main())
